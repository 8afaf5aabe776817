"""SAM under a loss scaler: what climbs, what comes back, and what is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import modes
from whet.batch import Batch
from whet.methods.sam import SAM
from whet.objectives.objective import call

BATCH = Batch.of(data()).take(slice(0, 6))
SCALE = 2.0**10
Net, Scaler = nn.Module, torch.amp.GradScaler
Pass = Callable[[], None]
Step = Callable[[Net, Scaler, Pass], None]


def scaler_of(scale: float = SCALE) -> Scaler:
    return Scaler("cpu", init_scale=scale)


def back(model: Net, scaler: Scaler | None = None) -> None:
    """One pass in half precision."""
    with torch.autocast("cpu", torch.float16):
        loss = F.cross_entropy(call(model, BATCH.inputs), BATCH.targets)
    (loss if scaler is None else scaler.scale(loss)).backward()


def norm_of(model: Net) -> Tensor:
    return torch.stack([p.grad.norm() for p in model.parameters()]).norm()


def by_whet(model: Net, scaler: Scaler, second: Pass) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    back(model, scaler)
    with SAM(0.2).ascend(model):
        second()
    scaler.step(optimizer)
    scaler.update()


class TwoSteps(torch.optim.SGD):
    """Wrong: its step takes the weights back, and a scaler that skips a step makes none."""

    @torch.no_grad()
    def climb(self) -> None:
        moving = [p for group in self.param_groups for p in group["params"]]
        norm = torch.stack([p.grad.norm() for p in moving]).norm()
        self.saved = [(p, p.detach().clone()) for p in moving]
        for p in moving:
            p.add_(0.2 * p.grad / norm)
        self.zero_grad()

    def step(self, closure: Any = None) -> None:
        modes.put_back(self.saved)
        super().step(closure)


def by_optimizer(model: Net, scaler: Scaler, second: Pass) -> None:
    optimizer = TwoSteps(model.parameters(), lr=0.1)
    back(model, scaler)
    optimizer.climb()
    second()
    scaler.step(optimizer)
    scaler.update()


def unscaling_first(model: Net, scaler: Scaler, second: Pass) -> None:
    """Wrong: a scaler unscales once a step, so the second pass's gradients stay scaled."""
    optimizer = TwoSteps(model.parameters(), lr=0.1)
    back(model, scaler)
    scaler.unscale_(optimizer)
    optimizer.climb()
    second()
    scaler.step(optimizer)
    scaler.update()


def learned(step: Step) -> Net:
    model, scaler = make_model(coupled=False), scaler_of()
    step(model, scaler, lambda: back(model, scaler))
    return model


def expected() -> Net:
    """In single precision, and without a scaler."""
    stack = make_stack([SAM(0.2)], coupled=False, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    stack.step([BATCH])
    found: Net = stack.run.module
    return found


def test_a_loop_and_the_stack_learn_what_they_learn_in_single_precision() -> None:
    assert close(weights(learned(by_whet)), weights(expected()), atol=1e-3)
    scaler = scaler_of()
    stack = make_stack([SAM(0.2)], coupled=False, scaler=scaler,
                       optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    with torch.autocast("cpu", torch.float16):
        assert stack.step([BATCH])
    assert close(weights(stack.run.module), weights(expected()), atol=1e-3)
    assert not close(weights(expected()), weights(make_model(coupled=False)), atol=1e-2)


# traps ------------------------------------------------------------------------------------------
@trap(right=by_whet, wrong=unscaling_first)
def test_what_is_learned_is_unscaled(step: Step) -> None:
    assert close(weights(learned(step)), weights(expected()), atol=1e-3)


@trap(right=by_whet, wrong=by_optimizer)
def test_weights_come_back_where_the_step_is_skipped(step: Step) -> None:
    """The second pass overflows."""
    assert close(weights(learned(step)), weights(expected()), atol=1e-3)
    model, scaler = make_model(coupled=False), scaler_of()
    before = weights(model)

    def overflow() -> None:
        back(model, scaler)
        model.head.weight.grad[0, 0] = float("inf")

    step(model, scaler, overflow)
    assert scaler.get_scale() == SCALE / 2
    assert equal(before, weights(model))


@contextmanager
def unnormalised(model: Net) -> Iterator[None]:
    """Wrong under a scaler: climbs the gradient itself, which is as long as the scale is large."""
    saved = [(p, p.detach().clone()) for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * p.grad)
    yield
    modes.put_back(saved)


@contextmanager
def subtracting(model: Net) -> Iterator[None]:
    """Wrong: takes back what it added, which after an overflow is NaN."""
    steps = [0.2 * p.grad / norm_of(model) for p in model.parameters()]
    with torch.no_grad():
        for p, step in zip(model.parameters(), steps, strict=True):
            p.add_(step)
    yield
    with torch.no_grad():
        for p, step in zip(model.parameters(), steps, strict=True):
            p.sub_(step)


@trap(right=SAM(0.2).ascend, wrong=unnormalised)
def test_it_climbs_as_far_under_any_scale(ascend: Callable[[Net], Any]) -> None:
    reached = []
    for scaler in (None, scaler_of(1.0), scaler_of()):
        model = make_model(coupled=False)
        back(model, scaler)
        with ascend(model):
            reached.append(weights(model))
    assert close(reached[0], reached[1], atol=1e-3)
    assert close(reached[0], reached[2], atol=1e-3)


@trap(right=SAM(0.2).ascend, wrong=subtracting)
def test_a_first_pass_that_overflows_costs_steps_alone(ascend: Callable[[Net], Any]) -> None:
    """As at the start of any training, where the scale is too large."""
    model, scaler = make_model(coupled=False), scaler_of(2.0**20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before, moved = weights(model), False
    skipped = -1
    while not moved and skipped < 20:
        optimizer.zero_grad()
        back(model, scaler)
        with ascend(model):
            back(model, scaler)
        scaler.step(optimizer)
        scaler.update()
        moved, skipped = not equal(before, weights(model)), skipped + 1
    assert skipped > 0
    assert close(weights(model), weights(expected()), atol=1e-3)
