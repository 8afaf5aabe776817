"""The methods' papers: every method has one, every entry is whole, and what is cited is given."""

import importlib.resources
import re

import pytest

from tests.study import invented
from whet.methods import catalogue
from whet.study.exports import references
from whet.study.plan import BASELINE

PLACE = "src/whet/study/exports/methods.bib"
DATA = importlib.resources.files("whet.study.exports").joinpath("methods.bib").read_text("utf-8")
NEEDS = {"article": {"author", "title", "journal", "year"},
         "inproceedings": {"author", "title", "booktitle", "year"},
         "misc": {"author", "title"}}  # fmt: skip
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")
PAPER = re.compile(r"^Paper:.*?(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)
Entry = dict[str, str]


def parse(text: str) -> dict[str, Entry]:
    """BibTeX as it is written here, and nothing else: fields in braces that balance."""
    text = re.sub(r"^%.*\n", "", text, flags=re.MULTILINE)
    found: dict[str, Entry] = {}
    while text := text.lstrip():
        head = re.match(r"@([a-z]+)\{([A-Za-z0-9]+),\n", text)
        assert head, f"no entry begins with {text[:60]!r}"
        kind, key = head.groups()
        assert key not in found, f"{key} is there twice"
        found[key], text = {"kind": kind}, text[head.end() :]
        while not text.startswith("}"):
            name, value, text = field(text, key)
            assert name not in found[key], f"{key} has two fields {name}"
            found[key][name] = value
        text = text[1:]
    return found


def field(text: str, key: str) -> tuple[str, str, str]:
    head = re.match(r" *([a-z]+) = \{", text)
    assert head, f"{key}: no field begins with {text[:60]!r}"
    depth, at = 1, head.end()
    while depth:
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    assert text[at : at + 2] == ",\n", f"{key}: {head[1]} does not end its line"
    return head[1], text[head.end() : at - 1], text[at + 2 :]


ENTRIES = parse(DATA)
METHODS = {card["name"]: card for card in catalogue()}


def cites(name: str) -> list[str]:
    return [key for key, entry in ENTRIES.items() if name in entry["keywords"].split(", ")]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_its_papers(name: str) -> None:
    card = METHODS[name]
    keys = cites(name)
    assert keys, f"{name} has no entry: add its paper to {PLACE}, with `keywords = {{{name}}},`"
    assert keys == references.cited(name)
    said = PAPER.search(card["doc"])
    assert said, f"the docstring of {name} names no paper"
    named = set(ARXIV.findall(f"{card['paper']} {said[0]}"))
    given = {ENTRIES[key]["eprint"] for key in keys if "eprint" in ENTRIES[key]}
    assert given == named, f"{PLACE} and the docstring of {name} differ"
    for key in keys:
        first = ENTRIES[key]["author"].partition(",")[0]
        assert first in said[0], f"the docstring of {name} does not name {first}, {PLACE} does"


@pytest.mark.parametrize("key", ENTRIES)
def test_an_entry_is_whole(key: str) -> None:
    entry = ENTRIES[key]
    assert NEEDS[entry["kind"]] <= set(entry), f"{key} lacks a field"
    for name in entry["keywords"].split(", "):
        assert name in {*METHODS, references.OURS, references.VERDICTS}
    if key == references.OURS:
        return
    assert re.fullmatch(r"(19|20)\d\d", entry["year"])
    authors = entry["author"].split(" and ")
    assert all(re.fullmatch(r"[^,]+, [^,]+", author) for author in authors), authors
    surname = re.sub(r"[^a-z]", "", authors[0].partition(",")[0].lower())
    assert re.fullmatch(rf"{surname}{entry['year']}[a-z]+", key), "surname, year, word"
    if "pages" in entry:
        first, last = map(int, re.fullmatch(r"(\d+)--(\d+)", entry["pages"]).groups())  # type: ignore[union-attr]
        assert first < last
    if "eprint" in entry:
        assert ARXIV.fullmatch(f"arXiv:{entry['eprint']}")
        assert entry["archiveprefix"] == "arXiv"
        # a paper is published within two years of its preprint
        assert 0 <= int(entry["year"]) - (2000 + int(entry["eprint"][:2])) <= 2
    assert all(letter.isascii() for value in entry.values() for letter in value)


def test_a_paper_is_there_once() -> None:
    for name in ("title", "eprint"):
        values = [entry[name].lower() for entry in ENTRIES.values() if name in entry]
        assert len(values) == len(set(values))


@pytest.mark.parametrize("broken", ["@misc{a,\n  title = {b},\n", "@misc{a,\n  title = {b}\n}\n",
                                    "@misc{a,\n  title = b,\n}\n", "x"])  # fmt: skip
def test_the_parser_is_strict(broken: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        parse(broken)


def test_a_study_cites_what_it_used_and_nothing_else() -> None:
    study = invented.study({BASELINE: BASELINE, "sam": BASELINE, "r_drop": BASELINE})
    study["arms"][2]["methods"] = []
    study["arms"][2]["after"] = [{"name": "r_drop"}]
    study["versions"]["whet"] = "0.1.0"
    made = parse(references.text(study))
    assert [*made] == ["whet", "holm1979simple", *cites("sam"), *cites("r_drop")]
    assert made["whet"]["note"] == "Version 0.1.0"
    assert "keywords" not in made["whet"]
    assert {**made["kwon2021asam"], "keywords": "sam"} == ENTRIES["kwon2021asam"]


def test_a_method_of_ones_own_is_named_in_a_comment() -> None:
    name = "mine\n@misc{x, title = {y}}"
    text = references.text(invented.study({BASELINE: BASELINE, name: BASELINE}))
    assert [*parse(text)] == ["whet", "holm1979simple"]
    assert re.search(r"^% Without an entry: mine  at misc", text, re.MULTILINE)


def test_who_adds_a_method_is_told() -> None:
    from tests.test_project import ROOT

    assert PLACE in (ROOT / "CONTRIBUTING.md").read_text("utf-8")
