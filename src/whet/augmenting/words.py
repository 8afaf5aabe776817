"""Words by their numbers: swapped and deleted, with padding and special ones left alone.

After EDA (arXiv:1901.11196). What goes with a word, its mask or type, goes where it goes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Draws = torch.Generator | None


def movable(ids: Tensor, padding: int, special: Sequence[int]) -> Tensor:
    """Bool `(N, T)`: words that are neither padding nor special."""
    found = ids.ne(padding)
    for one in special:
        found = found & ids.ne(one)
    return found


def swapped(free: Tensor, rate: float, generator: Draws = None) -> Tensor:
    """Where each place takes its word from, int64 `(N, T)`, after pairs have changed places.

    Args:
        free: bool `(N, T)`, which words may move.
        rate: pairs for each word, at least one pair where there are two words.
        generator: on the CPU.
    """
    count = free.sum(1)
    pairs = torch.where(count > 1, (rate * count).round().clamp(min=1), 0.0).long()
    source = torch.arange(free.shape[1], device=free.device).repeat(len(free), 1)
    for number in range(int(pairs.max()) if len(pairs) else 0):
        rows = (pairs > number).nonzero().flatten()
        two = torch.multinomial(free[rows].float().cpu(), 2, generator=generator).to(free.device)
        taken = source[rows].gather(1, two)
        source[rows] = source[rows].scatter(1, two, taken.flip(1))
    return source


def deleted(
    free: Tensor, real: Tensor, rate: float, generator: Draws = None
) -> tuple[Tensor, Tensor]:
    """Where each place takes its word from, and where there still is one, both `(N, T)`.

    Words that may go each go with probability `rate`, but never the last one; the others close up
    towards the side where the padding is not.
    """
    chance = torch.rand(free.shape, generator=generator).to(free.device)
    gone = free & (chance < rate)
    survivor = chance.masked_fill(~free, -1.0).argmax(1, keepdim=True)
    bare = free.any(1, keepdim=True) & (gone == free).all(1, keepdim=True)
    gone = gone & ~(bare & torch.zeros_like(gone).scatter(1, survivor, True))
    kept = real & ~gone
    left = (~real[:, :1]) & real.any(1, keepdim=True)  # padding stands before the words
    rank = torch.where(left, kept.long(), (~kept).long())
    source = rank.argsort(dim=1, stable=True)
    return source, kept.gather(1, source)


def augmented(
    ids: Tensor, others: dict[str, Tensor], policy: str, strength: float, generator: Draws,
    *, padding: int, special: Sequence[int],
) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """The weak or strong set, for ids `(N, T)` and what goes with them; strength in (0, 1]."""
    source = swapped(movable(ids, padding, special), 0.2 * strength, generator)
    ids = ids.gather(1, source)  # masks stay: words change places with words only
    others = {name: leaf.gather(1, source) for name, leaf in others.items()}
    if policy == "weak":
        return ids, others
    free, real = movable(ids, padding, special), ids.ne(padding)
    source, there = deleted(free, real, 0.2 * strength, generator)
    ids = ids.gather(1, source).masked_fill(~there, padding)
    return ids, {
        name: leaf.gather(1, source).masked_fill(~there, 0) for name, leaf in others.items()
    }
