"""What the tests of methods that attack inputs share: images, a look at them, and traps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import close, data, make_model, make_stack
from whet import seeding
from whet.attack import plain
from whet.batch import Batch
from whet.errors import InputError
from whet.method import Method
from whet.objectives.objective import call
from whet.stack import Stack

FIRST = Batch.of(data()).take(slice(0, 6))

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


# traps: a wrong variant is `class Wrong(ByBackward, TheMethod)`, a check is given a method -------
class ByBackward:
    """`loss.backward()` and `x.grad`, as in most snippets."""

    def _attacked(self, run: Any, batch: Batch, *more: Any) -> Batch:
        floats = batch.inputs["floats"].detach().clone().requires_grad_()
        output = call(run.model, batch.inputs | {"floats": floats})
        F.cross_entropy(output, batch.targets).backward()
        return super()._attacked(run, batch, *more)


def pollutes_no_gradient(method: Method) -> None:
    stack = make_stack([method], coupled=False)
    moved = learned(stack, FIRST)
    model = make_model(coupled=False)
    F.cross_entropy(call(model, FIRST.inputs | {"floats": moved}), FIRST.targets).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


class Counted:
    """Attacks in training mode as it stands: batch statistics move with its passes."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        with seeding.borrowed():
            plain(run, batch)
        return super().forward(run, batch, inner)


def statistics_are_of_what_is_learned(method: Method) -> None:
    stack = make_stack([method])
    moved = learned(stack, FIRST)
    model = make_model()
    call(model, FIRST.inputs | {"floats": moved})
    assert close(dict(stack.run.module.named_buffers()), dict(model.named_buffers()), atol=1e-6)


class InPixels:
    """ε = 8/255 on images that were divided by 0.25, where it is 2/255 of a pixel's range."""

    def _attacked(self, run: Any, batch: Batch, *more: Any) -> Batch:
        self.std = None
        return super()._attacked(run, batch, *more)


def moves_by_pixels(method: Method) -> None:
    """Given ε = 8/255 and std = 0.25."""
    batch = IMAGES.replace(inputs=(IMAGES.inputs - 0.5) / 0.25)
    stack = pictures([method], valid_range=(-2.0, 2.0))
    pixels = (learned(stack, batch, "0") * 0.25 + 0.5 - IMAGES.inputs).abs()
    assert pixels.max().item() == pytest.approx(8 / 255, rel=1e-4)


class Unchecked:
    """Clips normalised images to [0, 1], which paints over half of them."""

    def start(self, run: Any) -> None:
        super().start(run)
        self._inputs._looked = True


def names_a_range_of_other_units(method: Method) -> None:
    batch = IMAGES.replace(inputs=(IMAGES.inputs - 0.5) / 0.25)
    message = ""
    try:
        pictures([method], valid_range=(0.0, 1.0)).step(batch)
    except InputError as error:
        message = str(error)
    assert "as the model sees the input" in message
