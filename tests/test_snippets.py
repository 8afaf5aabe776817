"""Pages in two languages show the same code: only comments and strings are translated."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TWINS = [
    (ROOT / "README.md", ROOT / "README.zh.md"),
    (ROOT / "docs" / "snippets.md", ROOT / "docs" / "zh" / "snippets.md"),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
twins = pytest.mark.parametrize(("english", "chinese"), TWINS, ids=lambda page: page.name)


class Silent(ast.NodeTransformer):
    """Every string empty."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node


def silent(code: str) -> str:
    return ast.unparse(Silent().visit(ast.parse(code)))


def commands(code: str) -> list[str]:
    return [line.split("#")[0].rstrip() for line in code.splitlines()]


def blocks(page: Path) -> list[str | list[str]]:
    found = BLOCK.findall(page.read_text("utf-8"))
    return [silent(code) if kind == "python" else commands(code) for kind, code in found]


def rows(page: Path) -> list[str]:
    """First cells of the rows that are code: the tables of methods and commands."""
    return re.findall(r"^\| (`[^|]+`) \|", page.read_text("utf-8"), re.MULTILINE)


def test_only_comments_and_strings_are_left_out() -> None:
    assert silent("x = 'a'  # b") == silent("x = 'c'")
    assert silent("x = 1") != silent("x = 2")


@twins
def test_code_is_the_same_in_both_languages(english: Path, chinese: Path) -> None:
    ours, theirs = blocks(english), blocks(chinese)
    assert len(ours) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert one == other


def test_both_readmes_name_the_same_methods_and_commands() -> None:
    english, chinese = TWINS[0]
    assert rows(english) == rows(chinese)
    assert "`ema`" in rows(english)


@twins
def test_pages_in_two_languages_point_to_each_other(english: Path, chinese: Path) -> None:
    for page, other in ((english, chinese), (chinese, english)):
        links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))
        assert other.resolve() in {(page.parent / link).resolve() for link in links}
