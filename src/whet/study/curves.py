"""Learning curves: each arm beside the baseline, by updates and by the time of training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.study import wording
from whet.study.drawing import BETTER, GRID, INK, QUIET, canvas, drawn, frame, inline
from whet.study.phrases import shortened
from whet.study.plan import BASELINE, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 4.4, 1.75  # inches
FOOT, TOP, LEFT, RIGHT = 0.42, 0.1, 0.55, 0.12
SIZE = 8.5
COLUMNS = 4  # of panels in a sheet


@dataclass(frozen=True)
class Point:
    """Seeds at one update: how long they had trained, their mean, the least and the greatest."""

    update: float
    seconds: float | None
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """One arm's points, at every update that all of its finished seeds reached."""

    arm: str
    seeds: int
    points: list[Point]


@dataclass(frozen=True)
class Panel:
    """One arm beside the baseline: its name and its figure."""

    arm: str
    svg: str


def curves(rows: Sequence[Row], metric: str) -> dict[str, Curve]:
    """The curve of each arm that has one.

    Time is that of the updates alone: their number times the run's time per update, as costs have
    it; None where a run's is not known.
    """
    arms: dict[str, list[tuple[dict[float, float], float | None]]] = {}
    for row in rows:
        points = {p["update"]: p["metrics"].get(metric) for p in row.get("curve") or []}
        # a whole number may be larger than arrays hold
        found = {float(update): float(v) for update, v in points.items() if v is not None}
        if found and row["status"] == "done":
            arms.setdefault(row["arm"], []).append((found, row.get("seconds_per_update")))
    made = {arm: Curve(arm, len(seeds), _points(seeds)) for arm, seeds in arms.items()}
    return {arm: curve for arm, curve in made.items() if curve.points}


def _points(seeds: Sequence[tuple[dict[float, float], float | None]]) -> list[Point]:
    common = set.intersection(*(set(values) for values, _ in seeds))
    paces = [float(pace) for _, pace in seeds if pace]
    pace = statistics.fmean(paces) if len(paces) == len(seeds) else None
    found = []
    for update in sorted(common):
        values = [each[update] for each, _ in seeds]
        when = None if pace is None else pace * update
        found.append(Point(update, when, statistics.fmean(values), min(values), max(values)))
    return found


def panels(
    found: Mapping[str, Curve], metric: str, order: Sequence[str], baselines: Mapping[str, str]
) -> list[Panel]:
    """A figure for each arm, all in one vertical range; the baseline alone where nothing else is.

    Args:
        found: the curves.
        metric: in words.
        order: arms, those that are to come first.
        baselines: the name of the baseline that each arm is drawn over.
    """
    if not found:
        return []
    span = reach(list(found.values()))
    return [
        Panel(arm, _panel(found[arm], found.get(baselines.get(arm, "")), metric, span, number))
        for number, arm in enumerate(_arms(found, order))
    ]


def sheet(found: Mapping[str, Curve], order: Sequence[str], baselines: Mapping[str, str]) -> Figure:
    """All arms by update as one figure that is not yet a file; the arguments are as in `panels`."""
    arms = _arms(found, order)
    down = -(-len(arms) // COLUMNS)
    wide, high = 8.0, 1.35 * down + 0.35
    figure = canvas(wide, high)
    grid = figure.subplots(down, COLUMNS, sharex=True, sharey=True, squeeze=False)
    span = reach(list(found.values()))
    for place, axes in enumerate(grid.flat):
        axes.set_visible(place < len(arms))
        if place < len(arms):
            arm = arms[place]
            _draw(axes, _lines(found[arm], found.get(baselines.get(arm, ""))), _update)
            axes.set_ylim(*span)
            axes.locator_params(nbins=3)
            axes.set_title(shortened(arm, 22), loc="left", color=INK, fontsize=9, pad=4)
        if place + COLUMNS >= len(arms):
            axes.tick_params(labelbottom=True)
    figure.subplots_adjust(0.07, 0.45 / high, 1 - 0.15 / wide, 1 - 0.3 / high, 0.12, 0.42)
    figure.text(0.07, 0.03 / high, "update", color=QUIET)
    return figure


def _arms(found: Mapping[str, Curve], order: Sequence[str]) -> list[str]:
    """Those with a curve, in their order; the baseline alone where nothing else is."""
    arms = [arm for arm in [*order, *found] if arm in found and arm != BASELINE]
    return list(dict.fromkeys(arms or [BASELINE]))


def _lines(arm: Curve, baseline: Curve | None) -> list[tuple[Curve, str, float]]:
    """What is drawn in one panel: each curve with its colour and width."""
    both = ((baseline, QUIET, 1.1), (arm, BETTER, 2.0))
    return [(each, colour, width) for each, colour, width in both if each is not None]


def reach(found: Sequence[Curve]) -> tuple[float, float]:
    """A vertical range that shows where arms end apart: that of the second half of training."""
    last = max(curve.points[-1].update for curve in found)
    late = [point for curve in found for point in curve.points if point.update >= last / 2]
    low, high = min(point.low for point in late), max(point.high for point in late)
    rounding = 1e-9 * max(abs(low), abs(high))
    room = 0.1 * (high - low) if high - low > rounding else max(0.05, rounding)
    return low - room, high + room


@drawn
def _panel(
    arm: Curve, baseline: Curve | None, metric: str, span: tuple[float, float], number: int
) -> str:
    lines = _lines(arm, baseline)
    timed = all(point.seconds is not None for each, *_ in lines for point in each.points)
    figure = canvas(WIDTH, HEIGHT)
    columns = 2 if timed else 1
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    figure.subplots_adjust(LEFT / WIDTH, FOOT / HEIGHT, 1 - RIGHT / WIDTH, 1 - TOP / HEIGHT, 0.1)
    for each, curve_at, said in zip(axes, (_update, _seconds), ("update", "seconds of training"),
                                    strict=False):  # fmt: skip
        _draw(each, lines, curve_at)
        each.set_ylim(*span)
        each.set_xlabel(said, color=QUIET, fontsize=SIZE, labelpad=2)
    return inline(figure, f"curve-{number}", told(arm, baseline, metric))


def _update(point: Point) -> float:
    return point.update


def _seconds(point: Point) -> float:
    return point.seconds or 0.0


def _draw(
    axes: Axes, lines: Sequence[tuple[Curve, str, float]], at: Callable[[Point], float]
) -> None:
    frame(axes)
    for curve, colour, width in lines:
        across = [at(point) for point in curve.points]
        band: Any = {"color": colour, "alpha": 0.16, "linewidth": 0}
        if curve.seeds > 1:
            axes.fill_between(across, [point.low for point in curve.points],
                              [point.high for point in curve.points], **band)  # fmt: skip
        means = [point.mean for point in curve.points]
        axes.plot(across, means, color=colour, linewidth=width,
                  marker="o" if len(means) == 1 else None, markersize=3)  # fmt: skip
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.locator_params(nbins=4)


def told(arm: Curve, baseline: Curve | None, metric: str) -> str:
    """What is to be seen, for whoever does not see it."""
    beside = "" if baseline is None else f"; {baseline.arm} {_end(baseline)}"
    return f"Learning curve of {arm.arm}: {metric} on the select part {_end(arm)}{beside}."


def _end(curve: Curve) -> str:
    last = curve.points[-1]
    took = "" if last.seconds is None else f" and {wording.duration(last.seconds)} of training"
    seeds = f", {last.low:.4g} to {last.high:.4g} over {wording.counted(curve.seeds, 'seed')}"
    return f"ends at {last.mean:.4g} after {last.update:g} updates{took}{seeds}"
