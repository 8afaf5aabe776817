"""Cost against gain: the figure that says which methods are worth their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whet.study import wording
from whet.study.drawing import GRID, INK, QUIET, UNCLEAR, canvas, drawn, frame, inline
from whet.study.figures import LOOK, TOLD, reach
from whet.study.phrases import shortened
from whet.study.statistics import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LETTER, LINE = 5.2, 11.0  # points that a letter and a line of a label take, roughly
DOT = 5.0
NAMED = 16  # arms that get a label: more could not be read
# Where a label may stand from its dot, in points: beside it first, then further off on a line.
PLACES = [
    (side * across, down)
    for far in (0, 12, 24, 36, 50, 66)
    for down in ((0,) if not far else (far, -far))
    for side, across in ((1, 8 + far / 4), (-1, 8 + far / 4))
]
Box = tuple[float, float, float, float]


@drawn
def tradeoff(comparisons: Sequence[Comparison], metric: str, wide: bool) -> str:
    """Time per update across, gain upwards, one labelled mark an arm; empty without any."""
    shown = [each for each in comparisons if each.gain is not None and each.slowdown is not None]
    if not shown:
        return ""
    said = f"Gain in {metric} against time per update: {told(shown)}."
    return inline(costs(shown, metric, wide), f"tradeoff-{'wide' if wide else 'narrow'}", said)


def told(shown: Sequence[Comparison]) -> str:
    """Arms with gain and cost, for whoever does not see the figure."""
    places = wording.decimals(shown)
    said = [f"{each.arm} {wording.signed(each.gain, places)} at {wording.times(each.slowdown)}"
            for each in shown[:TOLD]]  # fmt: skip
    more = len(shown) - TOLD
    return "; ".join([*said, f"{more} more are in the table"] if more > 0 else said)


def costs(shown: Sequence[Comparison], metric: str, wide: bool = True) -> Figure:
    """Arms that have a gain and a time, as a figure that is not yet a file."""
    width, height = (8.0, 3.9) if wide else (4.0, 4.6)
    figure = canvas(width, height)
    left, foot = 0.62, 0.6  # inches kept for what stands beside and below the axes
    axes = figure.add_axes(
        (left / width, foot / height, 1 - (left + 0.25) / width, 1 - (foot + 0.3) / height)
    )
    frame(axes)
    low, high = reach(shown)
    times = [1.0, *(each.slowdown or 1.0 for each in shown)]
    spread = max(max(times) - min(times), 0.2)
    axes.set_xlim(min(times) - 0.08 * spread, max(times) + (0.12 if wide else 0.2) * spread)
    axes.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))
    axes.grid(color=GRID, linewidth=0.5)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.axvline(1, color=QUIET, linewidth=0.8)
    axes.locator_params(nbins=6 if wide else 4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}{wording.TIMES}")
    places = [_mark(axes, each, low, high) for each in shown]
    size = (width * 72 * axes.get_position().width, height * 72 * axes.get_position().height)
    _label(axes, shown, places, size)
    axes.set_xlabel("time per update, relative to the baseline", color=QUIET)
    axes.annotate(f"gain in {wording.plain(metric)}", (0, 1), (-left * 72, 9), color=QUIET,
                  xycoords="axes fraction", textcoords="offset points")  # fmt: skip
    return figure


def _mark(axes: Axes, each: Comparison, low: float, high: float) -> tuple[float, float]:
    assert each.gain is not None
    assert each.slowdown is not None
    colour, marker = LOOK.get(each.verdict, (UNCLEAR, "o"))
    if each.low is not None and each.high is not None:
        ends = [max(low, min(high, bound)) for bound in (each.low, each.high)]
        axes.plot([each.slowdown] * 2, ends, color=colour, linewidth=1.0, alpha=0.45)
    at = max(low, min(high, each.gain))
    marker = marker if at == each.gain else "v" if each.gain < 0 else "^"
    axes.plot([each.slowdown], [at], marker, color=colour, markersize=7, clip_on=False)
    return each.slowdown, at


def _label(
    axes: Axes,
    shown: Sequence[Comparison],
    places: Sequence[tuple[float, float]],
    size: tuple[float, float],
) -> None:
    """Write each name where it covers the least of dots and other names."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    dots = [
        ((x - left) / (right - left) * size[0], (y - low) / (high - low) * size[1])
        for x, y in places
    ]
    zero, same = -low / (high - low) * size[1], (1 - left) / (right - left) * size[0]
    taken: list[Box] = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in dots]
    taken += [(0.0, zero - 1, size[0], zero + 1), (same - 1, 0.0, same + 1, size[1])]
    labelled = named(shown)
    for each, dot, place in zip(shown, dots, places, strict=True):
        if each.arm not in labelled:
            continue
        name = shortened(each.arm, 26)
        across, up = min(PLACES, key=lambda way: _cost(_box(dot, way, len(name)), taken, size, way))
        taken.append(_box(dot, (across, up), len(name)))
        line: dict[str, Any] = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "shrinkB": 4}
        axes.annotate(
            name, place, (across, up), textcoords="offset points", color=INK, fontsize=8.5,
            ha="left" if across > 0 else "right", va="center",
            arrowprops=line if up else None, annotation_clip=False,
        )  # fmt: skip


def named(shown: Sequence[Comparison]) -> set[str]:
    """The arms that get a label: those with a verdict, then those that moved most."""
    first = sorted(shown, key=lambda each: (each.verdict not in LOOK, -abs(each.gain or 0.0)))
    return {each.arm for each in first[:NAMED]}


def _box(dot: tuple[float, float], way: tuple[float, float], letters: int) -> Box:
    x, y = dot[0] + way[0], dot[1] + way[1]
    wide = letters * LETTER
    return (
        x if way[0] > 0 else x - wide,
        y - LINE / 2,
        x + wide if way[0] > 0 else x,
        y + LINE / 2,
    )


def _cost(
    box: Box, taken: Sequence[Box], size: tuple[float, float], way: tuple[float, float]
) -> float:
    """The area that is covered twice or lies outside, and a little for the way."""
    inside = _common(box, (0.0, 0.0, *size))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return 12 * outside + sum(_common(box, other) for other in taken) + 0.05 * abs(way[1])


def _common(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return across * up if across > 0 and up > 0 else 0.0
