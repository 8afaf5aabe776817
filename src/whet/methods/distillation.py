"""Knowledge distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import device as devices
from whet import kept_answers, modes, objectives, teachers
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, by_settings, method
from whet.objectives.families import Family, family
from whet.objectives.pooling import pooled
from whet.settings import choice, number
from whet.training import Training


def distillation_losses(
    student: Tensor, teacher: Tensor, temperature: float = 5.0, kind: Family | None = None
) -> Tensor:
    """T² KL(softmax(t/T) || softmax(s/T)) per item; no gradient reaches the teacher.

    Args:
        student: logits s, `(N, C)` or as the family wants them.
        teacher: logits t of the same shape.
        temperature: T, above 0.
        kind: the family (None: categorical).

    >>> s, t = torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    >>> distillation_losses(s, t, temperature=2.0)
    tensor([0.0000, 3.9153])
    """
    kind = kind or family("categorical")
    wide = torch.promote_types(student.dtype, torch.float32)  # T² of a half divergence is coarse
    s, t = student.to(wide), teacher.detach().to(student.device, wide)
    return temperature**2 * kind.divergence(t / temperature, s / temperature)


def soft_mean(
    taught: Sequence[Tensor], temperature: float = 5.0, weights: Sequence[float] | None = None,
    kind: Family | None = None,
) -> Tensor:  # fmt: skip
    """Logits that teach at T what several teachers teach: the mean of their softened answers.

    Args:
        taught: the teachers' logits, each `(N, C)`, or as the family wants them.
        temperature: T; at another one these logits are no such mean.
        weights: a number from 0 for each teacher; None for a plain mean.
        kind: the family (None: categorical).

    >>> one, other = torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 9.0]])
    >>> (soft_mean([one, other], temperature=3.0, weights=[3, 1]) / 3.0).softmax(1)
    tensor([[0.7263, 0.2737]])
    """
    if len(taught) == 1:
        return taught[0]
    wide = torch.stack([modes.wide(one) for one in taught])
    return temperature * pooled(wide / temperature, kind, weights)


def distillation_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 5.0,
    weight: float | None = None, weighting: str = "convex", objective: str = "categorical",
) -> Tensor:  # fmt: skip
    """The mean over items of what the method learns, for a loop of one's own.

    >>> s, t, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    >>> plain = torch.nn.functional.cross_entropy(s, y)
    >>> torch.allclose(distillation_loss(s, t, y, weight=0.0), plain)
    True
    """
    learned = objectives.make(objective)
    hard, soft = shares(weight, weighting)
    losses = hard * learned.losses(student, targets)
    losses = losses + soft * distillation_losses(student, teacher, temperature, learned.family)
    mask = learned.mask(Batch(student, targets))
    return losses.mean() if mask is None else losses[mask].mean()


def shares(weight: float | None, weighting: str) -> tuple[float, float]:
    """The factors of the objective's loss and of the teacher's.

    >>> shares(None, "convex"), shares(None, "sum"), shares(0.9, "convex")[1]
    ((0.5, 0.5), (1.0, 1.0), 0.9)
    """
    if weighting == "sum":
        return 1.0, 1.0 if weight is None else weight
    share = 0.5 if weight is None else weight
    return 1.0 - share, share


@method
class Distillation(Method):
    r"""Knowledge distillation: learn a teacher's soft answers beside the targets.

    $$L = (1 - w)\, \ell(s, y) + w\, T^2\,
    \mathrm{KL}\bigl(\mathrm{softmax}(t/T)\,\|\,\mathrm{softmax}(s/T)\bigr)$$

    per item, summed over classes. T² keeps the gradient's size as T grows, also at w = 1. The
    teacher sees the rows as the student does, mixed, augmented and attacked, in evaluation mode
    and without gradient. Its term is a mean over all rows, those without a target included, which
    so may be unlabelled; over tokens that have a target, where the objective is `tokens`. For
    `multi-label` the divergence is the mean over a row's labels at the same T; for `real` it is
    (t - s)²/2 and T cancels.

    Several teachers teach the mean of what they say at T, $\sum_m v_m\,\mathrm{softmax}(t_m/T)$,
    as an ensemble does; softening the mean of their unsoftened answers would be another thing.

    Args:
        temperature: T, above 0; 1 to 20, 5 is usual.
        weight: w, from 0 (off, the teacher is not called); None for 1/2, in a `sum` for 1.
        weighting: `convex` as above, w in [0, 1]; `sum` for ℓ + w T² KL.
        teacher_weights: v, a number from 0 for each of several teachers, divided by their sum;
            None for equal ones.
        cached: True to look answers up instead of asking, refused where a method, or a Dataset
            that draws, changes the rows that they answer; `regardless` to teach, on purpose, what
            the teacher said to the rows as they were.
        device: where teachers that are modules stand, such as `cuda:1`; None for the model's.

    Resources: `teacher`, or a list of them, each one of
        an nn.Module that gives logits: it is called in evaluation mode and left in the mode it was
        in; inputs are moved to it and cast to its dtype. The optimizer, checkpoints and exported
        predictors never hold it;
        a whet Predictor, an ensemble too, whose probabilities stand for logits;
        a function from a Batch to logits.
    With `cached` instead `teacher_logits`: an array `(rows, C)`, a row for each training row in the
        data's order (`Batch.indices`), in memory or in a file (numpy's `mmap_mode`); or a list of
        them.

    Shapes: teacher and student give the same `(N, C)`, `(N, T, V)`, or reals.

    Cost: +1 forward of each teacher, and its memory; with `cached` none.

    Raises:
        InputError: there is nothing to call, the teacher is the student or shares parameters with
            it, its outputs have another shape (another number of classes), or w > 1 is `convex`;
            kept answers are too few or too many, not finite, or to other rows.
        NotApplicable: the objective's outputs are embeddings.

    Paper: Hinton, Vinyals & Dean 2015, arXiv:1503.02531. A teacher of the same data, or one
    trained on more of it, works best.

    >>> student, teacher = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3).eval()
    >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    >>> with torch.no_grad():
    ...     soft = teacher(x)
    >>> distillation_loss(student(x), soft, y, temperature=5.0, weight=0.9).backward()
    """

    temperature: float = number(5.0, 0.0, open_low=True)
    weight: float | None = number(None, 0.0)
    weighting: str = choice("convex", "convex", "sum")
    teacher_weights: float | tuple[float, ...] | None = number(None, 0.0, several=True)
    cached: bool | str = choice(False, False, True, "regardless")
    device: str | None = None

    name: ClassVar[str] = "distillation"
    layer: ClassVar[Layer] = Layer.TEACHER
    needs: ClassVar[frozenset[str]] = by_settings(
        lambda one: frozenset({"teacher_logits" if one.cached else "teacher"})
    )
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Knowledge distillation", paper="arXiv:1503.02531",
        cost="+1 forward of the teacher", tier=1, phase="whole training",
        data="any, with a teacher; unlabelled rows too",
        avoid_when="the teacher is no better than the student would be alone",
        zh={
            "title": "知识蒸馏", "cost": "教师模型多一次前向传播", "phase": "整个训练过程",
            "data": "任意数据，需有教师模型；也可利用无标签样本",
            "avoid_when": "教师模型并不优于单独训练的学生模型",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._kept: list[kept_answers.Kept] = []

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        if run.objective.family.name == "embedding":
            raise NotApplicable(self.key, "embeddings are no distribution that could be taught.")
        hard, _ = shares(self.weight, self.weighting)
        if hard < 0.0:
            raise InputError(
                f"{self.key}: weight is {self.weight:g}, and with weighting='convex' it is a share "
                "in [0, 1]. Use weighting='sum' for a larger one."
            )
        devices.named(self.device, self.key)
        self._kept = []
        if not self.cached:
            given = self._teachers(run)
            teachers.check(run, self.key, given)
        else:
            given = teachers.listed(run.resource("teacher_logits", self))
            self._kept = [kept_answers.Kept(one, self.key) for one in given]
            for kept in self._kept:
                kept_answers.check(run, self, kept, self.cached == "regardless")
        self._check_weights(len(given))

    def _check_weights(self, count: int) -> None:
        given = self.teacher_weights
        if given is None:
            return
        given = (given,) if isinstance(given, int | float) else given
        if len(given) != count or sum(given) <= 0.0:
            raise InputError(
                f"{self.key}: teacher_weights is {given!r}, and there are {count} teachers. Give a "
                "list with a number for each of them, not all of them 0."
            )

    def _teachers(self, run: Training) -> list[Any]:
        return teachers.listed(run.resource("teacher", self))

    def start(self, run: Training) -> None:
        if not self.cached:  # not before: a loop may move its model after the stack
            device = devices.named(self.device, self.key)
            teachers.place(self._teachers(run), device or run.device)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        hard, soft = shares(self.weight, self.weighting)
        if soft == 0.0:
            return inner(batch)
        said = self._said(run, batch)
        forward = inner(batch)
        kind, student = run.objective.family, forward.output
        aligned = [kind.align(student, one) for one in said]
        for one, other in aligned:
            self._check_shapes(one, other)
        student = aligned[0][0]
        each, weights = [one for _, one in aligned], self.teacher_weights
        shared = weights if isinstance(weights, Sequence) else None  # one teacher has all of it
        taught = soft_mean(each, self.temperature, shared, kind)
        values = distillation_losses(student, taught, self.temperature, kind)
        if run.mixture is not None:  # the student's rows are of two, and the teacher told of each
            values = run.mixture.blended(
                self.key, values,
                lambda rows: distillation_losses(student, taught[rows], self.temperature, kind),
            )  # fmt: skip
        if hard != 1.0:
            forward = forward.replace(losses=forward.losses * hard)
        return teachers.added(forward, self.key, values, soft)

    def _said(self, run: Training, batch: Batch) -> list[Tensor]:
        """Each teacher's logits for a batch."""
        if not self.cached:
            return [
                teachers.answer(run, teacher, batch, run.key(self, number))
                for number, teacher in enumerate(self._teachers(run))
            ]
        if self.cached != "regardless":
            kept_answers.check_unchanged(run, self, batch)
        return [kept.rows(batch) for kept in self._kept]

    def _check_shapes(self, student: Tensor, taught: Tensor) -> None:
        if student.shape == taught.shape:
            return
        ours, theirs = tuple(student.shape), tuple(taught.shape)
        what, remedy = "outputs", "both must answer row by row in one shape"
        if ours[:-1] == theirs[:-1]:
            what = f"{theirs[-1]} classes and the model {ours[-1]}; outputs"
            remedy = "give a teacher of the same classes, or select its columns in a function"
        raise InputError(
            f"{self.key}: the teacher has {what} of shape {theirs} against the model's {ours}; "
            f"{remedy}."
        )
