"""Clipping the norm of the gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.methods.clip_grad_norm import ClipGradNorm, clip_grad_norm
from whet.objectives.objective import call
from whet.settings import check

CASE = Case(ClipGradNorm(max_norm=0.1))

BATCHES = Batch.of(data()).split(6)


def parameters(*gradients: list[float]) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        made.append(parameter)
    return made


def total(stack: Any) -> float:
    return math.sqrt(sum(p.grad.square().sum().item() for p in stack.parameters()))


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    held = parameters([3.0, 0.0], [4.0])
    assert clip_grad_norm(held, 1.0).item() == 5.0
    assert torch.allclose(held[0].grad, torch.tensor([0.6, 0.0]))
    assert torch.allclose(held[1].grad, torch.tensor([0.8]))
    held = parameters([0.3, 0.0], [0.4])
    assert clip_grad_norm(held, 1.0).item() == pytest.approx(0.5)
    assert torch.equal(held[0].grad, torch.tensor([0.3, 0.0]))


@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 100.0, math.inf])
def test_equals_torch(max_norm: float) -> None:
    ours, theirs = make_model(coupled=False), make_model(coupled=False)
    for model in (ours, theirs):
        call(model, BATCHES[0].inputs).logsumexp(1).sum().backward()
    a = clip_grad_norm(ours.parameters(), max_norm)
    b = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert torch.equal(a, b)
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack = make_stack([ClipGradNorm(0.1)])
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        seeding.seed_default(stack.run.position())
        stack.step(batch)
        seeding.seed_default(make_position(stack.run.window - 1))
        optimizer.zero_grad()
        output = call(model, batch.inputs)
        losses = nn.functional.cross_entropy(output, batch.targets, reduction="none")
        (losses.sum() / batch.size).backward()
        norm = clip_grad_norm(model.parameters(), 0.1)
        optimizer.step()
        assert norm.item() == stack.methods[0].norm
    assert equal(weights(model), weights(stack.run.module))


def make_position(window: int) -> int:
    run = make_stack().run
    run.window = window
    return run.position()


# traps ---------------------------------------------------------------------------------------


class Scaled(ClipGradNorm):
    """clip_grad_norm_ straight after scaler.scale(loss).backward()."""

    def gradients(self, run: Any, window: Any, inner: Any) -> None:
        inner(window)
        nn.utils.clip_grad_norm_(run.parameters(), self.max_norm)

    def before_update(self, run: Any) -> None: ...


@trap(right=ClipGradNorm, wrong=Scaled)
def test_clips_unscaled_gradients(kind: type[ClipGradNorm]) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    plain = make_stack([ClipGradNorm(0.1)])
    scaled = make_stack([kind(0.1)], scaler=scaler)
    for stack in (plain, scaled):
        stack.step(BATCHES[0])
    assert total(scaled) == pytest.approx(total(plain), rel=1e-4)


class PerMicroBatch(ClipGradNorm):
    """clip_grad_norm_ after every backward, the sum of which is no longer clipped."""

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        nn.utils.clip_grad_norm_(run.parameters(), self.max_norm)

    def before_update(self, run: Any) -> None: ...


@trap(right=ClipGradNorm, wrong=PerMicroBatch)
def test_clips_once_per_window(kind: type[ClipGradNorm]) -> None:
    found = []
    for window in (BATCHES[:2], [Batch.join(BATCHES[:2])]):
        stack = make_stack([kind(0.1)], coupled=False)
        stack.step(window)
        found.append(stack.run.module.head.weight.grad)
    assert torch.allclose(*found, atol=1e-6)


class Torch(ClipGradNorm):
    """torch.nn.utils.clip_grad_norm_ with its default error_if_nonfinite=False."""

    def before_update(self, run: Any) -> None:
        nn.utils.clip_grad_norm_(run.parameters(), self.max_norm)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_a_norm_that_is_not_finite_changes_nothing(bad: float) -> None:
    @trap(right=ClipGradNorm, wrong=Torch)
    def check_(kind: type[ClipGradNorm]) -> None:
        stack = make_stack([kind(0.1)])
        stack.gradients(stack.window(BATCHES[0]))
        stack.run.module.head.weight.grad[0, 0] = bad
        before = [p.grad.clone() for p in stack.parameters()]
        stack.before_update()
        after = [p.grad for p in stack.parameters()]
        for a, b in zip(before, after, strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
        assert not math.isfinite(stack.methods[0].norm)

    check_("right")
    check_("wrong")


class ModelOnly(ClipGradNorm):
    """Clips model.parameters(), not what the optimizer steps."""

    def before_update(self, run: Any) -> None:
        clip_grad_norm(run.module.parameters(), self.max_norm)


@trap(right=ClipGradNorm, wrong=ModelOnly)
def test_clips_everything_that_the_optimizer_holds(kind: type[ClipGradNorm]) -> None:
    stack = make_stack([kind(0.1)])
    stack.run.heads["extra"] = nn.Linear(2, 2)
    stack.gradients(stack.window(BATCHES[0]))
    for parameter in stack.run.heads.parameters():
        parameter.grad = torch.ones_like(parameter)
    stack.update()
    assert total(stack) == pytest.approx(0.1, rel=1e-4)


# what else holds -----------------------------------------------------------------------------


def test_the_scaler_still_skips_an_overflow() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    stack = make_stack([ClipGradNorm(0.1)], scaler=scaler)
    before = weights(stack.run.module)
    stack.gradients(stack.window(BATCHES[0]))
    stack.run.module.head.weight.grad[0, 0] = math.inf
    assert not stack.update()
    assert torch.equal(before["head.weight"], stack.run.module.head.weight)


def test_the_last_norm_can_be_read() -> None:
    stack = make_stack([ClipGradNorm(0.1)])
    [clip] = stack.methods
    assert math.isnan(clip.norm)
    stack.gradients(stack.window(BATCHES[0]))
    before = total(stack)
    stack.update()
    assert clip.norm == pytest.approx(before, rel=1e-5)
    assert total(stack) == pytest.approx(0.1, rel=1e-4)


def test_no_gradient_at_all_is_a_norm_of_zero() -> None:
    assert clip_grad_norm(nn.Linear(2, 2).parameters(), 1.0).item() == 0.0
    held = parameters([0.0, 0.0])
    assert clip_grad_norm(held, 1.0).item() == 0.0
    assert torch.equal(held[0].grad, torch.zeros(2))


@pytest.mark.parametrize("max_norm", [0.0, -1.0, math.nan])
def test_refuses_norms_that_clip_everything_away(max_norm: float) -> None:
    with pytest.raises(InputError, match=r"max_norm is .*; it must lie in \(0, inf\)"):
        check(ClipGradNorm(max_norm), "clip_grad_norm")


def test_keeps_each_parameters_dtype() -> None:
    held = parameters([3.0, 0.0], [4.0])
    held[0] = nn.Parameter(held[0].data.bfloat16())
    held[0].grad = torch.tensor([3.0, 0.0], dtype=torch.bfloat16)
    norm: Tensor = clip_grad_norm(held, 1.0)
    assert norm.item() == pytest.approx(5.0)
    assert held[0].grad.dtype == torch.bfloat16
