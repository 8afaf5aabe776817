"""The report in Markdown as GitHub shows it: for a repository, a wiki, a notebook."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from whet.study import wording
from whet.study.exports import content
from whet.study.exports.setting import Ready, render
from whet.study.exports.tabulated import Table

if TYPE_CHECKING:
    from whet.study.evidence import Evidence

TEMPLATE = "report.md.jinja"
SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&{}^]")
# What would begin a heading, a list, a picture or a rule; a number is none that goes on behind.
AT_START = re.compile(r"^([#=!]|[+-](?!\d)|\d+(?=[.)](?:\s|$)))")
LINK = re.compile(r"(?<=:)(?=//)|(?<=\bwww)(?=\.)", re.IGNORECASE)


def text(found: Evidence) -> str:
    """The report; its figures lie in `figures/`, its papers in `methods.bib`."""
    given = content.of(found)
    own: dict[str, Callable[..., Ready]] = {"table": table, "verbatim": verbatim, "cite": cite}
    page = render(TEMPLATE, escape, given, own)
    return re.sub(r"\n{3,}", "\n\n", page)


def escape(said: str) -> str:
    r"""One line of text that stands for itself anywhere in Markdown, in a cell too.

    >>> escape("a|b <i> `c` r_drop")
    'a\\|b \\<i\\> \\`c\\` r\\_drop'
    """
    said = AT_START.sub(_begin, SPECIAL.sub(r"\\\g<0>", said.strip()))
    return LINK.sub("<!-- -->", said)


def _begin(found: re.Match[str]) -> str:
    # only signs can be escaped: a number has its escape behind it
    return f"{found[0]}\\" if found[0].isdigit() else f"\\{found[0]}"


def table(about: Table) -> Ready:
    """A table with its head; words to the left, numbers to the right."""
    marks = ("---" if at in about.words else "---:" for at in range(len(about.head)))
    lines = [[escape(wording.plain(cell)) for cell in line] for line in (about.head, *about.lines)]
    lines.insert(1, list(marks))
    return Ready("\n".join(f"| {' | '.join(line)} |" for line in lines))


def verbatim(said: str) -> Ready:
    """A block of text as it is, in a fence that nothing in it can close."""
    said = wording.plain(said, lines=True)
    longest = max(map(len, re.findall("`+", said)), default=0)
    fence = "`" * max(3, longest + 1)
    return Ready(f"{fence}text\n{said}\n{fence}")


def cite(keys: list[str]) -> Ready:
    """The keys of papers as Pandoc takes them; whet's own, so that there is nothing to escape."""
    return Ready(f" [{'; '.join(f'@{key}' for key in keys)}]" if keys else "")
