"""SphereFace."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import SphereFaceLoss
from torch import Tensor
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, make_model, make_run, make_stack, weights
from tests.methods.test_cosface import agree, by_hand, learned, scaled
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.cosine import cosines
from whet.margins import multiplied_angle, with_margin
from whet.methods.sphereface import SphereFace, annealed

CASE = Case(SphereFace(scale=8.0, base=4.0, decay=1.0, lowest=0.5), judged=True)

BATCHES = Batch.of(data()).split(6)


# the core ------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize("times", [2, 3, 4])
def test_oracle(times: int) -> None:
    """Whose logits have the features' norm where ours have s: features of norm s."""
    maker = seeding.generator(0)
    theirs = SphereFaceLoss(5, 8, margin=times, scale=1).double()
    x = 16 * F.normalize(torch.randn(64, 8, generator=maker).double(), dim=1)
    y, cos = torch.arange(64) % 5, cosines(x, theirs.W.T)
    ours = F.cross_entropy(16 * with_margin(cos, y, partial(multiplied_angle, times=times)), y)
    wanted = theirs(x, y)
    assert torch.allclose(ours, wanted)
    for a, b in zip(*(torch.autograd.grad(one, theirs.W) for one in (ours, wanted)), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
def test_by_hand(times: int) -> None:
    theta = torch.linspace(0.0, math.pi - 1e-6, 301).double()
    k = (theta * times / math.pi).floor()
    wanted = (-1.0) ** k * (times * theta).cos() - 2 * k
    assert torch.allclose(multiplied_angle(theta.cos(), times), wanted, atol=1e-5)
    blended = (3.0 * theta.cos() + wanted) / 4.0
    assert torch.allclose(multiplied_angle(theta.cos(), times, 3.0), blended, atol=1e-5)
    assert torch.allclose(multiplied_angle(theta.cos(), 1), theta.cos())
    assert multiplied_angle(torch.tensor(-1.0), times).item() == 1 - 2 * times


def without_arcs(cos: Tensor, times: int) -> Tensor:
    return (times * cos.clamp(-1, 1).acos()).cos()


@trap(right=multiplied_angle, wrong=without_arcs)
def test_a_larger_angle_never_has_a_larger_logit(moved: Any) -> None:
    theta = torch.linspace(0.01, math.pi - 0.01, 500).double()
    assert (moved(theta.cos(), times=4).diff() < 0).all()


def by_arccosine(cos: Tensor, times: int) -> Tensor:
    theta = cos.clamp(-1, 1).acos()
    k = (theta * times / math.pi).floor().detach()
    return (-1.0) ** k * (times * theta).cos() - 2 * k


@trap(right=multiplied_angle, wrong=by_arccosine)
def test_the_slope_is_finite_at_the_ends(moved: Any) -> None:
    """m sin(m theta) / sin(theta), which nears m^2; by arccos it is 0 times infinity."""
    ends = torch.tensor([1.0, -1.0], requires_grad=True)
    [slope] = torch.autograd.grad(moved(ends, times=4).sum(), ends)
    assert slope.tolist() == pytest.approx([16.0, 16.0])


# the method ----------------------------------------------------------------------------------
def test_annealing() -> None:
    """The weight of the plain cosine falls with the updates of the method's span."""
    assert [annealed(t, 4.0, 1.0, 0.5) for t in (0, 1, 3, 100)] == [4.0, 2.0, 1.0, 0.5]
    for method, began in ((CASE.method, 0), (CASE.method.during(0.5, 1), 3)):
        stack = make_stack([method])
        seen = []
        for batch in BATCHES[:6]:
            stack.step(batch)
            [used] = stack.methods
            seen.append(used.readings()["lambda"])
        wanted = [annealed(max(t - began, 0), 4.0, 1.0, 0.5) for t in range(6)]
        assert seen[began:] == pytest.approx(wanted[began:])


def test_resumes_where_it_was(tmp_path: Any) -> None:
    make_run([CASE.method], folder=tmp_path).fit(until=3)
    resumed = make_run([CASE.method], folder=tmp_path).fit(until=4)
    [method] = resumed.stack.methods
    assert method.readings()["lambda"] == annealed(3, 4.0, 1.0, 0.5)


def test_learns_the_formula() -> None:
    def theirs(z: Tensor, y: Tensor) -> Tensor:
        cos = z / 8
        own = cos.gather(1, y[:, None])
        theta = own.acos()
        k = (theta * 4 / math.pi).floor().detach()
        psi = (-1.0) ** k * (4 * theta).cos() - 2 * k
        return F.cross_entropy(8 * cos.scatter(1, y[:, None], (4 * own + psi) / 5), y)

    assert agree(learned(BATCHES[0], CASE.method), by_hand(theirs))


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([CASE.method], coupled=False), make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for at, batch in enumerate(BATCHES):
        stack.step(batch)
        optimizer.zero_grad()
        harder = partial(multiplied_angle, times=4, blend=annealed(at, 4.0, 1.0, 0.5))
        z = 8 * with_margin(scaled(model, batch, 1.0), batch.targets, harder)
        F.cross_entropy(z, batch.targets).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module), atol=1e-5)


def test_a_margin_of_one_is_a_scaled_cosine() -> None:
    ours = learned(BATCHES[0], SphereFace(margin=1, scale=8.0))
    assert agree(ours, by_hand(F.cross_entropy))
