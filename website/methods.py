"""The methods' pages: what is written, and their cards, company, evidence, traps, docstrings."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from pathlib import Path

from website import results
from website.docstrings import papers
from website.markdown import plain, table
from whet.method import Method
from whet.methods import catalogue, registry
from whet.study import catalogue as cards
from whet.study.catalogue import CHINESE, ENGLISH, LANGUAGES

ROOT = Path(__file__).parent.parent
OVERVIEW = ("title", "layer", "cost", "avoid_when")
COMPANY = {
    ENGLISH: "## What it goes with\n\nIt goes with {count} other methods and is refused beside "
    "{refused} in the same interval of training; disjoint spans are fine.",
    CHINESE: "## 搭配与冲突\n\n可与其他 {count} 种方法同时使用；"
    "与 {refused} 种方法不能处于同一训练时段（时段错开则可以）。",
}
REFUSED = {ENGLISH: ": both claim the {}", CHINESE: "：两者都要占用{}"}
BESIDE = {
    ENGLISH: "Where it applies, add {}: it belongs beside it.",
    CHINESE: "适用时应同时加上 {}。",
}
FACTS = {ENGLISH: "## In short", CHINESE: "## 一览"}


def pages() -> dict[str, str]:
    """Every page on methods by its path."""
    every = catalogue()
    found = {path(card["name"], language): page(card, language)
             for card in every for language in LANGUAGES}  # fmt: skip
    return found | {
        "methods/index.md": overview(every, ENGLISH), "methods/zh.md": overview(every, CHINESE)
    }  # fmt: skip


def overview(every: Sequence[cards.Card], language: str) -> str:
    """All methods in a table."""
    head = [cards.label(fact, language) for fact in ("method", *OVERVIEW)]
    rows = [
        [f"[`{card['name']}`]({'' if language == ENGLISH else '../zh/methods/'}{card['name']}.md)",
         *(plain(cards.said(card, fact, language)) for fact in OVERVIEW)]
        for card in every
    ]  # fmt: skip
    title, about = {
        ENGLISH: ("Methods", "The same as `whet methods` prints. [中文](zh.md)"),
        CHINESE: ("方法一览", "与 `whet methods --lang zh` 的输出相同。[English](index.md)"),
    }[language]
    return f"# {title}\n\n{about}\n\n{table(head, rows)}"


def page(card: cards.Card, language: str = ENGLISH) -> str:
    """One method: what is written about it, and then what follows from the code and the studies."""
    parts = [written(card["name"], language), company(card, language),
             results.section(card["name"], language),
             f"{FACTS[language]}\n\n{facts(card, language)}"]  # fmt: skip
    if language == ENGLISH:
        kind = registry()[card["name"]]
        parts += [
            traps(card["name"]),
            *(f"::: {kind.__module__}.{name}\n    options: {{heading_level: 2}}"
              for name in documented(kind)),
        ]  # fmt: skip
    return "\n\n".join(filter(None, parts)) + "\n"


def written(name: str, language: str) -> str:
    """The text of a method's page."""
    return (ROOT / "docs" / path(name, language)).read_text("utf-8").strip()


def path(name: str, language: str) -> str:
    """Where a method's page lies within docs/ and the site."""
    return f"methods/{name}.md" if language == ENGLISH else f"zh/methods/{name}.md"


def company(card: cards.Card, language: str) -> str:
    """What the method is refused beside, and what it should stand beside."""
    kind = registry()[card["name"]]
    lines = [
        f"- [`{other.name}`]({other.name}.md){REFUSED[language].format(what)}"
        for other in registry().values() if other is not kind
        for what in [_contested(kind, other, language)] if what
    ]  # fmt: skip
    count = len(registry()) - 1 - len(lines)
    beside = [f"[`{name}`]({name}.md)" for name in card["companions"]]
    said = [COMPANY[language].format(count=count, refused=len(lines)), "\n".join(lines)]
    said += [BESIDE[language].format(", ".join(beside))] if beside else []
    return "\n\n".join(filter(None, said))


def _contested(kind: type[Method], other: type[Method], language: str) -> str:
    shared = (kind.owns & (other.owns | other.uses)) | (other.owns & kind.uses)
    if not shared:
        return ""
    return cards.said({"owns": [min(each.value for each in shared)]}, "owns", language)


def facts(card: cards.Card, language: str) -> str:
    """A method's card as a table."""
    rows = [
        [cards.label(fact, language), papers(plain(cards.said(card, fact, language)))]
        for fact in cards.FACTS
    ]
    name = [cards.label("method", language), f"`{card['name']}`"]
    return table(name, rows)


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
    """The names of the tests under `@trap`, or made by `trap(...)(check)`.

    >>> trap_tests("@trap(right=a, wrong=b)\\ndef test_c(x): pass\\ntest_d = trap(x=1)(check)")
    ['test_c', 'test_d']
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any(map(_traps, node.decorator_list)):
            found.append((node.lineno, node.name))
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            names = [each.id for each in node.targets if isinstance(each, ast.Name)]
            found += [(node.lineno, name) for name in names if _traps(node.value.func)]
    return [name for _, name in sorted(found) if name.startswith("test_")]


def _traps(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "trap"
