"""The methods' cards for people, in English or Chinese: in the terminal and on the site."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from whet.errors import UnknownName
from whet.study import chinese, wording

ENGLISH, CHINESE = LANGUAGES = ("en", "zh")
FACTS = ("paper", "layer", "owns", "needs", "companions", "placements", "during", "cost", "tier",
         "phase", "data", "avoid_when", "status")  # fmt: skip
SETTING = ("setting", "default", "range")
COLUMNS = (
    (0, ("title", "layer", "cost")),
    (110, ("owns", "avoid_when")),
    (180, ("needs", "placements", "phase", "data", "tier", "status", "paper")),
)
FOOTER = "{count} methods; whet methods NAME shows one in full"
Card = Mapping[str, Any]


def check(language: str) -> None:
    """Refuse a language that the catalogue is not written in.

    Raises:
        UnknownName: names the languages there are.
    """
    if language not in LANGUAGES:
        raise UnknownName("language", language, LANGUAGES)


def overview(cards: Sequence[Card], width: int, language: str = ENGLISH) -> RenderableType:
    """One entry a method, with as many facts as the terminal is wide."""
    shown = [fact for least, facts in COLUMNS for fact in facts if width >= least]
    table = Table(box=None, pad_edge=False)
    table.add_column(label("method", language), style="bold", no_wrap=True)
    for fact in shown:
        table.add_column(label(fact, language), overflow="fold")
    for card in cards:
        table.add_row(card["name"], *(Text(said(card, fact, language)) for fact in shown))
    footer = (chinese.FOOTER if language == CHINESE else FOOTER).format(count=len(cards))
    return Group(table, Text(), Text(footer, style="dim"))


def whole(card: Card, language: str = ENGLISH) -> RenderableType:
    """The facts and settings of one method."""
    facts = Table(box=None, show_header=False, pad_edge=False)
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for fact in FACTS:
        facts.add_row(label(fact, language), Text(said(card, fact, language)))
    given = Table(box=None, pad_edge=False)
    for column in SETTING:
        given.add_column(label(column, language), overflow="fold")
    for row in settings(card, language):
        given.add_row(*map(Text, row))
    title = Text.assemble((card["name"], "bold"), f"  {said(card, 'title', language)}")
    parts: list[RenderableType] = [title, Text(), facts]
    parts += [Text(), given] if card["settings"] else []
    parts += [Text(), Text(chinese.DOCUMENTED, style="dim")] if language == CHINESE else []
    return Group(*parts, Text())


def label(fact: str, language: str = ENGLISH) -> str:
    """What a fact or column is called."""
    spoken = fact.replace("_", " ")
    return chinese.LABELS.get(spoken, spoken) if language == CHINESE else spoken


def said(card: Card, fact: str, language: str = ENGLISH) -> str:
    """A fact of a method as people read it; English where a card has no Chinese."""
    value = card.get(fact)
    if fact == "during" and value is not None:
        return (" 至 " if language == CHINESE else " to ").join(f"{end:g}" for end in value)
    if language == CHINESE and value is not None:
        value = card.get("zh", {}).get(fact, value)
        several = value if isinstance(value, list) else [value]
        return "、".join(chinese.term(fact, str(one)) for one in several) or wording.NOTHING
    return words(value)


def settings(card: Card, language: str = ENGLISH) -> list[tuple[str, str, str]]:
    """Name, default and range of a method's settings."""
    spoken = chinese.span if language == CHINESE else str
    return [
        (each["name"], json.dumps(each["default"]), spoken(each["range"] or ""))
        for each in card["settings"]
    ]


def words(value: object) -> str:
    """A fact as people read it."""
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(map(str, value)) or wording.NOTHING
    return wording.NOTHING if value is None or value == "" else str(value)
