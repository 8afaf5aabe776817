"""What a study shows in the terminal: how far it is, and at the end what helped."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.table import Table
from rich.text import Text

from whet.study import panes, phrases, pulse, wording
from whet.study.plan import Node, Row
from whet.study.pulse import Now
from whet.study.statistics import (
    EQUIVALENT,
    IDENTICAL,
    POPULATION,
    Comparison,
    ranked,
)
from whet.study.store import Store
from whet.study.view import Ended

SHORT = {IDENTICAL: "identical", EQUIVALENT: "no difference"}
SECOND = 1.0
MARKS = {"done": "", "failed": "[red]failed[/]", "diverged": "[dark_orange]diverged[/]"}


class Pace:
    """How many runs are left and how long they may take, from those that ended so far."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.ended = total, 0
        self._clock, self._began = clock, clock()

    def left(self) -> str:
        """The time left in words, nothing before the first run has ended."""
        if not self.ended or self.ended == self.total:
            return ""
        each = (self._clock() - self._began) / self.ended
        return phrases.about(each * (self.total - self.ended))


class Lines:
    """Plain lines, for logs and pipes: whole, and with the time of day."""

    def __init__(self, console: Console, total: int, metric: str) -> None:
        self._console, self._metric, self._pace = console, metric, Pace(total)

    def started(self, node: Node) -> None:
        """Only endings make a line."""

    def again(self, node: Node, row: Row) -> None:
        """One line with the reason."""
        self._print(f"{_named(node)}: tried again: {wording.last_line(row.get('reason'))}")

    def ended(self, node: Node, row: Row) -> None:
        """One line with the result and the time left."""
        self._pace.ended += 1
        left = self._pace.left()
        parts = [f"[{self._pace.ended}/{self._pace.total}] {_named(node)}:"]
        parts += [outcome(row, self._metric), f"({left})" if left else ""]
        self._print(" ".join(filter(None, parts)))

    def _print(self, said: str) -> None:
        line = wording.plain(f"{time.strftime('%H:%M:%S')} {said}")
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """An overall bar and a line for each run in progress, for terminals.

    Args:
        console: the terminal.
        total: runs.
        metric: the deciding one.
        store: whose runs tell there what they are at; None where they do not.
        what: the word before the bar.
    """

    def __init__(
        self, console: Console, total: int, metric: str, store: Store | None = None,
        what: str = "study",
    ) -> None:  # fmt: skip
        self._console, self._metric, self._pace = console, metric, Pace(total)
        self._store = store
        self.overall = Progress(
            TextColumn(f"[bold]{what}"), BarColumn(24), MofNCompleteColumn(), Elapsed(),
            TextColumn("{task.fields[left]}"), console=console,
        )  # fmt: skip
        self._bar = self.overall.add_task(what, total=total, left="")
        self._running: dict[str, tuple[Node, float]] = {}
        self._seen: tuple[float, list[Now]] = (float("-inf"), [])

    def started(self, node: Node) -> None:
        """The run gets its line."""
        self._running[node.key] = (node, time.monotonic())
        self._look_again()

    def again(self, node: Node, row: Row) -> None:
        """The run keeps its line; the reason is said above the bar."""
        self._say(node, "tried again", row)

    def ended(self, node: Node, row: Row) -> None:
        """The run's line goes; what went wrong is said above the bar."""
        del self._running[node.key]
        self._look_again()
        self._pace.ended += 1
        self.overall.update(self._bar, advance=1, left=self._pace.left())
        if row["status"] in ("failed", "diverged"):
            self._say(node, row["status"], row)

    def __rich__(self) -> Group:
        """The picture: no wider and no higher than the terminal."""
        those, more = panes.few(self._nows(), max(2, self._console.height - 4))
        table = [panes.running(those, self._console.width)] if those else []
        return Group(self.overall, *table, *([Text(f"and {more} more")] if more else []))

    def _look_again(self) -> None:
        self._seen = (float("-inf"), self._seen[1])

    def _nows(self) -> list[Now]:
        """What the runs are at, read once a second at most."""
        now = time.monotonic()
        if now - self._seen[0] >= SECOND:
            self._seen = (now, [self._now(*each) for each in [*self._running.values()]])
        return self._seen[1]

    def _now(self, node: Node, since: float) -> Now:
        seen = None if self._store is None else pulse.read(self._store.folder_of(node))
        return seen or Now(node.arm, node.seed, seconds=time.monotonic() - since)

    def _say(self, node: Node, what: str, row: Row) -> None:
        ended = Ended(node.arm, node.seed, what)
        said = f"{what}: {wording.last_line(row.get('reason'))}"
        line = Text(phrases.named(ended, said, self._console.width), phrases.MARKS.get(what, ""))
        self._console.print(line, highlight=False, soft_wrap=True)


@contextmanager
def progress(
    console: Console, total: int, metric: str, store: Store | None = None, what: str = "study"
) -> Iterator[Lines | Bars]:
    """The display that suits the terminal; nothing of it stays behind."""
    if not (console.is_terminal or console.is_jupyter) or not total:
        yield Lines(console, total, metric)
        return
    bars = Bars(console, total, metric, store, what)
    with Live(bars, console=console, transient=True, refresh_per_second=8):
        yield bars


def outcome(row: Row, metric: str) -> str:
    """A run's result in a few words."""
    return phrases.outcome(Ended.of(row, metric), metric)


def rehearsed(rows: Mapping[str, Row]) -> Table:
    """What two updates of every arm came to."""
    shown = Table(box=SIMPLE_HEAD)
    shown.add_column("arm", overflow="fold", min_width=8)
    shown.add_column("rehearsal", no_wrap=True)
    shown.add_column("why", overflow="fold")
    for name, row in rows.items():
        said = "fine" if row["status"] == "done" else row["status"]
        why = "" if row["status"] == "done" else wording.last_line(row.get("reason"))
        shown.add_row(_safe(name), MARKS.get(row["status"]) or said, _safe(why))
    return shown


def table(
    comparisons: Sequence[Comparison], metric: str, against: str | None = None,
    title: str | None = None, about: str = POPULATION,
) -> Table:  # fmt: skip
    """Paired differences, one arm a line; against the baseline, or `against` what lacks nothing.

    `title` says what else they are. Below it stands what goes with the verdicts, and `about`: what
    they are about.
    """
    places = wording.decimals(comparisons)
    below = "\n".join([*wording.notes(comparisons), about])
    said = title or f"Gain in {metric.replace('_', ' ')} over {against or 'the baseline'}"
    title = _safe(f"{said}, paired by seed")
    shown = Table(title=title, title_justify="left", title_style="bold", box=None,
                  caption=_safe_lines(below), caption_justify="left", caption_style="dim",
                  padding=(0, 1, 0, 0), pad_edge=False)  # fmt: skip
    shown.add_column("arm", overflow="fold", min_width=8)
    for name in ("gain", "95 % interval", "p (Holm)", "detects"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict")
    timed = any(each.slowdown is not None for each in comparisons)
    if timed:
        shown.add_column("time", justify="right", no_wrap=True)
    for each in ranked(comparisons):
        style = panes.STYLES.get(each.verdict, "")
        short = SHORT if against is None else SHORT | wording.LEAVING
        said = short.get(each.verdict, each.verdict)
        verdict = f"[{style}]{said}[/]" if style else said
        verdict += " [dim](screening)[/]" if each.screening and style else ""
        lost = len(each.left_out) if each.n else 0
        verdict += f" [dim]({wording.counted(lost, 'seed')} left out)[/]" if lost else ""
        shown.add_row(
            _safe(each.arm),
            wording.signed(each.gain, places),
            wording.interval(each, places),
            wording.probability(each.p_holm),
            wording.unsigned(each.detectable, places),
            verdict,
            *([wording.times(each.slowdown)] if timed else []),
        )
    return shown


def summary(comparisons: Sequence[Comparison], metric: str, width: int) -> Iterator[Text]:
    """What was found, a line an arm; arms of which nothing is shown in one line together."""
    shown = [each for each in ranked(comparisons) if each.verdict in panes.STYLES]
    for each in shown:
        yield Text(phrases.sentence(each, metric, width), panes.STYLES[each.verdict])
    rest = len(comparisons) - len(shown)
    if rest:
        others = f"{'other ' if shown else ''}arm"
        yield Text(f"Nothing is shown of {wording.counted(rest, others)}.", "dim")


def _safe_lines(text: str) -> str:
    return escape(wording.plain(text, lines=True))


def _named(node: Node) -> str:
    return f"{node.arm}, seed {node.seed}"


def _safe(text: str) -> str:
    return escape(wording.plain(text))
