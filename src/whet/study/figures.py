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
BOUND = 5.0
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
    above, below = 0.1, 0.65
    height = line * len(shown) + above + below
    left = 0.02 if not wide else min(0.3, 0.035 + 0.0098 * max(len(e.arm) for e in shown))
    right = 0.98 if not wide else 0.72
    axes.set_position((left, below / height, right - left, 1 - (above + below) / height))
    _frame(axes)
    limit = _limit(shown)
    axes.set_xlim(-limit * 1.06, limit * 1.06)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_yticks([])
    axes.axvline(0, color=QUIET, linewidth=0.8)
    places = wording.decimals(comparisons)
    for place, each in enumerate(shown):
        _arm(axes, place, each, limit)
        _words(axes, place, each, places, wide)
    axes.set_xlabel(f"← worse      gain in {metric}      better →", color=QUIET)
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
    figure.text(1 - 0.15 / inch, 0.06 / height, "update", ha="right", color=QUIET)
    return _svg(figure, f"learning-{'wide' if wide else 'narrow'}")


def mean_curves(rows: Sequence[Row], metric: str) -> dict[str, list[tuple[float, float]]]:
    """For each arm the mean over its seeds at every update that all of them reached."""
    arms: dict[str, list[dict[float, float]]] = {}
    for row in rows:
        points = {p["update"]: p["metrics"].get(metric) for p in row.get("curve") or []}
        found = {update: value for update, value in points.items() if value is not None}
        if found:
            arms.setdefault(row["arm"], []).append(found)
    return {
        arm: [
            (update, statistics.fmean(seed[update] for seed in seeds))
            for update in sorted(set.intersection(*(set(seed) for seed in seeds)))
        ]
        for arm, seeds in arms.items()
    }


def _arm(axes: Axes, place: int, each: Comparison, limit: float) -> None:
    assert each.gain is not None
    colour, marker = LOOK.get(each.verdict, (UNCLEAR, "o"))
    for low, high, width in (
        (each.holm_low, each.holm_high, 1.0),
        (each.low, each.high, 3.2),
    ):
        if low is not None and high is not None:
            low, high = (max(-limit, min(limit, bound)) for bound in (low, high))
            axes.plot([low, high], [place, place], color=colour, linewidth=width,
                      solid_capstyle="butt")  # fmt: skip
    seeds = [gain for _, gain in each.gains if abs(gain) <= limit]
    axes.plot(seeds, [place + 0.24] * len(seeds), ".", color=QUIET, markersize=4, alpha=0.75,
              markeredgewidth=0)  # fmt: skip
    outside = abs(each.gain) > limit
    at = max(-limit, min(limit, each.gain))
    marker = ("<" if each.gain < 0 else ">") if outside else marker
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
    for name, colour, width in ((BASELINE, QUIET, 1.2), (arm, BETTER, 1.8)):
        if lines.get(name):
            axes.plot(*zip(*lines[name], strict=True), color=colour, linewidth=width)
    axes.set_ylim(low, high)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.locator_params(nbins=3)
    axes.set_title(_short(arm, 22), loc="left", color=INK, fontsize=9, pad=4)


def _limit(shown: Sequence[Comparison]) -> float:
    """The axis' half width: an arm far worse than the rest becomes an arrow at the edge."""
    reach = [
        max(abs(each.gain or 0), abs(each.low or 0), abs(each.high or 0), *_gains(each))
        for each in shown
    ]
    return min(max(reach), BOUND * statistics.median(reach)) or 1.0


def _gains(each: Comparison) -> list[float]:
    return [abs(gain) for _, gain in each.gains] or [0.0]


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
