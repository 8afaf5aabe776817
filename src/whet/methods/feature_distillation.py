"""Feature distillation: a layer of the student learns what a layer of the teacher sees."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whet import compiling, modes, seeding, teachers
from whet import device as devices
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Placement, method
from whet.objectives import call
from whet.settings import choice, number
from whet.training import Training


def feature_distances(student: Tensor, teacher: Tensor, distance: str = "l2") -> Tensor:
    """Distances `(N,)` of features; no gradient reaches the teacher.

    Args:
        student: `(N, D)`, `(N, T, D)` or `(N, D, H, W)`.
        teacher: of the same shape.
        distance: `l2`, the mean of squared differences over all of a row; `cosine`, the mean of
            1 - cos over a row's places, between vectors over D.

    >>> s, t = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 0.0]])
    >>> feature_distances(s, t), feature_distances(s, t, "cosine").round(decimals=4)
    (tensor([8.]), tensor([0.4000]))
    """
    s, t = modes.wide(student), modes.wide(teacher.detach())
    if distance == "l2":
        return (s - t).square().flatten(1).mean(1)
    apart: Tensor = 1.0 - F.cosine_similarity(s, t.to(s.dtype), dim=channels(s))
    return apart.flatten(1).mean(1) if apart.ndim > 1 else apart


def channels(features: Tensor) -> int:
    """The dimension of the channels: the second of images, else the last."""
    return 1 if features.ndim >= 4 else features.ndim - 1


def regressor(student: Tensor, teacher: Tensor) -> nn.Module | None:
    """A linear map from one width to the other, at each place; None where widths are one.

    Raises:
        InputError: the features differ in more than their width.
    """
    at = channels(student)
    ours, theirs = list(student.shape), list(teacher.shape)
    if len(ours) != len(theirs) or len(ours) < 2 or any(
        a != b for dim, (a, b) in enumerate(zip(ours, theirs, strict=True)) if dim != at
    ):  # fmt: skip
        raise InputError(
            f"the student's features have shape {tuple(ours)} and the teacher's {tuple(theirs)}; "
            "they may differ in width alone, the second dimension of images and else the last. "
            "Name layers of one resolution and one length."
        )
    if ours[at] == theirs[at]:
        return None
    if len(ours) < 4:
        return nn.Linear(ours[at], theirs[at])
    kind = nn.Conv2d if len(ours) == 4 else nn.Conv3d
    return kind(ours[at], theirs[at], kernel_size=1)


@method
class FeatureDistillation(Method):
    r"""Feature distillation: a layer inside the student learns to give what one of a teacher gives.

    $$L = \ell(s, y) + w\, d\bigl(r(h_s), h_t\bigr), \qquad
    d = \tfrac1D \lVert r(h_s) - h_t \rVert^2 \quad\text{or}\quad 1 - \cos(r(h_s), h_t)$$

    h is what the named module gives, and r a linear map (1×1 convolution for images) that is
    learned where the widths differ and is not there where they are one. Its parameters join the
    optimizer and the method's state in checkpoints, and are not exported. The term is a mean over
    all rows, those without a target too, and over all places in a row, padding too: squares are a
    mean over D, and not the paper's half of their sum. FitNets learns the hint first and the
    targets after; for that, `during(0, 0.3)` and a large weight.

    The teacher sees the rows as the student does, mixed, augmented and attacked, in evaluation
    mode and without gradient.

    Args:
        at: name of the student's module; what it gives first, if it gives several.
        teacher_at: name of the teacher's module; None for the same name.
        distance: `l2` or `cosine`.
        weight: w, from 0 (off, the teacher is not called).
        device: where the teacher stands, such as `cuda:1`; None for the model's.

    Resources: `teacher`, an nn.Module; inputs are moved to it and cast to its dtype.

    Shapes: features `(N, D)`, `(N, T, D)` or `(N, D, H, W)`, of both in one shape but for D.

    Cost: +1 forward of the teacher, and its memory.

    Raises:
        InputError: a module is not named, not there or not called; features differ in more than
            width; the teacher is no module, or shares parameters with the model; there is no data
            to see the shapes by.
        NotApplicable: the module lies in an activation checkpoint that keeps no graph.

    Paper: Romero et al. 2015 (FitNets), arXiv:1412.6550.

    >>> student, teacher = nn.Linear(2, 4), nn.Linear(2, 6).eval()
    >>> x = torch.randn(3, 2)
    >>> maps = regressor(student(x), teacher(x))        # Linear(4, 6), for the optimizer too
    >>> feature_distances(maps(student(x)), teacher(x)).mean().backward()
    """

    weight: float = number(1.0, 0.0)
    distance: str = choice("l2", "l2", "cosine")
    at: str | None = None
    teacher_at: str | None = None
    device: str | None = None

    name: ClassVar[str] = "feature_distillation"
    layer: ClassVar[Layer] = Layer.TEACHER
    outside: ClassVar[tuple[str, ...]] = ("distillation", "moco")
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
    placements: ClassVar[Placement] = Placement.START  # the optimizer holds its map from then on
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Feature distillation (FitNets)", paper="arXiv:1412.6550",
        cost="+1 forward of the teacher", tier=2, phase="whole training, or its beginning",
        data="any, with a teacher; unlabelled rows too",
        avoid_when="teacher and student have no layers that see the same",
        zh={
            "title": "特征蒸馏（FitNets）", "cost": "教师模型多一次前向传播",
            "phase": "整个训练过程，或仅初期", "data": "任意数据，需有教师模型；也可利用无标签样本",
            "avoid_when": "教师与学生没有可以相互对应的层",
        },
    )  # fmt: skip

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        teacher = run.resource("teacher", self)
        if not isinstance(teacher, nn.Module):
            raise InputError(
                f"{self.key}: resource 'teacher' is a {type(teacher).__name__}; features are taken "
                "from inside, so it must be an nn.Module."
            )
        teachers.check(run, self.key, [teacher])
        devices.named(self.device, self.key)
        for model, at in ((run.module, self.at), (teacher, self._there)):
            compiling.make_ready_to_leave(self._module(model, at))
        with seeding.borrowed(seeding.key(run.seed, self.key)):
            maps = self._map(run, teacher)
        if maps is not None:
            dtype = next(run.module.parameters()).dtype
            run.heads[self.key] = maps.to(run.device, dtype)

    @property
    def _there(self) -> str | None:
        return self.at if self.teacher_at is None else self.teacher_at

    def _module(self, model: nn.Module, at: str | None) -> nn.Module:
        modules: dict[str, nn.Module] = dict(model.named_modules())
        if at is None or at not in modules:
            names = ", ".join([name for name in modules if name][:30])
            said = "at= names no module" if at is None else f"there is no module {at!r}"
            raise InputError(
                f"{self.key}: {said} of the {type(model).__name__}. Name one whose output is "
                f"learned: {names or 'it has none inside'}."
            )
        return modules[at]

    def _map(self, run: Training, teacher: nn.Module) -> nn.Module | None:
        """The map between the widths, which a batch of the data shows."""
        if run.train is None:
            raise InputError(
                f"{self.key}: the widths of the features are not known before training. Pass "
                "data= to Stack."
            )
        batch = next(iter(run.data(f"{self.key}:width")))
        quiet = modes.evaluation_mode(run.module)
        with torch.no_grad(), quiet, compiling.leaving(run.module, str(self.at)) as given:
            call(run.module, batch.inputs)
        student, taught = self._last(given, self.at), self._taught(run, teacher, batch)
        try:
            return regressor(student, taught)
        except InputError as error:
            raise InputError(f"{self.key}: {error}") from error

    def start(self, run: Training) -> None:
        device = devices.named(self.device, self.key)
        teachers.place([run.resource("teacher", self)], device or run.device)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.weight == 0.0:
            return inner(batch)
        taught = self._taught(run, run.resource("teacher", self), batch)
        with compiling.leaving(run.module, str(self.at)) as given:
            forward = inner(batch)
        student = self._last(given, self.at)
        if forward.output.requires_grad and not student.requires_grad:
            raise NotApplicable(
                self.key, f"{self.at} lies in an activation checkpoint with use_reentrant=True, "
                "which keeps no graph of what is inside: set use_reentrant=False."
            )  # fmt: skip
        if self.key in run.heads:
            with run.autocast():
                student = run.heads[self.key](student)
        values = feature_distances(student, taught, self.distance)
        if run.mixture is not None:  # the student's rows are of two, and the teacher told of each
            values = run.mixture.blended(
                self.key, values,
                lambda rows: feature_distances(student, taught[rows], self.distance),
            )  # fmt: skip
        return forward.add(self.key, values, per="rows", weight=self.weight)

    def _taught(self, run: Training, teacher: nn.Module, batch: Batch) -> Tensor:
        with (
            teachers.asking(run, teacher, run.key(self)) as ask,
            compiling.leaving(teacher, str(self._there)) as given,
        ):
            ask(batch.inputs)
        return self._last(given, self._there).to(batch.device)

    def _last(self, given: list[Tensor], at: str | None) -> Tensor:
        if not given:
            raise InputError(
                f"{self.key}: the module {at!r} was not called in the forward. Name one that is."
            )
        return given[-1]
