"""The command line: documented, light, and without a traceback for a user's mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from whet import cli
from whet.errors import WhetError
from whet.study.request import Request

ROOT = Path(__file__).parents[2]
COMMANDS = [c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["whet", *words])
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


def readme(heading: str) -> str:
    """The text under a heading, up to the next one of the same or a higher level."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^(#+) {heading}$(.*?)(?=^#{{1,2}} |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no heading {heading!r}"
    return found[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name: str) -> None:
    assert re.search(rf"`whet {name}\b", readme("A task of your own"))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_examples(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, name, "--help") == 0
    assert re.search(rf"Examples\s+whet {name}", capsys.readouterr().out)


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert re.fullmatch(r"whet \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_import_is_light() -> None:
    heavy = ["torch", "numpy", "scipy", "sklearn", "matplotlib", "jinja2", "multiprocessing"]
    code = f"import sys, whet.cli; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "module", ["plan", "arms", "store", "statistics", "report", "figures", "conduct", "schedule"]
)
def test_study_needs_no_torch(module: str) -> None:
    code = f"import sys, whet.study.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.usefixtures("faked")
class TestMistakes:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["study", "toyy"], "unknown task 'toyy'; did you mean 'toy'?"),
            (["study", "toy", "--methods", "gud"], "unknown method 'gud'; did you mean 'good'?"),
            (["study", "toy", "--methods", "good:a=1"], "good has no setting 'a'. It has:"),
            (["study", "toy", "--methods", "good:weight=-1"], "good: weight is -1"),
            (["study", "toy", "--methods", ","], "names no method"),
            (["study", "toy", "--seeds", "0"], "--seeds"),
            (["study", "toy", "--tune-baseline", "4"], "at least 5 rates"),
            (["study", "toy", "--hold-out", "0.7"], "--hold-out is 0.7; it is a share in (0, 0.5]"),
            (["study", "toy", "--data", "2"], "--data 2 is no fraction of the training part"),
            (["study", "toy", "--plan", "--fast"], "Leave out one of them"),
            (["study", "toy", "--json"], "give --plan with it"),
            (["study", "toy", "--design", "pair"], "unknown design 'pair'; did you mean 'pairs'?"),
            (["study", "toy", "--methods", "good:weight=1|"], "a value of weight is empty"),
            (["study", "toy", "--jobs", "many"], "--jobs"),
            (["study", "toy", "--margin", "-0.1"], "margin is -0.1; it is the largest difference"),
            (["compare", "absent.csv"], "absent.csv cannot be read"),
            (["methods", "gud"], "unknown method 'gud'; did you mean 'good'?"),
            (["report", "absent"], "absent holds no study"),
            (["studi"], "No such command 'studi'"),
        ],
    )
    def test_one_message_and_exit_code_2(
        self,
        words: list[str],
        said: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert call(monkeypatch, *words) == 2
        out, error = capsys.readouterr()
        assert said in error
        assert (out, "Traceback" in error) == ("", False)
        assert list(tmp_path.iterdir()) == []

    def test_another_tasks_folder(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert call(monkeypatch, "study", "other", "--out", str(folder)) == 2
        assert "holds a study of 'toy', not of 'other'" in capsys.readouterr().err


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("whet.cli.application.app", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(("error", "code"), [(WhetError("no"), 2), (KeyboardInterrupt(), 130)])
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped() -> None:
        raise error

    monkeypatch.setattr("whet.cli.application.app", stopped)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == code


@pytest.mark.usefixtures("faked")
class TestCatalogue:
    def test_all(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert call(monkeypatch, "methods") == 0
        out = capsys.readouterr().out
        assert re.search(r"^good +Title of good +objective", out, re.MULTILINE)
        assert "Title of <script>" in out

    def test_one_in_full(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(monkeypatch, "methods", "good") == 0
        out = capsys.readouterr().out
        for said in ("A. Author (2020)", "avoid when", "[0, inf)", "A docstring."):
            assert said in out

    def test_json(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(monkeypatch, "methods", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["name"] == "good"
        assert call(monkeypatch, "methods", "bad", "--json") == 0
        assert json.loads(capsys.readouterr().out)["name"] == "bad"

    def test_tasks(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(monkeypatch, "tasks") == 0
        assert re.search(r"toy +The toy task +accuracy +3", capsys.readouterr().out)


def test_the_command_that_continues() -> None:
    assert Request("toy").command == "whet study toy"
    less = Request("toy", methods="a:b=1|2", design="pairs", data="0.1,1")
    assert less.command == "whet study toy --methods 'a:b=1|2' --data 0.1,1 --design pairs"
    full = Request("toy", None, "a:b=[1,2]", 4, out=Path("my out"), jobs=2, threads=3, fresh=True)
    assert full.command == (
        "whet study toy --methods 'a:b=[1,2]' --seeds 4 --out 'my out' --jobs 2 --threads 3"
    )
