"""The report's sections, from studies of numbers alone: what is shown and what hidden."""

import csv
import html
import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.study import invented
from tests.study.test_report import Page
from whet.errors import InputError
from whet.study import figures, report, statistics, wording
from whet.study.plan import BASELINE, Row
from whet.study.report import facts, sections
from whet.study.store import flat
from whet.study.tradeoff import tradeoff

HOSTILE = [
    "<script>alert(1)</script>", "\"'><svg onload=x>", "{{ 7*7 }}{% raw %}", "</style></title>",
    "a--><!--b", "&lt;i&gt;", "]]>", "[bold]x[/]", "javascript:x", "${7*7}", "%s %(x)s {0}",
]  # fmt: skip
SECRET = "hf_Zq8Jw2Lr5Tn9Xv3Bk7Pd"
ADDED = ("peak_memory", "classes", "confusion")


@pytest.fixture(scope="module")
def whole() -> str:
    return invented.whole()


def said(page: str) -> str:
    """The page's text without its tags, figures and spaces in a row."""
    figures = r"<svg.*?</svg>|<style>.*?</style>|<script>.*?</script>|<[^>]+>"
    page = re.sub(figures, " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(page).split())


@pytest.mark.parametrize(
    "words",
    [
        "What each method adds to the others", "What the gain costs", "Classes",
        "Confusion matrix: true classes down", "peak memory", "fixmatch not tried: there are no",
        "all consists of ema and sam.", "An effect below 0.010 cannot be shown.", "disk is full",
        "Baseline, 2 arms of one method, 1 arm of several and 2 that lack one of them",
        "whet study pets", "all without sam", "left out: seed 2 (failed)",
    ],
)  # fmt: skip
def test_says(whole: str, words: str) -> None:
    assert words in said(whole)
    Page(whole)


class TestNumbers:
    """The details under a table of verdicts."""

    def page(self, seeds: int, **task: Any) -> str:
        arms = dict.fromkeys((BASELINE, "ema"), BASELINE)
        rows = [invented.row(arm, seed) for arm in arms for seed in range(seeds)]
        study = invented.study(arms, seeds=range(seeds))
        compared = statistics.paired(
            rows, invented.METRIC, True, margin=0.01, passes={"ema": "ema: no pass"}, **task
        )
        return said(report.build(study | {"margin": 0.01}, rows, compared, "rule"))

    def test_three_seeds(self) -> None:
        page = self.page(3)
        assert "This is screening: 3 seeds are a reason to train more." in page
        assert "ema: no pass" in page
        assert "margin 0.01" in page
        numbers = page[page.index("More numbers") : page.index("time to the end")]
        assert numbers.count(wording.NOTHING) == 3  # max-T, new data, bootstrap

    @pytest.mark.parametrize(
        ("gains", "verdict"),
        [((0.10, 0.11, 0.12), "helps (screening)"), ((-0.1, -0.11, -0.1, -0.1), "hurts"),
         ((0.1, -0.1, 0.0), "not shown")],
    )  # fmt: skip
    def test_screening_stands_beside_the_verdict(
        self, gains: tuple[float, ...], verdict: str
    ) -> None:
        rows = [
            invented.row(
                arm, seed, metrics={"judge": {invented.METRIC: 0.5 + (arm == "ema") * gain}}
            )
            for arm in (BASELINE, "ema")
            for seed, gain in enumerate(gains)
        ]
        made = sections.table(statistics.paired(rows, invented.METRIC, True), {})
        ((_, _, said),) = made["lines"]
        assert said == verdict

    def test_ten_seeds_and_known_sizes(self) -> None:
        page = self.page(10, sizes={"train": 900, "judge": 300})
        assert "screening" not in page
        numbers = page[page.index("More numbers") : page.index("time to the end")]
        assert wording.NOTHING not in numbers


def test_the_answer_comes_first(whole: str) -> None:
    order = [
        "<h1>",
        'class="answer"',
        "<h2>Gain over",
        "<h2>What each",
        "<h2>Learning",
        "<h2>Class",
    ]
    places = [whole.index(each) for each in order]
    assert places == sorted(places)


def test_memory_is_the_median_over_seeds_and_its_ratio() -> None:
    sizes = {"ema": (30e6, 33e6, 60e6), BASELINE: (20e6, 22e6, 30e6)}
    rows = [
        invented.row(arm, seed, peak_memory=size)
        for arm, each in sizes.items()
        for seed, size in enumerate(each)
    ]

    def memory() -> dict[str, tuple[str, str]]:
        return facts.memory(rows, statistics.paired(rows, invented.METRIC, True))

    assert memory() == {"ema": ("33.0 MB", "1.65×"), BASELINE: ("22.0 MB", "")}
    rows[0]["peak_memory"] = None
    rows[3]["peak_memory"] = 0
    assert memory()["ema"] == ("46.5 MB", "1.73×")  # the root of 1.5 times 2
    assert wording.megabytes(1_234_500_000) == "1,234 MB"


def test_what_older_studies_lack_is_left_out() -> None:
    arms = dict.fromkeys((BASELINE, "ema"), BASELINE)
    study = invented.study(arms)
    for arm in study["arms"]:
        del arm["reference"]
    rows = [
        {name: value for name, value in row.items() if name not in ADDED}
        for row in invented.rows(arms)
    ]
    compared = statistics.paired(rows, invented.METRIC, True)
    page = said(report.build(study, rows, compared, "rule"))
    assert "Baseline and 1 method, each alone" in page
    for absent in ("peak memory", "Classes", "What each method adds", "not tried", "None"):
        assert absent not in page


def test_no_classes_for_other_targets() -> None:
    arms = dict.fromkeys((BASELINE, "ema"), BASELINE)
    rows = [row | {"classes": None, "confusion": None} for row in invented.rows(arms)]
    assert "Classes" not in said(invented.page(invented.study(arms), rows))


def test_many_classes_and_arms_stay_below_a_megabyte() -> None:
    page = invented.large()
    assert len(page.encode()) < 1_000_000
    assert page.count("<h4>Most confused</h4>") == 13  # the baseline's and those of twelve arms
    assert "Of many arms those are shown that have a verdict or moved most" in said(page)
    assert all(html.escape(name) in page for name in invented.INTENTS)


class TestSafety:
    def made(self, text: str) -> tuple[str, list[Row]]:
        """A report with one text wherever text from outside comes in."""
        arms = {BASELINE: BASELINE, text: BASELINE, "all": BASELINE, f"all without {text}": "all"}
        rows: list[Row] = [
            row | {"explain": text, "settings": [{"name": text}], "environment": {"os": text}}
            for row in invented.rows(arms, [text, "b", "c"])
        ]
        rows[4] |= {"status": "failed", "reason": f"Traceback\n{text}\nError: {text}"}
        rows[5] |= {"status": "failed", "reason": text}
        given: dict[str, Any] = {"notes": [text], "left_out": {text: text}, "command": text}
        study = invented.study(arms, **given, date=text, versions={text: text})
        study["task"] |= {"title": text}
        return invented.page(study, rows), rows

    @pytest.mark.parametrize("text", HOSTILE)
    def test_names_are_escaped(self, text: str) -> None:
        made, _ = self.made(text)
        page = Page(made)
        assert page.tags.count("script") == made.count("</script>") == 1
        assert not [name for _, name, _ in page.attributes if name.startswith("on")]
        assert page.tags.count("title") == made.count("</title>") == 1
        assert page.tags.count("style") == made.count("</style>")
        assert html.escape(text) in made.replace("&#34;", "&quot;").replace("&#39;", "&#x27;")

    @pytest.mark.parametrize(
        ("text", "hidden"),
        [
            (f"token {SECRET}", SECRET), ("password=hunter22", "hunter22"),
            ("https://ann:hunter22@x.org", "hunter22"), ("/home/annabel/x.py", "annabel"),
            ("C:\\Users\\annabel\\x", "annabel"), ("x\x1b[31mred", "\x1b"), ("a\u202eb", "\u202e"),
            ("\x02b\x03", "\x02"), ("\ud800", "\ud800"),
        ],
    )  # fmt: skip
    def test_secrets_and_controls_are_gone(self, text: str, hidden: str) -> None:
        made, rows = self.made(text)
        assert hidden not in made
        assert hidden not in flat(rows)
        Page(made)

    @pytest.mark.parametrize("sign", [*"=+-@", "\t=", "\r=", "\n", " =", "＝", "＋"])
    def test_no_cell_is_a_formula(self, sign: str) -> None:
        _, rows = self.made(f"{sign}cmd|' /C calc'!A0")
        cells = [cell for line in csv.reader(io.StringIO(flat(rows))) for cell in line]
        assert any(cell.startswith("'") for cell in cells)
        starts = {cell.lstrip()[:1] for cell in cells if not re.fullmatch(r"-?[\d.e-]+", cell)}
        assert not starts & set("=+-@＝＋－＠")


class TestFigures:
    def compared(self, *names: str) -> list[statistics.Comparison]:
        return statistics.paired(invented.rows([BASELINE, *names]), invented.METRIC, True)

    def test_picture_is_a_file_of_its_own(self) -> None:
        svg = figures.picture(self.compared("ema", "<sam> & co"), "macro_f1")
        root = ET.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        texts = {each.text for each in root.iter("{http://www.w3.org/2000/svg}text")}
        assert {"ema", "<sam> & co", "gain in macro f1"} <= texts
        assert 'fill="#ffffff"' in svg
        assert "var(" not in svg
        assert not re.search("#0[1-6]0[1-6]0[1-6]", svg)
        assert svg == figures.picture(self.compared("ema", "<sam> & co"), "macro_f1")

    def test_picture_of_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match="No arm has a gain"):
            figures.picture([], "accuracy")

    @pytest.mark.parametrize("wide", [True, False])
    def test_every_arm_is_labelled_beside_its_cost(self, wide: bool) -> None:
        svg = tradeoff(self.compared(*invented.METHODS), "accuracy", wide)
        texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        assert set(invented.METHODS) <= set(texts)
        assert "gain in accuracy" in texts

    def test_nothing_is_drawn_without_a_cost(self) -> None:
        rows = [row | {"seconds_per_update": None} for row in invented.rows([BASELINE, "ema"])]
        assert tradeoff(statistics.paired(rows, invented.METRIC, True), "accuracy", True) == ""


class TestLeaving:
    def one(self, arm: str, verdict: str, gain: float, n: int = 3) -> statistics.Comparison:
        return statistics.Comparison(
            arm, n, (), (), 0, n, gain=gain, low=gain - 0.01, high=gain + 0.01, verdict=verdict
        )

    def test_says_which_method_is_missed(self) -> None:
        found = [
            self.one("all without ema", statistics.HURTS, -0.03),
            self.one("all without sam", statistics.HELPS, 0.02),
            self.one("all without fgm", statistics.NONE, 0.0),
        ]
        assert wording.plain(wording.leaving(found, "accuracy")) == (
            "Against all methods together, all without ema worsens accuracy by 0.030 and all "
            "without sam improves accuracy by 0.020; for the others no effect is shown."
        )

    def test_says_that_nothing_was_found(self) -> None:
        assert wording.leaving([self.one("x", statistics.HURTS, -1.0, n=2)], "accuracy") == ""
        assert "no effect of leaving one out on m is shown" in wording.leaving(
            [self.one("x", statistics.NONE, 0.0)], "m"
        )


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ([("ema", 1, False, "baseline")], "Baseline and 1 method, each alone"),
        (
            [("baseline@after", 0, True, "baseline"), ("ema@after", 1, True, "baseline@after")],
            "Baseline and 1 method, each alone",
        ),
        (
            [("baseline@x2", 0, False, "baseline"), ("sam", 1, False, "baseline"),
             ("all", 2, False, "baseline"), ("all without sam", 1, False, "all")],
            "Baseline, 1 arm of one method, 1 arm of several and 1 that lacks one of them",
        ),
    ],
)  # fmt: skip
def test_controls_are_no_methods(arms: list[tuple[str, int, bool, str]], said: str) -> None:
    made = [{"name": BASELINE, "methods": []}]
    for name, count, after, reference in arms:
        methods = [{"name": "ema"}] * count
        made.append({"name": name, "methods": [] if after else methods, "reference": reference,
                     "after": methods if after else None})  # fmt: skip
    assert facts.design({"arms": made, "design": "both"}) == said
