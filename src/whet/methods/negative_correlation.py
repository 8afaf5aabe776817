"""Negative correlation learning: an ensemble whose members are paid to differ."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from whet import members, modes, objectives
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.objectives import Objective
from whet.objectives.pooling import pooled
from whet.settings import number
from whet.training import Training


def member_losses(outputs_K: Tensor, targets: Tensor, objective: Objective) -> Tensor:
    """Losses `(K, N)`, or `(K, N, T)` for tokens, of each member by itself."""
    return torch.stack([objective.losses(modes.wide(output), targets) for output in outputs_K])


def negative_correlation_losses(
    outputs_K: Tensor, targets: Tensor, penalty: float = 0.5, objective: str = "categorical",
    mean: str = "probabilities",
) -> Tensor:  # fmt: skip
    """Mean loss of the members less `penalty` times their ambiguity, per item.

    Args:
        outputs_K: what K members give, `(K, N, C)`, or `(K, N, ...)` as the objective wants.
        targets: classes `(N,)`, or as the objective wants them.
        penalty: from 0 (each by itself) to 1 (the joint answer alone).
        objective: name of an objective with targets.
        mean: how the joint answer is made, `probabilities` or `outputs`.

    Raises:
        InputError: a penalty above 1 rewards members for going away from each other without end.

    >>> f, y = torch.tensor([[1.0], [4.0]]), torch.tensor([2.0])
    >>> [negative_correlation_losses(f, y, penalty, "real").item() for penalty in (0.0, 1.0)]
    [2.5, 0.25]
    """
    if not 0.0 <= penalty <= 1.0:
        raise InputError(
            f"penalty is {penalty:g}; beyond 1 the loss has no lower bound, as members gain more "
            "by going apart than they lose by being wrong. Stay in [0, 1)."
        )
    learned = objectives.make(objective)
    joint = learned.losses(pooled(outputs_K, learned.family, mean=mean), targets)
    return torch.lerp(member_losses(outputs_K, targets, learned).mean(0), joint, penalty)


@method
class NegativeCorrelation(Method):
    r"""Negative correlation learning: members learn the targets, and to differ in their mistakes.

    $$L = \frac1K \sum_i \ell(f_i, y) - \lambda A, \qquad
    A = \frac1K \sum_i \ell(f_i, y) - \ell(\bar f, y)$$

    A, the ambiguity, is what the joint answer is better by than its members on average. For
    squared errors it is $\frac1K \sum_i (f_i - \bar f)^2$, so that this is the known
    $\frac12 (f_i - y)^2 - \lambda \frac12 (f_i - \bar f)^2$, here without the halves, as whet's
    squared error has none. (Where the penalty is written $\gamma (f_i - \bar f)^2$ beside half an
    error, $\gamma = \lambda / 2$, and 1/2 is the limit.) For classes, and members whose logits are
    averaged (`Members(mean="outputs")`), it is $\frac1K \sum_i \mathrm{KL}(\bar p \| p_i)$ with
    $\bar p$ the normalised geometric mean; where probabilities are averaged it is the mean of
    $-\log p_i(y)$ less $-\log \bar p(y)$. None of these is negative.

    Beside a margin head, `temperature` or `logit_adjustment` each member's loss is of its logits
    moved as the joint ones are; with the last two A may be negative.

    λ = 0 trains the members independently, each with 1/K of its gradient; towards 1 the joint
    answer alone counts, as when the model is trained without this method, and members become
    worse by themselves. At 1 nothing holds them, and beyond it the loss has no lower bound.

    Args:
        penalty: λ in [0, 1).

    The model is, or ends in, a `whet.Members`. Log: `member_loss`, `worst_member_loss`,
    `joint_loss` and `ambiguity` of the last update's rows.

    Shapes: members' outputs `(K, N, ...)`.

    Cost: no pass beyond the members' own; K losses.

    Raises:
        NotApplicable: the model has no members, or outputs are embeddings.
        InputError: members are joined as another kind than the objective's, or something follows
            them in the model.

    Paper: Liu & Yao 1999, Neural Networks 12(10); for classes Webb et al. 2020, arXiv:1902.04422.

    >>> from whet.members import Members
    >>> model = Members(lambda: torch.nn.Linear(2, 3), count=4)
    >>> x, y = torch.randn(5, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> outputs = torch.stack([member(x) for member in model.members])
    >>> negative_correlation_losses(outputs, y, penalty=0.5).mean().backward()
    """

    penalty: float = number(0.5, 0.0, 1.0, open_high=True)

    of_members: ClassVar[bool] = True
    name: ClassVar[str] = "negative_correlation"
    layer: ClassVar[Layer] = Layer.OBJECTIVE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.OBJECTIVE})
    # what moves the logits that a loss is of
    outside: ClassVar[tuple[str, ...]] = (
        "arcface", "cosface", "logit_adjustment", "sphereface", "temperature",
    )  # fmt: skip
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[str] = (
        "without it the joint answer is trained, which is the limit that the penalty may not reach"
    )
    card: ClassVar[Card] = Card(
        title="Negative correlation learning", paper="arXiv:1902.04422",
        cost="no pass beyond the members' own", tier=2, phase="whole training",
        data="any, with a model of several members",
        avoid_when="members are large and overfit together: independent ones are then as good",
        zh={
            "title": "负相关集成学习（NCL）", "cost": "除各成员自身外不增加前向或反向传播",
            "phase": "整个训练过程", "data": "任意，模型须由多个成员组成",
            "avoid_when": "成员模型很大且一同过拟合：此时独立训练同样好",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._name = ""
        self._read: Tensor | None = None  # sums of K member losses and the joint one, and a count

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind == "embedding":
            raise NotApplicable(self.key, "embeddings have no targets that members could miss.")
        self._name, group = members.find(run.module, self.key)
        alike = {"tokens": "categorical"}
        if alike.get(group.joint.kind, group.joint.kind) != alike.get(kind, kind):
            raise InputError(
                f"{self.key}: the members are joined as {group.joint.kind!r} and the objective is "
                f"{kind!r}. Give Members(..., kind={kind!r})."
            )
        members.prepare(group)

    def start(self, run: Training) -> None:
        self._read = None

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        with members.hearing(run.module, self._name) as heard:
            forward = inner(batch)
        targets = forward.batch.targets
        if targets is None:
            return forward
        each_K = member_losses(self._outputs(heard, forward), targets, run.objective)
        self._stage(run, forward, each_K)
        return forward.replace(losses=torch.lerp(each_K.mean(0), forward.losses, self.penalty))

    def _outputs(self, heard: list[Tensor], forward: Forward) -> Tensor:
        return forward.as_learned(members.outputs(heard, forward.output, self.key))

    def _stage(self, run: Training, forward: Forward, each_K: Tensor) -> None:
        with torch.no_grad():
            losses = torch.cat([each_K, forward.losses[None]])
            kept = torch.ones_like(losses[0]) if forward.mask is None else forward.mask.to(losses)
            sums = torch.where(kept > 0, losses, losses.new_zeros(())).flatten(1).sum(1)
            run.stage(self, torch.cat([sums, kept.sum()[None]]))

    def after_update(self, run: Training) -> None:
        if staged := run.staged(self):
            self._read = torch.stack(staged).sum(0)

    def readings(self) -> dict[str, float]:
        names = ("member_loss", "worst_member_loss", "joint_loss", "ambiguity")
        if self._read is None:
            return dict.fromkeys(names, math.nan)
        *sums, joint, count = self._read.tolist()
        each, whole = [one / max(count, 1.0) for one in sums], joint / max(count, 1.0)
        mean = sum(each) / len(each)
        return dict(zip(names, (mean, max(each), whole, mean - whole), strict=True))
