"""The methods' pages: their cards, settings, docstrings and trap tests, in English and Chinese."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from website.docstrings import papers
from whet.methods import catalogue, registry
from whet.study import catalogue as cards
from whet.study.catalogue import CHINESE, ENGLISH

ROOT = Path(__file__).parent.parent
OVERVIEW = ("title", "layer", "cost", "avoid_when")
SPECIAL = "\\`*_{}[]<>|$&~"


def pages() -> dict[str, str]:
    """Every page on methods by its path."""
    every = catalogue()
    found = {f"methods/{card['name']}.md": page(card) for card in every}
    return found | {
        "methods/index.md": overview(every, ENGLISH), "methods/zh.md": overview(every, CHINESE)
    }  # fmt: skip


def overview(every: Sequence[cards.Card], language: str) -> str:
    """All methods in a table."""
    head = [cards.label(fact, language) for fact in ("method", *OVERVIEW)]
    rows = [
        [f"[`{card['name']}`]({card['name']}.md)",
         *(plain(cards.said(card, fact, language)) for fact in OVERVIEW)]
        for card in every
    ]  # fmt: skip
    title, about = {
        ENGLISH: ("Methods", "The same as `whet methods` prints. [中文](zh.md)"),
        CHINESE: ("方法一览", "与 `whet methods --lang zh` 的输出相同。[English](index.md)"),
    }[language]
    return f"# {title}\n\n{about}\n\n{table(head, rows)}"


def page(card: cards.Card) -> str:
    """One method."""
    kind = registry()[card["name"]]
    parts = [
        f"# {card['title']}", facts(card, ENGLISH), settings(card, ENGLISH, "## Settings"),
        *(f"::: {kind.__module__}.{name}\n    options: {{heading_level: 2}}"
          for name in documented(kind)),
        traps(card["name"]),
        f"## 中文：{plain(cards.said(card, 'title', CHINESE))} {{ #zh }}", facts(card, CHINESE),
        settings(card, CHINESE, "### 设置项 { #zh-settings }"),
    ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def facts(card: cards.Card, language: str) -> str:
    """A method's card as a table."""
    rows = [
        [cards.label(fact, language), papers(plain(cards.said(card, fact, language)))]
        for fact in cards.FACTS
    ]
    name = [cards.label("method", language), f"`{card['name']}`"]
    return table(name, rows)


def settings(card: cards.Card, language: str, heading: str) -> str:
    """A method's settings as a table under a heading; nothing where it has none."""
    rows = [[code(name), code(default), plain(span)]
            for name, default, span in cards.settings(card, language)]  # fmt: skip
    head = [cards.label(column, language) for column in cards.SETTING]
    return f"{heading}\n\n{table(head, rows)}" if rows else ""


def documented(kind: type) -> list[str]:
    """The class, and then what else its file offers to a loop of one's own."""
    module = inspect.getmodule(kind)
    others = [
        name for name, each in vars(module).items()
        if not name.startswith("_") and each is not kind and callable(each)
        and getattr(each, "__module__", "") == kind.__module__ and each.__doc__
    ]  # fmt: skip
    return [kind.__name__, *others]


def traps(name: str) -> str:
    """The mistakes of naive implementations that the method's tests show."""
    file = ROOT / "tests" / "methods" / f"test_{name}.py"
    found = trap_tests(file.read_text("utf-8")) if file.exists() else []
    if not found:
        return ""
    lines = [f"- `{test}`" for test in found]
    return (
        f"## Traps\n\nTests in `{file.relative_to(ROOT)}` that a naive implementation, committed "
        "beside them, must fail; [all traps](../traps.md).\n\n" + "\n".join(lines)
    )


def trap_tests(source: str) -> list[str]:
    """The names of the functions under `@trap`.

    >>> trap_tests("@trap(right=a, wrong=b)\\ndef test_c(x): pass\\ndef test_d(): pass")
    ['test_c']
    """
    return [
        node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)
        and any(isinstance(each, ast.Call) and getattr(each.func, "id", "") == "trap"
                for each in node.decorator_list)
    ]  # fmt: skip


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
