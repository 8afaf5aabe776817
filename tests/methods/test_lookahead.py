"""Lookahead: formula, traps, oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pytorch_optimizer import Lookahead as Oracle
from torch import nn

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    close,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    weights,
)
from tests.contract.test_singles import windows
from tests.methods.record_libraries import recorded
from tests.methods.traps import trap
from whet.methods.lookahead import Lookahead
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe, Stage

CASE = Case(
    Lookahead(k=2, alpha=0.5),
    cost=Cost(kept=1, copies=1),
)


def test_what_a_later_stage_thaws_begins_where_it_is() -> None:
    """Kept through stages of which each freezes other parts, and resumed in the second."""
    recipe = Recipe(
        [Stage(updates=3, batch_size=10, freeze=[part]) for part in ("hidden", "embed")],
        methods=[Lookahead(k=2, alpha=0.5)],
    )
    run = Run(make_task(), recipe, device="cpu", log=None).fit(until=3)
    before = weights(run.module)
    run.fit(until=4)  # the fourth in all is the second synchronisation
    slow = run.stack.state_dict()["states"]["lookahead"]["slow"]
    assert "embed.weight" not in slow
    assert torch.equal(run.module.embed.weight, before["embed.weight"])
    assert torch.equal(slow["hidden.weight"], run.module.hidden.weight)
    assert not torch.equal(slow["hidden.weight"], before["hidden.weight"])
    resumed = Run(make_task(), recipe, device="cpu", log=None)
    resumed.load_state_dict(copy.deepcopy(run.state_dict()))
    assert equal(weights(run.fit().module), weights(resumed.fit().module))


def test_formula() -> None:
    """Fast 1, 2, 3, ...: slow goes half of the way from where it stands at every second update."""
    weight = nn.Parameter(torch.zeros(1))
    lookahead = Lookahead(k=2, alpha=0.5)
    lookahead.begin([("w", weight)])
    seen = []
    for _ in range(6):
        with torch.no_grad():
            weight.add_(1.0)
        lookahead.update()
        seen.append(weight.item())
    assert seen == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]


def test_oracle() -> None:
    """pytorch_optimizer's wrapper, step by step, on plain SGD."""
    ours, theirs = make_model(coupled=False), make_model(coupled=False)
    stack = Stack(
        ours, "categorical", [Lookahead(k=3, alpha=0.4)],
        optimizer=torch.optim.SGD(ours.parameters(), lr=0.1),
    )  # fmt: skip
    oracle = Oracle(torch.optim.SGD(theirs.parameters(), lr=0.1), k=3, alpha=0.4,
                    pullback_momentum="none")  # fmt: skip
    for window in windows(accumulate=1)[:7]:
        stack.step(window)
        oracle.zero_grad()
        inputs, targets = window[0].inputs, window[0].targets
        nn.functional.cross_entropy(theirs(**inputs), targets).backward()
        oracle.step()
        assert close(weights(ours), weights(theirs), atol=1e-7)


def test_core_equals_the_method() -> None:
    stack = make_stack([Lookahead(k=2)], coupled=False)
    model = make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    lookahead = Lookahead(k=2)
    lookahead.begin(model.named_parameters())
    for window in windows(accumulate=1)[:5]:
        stack.step(window)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(**window[0].inputs), window[0].targets).backward()
        optimizer.step()
        lookahead.update()
    assert close(weights(stack.run.module), weights(model), atol=1e-7)


class ByObject(Lookahead):
    """State keyed by the parameter object: a state dict of it means nothing to another process."""

    def state_dict(self) -> dict[str, Any]:
        return {"updates": 0, "slow": {id(p): self._slow[name] for name, p in self._fast.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in self._fast.items():
            if id(parameter) in state["slow"]:
                self._slow[name] = state["slow"][id(parameter)]


@trap(right=Lookahead, wrong=ByObject)
def test_trap_state_is_lost_on_resume(kind: Any) -> None:
    through, first, second = (make_stack([]) for _ in range(3))
    for stack in (through, first, second):
        stack.methods = [kind(k=4)]
    for window in windows()[:6]:
        through.step(window)
    for window in windows()[:3]:
        first.step(window)
    second.run.module.load_state_dict(first.run.module.state_dict())
    second.open()
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for window in windows()[3:6]:
        second.step(window)
    assert equal(weights(through.run.module), weights(second.run.module))


def test_what_pytorch_optimizer_says_on_resume() -> None:
    """3.9.0, as it was recorded, kept its state by object; the present version, by place."""
    said = {"version": "3.9.0", "on_resume": "KeyError('slow_params')"}
    assert recorded("pytorch_optimizer") == said

    def made(value: float) -> tuple[nn.Parameter, Oracle]:
        weight = nn.Parameter(torch.tensor([value]))
        return weight, Oracle(torch.optim.SGD([weight], lr=1.0), k=4, alpha=0.5)

    weight, optimizer = made(0.0)
    for _ in range(3):
        weight.grad = -torch.ones(1)
        optimizer.step()
    other, resumed = made(weight.item())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.grad = -torch.ones(1)
    resumed.step()
    assert other.item() == 2.0  # the fourth step: half of the way from 0 to 4


class PerMicroBatch(Lookahead):
    """Counts backward passes, as a hook on the loss would."""

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        self._updates += 1

    def after_update(self, run: Any) -> None:
        if self._updates % self.k == 0:
            self._updates -= 1
            self.update()


@trap(right=Lookahead, wrong=PerMicroBatch)
def test_trap_counts_only_real_updates(kind: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    stack = make_stack([], scaler=scaler)
    stack.methods = [kind(k=3)]
    stack.open()
    moves = []
    for number, window in enumerate(windows()[:4]):
        before = {k: v.clone() for k, v in stack.methods[0]._slow.items()}
        stack.gradients(stack.window(window))
        if number == 1:
            stack.run.module.head.weight.grad[0, 0] = float("inf")
        stack.update()
        moves.append(not equal(before, stack.methods[0]._slow))
    assert moves == [False, False, False, True]


def test_what_is_frozen_is_left_alone() -> None:
    run = make_run([Lookahead(k=2)], freeze=["embed"]).fit()
    [method] = run.stack.methods
    assert not any(name.startswith("embed") for name in method._slow)
