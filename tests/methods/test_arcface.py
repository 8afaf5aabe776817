"""ArcFace."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss
from torch import Tensor
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import CLASSES, close, data, make_model, make_stack, weights
from tests.methods.test_cosface import agree, by_hand, learned, scaled
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.cosine import cosines
from whet.margins import additive_angle, with_margin
from whet.methods.arcface import ArcFace

CASE = Case(ArcFace(scale=8.0), judged=True)

BATCHES = Batch.of(data()).split(6)


def harder(cos: Tensor) -> Tensor:
    return additive_angle(cos, 0.5)


# the core ------------------------------------------------------------------------------------
def test_oracle() -> None:
    """Which takes degrees; some of the rows lie beyond theta + m = pi."""
    maker = seeding.generator(0)
    theirs = ArcFaceLoss(5, 8, margin=math.degrees(1.2), scale=16).double()
    y = torch.arange(64) % 5
    x = torch.randn(64, 8, generator=maker).double() - 2 * theirs.W.detach().T[y] * (y[:, None] < 3)
    cos = cosines(x, theirs.W.T)
    own = cos.gather(1, y[:, None]).acos()
    assert (own + 1.2 > math.pi).any()
    assert (own + 1.2 < math.pi).any()
    ours = F.cross_entropy(16 * with_margin(cos, y, partial(additive_angle, margin=1.2)), y)
    wanted = theirs(x, y)
    assert torch.allclose(ours, wanted)
    for a, b in zip(*(torch.autograd.grad(one, theirs.W) for one in (ours, wanted)), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("theta", [0.1, 1.0, 2.0, 2.6])
def test_by_hand(theta: float) -> None:
    found = additive_angle(torch.tensor(math.cos(theta)).double(), 0.5).item()
    assert found == pytest.approx(math.cos(theta + 0.5), abs=1e-6)


def without_a_fallback(cos: Tensor, margin: float) -> Tensor:
    return (cos.clamp(-1, 1).acos() + margin).cos()


@trap(right=additive_angle, wrong=without_a_fallback)
def test_a_larger_angle_never_has_a_larger_logit(moved: Any) -> None:
    """Beyond theta + m = pi the cosine turns up again: the worst rows would be pushed away."""
    theta = torch.linspace(0.01, math.pi - 0.01, 500).double()
    assert (moved(theta.cos(), 0.5).diff() < 0).all()


def without_a_clamp(cos: Tensor, margin: float) -> Tensor:
    return (cos.acos() + margin).cos()


def clamped_to_the_ends(cos: Tensor, margin: float) -> Tensor:
    """pytorch-metric-learning's: the slope of arccos at 1 is infinite, and 0 times it NaN."""
    return (cos.clamp(-1, 1).acos() + margin).cos()


@pytest.mark.parametrize("wrong", [without_a_clamp, clamped_to_the_ends])
def test_the_trap_of_the_ends(wrong: Any) -> None:
    """A row along its class's weights: its cosine rounds to 1, or beyond."""
    ends = torch.tensor([1.0, 1.0 + 6e-8 * 2, -1.0, -1.0 - 6e-8 * 2], requires_grad=True)

    def slope(moved: Any) -> Tensor:
        return torch.autograd.grad(moved(ends, 0.5).sum(), ends)[0]

    assert slope(additive_angle).isfinite().all()
    assert not slope(wrong).isfinite().all()


def without_gradient(cos: Tensor, margin: float) -> Tensor:
    """The angle under no_grad: the logit's value is right, and its slope the plain cosine's."""
    with torch.no_grad():
        moved = additive_angle(cos, margin)
    return cos + (moved - cos).detach()


def total(moved: Any) -> float:
    """Length of the loss's gradient by the features, of rows at usual angles."""
    maker = seeding.generator(3)
    x = torch.randn(32, 16, generator=maker).double().requires_grad_()
    weight, y = torch.randn(10, 16, generator=maker).double(), torch.arange(32) % 10
    z = 30 * with_margin(cosines(x, weight), y, partial(moved, margin=0.5))
    return torch.autograd.grad(F.cross_entropy(z, y), x)[0].norm().item()


@trap(right=additive_angle, wrong=without_gradient)
def test_the_gradient_goes_through_the_arccosine(moved: Any) -> None:
    """sin(theta + m) / sin(theta), at 60 degrees 1.15: a slope of 1 is 13 % off."""
    cos = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(moved(cos, 0.5), cos)
    theta = math.pi / 3
    assert slope.item() == pytest.approx(math.sin(theta + 0.5) / math.sin(theta))


def test_how_far_off_a_gradient_without_the_arccosine_is() -> None:
    assert abs(total(without_gradient) / total(additive_angle) - 1) > 0.05


def test_degrees_are_no_radians() -> None:
    with pytest.raises(ValueError, match=r"arcface: margin is 28.6; it must lie in \[0, 1.5708\]"):
        make_stack([ArcFace(margin=28.6)])


# the method ----------------------------------------------------------------------------------
def test_learns_the_formula() -> None:
    def theirs(z: Tensor, y: Tensor) -> Tensor:
        hot = F.one_hot(y, CLASSES).bool()
        theta = (z / 8).acos()
        assert (theta[hot] + 0.5 < math.pi).all()
        return F.cross_entropy(torch.where(hot, 8 * (theta + 0.5).cos(), z), y)

    assert agree(learned(BATCHES[0], CASE.method), by_hand(theirs))


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([CASE.method], coupled=False), make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        stack.step(batch)
        optimizer.zero_grad()
        cos = scaled(model, batch, 1.0)
        F.cross_entropy(8 * with_margin(cos, batch.targets, harder), batch.targets).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module), atol=1e-5)
