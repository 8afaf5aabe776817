"""The three commands: what they print and leave with, and the page that shows them."""

from __future__ import annotations

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import pytest

from tests.fit import tiny
from whet import cli
from whet.fit import conduct
from whet.stopping import Terminated
from whet.study.executors.choice import Choice
from whet.study.executors.here import Here
from whet.study.store import Store

PAGE = Path(__file__).parents[2] / "docs" / "fitting.md"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny.write(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whet", *shlex.split(line)])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would be trained in workers is trained in this process."""

    def opened(self: Choice, store: Store, train: str, *_: object) -> Here:
        return Here(store, train, self.threads)

    monkeypatch.setattr(Choice, "open", opened)


def test_from_a_task_to_predictions(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit rows.py --methods ema --seed 2") == 0
    out = capsys.readouterr().out
    model = "whet-models/rows"
    assert re.search(r"metric +select +judge\naccuracy +[\d.]+ +[\d.]+\nlog_loss", out)
    assert out.endswith(f"model: {model}/model.safetensors\n")
    told = json.loads(Path(model, "fit.json").read_text())["metrics"]
    assert call(monkeypatch, f"evaluate {model} rows.py") == 0
    assert f"{told['judge']['accuracy']:.4f}" in capsys.readouterr().out
    assert call(monkeypatch, f"evaluate {model} rows.py --part select --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seed"], found["metrics"], found["notes"]) == (2, told["select"], [])
    assert call(monkeypatch, f"predict {model} --task rows.py") == 0
    assert capsys.readouterr().out == "predictions: predictions.csv\n"
    assert call(monkeypatch, f"predict {model} --task rows.py --out -") == 0
    assert capsys.readouterr().out == Path("predictions.csv").read_text()
    assert call(monkeypatch, f"evaluate {model} rows.py --seed 3") == 0
    assert "note: the model was fitted with seed 2" in capsys.readouterr().err


def test_what_is_looked_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit rows.py --overfit 2 --updates 2") == 1
    out, error = capsys.readouterr()
    assert (out, error.count("overfit: the loss")) == ("", 1)
    assert call(monkeypatch, "fit rows.py --anomaly") == 0
    assert "no NaN in 12 updates" in capsys.readouterr().out
    assert call(monkeypatch, "fit rows.py --profile 2 --out p") == 0
    assert re.search(r"operation +calls +own time, ms\n", capsys.readouterr().out)
    assert {path.name for path in place.iterdir()} == {"rows.py", "p"}


@pytest.mark.parametrize(
    "line",
    ["fit rows.py --methods emma", "fit absent.py", "fit rows.py --updates 0",
     "fit rows.py --seed -1", "evaluate absent rows.py", "predict absent --task rows.py",
     "fit rows.py --recipe rows.py"],
)  # fmt: skip
def test_a_mistake_is_one_message_and_exit_code_2(
    line: str, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, line) == 2
    out, error = capsys.readouterr()
    assert (out, "Traceback" in error) == ("", False)
    assert [path.name for path in place.iterdir()] == ["rows.py"]


@pytest.mark.parametrize(
    ("stopped", "code"),
    [(KeyboardInterrupt("Stopped after update 5."), 130), (Terminated("SIGTERM stopped it."), 143)],
)
def test_who_stops_it_is_told_how_to_go_on(
    stopped: BaseException, code: int, place: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def stop(request: object) -> None:
        raise stopped

    monkeypatch.setattr(conduct, "fit", stop)
    assert call(monkeypatch, "fit rows.py --methods ema --log tensorboard --seed 1") == code
    error = capsys.readouterr().err
    assert error.startswith(str(stopped))
    command = "whet fit rows.py --seed 1 --methods ema --log tensorboard"
    assert f"Continue with: {command}\n" in error


def test_ctrl_c_in_earnest(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whet.logs import choice

    monkeypatch.setitem(choice.NAMES, "mlflow", lambda: tiny.Watch(4, signal.SIGINT))
    assert call(monkeypatch, "fit rows.py --log mlflow") == 130
    assert "Stopped after update 4." in capsys.readouterr().err
    assert call(monkeypatch, "fit rows.py") == 0


@pytest.mark.usefixtures("here")
def test_the_pages_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of the page in its order, in one folder, with the files that it shows."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text("utf-8")
    whole = re.MULTILINE | re.DOTALL
    for name, body in re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```", text, whole):
        Path(name).write_text(body, "utf-8")
    (rows,) = re.findall(r"`new.csv`.*?^```text\n(.*?)^```", text, whole)
    Path("new.csv").write_text(rows, "utf-8")
    (sample,) = re.findall(r"`sample.csv`.*?^```text\n(.*?)^```", text, whole)
    Path("sample.csv").write_text(sample, "utf-8")
    for block in re.findall(r"^```sh\n(.*?)^```", text, whole):
        for line in block.splitlines():
            command, _, said = line.partition("#")
            assert call(monkeypatch, command.removeprefix("whet ")) == 0, (
                line,
                capsys.readouterr(),
            )
            assert said
    assert Path("predictions.csv").read_text().startswith("row,p_no,p_yes,label\n0,")
