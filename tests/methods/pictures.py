"""What the tests of methods that move inputs look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet import seeding
from whet.batch import Batch
from whet.stack import Stack

IMAGES = Batch(
    torch.rand(6, 3, 4, 4, generator=seeding.generator(1)), torch.tensor([0, 1, 2, 0, 1, 2])
)


def pictures(methods: Any, objective: str = "categorical", **given: Any) -> Stack:
    """A small network for the images."""
    with seeding.borrowed(0):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    return Stack(
        model, objective, methods, resources=given, updates=6,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip


def given_to(stack: Stack, batch: Batch, name: str = "floats") -> list[Tensor]:
    """What the model is given in the passes over a batch."""
    seen: list[Any] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs[name]).detach().clone())

    handle = stack.run.module.register_forward_pre_hook(look, with_kwargs=True)
    stack.gradients(stack.window(batch))
    handle.remove()
    return seen


def learned(stack: Stack, batch: Batch, name: str = "floats") -> Tensor:
    """What the model is given in the last pass over a batch."""
    return given_to(stack, batch, name)[-1]


def drawn(stack: Stack, like: Tensor, name: str = "floats") -> Tensor:
    """The noise, uniform in [-1, 1], that the stack's first method draws for an input."""
    maker = seeding.generator(stack.run.key(stack.methods[0]), name)
    return torch.rand(like.shape, generator=maker).to(like) * 2 - 1
