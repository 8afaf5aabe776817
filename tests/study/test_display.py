"""What the terminal shows while a study runs and when it ends."""

import io
import re
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from whet.study import compare, display, wording
from whet.study.evidence import Evidence
from whet.study.plan import Node


def console(terminal: bool) -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=terminal, width=80), text


def show(toy: Evidence, terminal: bool) -> str:
    drawn, text = console(terminal)
    with display.progress(drawn, len(toy.rows), "accuracy") as watch:
        for values, row in zip(toy.study["nodes"], toy.rows, strict=True):
            watch.started(Node.from_json(values))
            watch.ended(Node.from_json(values), row)
    return text.getvalue()


def test_plain_lines(toy: Evidence) -> None:
    stamped = show(toy, terminal=False).splitlines()
    lines = [line.split(" ", 1)[1] for line in stamped]
    assert len(lines) == len(toy.rows)
    assert all(re.match(r"\d\d:\d\d:\d\d \[", line) for line in stamped)
    assert lines[0].startswith("[1/60] baseline, seed 0: accuracy 0.9014, 0.5 s (about ")
    assert "<script>, seed 0: accuracy" in lines[4]
    assert lines[6].startswith("[7/60] raises, seed 0: failed: RuntimeError: something <broke>")


def test_bars(toy: Evidence) -> None:
    drawn = show(toy, terminal=True)
    assert "60/60" in drawn
    assert "RuntimeError: something <broke>" in drawn


def test_pace() -> None:
    now = iter([0.0, 30.0, 600.0])
    pace = display.Pace(4, clock=lambda: next(now))
    assert pace.left() == ""
    pace.ended = 1
    assert pace.left() == "about 90 s left".replace("90 s", "2 min")
    pace.ended = 2
    assert pace.left() == "about 20 min left".replace("20", "10")


def test_table_fits_a_narrow_terminal(toy: Evidence) -> None:
    drawn, text = console(terminal=False)
    drawn.print(display.table(toy.comparisons, "accuracy"))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    good = next(line for line in lines if line.strip().startswith("good"))
    assert good.split()[:5] == ["good", "+0.0207", "+0.0184", "to", "+0.0230"]
    assert good.split()[-2:] == ["helps", "1.00×"]


class TestNotes:
    """What stands below the table."""

    def notes(self, n: int, **given: Any) -> str:
        maker = np.random.default_rng(3)
        base = maker.normal(0.8, 0.02, n)
        numbers = {"baseline": base, "good": base + maker.normal(0.05, 0.01, n),
                   "little": base + 0.02 + maker.normal(0.0, 0.001, n)}  # fmt: skip
        found = compare(
            ((arm, seed, v) for arm, of in numbers.items() for seed, v in enumerate(of)),
            placements={"little": "end"}, **given,
        )  # fmt: skip
        drawn, text = console(terminal=False)
        drawn.print(display.table(found, "accuracy"))
        assert max(map(len, text.getvalue().splitlines())) <= 80
        return " ".join(text.getvalue().split())

    def test_screening(self) -> None:
        said = self.notes(3)
        assert "helps (screening)" in said
        assert "Screening: 3 seeds are a reason to train more." in said
        assert "max-T" not in said
        assert "Margin" not in said
        assert said.endswith("not about other data of its kind.")

    def test_margin_and_flips(self) -> None:
        said = self.notes(7, margin=0.03)
        assert "Margin: 0.03; shown to be within it all the same: little." in said
        assert "All flips of signs (max-T) agree." in said
        assert "screening" not in said.lower()

    def test_flips_that_say_otherwise(self) -> None:
        maker = np.random.default_rng(0)
        arms = {f"a{i}": maker.normal(0.01, 0.01, 6) for i in range(12)}
        arms["sure"] = 0.04 + maker.normal(0.0, 0.0001, 6)  # Holm is held up by the others' spread
        rows = [(a, s, v) for a, of in {"baseline": np.zeros(6), **arms}.items()
                for s, v in enumerate(of)]  # fmt: skip
        found = compare(rows)
        apart = [each.arm for each in found if each.max_t_agrees is False]
        said = " ".join(wording.notes(found))
        assert apart
        assert all(f"{wording.OPEN}{arm}{wording.CLOSE} (p " in said for arm in apart)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (9.97, "10 s"), (300, "5 min"), (7200, "2.0 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert wording.duration(seconds) == said


def test_signs() -> None:
    assert wording.signed(-0.00001, 3) == "0.000"
    assert wording.signed(-0.0123, 3) == "\N{MINUS SIGN}0.012"
    assert wording.signed(None, 3) == wording.NOTHING
    assert wording.probability(0.0004) == "< 0.001"
