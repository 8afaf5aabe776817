"""Small figures of one width: learning rates, tried and in their course, and gains on less data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whet.study import wording
from whet.study.curves import FOOT, HEIGHT, LEFT, RIGHT, SIZE, TOP, WIDTH, Panel
from whet.study.drawing import BETTER, GRID, QUIET, UNCLEAR, canvas, drawn, frame, inline
from whet.study.figures import LOOK, reach
from whet.study.fractions import AtFraction

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _axes() -> tuple[Figure, Axes]:
    """An empty figure of the width that two of fit beside each other."""
    figure = canvas(WIDTH, HEIGHT)
    axes = figure.add_axes((LEFT / WIDTH, FOOT / HEIGHT, 1 - (LEFT + RIGHT) / WIDTH,
                            1 - (FOOT + TOP) / HEIGHT))  # fmt: skip
    frame(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    return figure, axes


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis that is marked at the values themselves."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(values)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


@drawn
def rates(tuning: Mapping[str, Any]) -> str:
    """Learning rates that were tried against what they gave; empty where none gave anything."""
    table = [e for e in tuning["table"] if e.get("mean") is not None and (e["rate"] or 0.0) > 0.0]
    if not table:
        return ""
    figure, axes = _axes()
    across = [each["rate"] for each in table]
    axes.plot(across, [each["mean"] for each in table], color=UNCLEAR, linewidth=1.4)
    for each in table:
        chosen = each["rate"] == tuning["rate"]
        known = [value for value in each["values"] if value is not None]
        axes.plot([each["rate"]] * len(known), known, "o", color=QUIET, markersize=3, alpha=0.6,
                  markeredgewidth=0)  # fmt: skip
        colour, marker, size = (BETTER, "D", 7) if chosen else (UNCLEAR, "o", 5)
        axes.plot([each["rate"]], [each["mean"]], marker, color=colour, markersize=size)
    _ticks(axes, across)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xlabel("learning rate", color=QUIET, fontsize=SIZE, labelpad=2)
    values = ", ".join(f"{each['mean']:.4g} at {each['rate']:g}" for each in table)
    said = (f"Learning rates of the baseline against {tuning['metric'].replace('_', ' ')} on the "
            f"select part: {values}; {tuning['rate']} was chosen.")  # fmt: skip
    return inline(figure, "rates", said)


def courses(found: Sequence[Mapping[str, Any]], baselines: Mapping[str, str]) -> list[Panel]:
    """A figure for each course that the learning rate takes, over that of its arms' baseline.

    `baselines` names the baseline of each arm.
    """
    by = {name: each for each in found for name in each["arms"]}
    return [
        Panel(_alike(each["arms"]), _course(each, by.get(baselines.get(each["arms"][0], "")), at))
        for at, each in enumerate(found)
    ]


def _alike(arms: Sequence[str]) -> str:
    more = len(arms) - 3
    return ", ".join([*arms[:3], f"{more} more"] if more > 0 else arms)


@drawn
def _course(each: Mapping[str, Any], baseline: Mapping[str, Any] | None, number: int) -> str:
    figure, axes = _axes()
    _draw(axes, each, baseline)
    axes.set_xlabel("update", color=QUIET, fontsize=SIZE, labelpad=2)
    return inline(figure, f"course-{number}", _told(each))


def _draw(axes: Axes, each: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> None:
    """A course of the rate as a line, over that of the baseline; a dash where a stage ends."""
    lines = [(baseline, QUIET, 1.1), (each, BETTER, 2.0)]
    there = [(one["points"], *look) for one, *look in lines if one is not None]
    for points, colour, width in there:
        across, shares = zip(*points, strict=True)
        marker = "o" if len(shares) == 1 else None
        axes.plot(across, shares, color=colour, linewidth=width, marker=marker, markersize=3)
    for end in each["ends"][:-1]:
        axes.axvline(end, color=QUIET, linewidth=0.8, linestyle="--")
    top = max(share for points, *_ in there for _, share in points)
    axes.set_ylim(0, 1.05 * top or 1.0)
    axes.locator_params(nbins=4)


def _told(each: Mapping[str, Any]) -> str:
    """What is to be seen, for whoever does not see it."""
    points, ends = each["points"], each["ends"]
    high = max(points, key=lambda point: point[1])
    low = min(points, key=lambda point: point[1])
    parts = [
        f"{share:.4g} after {update:g} updates"
        for update, share in dict.fromkeys(map(tuple, (points[0], high, low, points[-1])))
    ]
    after = f"; a stage that follows begins after {ends[0]:g}" if len(ends) > 1 else ""
    return (f"Learning rate of {_alike(each['arms'])} as a share of the optimizer's own, over "
            f"{ends[-1]:g} updates: {', '.join(parts)}{after}.")  # fmt: skip


def gains_by_data(found: Sequence[AtFraction], metric: str) -> list[Panel]:
    """A figure for each arm: its gain with interval by the share of the data, all in one range."""
    known = [each for each in found if each.comparison.gain is not None]
    arms = dict.fromkeys(each.arm for each in known)
    if not arms:
        return []
    span = reach([each.comparison for each in known])
    shares = sorted({each.fraction for each in known})
    return [
        Panel(arm, _by_data([e for e in known if e.arm == arm], metric, span, shares, number))
        for number, arm in enumerate(arms)
    ]


@drawn
def _by_data(
    found: Sequence[AtFraction], metric: str, span: tuple[float, float], shares: Sequence[float],
    number: int,
) -> str:  # fmt: skip
    figure, axes = _axes()
    low, high = span
    axes.axhline(0, color=QUIET, linewidth=0.8)
    gains = [min(high, max(low, each.comparison.gain or 0.0)) for each in found]
    axes.plot([each.fraction for each in found], gains, color=UNCLEAR, linewidth=1.2)
    for each, gain in zip(found, gains, strict=True):
        colour, marker = LOOK.get(each.comparison.verdict, (UNCLEAR, "o"))
        ends = [min(high, max(low, end)) for end in (each.comparison.low, each.comparison.high)
                if end is not None]  # fmt: skip
        axes.plot([each.fraction] * len(ends), ends, color=colour, linewidth=2.4)
        axes.plot([each.fraction], [gain], marker, color=colour, markersize=7)
    _ticks(axes, shares)
    room = 0.06 * (high - low)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(shares[0] / 1.3, shares[-1] * 1.3)
    axes.locator_params(axis="y", nbins=4)
    axes.set_xlabel("share of the training part", color=QUIET, fontsize=SIZE, labelpad=2)
    places = wording.decimals([each.comparison for each in found])
    values = "; ".join(
        f"{wording.signed(one.gain, places)} ({wording.interval(one, places)}) on "
        f"{each.fraction:.3g}, {one.verdict}"
        for each in found
        for one in [each.comparison]
    )
    said = f"Gain in {metric} of {found[0].arm} by the share of the data: {values}."
    return inline(figure, f"data-{number}", said)
