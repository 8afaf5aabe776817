"""The report's figures as inline SVG: text stays text, colours are the page's own variables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from whet.errors import InputError
from whet.study import wording
from whet.study.drawing import (
    BETTER,
    GRID,
    INK,
    QUIET,
    UNCLEAR,
    WORSE,
    canvas,
    drawn,
    frame,
    inline,
    standalone,
)
from whet.study.phrases import shortened
from whet.study.statistics import HELPS, HURTS, Comparison, ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOK = {HELPS: (BETTER, "^"), HURTS: (WORSE, "v")}
BOUND = 8.0
TOLD = 12  # arms that a figure's description names


@drawn
def forest(comparisons: Sequence[Comparison], metric: str, wide: bool, name: str = "forest") -> str:
    """Gains with intervals, one arm a line, a dot for every seed; empty without any gain."""
    shown = [each for each in comparisons if each.gain is not None]
    if not shown:
        return ""
    said = f"Forest plot of the gain in {metric}: {told(shown)}."
    return inline(gains(shown, metric, wide), f"{name}-{'wide' if wide else 'narrow'}", said)


def told(shown: Sequence[Comparison]) -> str:
    """Arms with their gains and verdicts, for whoever does not see the figure."""
    places = wording.decimals(shown)
    said = [f"{each.arm} {_gain(each, places)}, {each.verdict}" for each in shown[:TOLD]]
    more = len(shown) - TOLD
    return "; ".join([*said, f"{more} more are in the table"] if more > 0 else said)


@drawn
def picture(comparisons: Sequence[Comparison], metric: str) -> str:
    """The forest plot as a whole SVG file for documents, dark on white."""
    shown = [each for each in ranked(comparisons) if each.gain is not None]
    if not shown:
        raise InputError("No arm has a gain yet; there is nothing to draw.")
    metric = wording.plain(metric.replace("_", " "))
    return standalone(gains(shown, metric), f"Gain in {metric} over the baseline")


def gains(shown: Sequence[Comparison], metric: str, wide: bool = True) -> Figure:
    """Arms that have a gain, one a line, as a figure that is not yet a file."""
    width, line = (8.0, 0.36) if wide else (4.0, 0.52)
    figure = canvas(width, line * len(shown) + 0.75)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    top, foot = 0.1, 0.65
    height = line * len(shown) + top + foot
    left = 0.02 if not wide else min(0.37, 0.035 + 0.0098 * max(len(e.arm) for e in shown))
    places = wording.decimals(shown)
    right = 0.98 if not wide else 0.97 - 0.0088 * max(len(_gain(e, places)) for e in shown)
    axes.set_position((left, foot / height, right - left, 1 - (top + foot) / height))
    frame(axes)
    low, high = reach(shown)
    room = 0.04 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks([])
    _band(axes, shown[0].margin)
    axes.axvline(0, color=QUIET, linewidth=0.8)
    axes.locator_params(axis="x", nbins=6 if wide else 5)
    for place, each in enumerate(shown):
        _arm(axes, place, each, low, high)
        _words(axes, place, each, places, wide)
    below = (("left", 0.0, "← worse"), ("center", 0.5, f"gain in {metric}"),
             ("right", 1.0, "better →"))  # fmt: skip
    for side, across, said in below:
        axes.annotate(said, (across, 0), (0, -29), xycoords="axes fraction",
                      textcoords="offset points", ha=side, color=QUIET)  # fmt: skip
    return figure


def _band(axes: Axes, margin: float | None) -> None:
    """Gains that do not matter, where the user said which."""
    if margin is not None:
        left, right = axes.get_xlim()
        axes.axvspan(max(left, -margin), min(right, margin), color=GRID, alpha=0.55, linewidth=0)


def _arm(axes: Axes, place: int, each: Comparison, left: float, right: float) -> None:
    assert each.gain is not None
    colour, marker = LOOK.get(each.verdict, (UNCLEAR, "o"))
    for low, high, width in (
        (each.holm_low, each.holm_high, 1.0),
        (each.low, each.high, 3.2),
    ):
        if low is not None and high is not None:
            ends = [max(left, min(right, bound)) for bound in (low, high)]
            axes.plot(ends, [place, place], color=colour, linewidth=width, solid_capstyle="butt")
    seeds = [gain for _, gain in each.gains if left <= gain <= right]
    axes.plot(seeds, [place + 0.26] * len(seeds), "o", color=QUIET, markersize=3.2, alpha=0.6,
              markeredgewidth=0)  # fmt: skip
    at = max(left, min(right, each.gain))
    marker = marker if at == each.gain else "<" if each.gain < 0 else ">"
    axes.plot([at], [place], marker, color=colour, markersize=7, clip_on=False)


def _words(axes: Axes, place: int, each: Comparison, places: int, wide: bool) -> None:
    across = axes.get_yaxis_transform()
    style: dict[str, Any] = {"transform": across, "clip_on": False}
    if wide:
        axes.text(
            -0.02, place, shortened(each.arm, 34), ha="right", va="center", color=INK, **style
        )
        axes.text(1.02, place, _gain(each, places), ha="left", va="center", color=INK, **style)
        return
    axes.text(0.0, place - 0.34, shortened(each.arm, 26), va="center", color=INK, **style)
    axes.text(1.0, place - 0.34, wording.signed(each.gain, places), ha="right", va="center",
              color=INK, **style)  # fmt: skip


def _gain(each: Comparison, places: int) -> str:
    return f"{wording.signed(each.gain, places)}  ({wording.interval(each, places)})"


def reach(shown: Sequence[Comparison]) -> tuple[float, float]:
    """The axis' ends: an arm far off from all others becomes an arrow at the edge."""
    bounds = [[each.low or 0.0, each.high or 0.0, *dict(each.gains).values()] for each in shown]
    typical = statistics.median(max(map(abs, ends)) for ends in bounds)
    most = BOUND * typical or max(max(map(abs, ends)) for ends in bounds) or 1.0
    low = max(-most, min(min(ends) for ends in bounds))
    high = min(most, max(max(ends) for ends in bounds))
    least = 0.15 * max(high, -low) or 1e-3
    return min(low, -least), max(high, least)
