"""Tables: noise on numbers, and values of other rows in the same column."""

from __future__ import annotations

import torch
from torch import Tensor

Draws = torch.Generator | None


def noisy(numbers: Tensor, size: float, std: float = 1.0, generator: Draws = None) -> Tensor:
    """Gaussian noise of `size` deviations, where a column's deviation is `std`."""
    return numbers + size * std * torch.randn(numbers.shape, generator=generator).to(numbers)


def swapped(columns: Tensor, rate: float, generator: Draws = None) -> Tensor:
    """Each value, with probability `rate`, that of another row in the same column.

    Swap noise: a column keeps its values and their frequencies, and so do categories. Of one row
    alone nothing changes.

    >>> x = torch.tensor([[1.0, 10.0], [2.0, 20.0]])
    >>> swapped(x, 1.0).tolist()
    [[2.0, 20.0], [1.0, 10.0]]
    """
    rows = len(columns)
    takes = torch.rand(columns.shape, generator=generator) < rate
    if rows < 2:
        return columns
    ahead = 1 + (torch.rand(columns.shape, generator=generator) * (rows - 1)).long()
    own = torch.arange(rows).view(-1, *[1] * (columns.ndim - 1))
    source = torch.where(takes, (own + ahead.clamp(max=rows - 1)) % rows, own)
    return columns.gather(0, source.to(columns.device))


def augmented(
    columns: Tensor, policy: str, strength: float, generator: Draws, *, std: float
) -> Tensor:
    """The weak or strong set, for numbers or categories `(N, M)`; strength in (0, 1]."""
    if columns.is_floating_point():
        columns = noisy(columns, 0.2 * strength, std, generator)
    return columns if policy == "weak" else swapped(columns, 0.3 * strength, generator)
