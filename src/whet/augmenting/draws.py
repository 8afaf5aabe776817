"""Numbers drawn for each row, on the CPU, so that they are the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor


def uniform(like: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """A number in [low, high) for each row of `like`, `(N,)`, on its device."""
    drawn = torch.rand(len(like), generator=generator) * (high - low) + low
    return drawn.to(like.device)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values `(N,)` in a shape that goes with `(N, ...)`, and in its dtype where that is real."""
    shaped = values.view(-1, *[1] * (like.ndim - 1))
    return (
        shaped.to(like.dtype) if like.is_floating_point() and shaped.dtype != torch.bool else shaped
    )


def moved(rows: Tensor, steps: Tensor, dim: int, edge: str) -> Tensor:
    """Each row moved along a dimension: `rows[i]` holds at `t` what was at `t + steps[i]`.

    Args:
        rows: `(N, ...)`.
        steps: int64 `(N,)`, on the CPU.
        dim: along which, counted from the end (-1).
        edge: what comes in over the edge: `reflect`, `repeat`, or `zero`.

    >>> x = torch.tensor([[1, 2, 3, 4]])
    >>> [moved(x, torch.tensor([1]), -1, edge).tolist() for edge in ("reflect", "repeat", "zero")]
    [[[2, 3, 4, 3]], [[2, 3, 4, 4]], [[2, 3, 4, 0]]]
    """
    size = rows.shape[dim]
    most = int(steps.abs().max()) if len(steps) else 0
    if most == 0:
        return rows
    place, last = torch.arange(-most, size + most, device=rows.device), size - 1
    inside = last - (last - place.abs()).abs() if edge == "reflect" else place.clamp(0, last)
    wide = rows.index_select(dim, inside.clamp(0, last))
    if edge == "zero":
        wide = wide.masked_fill(place.ne(inside).view(-1, *[1] * (-1 - dim)), 0)
    # one copy of slices: a gather by row takes ten times as long
    return torch.stack([
        row.narrow(dim, most + step, size) for row, step in zip(wide, steps.tolist(), strict=True)
    ])  # fmt: skip


def steps(like: Tensor, most: int, generator: torch.Generator | None) -> Tensor:
    """A whole number from -most to most for each row of `like`, int64 `(N,)`, on the CPU."""
    return torch.randint(-most, most + 1, (len(like),), generator=generator)


def spans(like: Tensor, size: int, most: int, generator: torch.Generator | None) -> Tensor:
    """Bool `(N, size)`: a span of each row, of uniform length 0 to `most`, at a uniform place.

    As SpecAugment draws its masks: f of {0, ..., F}, and f0 of {0, ..., size - f}.
    """
    most = min(most, size)
    length = uniform(like, 0.0, most + 1.0, generator).floor()
    first = (uniform(like, 0.0, 1.0, generator) * (size - length + 1)).floor()
    place = torch.arange(size, device=like.device)
    return (place >= first[:, None]) & (place < (first + length)[:, None])
