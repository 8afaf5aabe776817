"""A study as a terminal shows it: nothing is wider than the terminal, whatever names it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whet.study import pulse, sentences, wording
from whet.study.pulse import Now
from whet.study.statistics import HELPS, HURTS, Comparison
from whet.study.view import (
    BASELINE,
    FINISHED,
    GONE,
    NOTHING,
    PREPARING,
    REHEARSED,
    RUNNING,
    SILENT,
    STOPPED,
    UNREADABLE,
    Ended,
    Holder,
    View,
)

QUIET = 60.0  # seconds without a sign of life that are worth a word
NAME = 12  # cells that an arm's name has at least
GAP, ELLIPSIS = 2, "\N{HORIZONTAL ELLIPSIS}"
STYLES = {HELPS: "bold blue", HURTS: "bold dark_orange"}
MARKS = {"failed": "red", "diverged": "dark_orange"}
Each = TypeVar("Each")


def shortened(text: str, cells: int) -> str:
    """A text without its middle, where it is wider than so many cells of a terminal.

    >>> shortened("ema:decay=0.99,during=[0.25,1]", 15)
    'ema:dec…0.25,1]'
    """
    text = wording.plain(text)
    if cell_len(text) <= cells:
        return text
    head = _taken(text, cells // 2)
    return head + ELLIPSIS + _taken(text[::-1], cells - 1 - cell_len(head))[::-1]


def _taken(text: str, cells: int) -> str:
    """The beginning that fits; a letter of double width fits whole or not at all."""
    taken = ""
    for letter in text:
        if cell_len(taken + letter) > cells:
            break
        taken += letter
    return taken


def about(seconds: float | None) -> str:
    """The time left in words; nothing where it is not known."""
    if seconds is None:
        return ""
    rounded = max(1, round(seconds))
    if rounded < 90:
        return f"about {rounded} s left"
    minutes = rounded / 60
    return f"about {minutes:.0f} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"


def outcome(ended: Ended, metric: str) -> str:
    """A run's result in a few words."""
    if ended.status != "done":
        return f"{ended.status}: {ended.reason}"
    if not metric:
        return "fine"
    value = "no value" if ended.value is None else f"{ended.value:.4f}"
    return f"{metric} {value}, {wording.duration(ended.seconds)}"


def named(each: Ended | Now, said: str, cells: int) -> str:
    """Arm, seed and what is said of the run, of which the arm's name gives way."""
    part = f"{each.part}: " if isinstance(each, Now) and each.part else ""
    said = wording.plain(f", seed {each.seed}: {said}")
    room = max(NAME, cells - cell_len(part + said))
    return shortened_end(part + shortened(each.arm, room) + said, cells)


def shortened_end(text: str, cells: int) -> str:
    """A text without its end, where it is wider than so many cells."""
    return text if cell_len(text) <= cells else _taken(text, cells - 1) + ELLIPSIS


def sentence(comparison: Comparison, metric: str, cells: int, against: str = BASELINE) -> str:
    """What is found of an arm, in a line; of a long name the middle is left out.

    Args:
        comparison: the arm with its numbers.
        metric: the deciding one.
        cells: that the line has.
        against: which arms were held against what, as in a view's verdicts.
    """
    other = "the baseline" if against == BASELINE else "what it is held against"

    def said(arm: str) -> str:
        named = replace(comparison, arm=arm)
        return wording.plain(sentences.line(named, metric, against=other).text)

    over = cell_len(said(comparison.arm)) - cells
    room = max(NAME, cell_len(wording.plain(comparison.arm)) - over)
    return shortened_end(said(shortened(comparison.arm, room)), cells)


def standing(view: View) -> str:
    """How far a study is."""
    parts = [f"{view.done} of {wording.counted(view.of, 'run')} done"]
    for status in MARKS:
        count = sum(each.status == status for each in view.troubles)
        parts += [f"{count} {status}"] if count else []
    parts += [f"{view.interrupted} interrupted"] if view.interrupted else []
    return ", ".join([*parts, *filter(None, [about(view.left)])])


def _who(holder: Holder) -> str:
    where = "this machine" if holder.here else holder.machine
    return f"process {holder.process} on {where}"


def state(view: View) -> str:
    """Who conducts a study, or why nobody does."""
    holder, silent = view.holder, ""
    if holder is not None:
        silent = wording.duration(holder.silent)
    if view.state in (RUNNING, PREPARING) and holder is not None:
        doing = "conducted" if view.state == RUNNING else "being prepared"
        return f"{doing} by {_who(holder)}"
    if view.state == SILENT and holder is not None:
        return f"no sign of life for {silent} from {_who(holder)}"
    if view.state == GONE and holder is not None:
        return f"gone: {_who(holder)} ended without a word"
    said = {
        STOPPED: "stopped",
        FINISHED: "finished",
        REHEARSED: "rehearsed, not begun",
        NOTHING: "no study here yet",
        UNREADABLE: "cannot be read",
    }
    return said.get(view.state, view.state)


def remedy(view: View) -> tuple[str, str]:
    """What to do about a study that does not go on, and the command for it; empty if nothing."""
    if view.state in (STOPPED, GONE):
        return "Continue with:", view.command
    if view.state == FINISHED and view.failed:
        return "Try the failed runs again with:", view.command
    if view.state in (NOTHING, REHEARSED):
        return "Begin with:", f"whet study TASK --out {view.folder}"
    return "", ""


def unfinished(view: View) -> Iterator[str]:
    """That runs are missing, who trains them, and how to go on; nothing where none is."""
    if view.missing:
        yield wording.plain(f"not complete: {standing(view)}; {state(view)}")
        why, words = remedy(view)
        if words:
            yield wording.plain(f"{why} {words}")


def command(words: str, width: int) -> Iterator[str]:
    """A command in lines that a shell takes for one."""
    line = "  "
    for word in wording.plain(words).split(" "):
        if line.strip() and cell_len(f"{line} {word} \\") > width:
            yield f"{line} \\"
            line = "   "
        line += f" {word}" if line.strip() else word
    yield shortened_end(line, width)


def running(those: Sequence[Now], width: int) -> Table:
    """The runs in progress, a line each."""
    rows = [(_update(now), _value(now), _since(now)) for now in those]
    metric = next((now.metric for now in those if now.metric), "")
    head = ("update", shortened(metric, 14), "for")
    seeds = [str(now.seed) for now in those]
    wide = [max(cell_len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    wide.append(max(map(len, ["seed", *seeds])))
    room = max(NAME, width - sum(wide) - GAP * len(wide))
    shown = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="dim")
    shown.add_column("running", no_wrap=True, min_width=NAME)
    for name in ("seed", *head):
        shown.add_column(name, justify="right", no_wrap=True)
    for now, seed, cells in zip(those, seeds, rows, strict=True):
        part = f"{now.part}: " if now.part else ""
        shown.add_row(Text(shortened(part + now.arm, room)), seed, *(Text(cell) for cell in cells))
    return shown


def _update(now: Now) -> str:
    if now.phase != pulse.TRAINS or now.update is None:
        return wording.plain(now.phase)[:NAME]
    return f"{now.update}/{now.of}" if now.of else str(now.update)


def _value(now: Now) -> str:
    return "" if now.value is None else f"{now.value:.4g}"


def _since(now: Now) -> str:
    if now.silent > QUIET:
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
        parts.append(Text(shortened(view.title, width), "bold"))
    if view.of and view.state != REHEARSED:
        parts.append(_line(standing(view), width))
        parts += [_bar(view, min(40, width))] if bar else []
    parts.append(_line(state(view), width, "" if view.state in (RUNNING, FINISHED) else "yellow"))
    parts += [_line(view.note, width)] if view.note else []
    if view.state == REHEARSED:
        parts.append(_line(f"rehearsed: {standing(view)}", width))
    why, words = remedy(view)
    if words:
        parts += [_line(why, width), *(Text(line) for line in command(words, width))]
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
        yield _line(named(each, outcome(each, view.metric), width), width, MARKS[each.status])
    yield from _more(more)


def _verdicts(view: View, width: int, most: int | None) -> Iterator[RenderableType]:
    for title, comparisons in view.verdicts:
        yield Text()
        yield _line(headed(view, title), width, "dim")
        those, more = few(comparisons, most)
        for each in those:
            said = sentence(each, view.metric, width, title)
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
    return Text(shortened_end(wording.plain(text), width), style, no_wrap=True)
