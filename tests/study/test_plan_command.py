"""`whet study --plan`: what a study would do, said before it does it."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.study import fakes
from tests.study.inline import DRAWN
from whet import Study, Task, checkpoint, cli
from whet.errors import InputError
from whet.study import confirm, node, planned, worker
from whet.study.conduct import conduct
from whet.study.evidence import Evidence
from whet.study.executors.choice import Choice
from whet.study.executors.here import Here
from whet.study.plan import BASELINE, Node, Row
from whet.study.planned import Plan
from whet.study.request import Request
from whet.study.store import Store

TEN = ("clip_grad_norm,cutmix,distillation,fast_fgsm,fixmatch,focal,label_smoothing,lookahead,"
       "r_drop,sam")  # fmt: skip
PACES = {"sam": 0.02, "ema": 0.0125, "fgm": 0.03}  # of a part that they act in; else 0.01
BEGIN, JUDGE, SAVE = 1.0, 0.25, 0.125
UPDATES = 300  # of digits


def step(given: tuple[dict[str, Any], ...]) -> float:
    return max([PACES.get(each["name"], 0.01) for each in given], default=0.01)


class Trained:
    """In place of training; remembers what it was asked for."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.bad: dict[str, str] = {}

    def __call__(self, job: Node, folder: Path) -> Row:
        self.nodes.append(job)
        name = job.methods[0]["name"] if job.methods else BASELINE
        if name in self.bad:
            return fakes.result(job, None, 1.0) | {
                "status": self.bad[name], "reason": f"{name} is {self.bad[name]}", "metrics": {}
            }  # fmt: skip
        parts = [[a, b, step(given)] for a, b, given in node._parts(job)]
        gain = 0.02 * (name == "sam") + 0.002 * fakes.noise(job.seed, job.arm)
        return fakes.result(job, 0.9 + 0.02 * fakes.noise(job.seed) + gain, 1.0) | {
            "paces": parts, "seconds_per_update": node.paces.mean(parts, node._share(job)),
            "judging": JUDGE, "beginning": BEGIN, "saving": SAVE,
            "state_bytes": 3_000_000 if "ema" in job.arm else 2_000_000,
        }  # fmt: skip

    @property
    def rehearsed(self) -> list[str]:
        return [job.arm for job in self.nodes if "rehearse" in job.options]

    @property
    def earnest(self) -> list[Node]:
        return [job for job in self.nodes if "rehearse" not in job.options]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    found = Trained()
    monkeypatch.setattr(node, "train", found)
    for module, name in DRAWN:  # seconds that these tests do not need
        monkeypatch.setattr(module, name, lambda *_: "")
    return found


def asked(out: Path, **given: Any) -> Request:
    return Request("digits", code="here", out=out, **given)


def planned_of(out: Path, **given: Any) -> Plan:
    found = conduct(asked(out, plan=True, **given), Console(file=io.StringIO()))
    assert isinstance(found, Plan)
    return found


def studied(out: Path, **given: Any) -> Evidence:
    found = conduct(asked(out, **given), Console(file=io.StringIO()))
    assert isinstance(found, Evidence)
    return found


def whole(pace: float = 0.01, length: float = 1.0, trunk: bool = False, branch: bool = False
          ) -> float:  # fmt: skip
    """Seconds of a node: it begins, trains, is judged and saved six times, and at its end."""
    judged = 6 * length + (0 if trunk else 2)
    return BEGIN + length * UPDATES * pace + judged * JUDGE + (6 * length + 1 + branch) * SAVE


# the command line -----------------------------------------------------------------------------
@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, trained: Trained) -> Callable[..., int]:
    def here(self: Choice, store: Store, train: str, *_: object) -> Here:
        return Here(store, train, 1)

    monkeypatch.setattr(Choice, "open", here)
    monkeypatch.setattr(Choice, "look", lambda self, device: (device, 1))

    def call(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["whet", "study", "digits", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    return call


@pytest.mark.parametrize(
    ("when", "runs", "nodes", "alone", "shared"),
    [("end", 22, 23, 22.0, 6.25), ("whole", 22, 22, 22.0, 22.0),
     ("start,whole,end", 64, 86, 64.0, 43.0)],
)  # fmt: skip
def test_what_ten_methods_cost(
    when: str, runs: int, nodes: int, alone: float, shared: float,
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = node.describe  # one of them begins late, where nobody says that it takes all
    own = {"settings": {"fast_fgsm": {"during": [0.0, 1.0]}}}
    monkeypatch.setattr(node, "describe", lambda *given: real(*given) | own)
    out = ["--out", str(tmp_path / "s"), "--seeds", "1"]
    assert command("--methods", TEN, "--design", "both", "--when", when, "--plan", "--json",
                   *out) == 0  # fmt: skip
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["runs"], found["nodes"]) == (runs, nodes)
    assert (found["unshared_cost"], found["shared_cost"]) == (alone, shared)
    assert found["remaining"]["cost"] == shared
    assert found["left_out"] == {}
    assert "rehearsal" in said.err


def test_json_is_all_there_is_on_stdout(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    trained: Trained, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def loud(job: Node, folder: Path) -> Row:
        sys.stdout.write("the task's own words\n")
        return trained(job, folder)

    monkeypatch.setattr(node, "train", loud)
    out = str(tmp_path / "s")
    assert command("--methods", "sam,ema", "--plan", "--json", "--out", out) == 0
    said = capsys.readouterr()
    assert set(json.loads(said.out)) >= {
        "runs", "nodes", "unshared_cost", "shared_cost", "seconds", "bytes", "remaining", "arms",
        "left_out", "tuning", "confirmation", "budget", "notes", "jobs", "seeds", "updates",
    }  # fmt: skip
    assert "the task's own words" in said.err


def test_people_read_it_within_80_columns(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", "80")
    out = str(tmp_path / "s")
    methods = "sam,ema,focal:label=a_rather_long_label_that_needs_a_second_line_in_any_table"
    assert command("--methods", methods, "--design", "both", "--plan", "--equal-time",
                   "--out", out) == 0  # fmt: skip
    said = capsys.readouterr().out
    table = said[said.index("Handwritten") :]
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in said  # plain in a pipe
    words = " ".join(table.split())
    assert "sam 20.00 2.00×" in words
    assert "ema 12.50 1.25× with baseline" in words
    assert "baseline@x2 10.00 1.00× 2 times as long" in words
    assert "runs 50: 10 arms with 5 seeds, of 300 updates" in words
    assert "left" not in words.split("disk")[1].split("Baseline")[0]  # all of it is


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--plan", "--fast"], "error: --plan and --fast are two commands"),
        (["--plan", "--fast", "--json"], "error: --plan and --fast are two commands"),
        (["--json"], "error: --json is the plan as JSON: give --plan with it."),
    ],
)
def test_what_does_not_go_together(
    words: list[str], said: str, command: Callable[..., int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert command(*words, "--out", str(tmp_path / "s")) == 2
    told = capsys.readouterr()
    assert told.err.startswith(said)
    assert told.out == ""
    assert not (tmp_path / "s").exists()


def test_a_plan_that_is_interrupted_goes_on_as_a_plan() -> None:
    assert Request("digits", plan=True).command == "whet study digits --plan"


# what it takes --------------------------------------------------------------------------------
@pytest.mark.usefixtures("trained")
class TestSeconds:
    def test_each_part_at_its_own_pace(self, tmp_path: Path) -> None:
        found = planned_of(tmp_path, methods="sam,focal", when="end", seeds=2)
        trunk = whole(length=0.75, trunk=True)
        leaves = [whole(pace, 0.25, branch=True) for pace in (0.01, 0.02, 0.01)]
        assert found.seconds == pytest.approx(2 * (trunk + sum(leaves)))
        assert (found.nodes, found.shared_cost, found.unshared_cost) == (8, 3.0, 6.0)
        arms = {each.name: each for each in found.arms}
        assert arms["sam@end"].ratio == pytest.approx(0.75 + 0.25 * 2)
        assert arms["sam@end"].seconds_per_update == pytest.approx(0.0125)

    def test_several_at_a_time_wait_for_their_trunk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Choice, "look", lambda self, device: (device, 4))
        found = planned_of(tmp_path, methods="sam,focal", when="end", seeds=1)
        assert found.jobs == 4
        trunk, last = whole(length=0.75, trunk=True), whole(0.02, 0.25, branch=True)
        assert found.seconds == pytest.approx(trunk + last)

    def test_what_only_looks_on_takes_its_own_time(self, tmp_path: Path) -> None:
        found = planned_of(tmp_path, methods="ema", seeds=3)
        assert (found.runs, found.nodes) == (6, 3)
        assert (found.shared_cost, found.unshared_cost) == (3.0, 6.0)
        assert [each.rides for each in found.arms] == [None, BASELINE]
        beside = UPDATES * 0.0025 + (6 + 2) * JUDGE
        assert found.seconds == pytest.approx(3 * (whole() + beside))

    def test_controls_at_equal_time_are_longer(self, tmp_path: Path) -> None:
        found = planned_of(tmp_path, methods="sam", seeds=1, equal_time=True)
        assert [(each.name, each.times) for each in found.arms] == [
            (BASELINE, 1.0), ("sam", 1.0), ("baseline@x2", 2.0)
        ]  # fmt: skip
        assert (found.shared_cost, found.nodes) == (4.0, 3)
        assert found.seconds == pytest.approx(whole() + 2 * whole(0.02))

    def test_a_stage_that_follows_and_its_longer_control(self, tmp_path: Path) -> None:
        found = planned_of(tmp_path, methods="sam", when="after", seeds=1, equal_time=True)
        assert [each.name for each in found.arms] == [
            BASELINE, "baseline@after", "sam@after", "baseline@after@x2"
        ]  # fmt: skip
        assert found.shared_cost == 1.0 + 0.25 + 0.25 + 0.5
        assert found.unshared_cost == 1.0 + 1.25 + 1.25 + 1.5
        after = (whole(0.01, 0.25, branch=True), *[whole(0.02, 0.25, branch=True)] * 2)
        judged = whole(length=0.0, branch=True)
        assert found.seconds == pytest.approx(whole(trunk=True) + judged + sum(after))

    def test_fractions_of_the_data_train_as_long(self, tmp_path: Path) -> None:
        found = planned_of(tmp_path, methods="focal", data="0.1,1", seeds=2)
        assert (found.runs, found.nodes, found.shared_cost) == (8, 8, 8.0)
        assert found.seconds == pytest.approx(8 * whole())

    def test_a_budget_shows_what_it_would_choose(self, tmp_path: Path) -> None:
        given = {"methods": "sam,focal", "budget": "60s", "seeds": 4}
        found = planned_of(tmp_path, **given)
        assert found.budget is not None
        assert (found.budget["seeds"], found.budget["share"]) == (4, 0.25)
        assert found.budget["arms"] == [each.name for each in found.arms] == [BASELINE, "sam"]
        assert found.updates == 75
        assert found.shared_cost == 4.0 * len(found.arms)  # of trainings that are as short
        assert found.seconds == pytest.approx(found.budget["seconds"])
        assert any(note.startswith("The budget gives") for note in found.notes)
        assert found.left_out == {"focal": "the budget leaves no time for it"}


# what is there already ------------------------------------------------------------------------
class TestRemaining:
    ASKED: dict[str, Any] = {"methods": "sam,focal", "when": "end", "seeds": 2}  # noqa: RUF012

    def test_nothing_is_trained_but_the_probe(self, trained: Trained, tmp_path: Path) -> None:
        found = planned_of(tmp_path, **self.ASKED)
        assert trained.rehearsed == [BASELINE, "sam@end", "focal@end"]
        assert trained.earnest == []
        assert {path.name for path in tmp_path.iterdir()} == {"rehearsal", "study.lock"}
        left = found.remaining
        assert (left.runs, left.nodes, left.cost, left.seconds, left.bytes) == (
            found.runs, found.nodes, found.shared_cost, found.seconds, found.bytes
        )  # fmt: skip

    @pytest.mark.parametrize("more", [{}, {"design": "both"}, {"fast": True}, {"budget": "10h"}])
    def test_a_later_study_measures_nothing_twice(
        self, more: dict[str, Any], trained: Trained, tmp_path: Path
    ) -> None:
        planned_of(tmp_path, **self.ASKED, **{n: v for n, v in more.items() if n != "fast"})
        before = len(trained.rehearsed)
        conduct(asked(tmp_path, **self.ASKED, **more), Console(file=io.StringIO()))
        assert len(trained.rehearsed) == before
        assert more.get("fast") or trained.earnest

    def test_what_is_done_is_not_to_be_done(self, trained: Trained, tmp_path: Path) -> None:
        studied(tmp_path, **self.ASKED)
        before = (tmp_path / "study.json").read_bytes()
        done = planned_of(tmp_path, **self.ASKED)
        assert (done.remaining.runs, done.remaining.nodes, done.remaining.seconds) == (0, 0, 0.0)
        (gone,) = (job for job in trained.earnest if (job.arm, job.seed) == ("sam@end", 1))
        shutil.rmtree(Store(tmp_path).folder_of(gone))
        found = planned_of(tmp_path, **self.ASKED)
        left = found.remaining
        assert (found.runs, found.nodes, found.shared_cost) == (6, 8, 3.0)
        assert (left.runs, left.nodes, left.cost) == (1, 2, 1.0)  # its trunk is gone, too
        expected = whole(length=0.75, trunk=True) + whole(0.02, 0.25, branch=True)
        assert left.seconds == pytest.approx(expected)
        words = planned_text(found)
        assert "left 1 of 6 runs, 1 whole trainings" in words
        assert (tmp_path / "study.json").read_bytes() == before

    def test_more_seeds_are_what_is_left(self, trained: Trained, tmp_path: Path) -> None:
        studied(tmp_path, **self.ASKED)
        found = planned_of(tmp_path, **{**self.ASKED, "seeds": 5})
        assert (found.runs, found.remaining.runs, found.remaining.cost) == (15, 9, 4.5)

    def test_what_rides_on_a_run_that_is_done_walks(self, trained: Trained, tmp_path: Path) -> None:
        studied(tmp_path, methods="sam", seeds=2)
        left = planned_of(tmp_path, methods="sam,ema", seeds=2).remaining
        assert (left.runs, left.nodes, left.cost) == (2, 2, 2.0)
        assert left.seconds == pytest.approx(2 * whole(0.0125))

    def test_fresh_forgets_nothing_yet(self, trained: Trained, tmp_path: Path) -> None:
        studied(tmp_path, **self.ASKED)
        found = planned_of(tmp_path, fresh=True, **self.ASKED)
        assert found.remaining.runs == found.runs == 6
        assert planned_of(tmp_path, **self.ASKED).remaining.runs == 0

    def test_why_arms_are_not_tried(self, trained: Trained, tmp_path: Path) -> None:
        trained.bad = {"focal": "inapplicable", "sam": "diverged", "r_drop": "failed"}
        found = planned_of(tmp_path, methods="focal,sam,r_drop", seeds=1)
        assert found.left_out == {
            "focal": "focal is inapplicable", "r_drop": "r_drop is failed"
        }  # fmt: skip
        arms = {each.name: each for each in found.arms}
        assert set(arms) == {BASELINE, "sam"}  # it may do better in earnest
        assert (arms["sam"].ratio, found.seconds) == (None, pytest.approx(2 * whole()))
        assert "not tried: focal: focal is inapplicable" in planned_text(found)


def planned_text(found: Plan) -> str:
    said = io.StringIO()
    for part in planned.shown(found):
        Console(file=said, width=80).print(part)
    return " ".join(said.getvalue().split())


# before and after the study -------------------------------------------------------------------
class TestBeside:
    def test_the_search_for_a_rate(self, trained: Trained, tmp_path: Path) -> None:
        given: dict[str, Any] = {"methods": "focal", "seeds": 1, "tune_baseline": 5}
        found = planned_of(tmp_path, **given)
        assert found.tuning is not None
        assert (found.tuning.runs, found.tuning.cost, found.remaining.tuning) == (15, 15.0, 15)
        assert found.seconds == pytest.approx((15 + 2) * whole())
        assert any("looked for first" in note for note in found.notes)
        assert trained.earnest == []
        studied(tmp_path, **given)
        after = planned_of(tmp_path, **given)
        assert after.remaining.tuning == 0
        assert after.remaining.seconds == 0.0
        assert any(note.startswith("Baseline tuned") for note in after.notes)

    def test_a_confirmation_is_bounded_until_it_is_known(
        self, trained: Trained, tmp_path: Path
    ) -> None:
        given: dict[str, Any] = {
            "methods": "sam,focal", "seeds": 5, "confirm": 0, "hold_out": 0.0
        }  # fmt: skip
        found = planned_of(tmp_path, **given)
        assert found.confirmation is not None
        assert (found.confirmation.runs, found.confirmation.at_most) == (15, True)
        assert found.seconds == pytest.approx(2 * 5 * (2 * whole() + whole(0.02)))
        studied(tmp_path, **{**given, "confirm": None})
        known = planned_of(tmp_path, **given)
        assert known.confirmation is not None
        assert (known.confirmation.runs, known.confirmation.at_most) == (10, False)  # sam helped
        assert (known.remaining.runs, known.remaining.confirmation) == (0, 10)
        assert not (tmp_path / confirm.FOLDER).exists()
        assert "confirmation 10 runs" in planned_text(known)


# on disk --------------------------------------------------------------------------------------
def wide(seed: int) -> Task:
    """A model whose state outweighs all else."""
    y = torch.arange(90) % 2
    x = torch.randn(90, 40) + y[:, None]
    cut = [(x[a:b], y[a:b]) for a, b in ((0, 30), (30, 60), (60, 90))]
    model = torch.nn.Sequential(torch.nn.Linear(40, 3000), torch.nn.Linear(3000, 2))
    return Task(model, *cut)


wide.about = {"updates": 24, "batch_size": 10, "seeds": 1}  # type: ignore[attr-defined]


def test_bytes_are_those_that_stand_on_disk_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study(wide, methods=["sam", "ema", {"name": "mixup", "during": [0.5, 1.0]}],
                  when="whole", out=tmp_path, console=Console(quiet=True))  # fmt: skip
    found = study.plan()
    assert found.nodes == 4
    seen = [0]
    exchange, finish = checkpoint._exchange, worker.told

    def look() -> None:
        there = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
        seen.append(sum(there))

    def watched(draft: Path, place: Path) -> None:
        look()
        exchange(draft, place)

    def after(row: Row, job: Node) -> Row:
        look()
        return finish(row, job)

    monkeypatch.setattr(checkpoint, "_exchange", watched)
    monkeypatch.setattr(worker, "told", after)
    evidence = study.run()
    look()
    assert {row["status"] for row in evidence.rows} == {"done"}
    state = next(each.state_bytes for each in found.arms if each.name == BASELINE)
    assert state > 1_000_000
    # a trunk, and the two of the run that goes on from it, with the weights of what rides
    assert max(seen) > 3 * state
    assert found.bytes == pytest.approx(max(seen), rel=0.1)


def test_a_plan_in_python_is_frozen_and_plain(trained: Trained, tmp_path: Path) -> None:
    study = Study("digits", methods=["sam"], seeds=1, out=tmp_path, console=Console(quiet=True))
    study.request = asked(tmp_path, methods="sam", seeds=1)  # in this process
    found = study.plan()
    with pytest.raises(AttributeError):
        found.runs = 3  # type: ignore[misc]
    assert json.loads(json.dumps(found.to_json()))["arms"][1]["name"] == "sam"
    with pytest.raises(InputError, match="names the arms that cannot be trained"):
        conduct(asked(tmp_path, plan=True, fast=True), Console(quiet=True))
