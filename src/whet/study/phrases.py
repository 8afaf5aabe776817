"""What is said of a study in a terminal: lines no wider than it, whatever names they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rich.cells import cell_len

from whet.study import sentences, wording
from whet.study.pulse import Now
from whet.study.statistics import Comparison
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

NAME = 12  # cells that an arm's name has at least
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"
MARKS = {"failed": "red", "diverged": "dark_orange"}


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
