"""The report: one file, nothing loaded, everything escaped, every arm in it."""

import base64
import hashlib
import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.study.conftest import ARMS
from whet.study import curves, figures, report, statistics
from whet.study.evidence import Evidence, conclude
from whet.study.request import Request
from whet.study.store import Store

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADING = {"src", "srcset", "data", "action", "poster", "background", "formaction", "xlink:href"}


class Page(HTMLParser):
    """Checks that tags nest, and gathers tags, attributes and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pre: list[str] = []
        self.script = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "pre":
            self.pre.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "pre":
            self.pre[-1] += data
        if self.open and self.open[-1] == "script":
            self.script += data


@pytest.fixture
def text(toy: Evidence) -> str:
    return toy.report.read_text(encoding="utf-8")


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


def test_nothing_is_loaded(page: Page, text: str) -> None:
    known = base64.b64encode(hashlib.sha256(page.script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert ("meta", "content", f"{policy}; script-src 'sha256-{known}'") in page.attributes
    assert page.tags.count("script") == 1
    assert not set(page.tags) & {"link", "iframe", "object", "embed", "base", "img"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert not [each for each in page.attributes if each[1] in LOADING]
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links
    assert all(value.startswith("#") for value in links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)


def test_names_are_escaped(page: Page, text: str) -> None:
    assert page.tags.count("script") == text.count("<script") == 1
    assert html.escape("<script>") in text
    assert html.escape("something <broke>") in text


def test_ids_are_unique_and_links_lead_somewhere(page: Page, text: str) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    asked = {value[1:] for _, name, value in page.attributes if name == "href"}
    asked |= set(re.findall(r"url\(#([^)]+)\)", text))
    assert asked <= set(ids)


def test_every_arm_shows_its_nesting(page: Page) -> None:
    explained = {arm for arm in ("baseline", *ARMS) if f"{arm}\n  supervised" in "".join(page.pre)}
    assert explained == {"baseline", "good", "bad", "noise", "<script>", "same", "diverges",
                         "killed", "inapplicable"}  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        "good helps: +2.1 points",
        "diverged in 1 of 5 seeds",
        "left out: seed 1 (diverged)",
        "was ended by SIGKILL",
        "SystemExit: 3",
        "the data is missing",
        "inapplicable at seed 0",
        "inapplicable: did not apply",
        "raises: failed in every seed",
        "exits: failed in every seed",
        "two-sided paired t test",
        "Seeds vary the split, the initial weights and the order of the data, on this data",
        "noise: not shown (",
        "same: identical to the baseline",
        "More numbers: what could be seen, other tests, cost",
        "No margin was given",
        "whet study toy --methods",
        "runs at a time",
    ],
)
def test_says(text: str, said: str) -> None:
    assert said in html.unescape(re.sub(r"</?strong>", "", text))


def test_figures_are_text_in_the_pages_colours(text: str) -> None:
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    twice = [svg for svg in svgs if re.match('<svg class="(wide|narrow)"', svg)]
    panels = [svg for svg in svgs if svg not in twice]
    assert len(twice) == 4  # two figures, each for wide and narrow windows
    assert len(panels) == 8  # a learning curve for each arm that has one, and the rate's course
    assert all("var(--" in svg and "</text>" in svg for svg in svgs)
    assert not re.search("#0[1-6]0[1-6]0[1-6]", text)


class TestMargin:
    """A margin decides nothing that is trained: the same files give other verdicts."""

    @pytest.fixture
    def given(self, folder: Path, tmp_path: Path) -> Evidence:
        shutil.copytree(folder, tmp_path / "study")
        path = tmp_path / "study" / "study.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"margin": 0.01}))
        return conclude(Store(tmp_path / "study"))

    def test_verdicts(self, given: Evidence, toy: Evidence) -> None:
        changed = {
            after.arm: after.verdict
            for before, after in zip(toy.comparisons, given.comparisons, strict=True)
            if before.verdict != after.verdict
        }
        assert changed == dict.fromkeys(("noise", "killed"), statistics.EQUIVALENT)
        held = json.loads((given.report.parent / "verdicts.json").read_text())
        assert held["margin"] == 0.01
        assert held["population"] == statistics.POPULATION

    def test_report(self, given: Evidence) -> None:
        made = html.unescape(re.sub(r"<[^>]+>", "", given.report.read_text(encoding="utf-8")))
        assert "noise: no difference within the margin of 1.0 points (" in made
        assert "place the gain within 0.01 of zero" in made
        assert "margin0.01" in made

    def test_asked_for_and_kept_in_the_command(self, folder: Path) -> None:
        request = Request("toy", margin=0.01, out=folder)
        assert "--margin 0.01" in request.command
        assert "margin" not in request.asks()  # which decides what is trained


def test_the_same_files_make_the_same_report(folder: Path, text: str) -> None:
    assert conclude(Store(folder)).report.read_text(encoding="utf-8") == text


def test_left_out_methods_are_named_unless_asked_for(toy: Evidence, text: str) -> None:
    assert "not tried" not in text
    reasons = {"gone": "it has <no> sense here"}
    older = {name: value for name, value in toy.study.items() if name != "left_out"}
    older |= {"task": older["task"] | {"left_out": reasons | {"good": "asked for all the same"}}}
    for study in (toy.study | {"left_out": reasons}, older):
        made = report.build(study, toy.rows, toy.comparisons, "rule")
        assert "it has &lt;no&gt; sense here" in made
        assert "asked for all the same" not in made


def test_a_study_that_has_only_begun(toy: Evidence) -> None:
    for few in ([], toy.rows[:1], toy.rows[:2]):
        comparisons = statistics.paired(few, "accuracy", True)
        made = report.build(toy.study, few, comparisons, "rule")
        Page(made)
        assert f"{len(few)} of" in made
        assert "Not complete" in made
        assert "Nothing can be said yet" in made


def test_names_with_mathematics_stay_names(toy: Evidence) -> None:
    odd = [replace(each, arm="$x^{$_\\a") for each in toy.comparisons[:1]]
    assert "$x^{$_\\a" in figures.forest(odd, "accuracy", True)


def test_an_arm_far_off_leaves_the_others_readable() -> None:
    gains = {"far": -0.5, "near": 0.01, "close": -0.01, "small": 0.005}
    found = [
        statistics.Comparison(arm, 3, ((0, gain),), (), 0, 3, gain=gain, low=gain, high=gain)
        for arm, gain in gains.items()
    ]
    low, high = figures.reach(found)
    assert -0.1 < low < -0.01
    assert 0.01 <= high < 0.1


def test_curves_are_means_over_finished_seeds() -> None:
    def row(seed: int, status: str, *points: tuple[int, float]) -> dict[str, object]:
        curve = [{"update": update, "metrics": {"m": value}} for update, value in points]
        return {"arm": "a", "seed": seed, "status": status, "curve": curve}

    rows = [row(0, "done", (1, 0.2), (2, 0.4)), row(1, "done", (1, 0.4)),
            row(2, "diverged", (1, 9.0))]  # fmt: skip
    [point] = curves.curves(rows, "m")["a"].points
    assert (point.update, point.mean) == (1, pytest.approx(0.3))


def test_the_picture_for_documents_stands_beside_the_report(folder: Path) -> None:
    from xml.etree import ElementTree

    text = (folder / "gains.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag.endswith("svg")  # an arm named <script> is in it
    assert "<script" not in text
    assert "var(--" not in text
