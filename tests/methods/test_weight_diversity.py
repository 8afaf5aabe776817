"""Weight-space diversity."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.logs.log import readings
from whet.members import Members
from whet.methods.clip_grad_norm import ClipGradNorm
from whet.methods.sam import SAM
from whet.methods.weight_diversity import WeightDiversity, pairwise_cosine, weight_diversity_loss
from whet.stack import Stack

CASE = Case(WeightDiversity(weight=2.0))

BATCHES = Batch.of(data()).split(6)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def made(number: int) -> nn.Module:
    with seeding.borrowed(number):
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def by_pairs(models: Any) -> Tensor:
    """The definition, pair by pair and weight by weight."""
    found = []
    for layer in (0, 3):
        for a, b in combinations(models, 2):
            found.append(
                F.cosine_similarity(a[layer].weight.flatten(), b[layer].weight.flatten(), 0)
            )
    return torch.stack(found).mean()


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [2, 3, 5])
def test_is_the_mean_cosine_of_all_pairs(count: int) -> None:
    models = [made(number) for number in range(count)]
    assert torch.allclose(weight_diversity_loss(models), by_pairs(models), atol=1e-6)


def test_bounds() -> None:
    a = torch.randn(3, 4, generator=seeding.generator(0))
    assert pairwise_cosine([a, 2 * a, 3 * a]).item() == pytest.approx(1.0)
    assert pairwise_cosine([a, -a]).item() == pytest.approx(-1.0)
    angles = torch.tensor([0.0, 2.0, 4.0]) * torch.pi / 3
    spread = torch.stack([angles.cos(), angles.sin()], 1)
    assert pairwise_cosine([*spread]).item() == pytest.approx(-1 / 2)
    zero = torch.zeros(3, 4, requires_grad=True)  # a weight that begins at zero has no direction
    cosine = pairwise_cosine([zero, a])
    [slope] = torch.autograd.grad(cosine, zero)
    assert cosine.item() == 0.0
    assert slope.isfinite().all()


def test_half_precision_is_measured_in_single() -> None:
    a, b = (torch.randn(200, 200, generator=seeding.generator(n)) for n in (0, 1))
    found = pairwise_cosine([a.bfloat16(), b.bfloat16()])
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(pairwise_cosine([a, b]).item(), abs=1e-3)


# the method ----------------------------------------------------------------------------------
def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack = make_stack([WeightDiversity(0.7)], coupled=False)
    model = make_model(coupled=False, members=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES[:4]:
        loss = F.cross_entropy(model(**batch.inputs), batch.targets)
        optimizer.zero_grad()
        (loss + 0.7 * weight_diversity_loss(model.head.members)).backward()
        optimizer.step()
        stack.step(batch)
    assert close(weights(model), weights(stack.run.module))


@pytest.mark.parametrize("beside", [[], [SAM(rho=0.0)]], ids=["accumulation", "second pass"])
def test_is_added_once_however_often_the_model_is_called(beside: Any) -> None:
    one = make_stack([WeightDiversity(2.0)], coupled=False)
    parts = make_stack([WeightDiversity(2.0), *beside], coupled=False)
    for _ in range(3):
        one.step(BATCHES[0])
        parts.step(BATCHES[0].split(2))
    assert close(weights(one.run.module), weights(parts.run.module))


def test_is_added_before_gradients_are_clipped() -> None:
    for order in (1, -1):
        methods = [ClipGradNorm(0.01), WeightDiversity(50.0)][::order]
        stack = make_stack(methods, coupled=False)
        before = weights(stack.run.module)
        stack.step(BATCHES[0])
        moved = [(t - before[n]).flatten() for n, t in weights(stack.run.module).items()]
        assert torch.cat(moved).norm() <= 0.1 * 0.01 * 1.001


def test_frozen_weights_and_gains_are_left_alone() -> None:
    model = Members(lambda: made(int(torch.randint(1000, ()))), 2)
    for member in model.members:
        member[0].weight.requires_grad_(False)
    stack = Stack(model, "categorical", [WeightDiversity(5.0)], optimizer=sgd)
    stack.open()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    stack.before_update()
    for member in model.members:
        assert member[3].weight.grad.abs().sum() > 0
        for part in (member[0].weight, member[1].weight, member[1].bias, member[3].bias):
            assert part.grad.abs().sum() == 0


def test_the_cosine_is_reported() -> None:
    stack = make_stack([WeightDiversity(2.0)], coupled=False)
    first = weight_diversity_loss(stack.run.module.head.members).item()
    stack.step(BATCHES[0])
    assert readings(stack)["weight_diversity/cosine"] == pytest.approx(first, abs=1e-6)


def test_members_that_begin_apart_are_nearly_orthogonal_already() -> None:
    """What independent initialisation gives by itself: about one over the root of the size."""
    group = Members(nn.Linear(100, 100), 4).members
    assert weight_diversity_loss(group).abs() < 0.03


# errors --------------------------------------------------------------------------------------
def test_a_model_without_members() -> None:
    with pytest.raises(NotApplicable, match=r"no members.*Train whet\.Members\(make_model, 3\)"):
        Stack(nn.Linear(4, 3), "categorical", [WeightDiversity()], optimizer=sgd)


def test_members_without_weights_that_have_a_direction() -> None:
    model = Members(nn.Linear(4, 3), 2).requires_grad_(False)
    with pytest.raises(NotApplicable, match="no weights of two dimensions"):
        Stack(model, "categorical", [WeightDiversity()], optimizer=sgd)
    with pytest.raises(NotApplicable, match="no weights of two dimensions"):
        weight_diversity_loss([nn.LayerNorm(3), nn.LayerNorm(3)])


# traps ---------------------------------------------------------------------------------------
class Subtracted(WeightDiversity):
    """The cosine taken for a distance and rewarded."""

    def _add(self, together: list[nn.Parameter], weight: float) -> Tensor:
        return super()._add(together, weight) if weight == 0.0 else self._minus(together, weight)

    def _minus(self, together: list[nn.Parameter], weight: float) -> Tensor:
        cosine = pairwise_cosine(together)
        for p, slope in zip(together, torch.autograd.grad(cosine, together), strict=True):
            p.grad = p.grad.sub_(slope, alpha=weight)
        return cosine.detach()


class OfTheSquare(WeightDiversity):
    """Opposite members are penalised like equal ones."""

    def _add(self, together: list[nn.Parameter], weight: float) -> Tensor:
        cosine = pairwise_cosine(together).square()
        for p, slope in zip(together, torch.autograd.grad(cosine, together), strict=True):
            p.grad = p.grad.add_(slope, alpha=weight)
        return cosine.detach()


def cosine_after(kind: Any, updates: int = 60) -> float:
    stack = make_stack([kind(5.0)], coupled=False, updates=updates)
    for _ in range(updates):
        stack.step(BATCHES[0])
    return weight_diversity_loss(stack.run.module.head.members).item()


@trap(right=WeightDiversity, wrong=Subtracted)
def test_members_are_driven_apart(kind: Any) -> None:
    assert cosine_after(kind) < weight_diversity_loss(make_model(members=3).head.members).item()


@trap(right=WeightDiversity, wrong=OfTheSquare)
def test_opposite_is_farther_than_orthogonal(kind: Any) -> None:
    assert cosine_after(kind) < -0.3


def neighbours(models: Any) -> Tensor:
    """Each member against the next one in the list."""
    return torch.stack([weight_diversity_loss(pair) for pair in pairwise(models)]).mean()


@trap(right=weight_diversity_loss, wrong=neighbours)
def test_the_members_order_does_not_matter(loss: Callable[[Any], Tensor]) -> None:
    models = [made(number) for number in range(4)]
    assert torch.allclose(loss(models), loss([models[at] for at in (2, 0, 3, 1)]), atol=1e-6)


def by_place(models: Any) -> Tensor:
    """Parameters taken as they come, whatever they are called."""
    listed = [[p for p in model.parameters() if p.ndim > 1] for model in models]
    return torch.stack([pairwise_cosine(each) for each in zip(*listed, strict=True)]).mean()


class Swapped(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        names = ("query", "key") if first else ("key", "query")
        for name in names:
            setattr(self, name, nn.Linear(4, 4, bias=False))


@trap(right=weight_diversity_loss, wrong=by_place)
def test_weights_meet_their_namesakes(loss: Callable[[Any], Tensor]) -> None:
    """Alike by name, though registered in another order."""
    one, other = Swapped(first=True), Swapped(first=False)
    other.load_state_dict(one.state_dict())
    assert loss([one, other]).item() == pytest.approx(1.0, abs=1e-6)


def test_a_member_in_another_order_of_units_only_looks_different() -> None:
    """What the docstring warns of: one function, and a cosine near that of strangers."""
    with seeding.borrowed(0):
        one = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 3))
    other, order = copy.deepcopy(one), torch.randperm(64, generator=seeding.generator(1))
    with torch.no_grad():
        other[0].weight.copy_(one[0].weight[order])
        other[0].bias.copy_(one[0].bias[order])
        other[2].weight.copy_(one[2].weight[:, order])
    x = torch.randn(5, 20)
    assert torch.allclose(one(x), other(x), atol=1e-6)
    assert weight_diversity_loss([one, other]).abs() < 0.15
