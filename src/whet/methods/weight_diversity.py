"""Weight-space diversity: members of an ensemble are held apart by the angle of their weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import members
from whet.errors import NotApplicable
from whet.method import Card, Layer, Method, method
from whet.settings import number
from whet.training import Training


def aligned(models: Sequence[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """The weights of two dimensions and more that all members train, each with its namesakes.

    Norms' gains and biases are left out: they begin alike on purpose, and have no direction.
    """
    named = [dict(model.named_parameters()) for model in models]
    for name, first in named[0].items():
        together = [one[name] for one in named]
        if first.ndim >= 2 and all(p.requires_grad and p.is_floating_point() for p in together):
            yield together


def pairwise_cosine(weights: Sequence[Tensor]) -> Tensor:
    """Mean cosine over all pairs of K tensors of one shape, in [-1/(K-1), 1].

    >>> a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    >>> pairwise_cosine([a, b]), pairwise_cosine([a, a, -a])
    (tensor(0.7071), tensor(-0.3333))
    """
    count = len(weights)
    flat = torch.stack([weight.flatten() for weight in weights])
    wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
    units = nn.functional.normalize(wide, dim=1)
    # |sum u|^2 = sum |u|^2 + 2 sum of the pairs' products
    products = 0.5 * (units.sum(0).square().sum() - units.square().sum())
    return products / (count * (count - 1) / 2)


def weight_diversity_loss(models: Sequence[nn.Module]) -> Tensor:
    """The mean of `pairwise_cosine` over the members' aligned weights.

    >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
    <torch._C.Generator object at ...>
    >>> weight_diversity_loss([nn.Linear(50, 50) for _ in range(3)]).abs().item() < 0.1
    True
    """
    found = [pairwise_cosine(together) for together in aligned(models)]
    if not found:
        raise NotApplicable("weight_diversity", NO_WEIGHTS)
    return torch.stack(found).mean()


NO_WEIGHTS = "members train no weights of two dimensions or more, whose directions could differ."


@method
class WeightDiversity(Method):
    r"""Weight-space diversity: a penalty on the cosine between members' weights.

    $$L \leftarrow L + w\,\frac1M \sum_{m=1}^{M} \frac{2}{K(K-1)} \sum_{i<j}
    \cos(\theta_i^{(m)}, \theta_j^{(m)})$$

    over the M weight tensors of two dimensions or more, each of them of K members, with the cosine
    of all its entries. What is penalised is being alike: opposite weights are as far apart as can
    be, and three members cannot all be opposite (the mean is at least -1/(K-1)). All pairs count,
    so that the members' order does not.

    Directions of weights are not functions. A member with its hidden units in another order
    computes the same, at a cosine near 0; and members that begin apart are nearly orthogonal
    already (a cosine of about $1/\sqrt n$ for n weights). Read `cosine` in the log before you
    credit the penalty with anything, and compare with the members as they are.

    The gradient is added once to an update's gradient, whole and unscaled, before it is clipped
    (a host that clips for itself has done so by then); it does not depend on the batch.

    Args:
        weight: w, from 0.

    The model is, or ends in, a `whet.Members`. Log: `cosine`, the mean as it was before the last
    update.

    Cost: no pass; 3 copies of the largest weight of all members, one after another.

    Raises:
        NotApplicable: the model has no members, or they train no such weights.

    Paper: none; an ensemble trained so is compared with members that only begin apart
    (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    >>> from whet.members import Members
    >>> model = Members(lambda: nn.Linear(2, 3), count=4)
    >>> loss = model(torch.ones(5, 2)).logsumexp(1).mean()
    >>> (loss + 0.1 * weight_diversity_loss(model.members)).backward()
    """

    weight: float = number(0.1, 0.0)

    of_members: ClassVar[bool] = True
    name: ClassVar[str] = "weight_diversity"
    layer: ClassVar[Layer] = Layer.OBJECTIVE  # outside of clipping, which sees the whole gradient
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Weight-space diversity", paper="-", cost="no pass", tier=2, phase="whole training",
        data="any, with a model of several members",
        avoid_when="members begin apart: their weights are then nearly orthogonal already",
        zh={
            "title": "权重空间多样性", "cost": "不增加前向或反向传播", "phase": "整个训练过程",
            "data": "任意，模型须由多个成员组成",
            "avoid_when": "成员已独立初始化：此时它们的权重本就近乎正交",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._cosine: Tensor | None = None

    def build(self, run: Training) -> None:
        _, group = members.find(run.module, self.key)
        if next(aligned([*group.members]), None) is None:
            raise NotApplicable(self.key, NO_WEIGHTS)

    def start(self, run: Training) -> None:
        self._cosine = None

    def before_update(self, run: Training) -> None:
        _, group = members.find(run.module, self.key)
        every = [*aligned([*group.members])]
        cosines = [self._add(together, self.weight / len(every)) for together in every]
        self._cosine = torch.stack(cosines).mean()

    def _add(self, together: list[nn.Parameter], weight: float) -> Tensor:
        """Add one tensor's gradient to those of its K members, and give its cosine."""
        with torch.enable_grad():
            cosine = pairwise_cosine(together)
        if weight > 0.0:
            for p, slope in zip(together, torch.autograd.grad(cosine, together), strict=True):
                p.grad = weight * slope if p.grad is None else p.grad.add_(slope, alpha=weight)
        return cosine.detach()

    def readings(self) -> dict[str, float]:
        return {"cosine": math.nan if self._cosine is None else self._cosine.item()}
