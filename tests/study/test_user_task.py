"""A study of a user's file from the command line, trained for real: what reruns, and what not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whet.study import prepare
from whet.study.rehearsal import Rehearsal

TASK = '''"""Which of two clouds."""
import torch
import whet
from network import make

ABOUT = whet.About(updates=8, batch_size=20, optimizer={"name": "sgd", "lr": 0.5}, seeds=3)


def task(seed):
    y = torch.arange(90) % 2
    x = torch.randn(90, 2) + y[:, None]
    cut = [(x[a:b], y[a:b]) for a, b in ((0, 30), (30, 60), (60, 90))]
    return whet.Task(make(), *cut, metrics=["log_loss", spread], classes=("no", "yes"))


def spread(probabilities, targets):
    return float(probabilities.std())
'''
NETWORK = "import torch\n\n\ndef make():\n    return torch.nn.Linear(2, 2)\n"

BROKEN = "Traceback (most recent call last):"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "network.py").write_text(NETWORK)
    (tmp_path / "mine.py").write_text(TASK)
    return tmp_path


def whet(folder: Path, *words: str, expect: int = 0) -> str:
    environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from whet.cli import main; main()", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_users_file_from_first_try_to_evidence(mine: Path) -> None:
    said = whet(mine, "study", "mine.py", "--fast", "--methods", "ema,r_drop,sam")
    assert "r_drop" in said
    assert "inapplicable" in said
    assert not (mine / "whet-studies/mine/study.json").exists()

    asked = ("study", "mine.py", "--methods", "ema,sam", "--jobs", "2")
    said = whet(mine, *asked)
    assert "Which of two clouds: 3 arms, 3 seeds, 0 of 9 runs done" in said
    folder = mine / "whet-studies/mine"
    study = json.loads((folder / "study.json").read_text())
    assert study["task"]["metric"] == "log_loss"
    assert study["task"]["higher_is_better"] is False
    row = json.loads((folder / "results.jsonl").read_text().splitlines()[0])
    assert row["classes"] == ["no", "yes"]
    assert sum(map(sum, row["confusion"])) == 30
    assert set(row["metrics"]["judge"]) == {"log_loss", "spread"}
    assert str(mine) not in (folder / "study.json").read_text()
    assert "9 of 9 runs done" in whet(mine, *asked)

    (mine / "mine.py").write_text(TASK.replace("import whet", "import whet  # a comment", 1))
    assert "9 of 9 runs done" in whet(mine, *asked)
    (mine / "network.py").write_text(NETWORK.replace("2, 2", "2, 2, bias=False"))
    said = whet(mine, *asked)
    assert "0 of 9 runs done" in said
    assert "9 runs of other settings or code" in said

    (mine / "mine.py").write_text("raise SystemExit('this file must not be imported')")
    assert "report:" in whet(mine, "report", str(folder))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_leave_one_out_of_what_applies_within_a_budget(mine: Path) -> None:
    asked = ("study", "mine.py", "--methods", "ema,r_drop,sam,fgm,clip_grad_norm",
             "--design", "leave-one-out", "--budget", "100s", "--seeds", "3")  # fmt: skip
    said = whet(mine, *asked)
    assert "`all` is ema, sam and clip_grad_norm." in said
    assert "not tried: r_drop" in said
    assert "not tried: fgm: the model has no nn.Embedding" in said
    assert "The budget gives 5 arms with 3 seeds and 8 updates each" in said
    assert "all without sam" in said
    folder = mine / "whet-studies/mine"
    verdicts = json.loads((folder / "verdicts.json").read_text())
    assert [each["arm"] for each in verdicts["comparisons"]] == ["all"]
    assert len(verdicts["leaving"]) == 3
    again = whet(mine, *asked)
    assert "15 of 15 runs done" in again  # the same choice, whatever steps take this time


def test_what_cannot_be_trained_at_all_says_so_before_training(mine: Path) -> None:
    (mine / "network.py").write_text(NETWORK.replace("2, 2", "3, 2"))
    said = whet(mine, "study", "mine.py", "--fast", "--methods", "ema", expect=2)
    assert "the task cannot be trained, without any method" in said
    assert "mat1 and mat2 shapes cannot be multiplied" in said


def test_mistakes_in_the_request_cost_nothing(mine: Path) -> None:
    for words, said in (
        (("--when", "middle"), "unknown part of training 'middle'"),
        (("--design", "all"), "unknown design 'all'"),
        (("--budget", "soon"), "--budget soon is no span of time"),
        (("--device", "tpu"), "device is 'tpu'"),
        (("--methods", "emma"), "did you mean 'ema'"),
    ):
        assert said in whet(mine, "study", "mine.py", *words, expect=2)
    assert not (mine / "whet-studies/mine/study.json").exists()


def test_a_rehearsal_tells_what_broke() -> None:
    rows = {
        "baseline": {"status": "done", "seconds_per_update": 0.2, "judging": 1.0, "seconds": 5.0,
                     "updates": 8},
        "bad": {"status": "failed", "reason": f"{BROKEN}\n  x\nKeyError: 'a'"},
        "unfit": {"status": "inapplicable", "reason": "no dropout"},
        "wild": {"status": "diverged", "reason": "NaN"},
    }  # fmt: skip
    rehearsal = Rehearsal(rows)
    assert rehearsal.unfit() == {"bad": "KeyError: 'a'", "unfit": "no dropout"}
    assert rehearsal.mistakes() == ["bad"]
    cost = rehearsal.costs()["baseline"]
    assert (cost.update, cost.judge, round(cost.begin, 6)) == (0.2, 1.0, 1.4)


def test_the_command_says_what_was_asked() -> None:
    request = prepare.Request("mine", Path("x/mine.py"), "ema", 3, "end", "both", "8h")
    assert request.command == (
        "whet study x/mine.py --methods ema --seeds 3 --budget 8h --when end --design both"
    )


def test_a_study_is_no_task_for_torchrun(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "run it without torchrun" in whet(mine, "study", "mine.py", "--fast", expect=2)
