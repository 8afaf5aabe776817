"""Self-distillation: the teacher is the model's own earlier self."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import cosine, modes, objectives, seeding, teachers
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.settings import choice, number
from whet.training import Training


def teacher_decay(update: int, decay: float) -> float:
    """The decay of update number `update` (from 1): min(1 - 1/(t + 1), d), as Mean Teacher's.

    >>> [teacher_decay(t, 0.9) for t in (1, 3, 99)]
    [0.5, 0.75, 0.9]
    """
    return min(1.0 - 1.0 / (update + 1), decay)


def ramp(progress: float, length: float) -> float:
    """The share of the weight: exp(-5 (1 - t)^2), with t from 0 to 1 over the first `length`.

    >>> [round(ramp(progress, 0.5), 3) for progress in (0.0, 0.25, 0.5, 1.0)]
    [0.007, 0.287, 1.0, 1.0]
    """
    if length == 0.0 or progress >= length:
        return 1.0
    return math.exp(-5.0 * (1.0 - progress / length) ** 2)


@method
class SelfDistillation(Method):
    r"""Self-distillation: agree with an earlier self, on labelled rows and unlabelled ones.

    $$L = \ell(s, y) + w\, T^2\,
    \mathrm{KL}\bigl(\mathrm{softmax}(t/T)\,\|\,\mathrm{softmax}(s/T)\bigr)$$

    with t the answers of `teacher`:
    `ema`, Mean Teacher (Tarvainen & Valpola): an exponential moving average of the weights, with
    decay min(1 - 1/(t+1), d), moved after each update that really happened;
    `start`, a generation before (after Born-Again Networks, Furlanello et al.): the weights that
    the method's span began with, which stand still. Give it to a second stage or span: weights
    that were never trained teach noise. The paper begins each generation from new weights; for
    that, train twice and give the first run's predictor to `distillation`.

    The teacher sees the rows as the student does, mixed, augmented and attacked, without gradient
    and in evaluation mode, so without dropout, which the paper's has too. Running statistics are
    of the student's weights and not of their average, so that `ema` normalises by the batch that
    it is asked about, and moves none. The term is a mean over all rows, those without a target too;
    over tokens that have a target, where the objective is `tokens`. What is judged is the student:
    for the average, add `ema`.

    Args:
        teacher: `ema` or `start`.
        decay: d in [0, 1), of `ema`.
        weight: w, from 0 (off).
        temperature: T, above 0.
        ramp_up: the fraction of the stage over which the weight rises as exp(-5 (1 - t)²), in
            [0, 1]; 0 begins with all of it.

    Shapes: outputs `(N, C)`, `(N, T, V)`, or reals.

    Cost: +1 forward, +1 copy of the model, which is in checkpoints as this method's state and in
    no optimizer and no export.

    Raises:
        NotApplicable: outputs are embeddings, or the weights are in half precision, where an
            average hardly moves.
        InputError: the stage's length is unknown and there is a ramp.

    Paper: Tarvainen & Valpola 2017, arXiv:1703.01780; Furlanello et al. 2018, arXiv:1805.04770.

    >>> model = nn.Linear(2, 3)
    >>> method = SelfDistillation(decay=0.9)
    >>> method.begin(model)
    >>> taught = method.answer(model, torch.ones(4, 2))     # logits, without gradient
    >>> method.update(model)                        # after optimizer.step()
    """

    teacher: str = choice("ema", "ema", "start")
    decay: float = number(0.999, 0.0, 1.0, open_high=True)
    weight: float = number(1.0, 0.0)
    temperature: float = number(1.0, 0.0, open_low=True)
    ramp_up: float = number(0.0, 0.0, 1.0)

    name: ClassVar[str] = "self_distillation"
    layer: ClassVar[Layer] = Layer.TEACHER
    outside: ClassVar[tuple[str, ...]] = ("distillation", "feature_distillation", "moco")
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Self-distillation (Mean Teacher)", paper="arXiv:1703.01780",
        cost="+1 forward, +1 copy of the model", tier=2, phase="whole training",
        data="any; unlabelled rows too",
        avoid_when="student and teacher see the same and nothing is random: they then agree anyway",
        zh={
            "title": "自蒸馏（Mean Teacher）", "cost": "多 1 次前向传播，多存一份模型",
            "phase": "整个训练过程", "data": "任意；也可利用无标签样本",
            "avoid_when": "学生与教师所见完全相同且没有随机性：二者本就一致",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.own: nn.Module = nn.Identity()
        self._updates = 0
        self._heads: cosine.Heads | None = None  # that `start` has learned with, once it is known

    # the core: torch alone -------------------------------------------------------------------
    def begin(self, model: nn.Module) -> None:
        """The teacher is the model as it stands."""
        self.own = copy.deepcopy(model).requires_grad_(False).eval()
        self._updates, self._heads = 0, None

    def update(self, model: nn.Module) -> None:
        """After the optimizer's step: follow the model, or stand still, as `teacher` says."""
        self._updates += 1
        if self.teacher == "ema":
            teachers.follow(self.own, model, teacher_decay(self._updates, self.decay))

    @torch.no_grad()
    def answer(self, model: nn.Module, inputs: Any) -> Tensor:
        """The teacher's logits for inputs; nothing of it or of the model moves."""
        heads = cosine.standing(model) if self._heads is None else self._heads
        alike = cosine.applied(self.own, heads)
        with modes.evaluation_mode(self.own), self._statistics(model), alike:
            return objectives.logits(objectives.call(self.own, inputs))

    @contextmanager
    def _statistics(self, model: nn.Module) -> Iterator[None]:
        """An average has no running statistics of its own: those of the model are of other weights.

        So it normalises by the batch, as in training; what the model has frozen stays frozen.
        """
        trained = {name for name, norm in modes.batch_norms(model).items() if norm.training}
        own = modes.batch_norms(self.own) if self.teacher == "ema" else {}
        norms = [norm for name, norm in own.items() if name in trained]
        for norm in norms:
            norm.training = True
        try:
            with modes.still_statistics(self.own):
                yield
        finally:
            for norm in norms:
                norm.training = False

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        if run.objective.family.name == "embedding":
            raise NotApplicable(self.key, "embeddings are no distribution that could be taught.")
        if self.ramp_up > 0.0 and run.total is None:
            raise InputError(
                f"{self.key}: ramp_up is a fraction of the stage, so its length must be known: "
                "pass updates=N to Stack."
            )
        half = (torch.float16, torch.bfloat16)
        if self.teacher == "ema" and any(p.dtype in half for p in run.module.parameters()):
            raise NotApplicable(
                self.key, "the model's weights are in half precision, where steps of 1 - decay are "
                "lost. Keep them in fp32 and train with precision='bf16' or 'fp16' (mixed)."
            )  # fmt: skip

    def start(self, run: Training) -> None:
        self.begin(run.module)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.weight == 0.0:
            return inner(batch)
        run.stage(self, cosine.standing(run.module))
        with seeding.borrowed(run.key(self)), run.autocast():
            taught = self.answer(run.module, batch.inputs)
        forward = inner(batch)
        temperature, kind = self.temperature, run.objective.family
        student, taught = (modes.wide(one) / temperature for one in (forward.output, taught))

        def values_of(said: Tensor) -> Tensor:
            return temperature**2 * kind.divergence(said, student)

        values = values_of(taught)
        if run.mixture is not None:  # the student's rows are of two, and the teacher told of each
            values = run.mixture.blended(self.key, values, lambda rows: values_of(taught[rows]))
        weight = self.weight * ramp(run.progress, self.ramp_up)
        return teachers.added(forward, self.key, values, weight)

    def after_update(self, run: Training) -> None:
        self.update(run.module)
        if self.teacher == "start" and self._heads is None:  # an average has those of the model
            self._heads = next(iter(run.staged(self)), None)

    def state_dict(self) -> dict[str, Any]:
        heads = None if self._heads is None else dict(self._heads)
        return {"teacher": self.own.state_dict(), "updates": self._updates, "heads": heads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.own.load_state_dict(state["teacher"])
        self._updates, self._heads = state["updates"], state["heads"]
