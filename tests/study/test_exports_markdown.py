"""The report in Markdown, read by a parser of Markdown: no name changes how it is read."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.safety.mutations import fuzz
from tests.study import invented
from whet.study import wording
from whet.study.evidence import Evidence
from whet.study.exports import markdown
from whet.study.exports.tabulated import Table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
ODD = "a|b <i> `c` ``d``` r_drop *e* ![f](g) [h]: i \\| ~~j~~ $k$ &lt; #1 @l"
NAMES = st.text(
    st.one_of(st.sampled_from("|\\`*_[]()<>~$&#!+-=.:;1 \n\tab"), st.characters()), max_size=20
)


def said(token: Token) -> str:
    """The letters that a reader sees of a piece of text, where nothing but text is in it."""
    assert token.children is not None
    kinds = {child.type for child in token.children}
    assert kinds <= {"text", "html_inline"}, kinds
    others = {child.content for child in token.children if child.type == "html_inline"}
    assert others <= {"<!-- -->"}
    return "".join(child.content for child in token.children if child.type == "text")


def tables(text: str) -> Iterator[list[list[Token]]]:
    """The cells of each table, line by line."""
    tokens = READER.parse(text)
    for at, token in enumerate(tokens):
        if token.type == "table_open":
            made: list[list[Token]] = []
        if token.type == "tr_open":
            made.append([])
        if token.type in ("th_open", "td_open"):
            made[-1].append(tokens[at + 1])
        if token.type == "table_close":
            yield made


@fuzz(300)
@given(NAMES)
def test_a_name_stands_for_itself_in_a_cell(name: str) -> None:
    about = Table("key", "title", ("arm", "gain"), [(name, "+0.1"), ("plain", name)], (0,))
    [made] = tables(markdown.table(about))
    shown = wording.plain(name).strip()
    cells = [[said(cell).strip() for cell in line] for line in made]
    assert cells == [["arm", "gain"], [shown, "+0.1"], ["plain", shown]]


@fuzz(300)
@given(NAMES)
@pytest.mark.parametrize("before", ["", "- ", "## "])
def test_a_name_stands_for_itself_in_a_line(before: str, name: str) -> None:
    shown = wording.plain(name).strip()
    tokens = READER.parse(before + markdown.escape(wording.plain(name)))
    kinds = {"": [], "- ": ["bullet_list", "list_item"], "## ": ["heading"]}[before]
    opened = [t.type.removesuffix("_open") for t in tokens if t.type.endswith("_open")]
    assert [kind for kind in opened if kind != "paragraph"] == kinds
    assert "".join(said(each) for each in tokens if each.type == "inline").strip() == shown


@pytest.mark.parametrize("name", ["a|b", "`a` | b", "<b>", "a\\|b"])
def test_a_name_that_is_not_escaped_breaks_a_table(name: str) -> None:
    """What the fuzz above would find: the same cell without `escape`."""
    [made] = tables(f"| arm | gain |\n|---|---|\n| {name} | +0.1 |")
    with pytest.raises(AssertionError):
        assert [said(cell) for cell in made[1]] == [name, "+0.1"]


@fuzz(100)
@given(NAMES)
@example("a\n```\n# b\n`````\nc")
def test_nothing_closes_a_block_of_text(name: str) -> None:
    tokens = READER.parse(markdown.verbatim(name) + "\n\nend")
    assert [token.type for token in tokens[:2]] == ["fence", "paragraph_open"]
    assert tokens[0].content == wording.plain(name, lines=True) + "\n"


def test_addresses_from_outside_are_no_links() -> None:
    made = markdown.escape("see https://a.example, www.b.example")
    assert "://" not in made
    assert "www." not in made


def test_every_table_of_the_report_is_whole(tmp_path: Path) -> None:
    found = invented.evidence(tmp_path, ODD)
    made = list(tables(markdown.text(found)))
    heads = [[said(cell) for cell in lines[0]] for lines in made]
    for lines in made:
        assert {len(line) for line in lines} == {len(lines[0])}
    first = [{said(line[0]) for line in lines[1:]} for lines in made]
    baseline = heads.index(["arm", "gain", "95 % interval", "p (Holm)", "detects", "pairs",
                            "verdict"])  # fmt: skip
    assert first[baseline] == {each.arm for each in found.comparisons} == {ODD, "sam", "all"}
    assert ["arm", "against", "gain", "95 % interval", "verdict"] in heads
    assert ["arm", "predicted", "95 % interval", "found", "95 % interval", "verdict"] in heads


def test_the_report_has_every_section(tmp_path: Path) -> None:
    tuned = {"rate": 0.01, "own": 0.001, "metric": "accuracy", "seeds": [1000], "at_edge": True,
             "table": [{"rate": 0.001, "values": [0.5], "mean": 0.5},
                       {"rate": 0.01, "values": [None], "mean": None}]}  # fmt: skip
    found = invented.evidence(tmp_path, tuning=tuned, left_out={"fgm": "no embeddings"})
    text = markdown.text(found)
    tokens = READER.parse(text)
    heads = [
        said(tokens[at + 1]) for at, token in enumerate(tokens) if token.type == "heading_open"
    ]
    assert heads == [
        "What helped: Pets", "Gain over the baseline", "What each method adds to the others",
        "What ema adds", "At equal time", "Confirmation", "The baseline's learning rate",
        "What has no result, and why", "Methods", "How verdicts are reached", "To reproduce",
    ]  # fmt: skip
    assert "failed or diverged | best |" in text
    assert "The best is the outermost that was tried." in text
    assert "- **fgm** not tried: no embeddings" in text
    assert "- **sam** failed (seed 2): RuntimeError: ema broke" in text


def test_the_verdicts_stand_first_a_sentence_each(toy: Evidence) -> None:
    text = markdown.text(toy)
    first = text[: text.index("## Gain over the baseline")]
    assert re.search(r"^- good helps: \+2\.\d+ points \\\[1\.\d+, 2\.\d+\\\]", first, re.MULTILINE)
    assert re.search(r"^- bad hurts: −3\.\d+ points", first, re.MULTILINE)
    assert first.count("\n- ") == len(toy.comparisons) + len(toy.study["notes"])
    assert first.index("good helps") < first.index("bad hurts")


def test_pictures_and_papers_that_it_names_are_there(tmp_path: Path) -> None:
    found = invented.evidence(tmp_path)
    found.export("markdown")
    text = (tmp_path / "report.md").read_text("utf-8")
    named = {
        str(child.attrs["src"])
        for token in READER.parse(text) for child in token.children or () if child.type == "image"
    }  # fmt: skip
    assert named == {f"figures/{path.name}" for path in (tmp_path / "figures").glob("*.png")}
    assert len(named) == 5
    keys = (tmp_path / "methods.bib").read_text("utf-8")
    for key in ("whet", "holm1979simple", "tarvainen2017mean", "foret2021sharpness"):
        assert f"@{key}" in text
        assert f"{{{key},\n" in keys
