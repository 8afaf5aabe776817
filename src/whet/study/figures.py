"""The report's figures as inline SVG: text stays text, colours are the page's own variables."""

from __future__ import annotations

import functools
import io
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.study import wording
from whet.study.plan import BASELINE, Row
from whet.study.statistics import HELPS, HURTS, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib knows no CSS variables: each colour is drawn as a stand-in and renamed in the SVG.
INK, QUIET, GRID = "#010101", "#020202", "#030303"
BETTER, WORSE, UNCLEAR = "#040404", "#050505", "#060606"
VARIABLES = {INK: "ink", QUIET: "quiet", GRID: "line", BETTER: "better", WORSE: "worse",
             UNCLEAR: "unclear"}  # fmt: skip
LOOK = {HELPS: (BETTER, "^"), HURTS: (WORSE, "v")}
BOUND = 8.0
Curves = Mapping[str, Sequence[tuple[float, float]]]


def drawn(plot: Callable[..., str]) -> Callable[..., str]:
    """Draw under the figures' own settings, whatever the user's matplotlib is set to."""

    @functools.wraps(plot)
    def draw(*arguments: Any) -> str:
        import matplotlib

        own: Any = {"svg.fonttype": "none", "svg.hashsalt": plot.__name__, "font.size": 9.5,
                    "text.parse_math": False}  # fmt: skip
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(own)
            return plot(*arguments)

    return draw


@drawn
def forest(comparisons: Sequence[Comparison], metric: str, wide: bool) -> str:
    """Gains with intervals, one arm a line, a dot for every seed; empty without any gain."""
    shown = [each for each in comparisons if each.gain is not None]
    if not shown:
        return ""
    width, line = (8.0, 0.36) if wide else (4.0, 0.52)
    figure = _figure(width, line * len(shown) + 0.75)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    top, foot = 0.1, 0.65
    height = line * len(shown) + top + foot
    left = 0.02 if not wide else min(0.3, 0.035 + 0.0098 * max(len(e.arm) for e in shown))
    right = 0.98 if not wide else 0.72
    axes.set_position((left, foot / height, right - left, 1 - (top + foot) / height))
    _frame(axes)
    low, high = _reach(shown)
    room = 0.04 * (high - low)
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks([])
    axes.axvline(0, color=QUIET, linewidth=0.8)
    places = wording.decimals(comparisons)
    for place, each in enumerate(shown):
        _arm(axes, place, each, low, high)
        _words(axes, place, each, places, wide)
    below = (("left", 0.0, "← worse"), ("center", 0.5, f"gain in {metric}"),
             ("right", 1.0, "better →"))  # fmt: skip
    for side, across, said in below:
        axes.annotate(said, (across, 0), (0, -29), xycoords="axes fraction",
                      textcoords="offset points", ha=side, color=QUIET)  # fmt: skip
    return _svg(figure, f"forest-{'wide' if wide else 'narrow'}")


@drawn
def learning(lines: Curves, wide: bool) -> str:
    """One small panel for each arm over the baseline; empty without any curve."""
    arms = [arm for arm in lines if arm != BASELINE] or list(lines)
    if not any(lines.values()):
        return ""
    columns = 4 if wide else 2
    down = -(-len(arms) // columns)
    figure = _figure(8.0 if wide else 4.0, 1.35 * down + 0.35)
    grid = figure.subplots(down, columns, sharex=True, sharey=True, squeeze=False)
    low, high = _late(lines)
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(arms))
        if place < len(arms):
            _panel(axes, arms[place], lines, low, high)
        if place + columns >= len(arms):
            axes.tick_params(labelbottom=True)
    edge, inch = (0.07, 8.0) if wide else (0.13, 4.0)
    height = 1.35 * down + 0.35
    figure.subplots_adjust(edge, 0.45 / height, 1 - 0.15 / inch, 1 - 0.3 / height, 0.12, 0.42)
    figure.text(edge, 0.03 / height, "update", color=QUIET)
    return _svg(figure, f"learning-{'wide' if wide else 'narrow'}")


def mean_curves(rows: Sequence[Row], metric: str) -> dict[str, list[tuple[float, float]]]:
    """For each arm the mean over its finished seeds at every update that all of them reached."""
    arms: dict[str, list[dict[float, float]]] = {}
    for row in rows:
        points = {p["update"]: p["metrics"].get(metric) for p in row.get("curve") or []}
        found = {update: value for update, value in points.items() if value is not None}
        if found and row["status"] == "done":
            arms.setdefault(row["arm"], []).append(found)
    return {
        arm: [
            (update, statistics.fmean(seed[update] for seed in seeds))
            for update in sorted(set.intersection(*(set(seed) for seed in seeds)))
        ]
        for arm, seeds in arms.items()
    }


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
    gain = f"{wording.signed(each.gain, places)}  ({wording.interval(each, places)})"
    across = axes.get_yaxis_transform()
    style: dict[str, Any] = {"transform": across, "clip_on": False}
    if wide:
        axes.text(-0.02, place, _short(each.arm, 34), ha="right", va="center", color=INK, **style)
        axes.text(1.02, place, gain, ha="left", va="center", color=INK, **style)
        return
    axes.text(0.0, place - 0.34, _short(each.arm, 26), va="center", color=INK, **style)
    axes.text(1.0, place - 0.34, wording.signed(each.gain, places), ha="right", va="center",
              color=INK, **style)  # fmt: skip


def _panel(axes: Axes, arm: str, lines: Curves, low: float, high: float) -> None:
    _frame(axes)
    for name, colour, width in ((arm, BETTER, 2.4), (BASELINE, QUIET, 1.1)):
        if lines.get(name):
            axes.plot(*zip(*lines[name], strict=True), color=colour, linewidth=width)
    axes.set_ylim(low, high)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.locator_params(nbins=3)
    axes.set_title(_short(arm, 22), loc="left", color=INK, fontsize=9, pad=4)


def _reach(shown: Sequence[Comparison]) -> tuple[float, float]:
    """The axis' ends: an arm far off from all others becomes an arrow at the edge."""
    bounds = [[each.low or 0.0, each.high or 0.0, *dict(each.gains).values()] for each in shown]
    typical = statistics.median(max(map(abs, ends)) for ends in bounds)
    most = BOUND * typical or max(max(map(abs, ends)) for ends in bounds) or 1.0
    low = max(-most, min(min(ends) for ends in bounds))
    high = min(most, max(max(ends) for ends in bounds))
    least = 0.15 * max(high, -low)
    return min(low, -least), max(high, least)


def _late(lines: Curves) -> tuple[float, float]:
    """A vertical range that shows where arms end apart: that of the second half of training."""
    last = max(points[-1][0] for points in lines.values() if points)
    late = [value for points in lines.values() for update, value in points if update >= last / 2]
    room = 0.15 * (max(late) - min(late)) or 0.05
    return min(late) - room, max(late) + room


def _short(name: str, most: int) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none")


def _frame(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=QUIET, labelsize=8.5, length=3)


def _svg(figure: Figure, name: str) -> str:
    """The figure as an element to stand in a page, free of names that another one may have."""
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    size = r'<svg width="[^"]*" height="[^"]*"'
    return re.sub(size, f'<svg class="{name.partition("-")[2]}" role="img"', svg, count=1)
