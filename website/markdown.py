"""Tables, and text that is not markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

SPECIAL = "\\`*_{}[]<>|$&~"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines: list[Sequence[Any]] = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(text: str) -> str:
    """A text in which nothing means markup.

    >>> plain("a|b")
    'a&#124;b'
    """
    return "".join(f"&#{ord(sign)};" if sign in SPECIAL else sign for sign in text)


def code(text: str) -> str:
    """A text set as code."""
    return f"<code>{plain(text)}</code>"
