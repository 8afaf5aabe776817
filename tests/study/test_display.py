"""What the terminal shows while a study runs and when it ends."""

import io

import pytest
from rich.console import Console

from whet.study import display, wording
from whet.study.conduct import Evidence
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
    lines = show(toy, terminal=False).splitlines()
    assert len(lines) == len(toy.rows)
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
