"""Seconds of an update in every part of a training, and what they come to.

A part is `[where it begins, where it ends, seconds per update]`, in the length of the training; a
stage that follows is from 1 to 2, however long it is.
"""

from __future__ import annotations

from collections.abc import Sequence

Paces = list[list[float]]


def seconds(
    paces: Sequence[Sequence[float]], a: float = 0.0, b: float = 2.0, after: float = 1.0
) -> float:
    """Seconds between two points, for each update that the training is long.

    `after` is how long the stage that follows is, of the training's length.

    >>> seconds([[0.0, 1.0, 0.01], [1.0, 2.0, 0.04]], after=0.25)
    0.02
    """
    cut = [(max(a, c), min(b, d), pace) for c, d, pace in paces]
    first = sum(max(0.0, min(d, 1.0) - c) * pace for c, d, pace in cut)
    return first + after * sum(max(0.0, d - max(c, 1.0)) * pace for c, d, pace in cut)


def mean(paces: Sequence[Sequence[float]], after: float = 1.0) -> float:
    """The mean seconds of an update, each part by its length; 0 where nothing is known."""
    length = seconds([[a, b, 1.0] for a, b, _ in paces], after=after)
    return seconds(paces, after=after) / length if length else 0.0


def joined(before: Paces, here: Paces) -> Paces:
    """The parts of a training, of which a trunk saw the first and another process the last.

    A part that both saw something of is cut where the trunk ended.
    """
    ends = max((b for _, b, _ in before), default=0.0)
    return [*before, *([max(a, ends), b, pace] for a, b, pace in here if b > ends)]
