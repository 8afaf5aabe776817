"""What a terminal shows of a study: no line is wider than it, whatever the names."""

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from whet.study import changes, display, live, panes, phrases, pulse
from whet.study.evidence import Evidence
from whet.study.plan import Node
from whet.study.pulse import Now
from whet.study.statistics import Comparison
from whet.study.store import Store
from whet.study.view import Ended, Holder, View

LONG = "ema:decay=0.999,warmup=100+r_drop:alpha=0.5,during=[0.25,1]+label_smoothing@end"
CHINESE = "对抗训练与指数滑动平均以及标签平滑和混合增强的一个很长很长的名字叫做方法组合第一号变体甲"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def wide(name: str, **given: Any) -> View:
    """A view in which every place holds a name that is too long for it."""
    found = Comparison(name, 3, ((0, 0.01), (1, 0.02), (2, 0.03)), (), 0, 3, gain=0.02, low=0.01,
                       high=0.03, verdict="helps")  # fmt: skip
    running = (
        Now(name, 1234567, pulse.TRAINS, 123456, 1234567, name, 0.123456, 4321.0, 1.0, "tuning"),
        Now(name, 0, pulse.TRAINS, 1, 10, name, 0.5, 700.0, 200.0),
        Now(name, 1),
    )
    ended = (Ended(name, 0, "failed", None, 1.0, f"RuntimeError: {name}"), Ended(name, 1, "done"))
    holder = Holder(4321, name, False, 1.0, False)
    values: dict[str, Any] = {"state": live.RUNNING, "of": 9, "left": 4000.0, "note": name} | given
    return View(Path(name), title=name, metric=name, command=f"whet study {name} --out {name}",
                ended=ended, running=running, holder=holder, interrupted=2,
                verdicts=((name, (found,)),), **values)  # fmt: skip


def lines(view: View, width: int = 80, height: int | None = None, bar: bool = False) -> list[str]:
    text = io.StringIO()
    console = Console(file=text, width=width, height=24, force_terminal=True, record=True)
    console.print(panes.drawn(view, width, height, bar))
    return CONTROL.sub("", text.getvalue()).splitlines()


STATES = (live.NOTHING, live.REHEARSED, live.PREPARING, live.RUNNING, live.SILENT, live.GONE,
          live.STOPPED, live.FINISHED, live.UNREADABLE)  # fmt: skip


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", [LONG, CHINESE, LONG.replace(":", "\n"), "a"])
def test_no_line_is_wider_than_the_terminal(name: str, state: str) -> None:
    for width in (80, 60, 120):
        drawn = lines(wide(name, state=state), width, bar=True)
        assert max(map(cell_len, drawn)) <= width
        told = changes.lines(None, wide(name, state=state), width)
        assert all(cell_len(line) <= width or line.split(":")[0] in
                   ("Continue with", "Try the failed runs again with", "Begin with")
                   for line in told)  # fmt: skip


def test_a_long_name_keeps_both_ends_and_the_numbers_stay() -> None:
    drawn = lines(replace(wide(LONG), metric="accuracy"))
    run = next(line for line in drawn if "no sign of life" in line)
    assert re.match(r"ema:\S+…\S+end +0 +1/10 +0\.5 +no sign of life for 3 min", run)
    failed = next(line for line in drawn if "RuntimeError" in line)
    assert re.match(r"ema:\S+…\S+, seed 0: failed: RuntimeError: ema", failed)
    found = next(line for line in drawn if "helps" in line)
    assert re.match(r"ema:\S+…\S+@end helps: \+2\.0 points \[1\.0, 3\.0\]$", found)


def test_double_width_is_counted() -> None:
    assert cell_len(phrases.shortened(CHINESE, 21)) in (20, 21)
    assert phrases.shortened("短", 21) == "短"
    assert phrases.shortened("abc", 3) == "abc"
    assert phrases.shortened("abcd", 3) == "a…d"


def test_many_runs_find_room_in_24_lines() -> None:
    view = wide(LONG)
    many = tuple(replace(view.running[0], seed=seed) for seed in range(200))
    found = view.verdicts[0][1] * 75
    view = replace(view, running=many, ended=view.ended * 50, of=300,
                   verdicts=(("a", found),))  # fmt: skip
    drawn = lines(view, height=23, bar=True)
    assert len(drawn) <= 23
    assert all(len(drawn) >= 21 and f"and {more} more" in " ".join(drawn) for more in (197, 47, 72))
    assert len(lines(view)) > 200


def test_the_command_can_be_given_to_a_shell_as_it_is_printed() -> None:
    words = f"whet study task.py --methods {LONG.replace('+', ',')[:50]} --seeds 5 --out a/b/c"
    shown = list(phrases.command(words, 60))
    assert len(shown) > 1
    assert max(map(len, shown)) <= 60
    joined = re.sub(r" +", " ", "\n".join(shown).replace("\\\n", " ")).strip()
    assert joined == words


def test_time_left_in_words() -> None:
    assert phrases.about(None) == ""
    assert phrases.about(0.2) == "about 1 s left"
    assert phrases.about(89) == "about 89 s left"
    assert phrases.about(600) == "about 10 min left"
    assert phrases.about(9000) == "about 2.5 h left"


class TestChanges:
    """Lines between two looks."""

    def told(self, before: View | None, after: View) -> list[str]:
        return list(changes.lines(before, after, 80))

    def test_nothing_where_only_time_passed(self) -> None:
        before = wide("ema")
        running = tuple(replace(now, seconds=now.seconds + 9) for now in before.running)
        after = replace(before, running=running, left=3.0)
        assert self.told(before, after) == []
        assert changes.timeless(before) == changes.timeless(after)

    def test_a_run_that_ends(self) -> None:
        before = wide("ema", left=None)
        done = Ended("sam", 3, "done", 0.91234, 5.0)
        after = replace(before, ended=(*before.ended, done), metric="accuracy")
        assert self.told(before, after) == ["[3/9] sam, seed 3: accuracy 0.9123, 5.0 s"]
        assert changes.timeless(before) != changes.timeless(after)

    def test_a_run_that_falls_silent_is_told_once(self) -> None:
        before = wide("ema")
        one, two, three = before.running
        after = replace(before, running=(replace(one, silent=61.0), two, three))
        assert self.told(before, after) == [
            "tuning: ema, seed 1234567: no sign of life for 61 s"
        ]  # fmt: skip
        later = replace(before, running=(replace(one, silent=63.0), two, three))
        assert self.told(after, later) == []

    def test_an_evaluation_of_a_long_run(self) -> None:
        before = wide("ema")
        one, two, three = before.running
        seen = replace(one, update=200000, value=0.75, metric="accuracy")
        after = replace(before, running=(seen, two, three))
        said = "tuning: ema, seed 1234567: update 200000/1234567, accuracy 0.75"
        assert self.told(before, after) == [said]
        short = replace(before, running=(replace(one, seconds=5.0), two, three))
        assert (
            self.told(short, replace(short, running=(replace(seen, seconds=7.0), two, three))) == []
        )

    def test_a_verdict_that_changes(self) -> None:
        before = wide("ema")
        [(title, (found,))] = before.verdicts
        after = replace(before, verdicts=((title, (replace(found, verdict="hurts"),)),))
        [line] = self.told(before, after)
        assert line.startswith("so far: ema hurts")
        whole = changes.to_json(after)["verdicts"][0]["comparisons"][0]
        assert whole["sentence"] == line.removeprefix("so far: ")

    def test_a_conductor_that_is_gone(self) -> None:
        before = wide("ema")
        assert before.holder is not None
        gone = replace(before.holder, gone=True, machine="", here=True)
        after = replace(before, state=live.GONE, holder=gone, note="")
        assert self.told(before, after)[1:] == [
            "gone: process 4321 on this machine ended without a word",
            "Continue with: whet study ema --out ema",
        ]


class TestConducting:
    """The view of the process that conducts."""

    def bars(self, store: Store | None, *nodes: Node) -> list[str]:
        text = io.StringIO()
        console = Console(file=text, width=80, height=24, force_terminal=True)
        bars = display.Bars(console, 300, "accuracy", store)
        for node in nodes:
            bars.started(node)
        console.print(bars)
        return CONTROL.sub("", text.getvalue()).splitlines()

    def test_what_a_run_is_at_is_shown(self, tmp_path: Path) -> None:
        node, store = Node("toy", LONG, (), 3), Store(tmp_path)
        store.folder_of(node).mkdir(parents=True)
        beat = pulse.Pulse(node, store.folder_of(node))
        beat._values |= {"phase": pulse.TRAINS, "update": 30, "of": 300, "metric": "accuracy",
                         "value": 0.9123}  # fmt: skip
        pulse._write(beat._path, beat._values)
        overall, head, run = self.bars(store, node)
        assert "0/300" in overall
        assert head.split() == ["running", "seed", "update", "accuracy", "for"]
        assert re.match(r"ema\S+…\S+end +3 +30/300 +0\.9123 +\S+ s$", run)

    def test_80_by_24(self, tmp_path: Path) -> None:
        nodes = [Node("toy", f"{CHINESE}{at}", (), at) for at in range(64)]
        drawn = self.bars(Store(tmp_path), *nodes)
        assert max(map(cell_len, drawn)) <= 80
        assert len(drawn) <= 24
        assert drawn[-1].strip().startswith("and ")

    def test_a_failure_above_the_bars_is_one_line(self) -> None:
        text = io.StringIO()
        console = Console(file=text, width=80, force_terminal=True)
        node = Node("toy", LONG, (), 3)
        bars = display.Bars(console, 3, "accuracy")
        bars.started(node)
        row = {"arm": LONG, "seed": 3, "status": "failed", "reason": "Error: [b]" + "x" * 200}
        bars.ended(node, row)
        [line] = CONTROL.sub("", text.getvalue()).splitlines()
        assert cell_len(line) <= 80
        assert ", seed 3: failed: Error: [b]x" in line

    def test_a_log_line_is_whole_and_has_the_time(self, toy: Evidence) -> None:
        text = io.StringIO()
        console = Console(file=text, width=80)
        node = Node("toy", LONG, (), 3)
        display.Lines(console, 3, "accuracy").ended(
            node, {"arm": LONG, "seed": 3, "status": "failed", "reason": "x" * 200}
        )
        assert re.fullmatch(r"\d\d:\d\d:\d\d \[1/3\] .*, seed 3: failed: x{200} \(about .*\)\n",
                            text.getvalue())  # fmt: skip

    def test_what_was_found_ends_it(self, toy: Evidence) -> None:
        said = [line.plain for line in display.summary(toy.comparisons, "accuracy", 80)]
        assert said[0].startswith("good helps: +2.1 points [1.8, 2.3]")
        assert said[-1] == f"Nothing is shown of {len(toy.comparisons) - len(said) + 1} other arms."
        assert max(map(cell_len, said)) <= 80
