"""Views without chance, which a prediction can be averaged over: by name, for every row alike.

A view is said in plain text, its name and where wanted an amount: `flip`, `shift=0.1`. One name may
stand for several views, as `crop` for the corners and the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whet import mixing
from whet.errors import InputError, UnknownName

MOST = 64  # views beside the rows as they are


@dataclass(frozen=True)
class Fixed:
    """Views of one name.

    Args:
        make: from a leaf and an amount to the views of it, each of its shape.
        amount: the default; None where there is none to choose.
        dims: how many dimensions a leaf may have.
        shape: the same in words.
    """

    make: Callable[[Tensor, float], Sequence[Tensor]]
    amount: float | None = None
    dims: tuple[int, ...] = (4,)
    shape: str = "images (N, C, H, W)"


def _moved(leaf: Tensor, dim: int, share: float) -> list[Tensor]:
    """Forward and back along a dimension, by a step at least; what comes in is reflected."""
    size = leaf.shape[dim]
    step = max(1, round(share * size))
    if step >= size:
        raise InputError(f"a shift by {step} of {size} leaves nothing in place.")
    ahead, behind = leaf.narrow(dim, step, size - step), leaf.narrow(dim, 0, size - step)
    after, before = leaf.narrow(dim, size - 1 - step, step), leaf.narrow(dim, 1, step)
    return [torch.cat([ahead, after.flip(dim)], dim), torch.cat([before.flip(dim), behind], dim)]


def _shifts(leaf: Tensor, share: float) -> list[Tensor]:
    return [*_moved(leaf, -1, share), *_moved(leaf, -2, share)]


def _crops(leaf: Tensor, share: float) -> list[Tensor]:
    """The middle and the four corners, of `share` of each side, at the size of the whole."""
    height, width = leaf.shape[-2:]
    high, wide = max(1, round(share * height)), max(1, round(share * width))
    down, across = height - high, width - wide
    corners = [(0, 0), (0, across), (down, 0), (down, across)]
    return [
        F.interpolate(
            leaf[..., top : top + high, left : left + wide], size=(height, width),
            mode="bilinear", align_corners=False,
        )
        for top, left in [(down // 2, across // 2), *corners]
    ]  # fmt: skip


def _turns(leaf: Tensor, amount: float) -> list[Tensor]:
    if leaf.shape[-1] != leaf.shape[-2]:
        raise InputError(
            f"turn: images of {leaf.shape[-2]} x {leaf.shape[-1]} pixels have another shape after "
            "a quarter turn. Use flip and vertical_flip, or make them square."
        )
    return [leaf.rot90(count, (-2, -1)) for count in (1, 2, 3)]


FIXED: dict[str, Fixed] = {
    "flip": Fixed(lambda leaf, _: [leaf.flip(-1)]),
    "vertical_flip": Fixed(lambda leaf, _: [leaf.flip(-2)]),
    "shift": Fixed(_shifts, 0.0625),
    "crop": Fixed(_crops, 0.875),
    "turn": Fixed(_turns),
    "time_shift": Fixed(
        lambda leaf, share: _moved(leaf, -1, share), 0.05, (2, 3, 4),
        "sounds (N, T), (N, F, T) or (N, C, T)",
    ),
}  # fmt: skip


def read(text: str) -> tuple[str, float]:
    """Name and amount of a view.

    Raises:
        UnknownName: there is no such view.
        InputError: the amount is no share of a side, or the view has none.

    >>> read("shift"), read("crop=0.75")
    (('shift', 0.0625), ('crop', 0.75))
    """
    name, equals, given = text.partition("=")
    if name not in FIXED:
        raise UnknownName("view", name, FIXED)
    default = FIXED[name].amount
    if not equals:
        return name, 0.0 if default is None else default
    try:
        amount = float(given)
    except ValueError:
        amount = -1.0
    if default is None or not 0.0 < amount < 1.0:
        wants = f"a share in (0, 1), such as {name}={default}" if default else "no amount"
        raise InputError(f"view {text!r}: {name} takes {wants}.")
    return name, amount


def made(text: str, inputs: Any, at: str = "*") -> list[Any]:
    """The views that a text stands for, of what `at` names among the inputs.

    Args:
        text: as `read` takes it.
        inputs: a tensor, or a nest of them.
        at: which: `*` for all, a name or glob over the keys of a mapping, a position.

    Raises:
        InputError: an input is not of the kind that the view is of.

    >>> [view.tolist() for view in made("time_shift=0.25", torch.tensor([[1., 2., 3., 4.]]))]
    [[[2.0, 3.0, 4.0, 3.0]], [[2.0, 1.0, 2.0, 3.0]]]
    """
    name, amount = read(text)
    kind = FIXED[name]
    _, chosen = mixing.chosen(name, inputs, at)
    for where, leaf in chosen.items():
        if not leaf.is_floating_point() or leaf.ndim not in kind.dims:
            called = f"input {where!r}" if where else "the input"
            raise InputError(
                f"{name}: {called} has shape {tuple(leaf.shape)} and dtype {leaf.dtype}; it is a "
                f"view of floating {kind.shape}. Name them by at=..."
            )
    each = {where: kind.make(leaf, amount) for where, leaf in chosen.items()}
    count = len(next(iter(each.values())))

    def put(number: int) -> Any:
        return mixing.map_named(
            lambda where, leaf: each[where][number] if where in each else leaf, inputs
        )

    return [put(number) for number in range(count)]
