"""What a study would do, as values, and as people read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from whet.study import wording

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Expected:
    """An arm of a study that would be.

    Args:
        name: the arm's.
        seconds_per_update: measured, the mean over the parts of its training; None where the
            rehearsal diverged.
        ratio: the same divided by the baseline's.
        times: how much longer its training is; of a control at equal time.
        rides: the arm whose training takes it along, where it needs none of its own.
        state_bytes: what a checkpoint of it holds.
    """

    name: str
    seconds_per_update: float | None
    ratio: float | None
    times: float
    rides: str | None
    state_bytes: int


@dataclass(frozen=True)
class Work:
    """Some runs and what they take.

    Args:
        runs: arms times seeds that are judged.
        nodes: trainings: a trunk that several arms share is one, an arm that rides is none.
        cost: of these, in whole trainings without methods.
        seconds: from the first to the last.
        bytes: on disk at most.
        at_most: whether it may turn out to be less.
    """

    runs: int
    nodes: int
    cost: float
    seconds: float
    bytes: int
    at_most: bool = False


@dataclass(frozen=True)
class Remaining:
    """What of a plan is not done yet; of tuning and confirmation the runs."""

    runs: int
    nodes: int
    cost: float
    seconds: float
    bytes: int
    tuning: int
    confirmation: int


@dataclass(frozen=True)
class Plan:
    """What a study would do.

    Args:
        task: the task's name.
        title: in words.
        updates: of one training of the study.
        seeds: those of each arm.
        jobs: runs at a time.
        runs: arms times seeds that are judged.
        nodes: trainings: a trunk that several arms share is one, an arm that rides is none.
        unshared_cost: were every run trained by itself, in whole trainings without methods.
        shared_cost: as it is trained.
        seconds: of everything, from the first run to the last; tuning and confirmation included,
            the rehearsal, the start of processes and the report not.
        bytes: on disk at most: checkpoints while they are needed, and results.
        remaining: what of that is not done yet.
        arms: in the study's order, the baseline first.
        left_out: why arms are not tried, by name.
        tuning: the search for the baseline's learning rate, where asked for.
        confirmation: what is trained once more, where asked for.
        budget: the arms, seeds and share of the training that it allows, where there is one.
        notes: what a reader should know of the design.
    """

    task: str
    title: str
    updates: int
    seeds: tuple[int, ...]
    jobs: int
    runs: int
    nodes: int
    unshared_cost: float
    shared_cost: float
    seconds: float
    bytes: int
    remaining: Remaining
    arms: tuple[Expected, ...]
    left_out: Mapping[str, str]
    tuning: Work | None
    confirmation: Work | None
    budget: Mapping[str, Any] | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def shown(plan: Plan) -> list[RenderableType]:
    """A table of the arms, one of what they take together, and sentences."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    arms = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, title_justify="left",
                 title=_safe(plan.title), title_style="bold")  # fmt: skip
    arms.add_column("arm", overflow="fold", min_width=8)
    for name in ("ms per update", "cost"):
        arms.add_column(name, justify="right", no_wrap=True)
    arms.add_column("trained", overflow="fold")
    for each in plan.arms:
        step = each.seconds_per_update
        words = wording.NOTHING if step is None else f"{1e3 * step:.2f}"
        arms.add_row(_safe(each.name), words, wording.times(each.ratio), _safe(_how(each)))
    sums = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    sums.add_column(style="bold", no_wrap=True)
    sums.add_column(overflow="fold")
    for head, said in _sums(plan):
        sums.add_row(head, _safe(said))
    lines = [f"not tried: {name}: {wording.last_line(why)}" for name, why in plan.left_out.items()]
    sentences = [Text(wording.plain(line)) for line in [*plan.notes, *lines]]
    return [arms, Padding(sums, (1, 0)), *sentences]


def _how(each: Expected) -> str:
    if each.rides is not None:
        return f"with {each.rides}"
    return "" if each.times == 1.0 else f"{each.times:g} times as long"


def _sums(plan: Plan) -> Iterator[tuple[str, str]]:
    sizes = (len(plan.arms), "arm"), (len(plan.seeds), "seed")
    arms, seeds = (wording.counted(*size) for size in sizes)
    trainings = wording.counted(plan.nodes, "training")
    yield "runs", f"{plan.runs}: {arms} with {seeds}, of {wording.counted(plan.updates, 'update')}"
    yield "trained", f"{trainings}; what several arms share is one, what only looks on none"
    yield "cost", f"{plan.shared_cost:g} whole trainings; {plan.unshared_cost:g} without sharing"
    side = "one at a time" if plan.jobs == 1 else f"{plan.jobs} at a time"
    yield "time", f"about {wording.duration(plan.seconds)}, {side}"
    yield "disk", f"about {wording.megabytes(plan.bytes)} at most"
    for head, work in (("tuning", plan.tuning), ("confirmation", plan.confirmation)):
        if work is not None:
            most = "at most " if work.at_most else ""
            runs = wording.counted(work.runs, "run")
            yield head, f"{most}{runs} of that time, {most}{wording.duration(work.seconds)}"
    left = plan.remaining
    if (left.runs, left.nodes, left.seconds) != (plan.runs, plan.nodes, plan.seconds):
        runs = f"{left.runs} of {wording.counted(plan.runs, 'run')}"
        cost, time = f"{left.cost:g} whole trainings", wording.duration(left.seconds)
        yield "left", f"{runs}, {cost}, about {time}"


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(wording.plain(text))
