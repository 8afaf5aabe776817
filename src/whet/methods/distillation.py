"""Knowledge distillation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import modes, objectives, seeding
from whet.batch import Batch, map_leaves
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.objectives.families import Family, family
from whet.predict import Predictor
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


def distillation_loss(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float = 5.0,
    weight: float | None = None, weighting: str = "convex", objective: str = "categorical",
) -> Tensor:  # fmt: skip
    """The mean over items of what the method learns, for a loop of one's own.

    >>> s, t, y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    >>> plain = nn.functional.cross_entropy(s, y)
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

    Args:
        temperature: T, above 0; 1 to 20, 5 is usual.
        weight: w, from 0 (off, the teacher is not called); None for 1/2, in a `sum` for 1.
        weighting: `convex` as above, w in [0, 1]; `sum` for ℓ + w T² KL.

    Resources: `teacher`, one of
        an nn.Module that gives logits: it is moved to the run's device, called in evaluation mode
        and left in the mode it was in; inputs are cast to its dtype. The optimizer, checkpoints
        and exported predictors never hold it;
        a whet Predictor, an ensemble too, whose probabilities stand for logits;
        a function from a Batch to logits.

    Shapes: teacher and student give the same `(N, C)`, `(N, T, V)`, or reals.

    Cost: +1 forward of the teacher, and its memory.

    Raises:
        InputError: there is nothing to call, the teacher is the student or shares parameters with
            it, its outputs have another shape (another number of classes), or w > 1 is `convex`.
        NotApplicable: the objective's outputs are embeddings.

    Paper: Hinton, Vinyals & Dean 2015, arXiv:1503.02531. A teacher of the same data, or one
    trained on more of it, works best.

    >>> student, teacher = nn.Linear(2, 3), nn.Linear(2, 3).eval()
    >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    >>> with torch.no_grad():
    ...     soft = teacher(x)
    >>> distillation_loss(student(x), soft, y, temperature=5.0, weight=0.9).backward()
    """

    temperature: float = number(5.0, 0.0, open_low=True)
    weight: float | None = number(None, 0.0)
    weighting: str = choice("convex", "convex", "sum")

    name: ClassVar[str] = "distillation"
    layer: ClassVar[Layer] = Layer.TEACHER
    needs: ClassVar[frozenset[str]] = frozenset({"teacher"})
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
        teacher = run.resource("teacher", self)
        if isinstance(teacher, nn.Module):
            self._check_apart(run, teacher)
        elif not callable(teacher):
            raise InputError(
                f"{self.key}: resource 'teacher' is a {type(teacher).__name__}; give an nn.Module, "
                "a whet Predictor, or a function from a Batch to logits."
            )

    def start(self, run: Training) -> None:
        teacher = run.resource("teacher", self)
        if isinstance(teacher, nn.Module):  # not before: a loop may move its model after the stack
            teacher.to(run.device)

    def _check_apart(self, run: Training, teacher: nn.Module) -> None:
        learned = {id(parameter) for parameter in run.module.parameters()}
        shared = [name for name, p in teacher.named_parameters() if id(p) in learned]
        if shared or teacher is run.module:
            raise InputError(
                f"{self.key}: the teacher shares parameters with the model that learns "
                f"({', '.join(shared[:5]) or 'it is the same module'}), so it would teach itself. "
                "Give a copy: copy.deepcopy(model)."
            )

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        hard, soft = shares(self.weight, self.weighting)
        if soft == 0.0:
            return inner(batch)
        taught = self._taught(run, batch)
        forward = inner(batch)
        kind = run.objective.family
        student, taught = kind.align(forward.output, taught)
        self._check_shapes(student, taught)
        values = distillation_losses(student, taught, self.temperature, kind)
        per_row = values.ndim == 1
        if not per_row and forward.batch.targets is None:
            values = torch.zeros_like(values)  # which of these tokens are padding nobody says
        elif not per_row and forward.mask is not None:
            values = torch.where(forward.mask, values, values.new_zeros(()))
        if hard != 1.0:
            forward = forward.replace(losses=forward.losses * hard)
        return forward.add(self.key, values, per="rows" if per_row else "items", weight=soft)

    def _taught(self, run: Training, batch: Batch) -> Tensor:
        """The teacher's logits for a batch; the student's generators and modes do not notice."""
        teacher = run.resource("teacher", self)
        with seeding.borrowed(run.key(self)), torch.no_grad():
            if isinstance(teacher, Predictor):
                return teacher.logits(batch)
            if not isinstance(teacher, nn.Module):
                return objectives.logits(teacher(batch)).to(batch.device)
            with modes.evaluation_mode(teacher), run.autocast():
                inputs = map_leaves(_caster(teacher), batch.inputs)
                return objectives.logits(objectives.call(teacher, inputs))

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


def _caster(teacher: nn.Module) -> Callable[[Tensor], Tensor]:
    """Floating inputs in the dtype of the teacher's weights, which need not be the student's."""
    dtype = next((p.dtype for p in teacher.parameters() if p.is_floating_point()), None)
    return lambda leaf: leaf.to(dtype) if dtype and leaf.is_floating_point() else leaf
