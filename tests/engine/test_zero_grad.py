"""Gradients of the last window are gone, whoever holds the parameter."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from whet import Stack

BATCH = (torch.ones(4, 2), torch.tensor([0, 1, 2, 0]))


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3))


def gradients(net: nn.Module) -> list[torch.Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def test_a_parameter_that_no_optimizer_holds_does_not_gather_gradients() -> None:
    net = model()
    stack = Stack(net, optimizer=torch.optim.SGD(net[1].parameters(), lr=0.0))
    stack.step(BATCH)
    first = gradients(net)
    stack.step(BATCH)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(net), strict=True))


def test_a_group_added_in_training_is_cleared() -> None:
    net = model()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD(net[1].parameters(), lr=0.0)
    stack = Stack(net, optimizer=optimizer)
    stack.step(BATCH)
    extra = nn.Parameter(torch.zeros(1))
    extra.grad = torch.ones(1)
    optimizer.add_param_group({"params": [extra]})
    stack.step(BATCH)
    assert extra.grad is None


def test_an_optimizer_given_later_is_the_one_that_counts() -> None:
    net = model()
    stack = Stack(net, optimizer=torch.optim.SGD(net.parameters(), lr=0.0))
    stack.step(BATCH)
    stack.optimizer = torch.optim.SGD(net[1].parameters(), lr=0.0)
    stack.step(BATCH)
    first = gradients(net)
    stack.step(BATCH)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(net), strict=True))


def test_an_optimizer_with_a_way_of_its_own_keeps_it() -> None:
    calls: list[bool] = []

    class Own(torch.optim.SGD):
        def zero_grad(self, set_to_none: bool = True) -> None:
            calls.append(set_to_none)
            super().zero_grad(set_to_none)

    net = model()
    stack = Stack(net, optimizer=Own(net.parameters(), lr=0.0))
    stack.step(BATCH)
    assert calls == [True]


def test_one_that_is_patched_keeps_it_as_well() -> None:
    calls: list[Any] = []
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
    optimizer.zero_grad = lambda set_to_none=True: calls.append(set_to_none)  # type: ignore[method-assign]
    Stack(net, optimizer=optimizer).step(BATCH)
    assert calls == [True]
