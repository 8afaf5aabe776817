"""A study as a terminal shows it: nothing is wider than the terminal, whatever names it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whet.study import phrases, pulse, wording
from whet.study.pulse import Now
from whet.study.statistics import HELPS, HURTS
from whet.study.view import (
    FINISHED,
    REHEARSED,
    RUNNING,
    View,
)

GAP = 2
STYLES = {HELPS: "bold blue", HURTS: "bold dark_orange"}
Each = TypeVar("Each")


def running(those: Sequence[Now], width: int) -> Table:
    """The runs in progress, a line each."""
    rows = [(_update(now), _value(now), _since(now)) for now in those]
    metric = next((now.metric for now in those if now.metric), "")
    head = ("update", phrases.shortened(metric, 14), "for")
    seeds = [str(now.seed) for now in those]
    wide = [max(cell_len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    wide.append(max(map(len, ["seed", *seeds])))
    room = max(phrases.NAME, width - sum(wide) - GAP * len(wide))
    shown = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    shown.add_column("running", no_wrap=True, min_width=phrases.NAME)
    for name in ("seed", *head):
        shown.add_column(name, justify="right", no_wrap=True)
    for now, seed, cells in zip(those, seeds, rows, strict=True):
        part = f"{now.part}: " if now.part else ""
        arm = Text(phrases.shortened(part + now.arm, room))
        shown.add_row(arm, seed, *(Text(cell) for cell in cells))
    return shown


def _update(now: Now) -> str:
    if now.phase != pulse.TRAINS or now.update is None:
        return wording.plain(now.phase)[: phrases.NAME]
    return f"{now.update}/{now.of}" if now.of else str(now.update)


def _value(now: Now) -> str:
    return "" if now.value is None else f"{now.value:.4g}"


def _since(now: Now) -> str:
    if now.silent > pulse.QUIET:
        return f"no sign of life for {wording.duration(now.silent)}"
    return wording.duration(now.seconds)


def few(those: Iterable[Each], most: int | None) -> tuple[list[Each], int]:
    """The first of several, and how many more there are."""
    every = list(those)
    shown = every if most is None or len(every) <= most else every[: max(1, most - 1)]
    return shown, len(every) - len(shown)


def drawn(view: View, width: int, height: int | None = None, bar: bool = False) -> Group:
    """A study on a screen.

    Args:
        view: of the study.
        width: cells that a line has.
        height: lines that there are; None for any number.
        bar: whether to draw how far it is.
    """
    parts: list[RenderableType] = []
    if view.title:
        parts.append(Text(phrases.shortened(view.title, width), "bold"))
    if view.of and view.state != REHEARSED:
        parts.append(_line(phrases.standing(view), width))
        parts += [_bar(view, min(40, width))] if bar else []
    style = "" if view.state in (RUNNING, FINISHED) else "yellow"
    parts.append(_line(phrases.state(view), width, style))
    parts += [_line(view.note, width)] if view.note else []
    if view.state == REHEARSED:
        parts.append(_line(f"rehearsed: {phrases.standing(view)}", width))
    why, words = phrases.remedy(view)
    if words:
        parts += [_line(why, width), *(Text(line) for line in phrases.command(words, width))]
    view, each = _fitted(view, None if height is None else height - len(parts))
    if view.running:
        those, more = few(view.running, each)
        parts += [Text(), running(those, width), *_more(more)]
    return Group(*parts, *_troubles(view, width, each), *_verdicts(view, width, each))


def _fitted(view: View, height: int | None) -> tuple[View, int | None]:
    """The questions that find room in so many lines, and how many lines each block has there."""
    if height is None:
        return view, None
    view = replace(view, verdicts=view.verdicts[: max(1, height // 10)])
    heads = 2 * bool(view.running) + bool(view.troubles) + 2 * len(view.verdicts)
    blocks = bool(view.running) + bool(view.troubles) + len(view.verdicts)
    return view, max(2, (height - heads) // max(1, blocks))


def _bar(view: View, cells: int) -> Text:
    full = min(cells, cells * view.done // view.of)
    line = "\N{BOX DRAWINGS HEAVY HORIZONTAL}"
    return Text.assemble((line * full, "blue"), (line * (cells - full), "dim"))


def _troubles(view: View, width: int, most: int | None) -> Iterator[RenderableType]:
    those, more = few(view.troubles, most)
    for number, each in enumerate(those):
        if not number:
            yield Text()
        said = phrases.named(each, phrases.outcome(each, view.metric), width)
        yield _line(said, width, phrases.MARKS[each.status])
    yield from _more(more)


def _verdicts(view: View, width: int, most: int | None) -> Iterator[RenderableType]:
    for title, comparisons in view.verdicts:
        yield Text()
        yield _line(headed(view, title), width, "dim")
        those, more = few(comparisons, most)
        for each in those:
            said = phrases.sentence(each, view.metric, width, title)
            yield _line(said, width, STYLES.get(each.verdict, ""))
        yield from _more(more)


def headed(view: View, title: str) -> str:
    """What verdicts are about, and that they are provisional while runs are missing."""
    if not view.missing:
        return title
    missing = wording.counted(view.missing, "run")
    return f"{title}, provisional: {missing} {'is' if view.missing == 1 else 'are'} missing"


def _more(count: int) -> list[RenderableType]:
    return [Text(f"and {count} more", "dim")] if count else []


def _line(text: str, width: int, style: str = "") -> Text:
    return Text(phrases.shortened_end(wording.plain(text), width), style, no_wrap=True)
