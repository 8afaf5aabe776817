"""Every method has a page in each language: its sections, its settings, the same examples."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

from tests.test_docs import BLOCK
from website.methods import path
from whet.methods import catalogue
from whet.study.catalogue import CHINESE, ENGLISH, LANGUAGES, settings

DOCS = Path(__file__).parent.parent / "docs"
SECTIONS = {
    ENGLISH: ["When it helps", "When it does not", "When in training, and its cost", "Settings",
              "In a loop of your own", "In a stack"],
    CHINESE: ["何时有用", "何时无用", "阶段与开销", "设置项", "用在自己的训练循环里",
              "用在 Stack 里"],
}  # fmt: skip
LOOP, STACK = range(2)
EVERY = [(card["name"], language) for card in catalogue() for language in LANGUAGES]


def text(name: str, language: str) -> str:
    file = DOCS / path(name, language)
    assert file.exists(), f"method {name} has no page: write docs/{path(name, language)}"
    return file.read_text("utf-8")


@pytest.mark.parametrize(("name", "language"), EVERY)
def test_sections(name: str, language: str) -> None:
    page = text(name, language)
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    wanted = SECTIONS[language]
    assert [heading for heading in headings if heading in wanted] == wanted
    other = path(name, CHINESE if language == ENGLISH else ENGLISH)
    assert f"]({'../../' if language == CHINESE else '../'}{other})" in page
    assert f"--methods {name}" in page or f'--methods "{name}' in page


@pytest.mark.parametrize(("name", "language"), EVERY)
def test_settings(name: str, language: str) -> None:
    """The table names every setting with its default and range, and says why."""
    card = next(card for card in catalogue() if card["name"] == name)
    rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text(name, language).splitlines() if line.startswith("| `")
    ]  # fmt: skip
    told = {row[0]: tuple(row[1:3]) for row in rows if len(row) == 4 and row[3]}
    for setting, default, allowed in settings(card, language):
        assert told.get(f"`{setting}`") == (f"`{default}`", allowed), setting


@pytest.mark.parametrize("name", [card["name"] for card in catalogue()])
def test_examples(name: str) -> None:
    """A loop and a stack that use the method; the languages differ in comments alone."""
    english, chinese = (BLOCK.findall(text(name, language)) for language in LANGUAGES)
    assert [code(block) for block in english] == [code(block) for block in chinese]
    assert len(english) >= 2
    for block in (english[LOOP], english[STACK]):
        assert re.search(r"from whet\.methods(\.\w+)? import|whet\.\w+", block)
    assert "Stack(" in english[STACK]


def code(block: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(block).readline)
    return [each.string for each in tokens if each.type not in (tokenize.COMMENT, tokenize.NL)]
