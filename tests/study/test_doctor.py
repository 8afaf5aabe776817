"""`whet doctor`: what is wrong is found, named and told with its remedy."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.study.test_cli import call
from whet import whole
from whet.errors import InputError, WhetError
from whet.study import doctor
from whet.study.executors import batches, probe, ray
from whet.study.executors.choice import Choice, choose
from whet.study.executors.probe import Check
from whet.study.executors.settings import Settings


def wrong(found: list[Check]) -> list[str]:
    return [each.what for each in found if not each.fine]


def test_this_machine(tmp_path: Path) -> None:
    found = {each.what: each for each in doctor.check(tmp_path / "new")}
    assert list(found) == [
        "python", "torch", "whet", "cores", "threads", "disk", "folder", "extras"
    ]  # fmt: skip
    assert all(each.fine for each in found.values())
    assert "text" in found["extras"].found
    assert not list(tmp_path.iterdir()), "nothing stays behind"


def test_what_is_wrong_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM", 1 << 60)
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    (tmp_path / "file").write_text("")
    found = list(doctor.check(tmp_path / "file"))
    assert wrong(found) == ["threads", "disk", "folder"]
    assert all(each.remedy for each in found if not each.fine)


def test_one_batch_job(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text('kind = "local"\nperiod_s = 0.1\n')
    found = list(doctor.check(tmp_path, executor=file, wait=100))
    assert wrong(found) == []
    told = [each.what for each in found if each.where != doctor.HERE]
    assert told == ["shared folder", "versions and code", "cores", "GPUs", "clock"]
    assert [path.name for path in tmp_path.iterdir()] == ["jobs.toml"]


def test_a_job_that_does_not_answer(tmp_path: Path) -> None:
    file = tmp_path / "jobs.toml"
    file.write_text('kind = "local"\nperiod_s = 0.1\npython = "false"\n')
    found = list(doctor.check(tmp_path, executor=file, wait=100))
    assert wrong(found) == ["answer"]
    assert "is ended" in found[-1].found


@pytest.mark.parametrize(
    ("change", "cuda", "what", "said"),
    [
        ({"token": "another"}, False, "shared folder", "not shared: our file is not seen there"),
        ({"same": {"python": "2.7"}}, False, "versions and code", "python is 2.7, not 3."),
        ({"gpus": []}, True, "GPUs", "none"),
        ({"time": 10.0}, False, "clock", "990.0 s apart"),
        ({"time": 1e12}, False, "clock", "s apart"),
    ],
)
def test_what_is_wrong_elsewhere(
    change: dict[str, object], cuda: bool, what: str, said: str, tmp_path: Path
) -> None:
    with probe.asked(tmp_path) as question:
        fine = json.loads(probe.answer(str(question))) | {"time": 1000.0, "gpus": ["A"]}
        text = json.dumps(fine | change)
        (answer,) = question.parent.glob("answer-*")
        answer.write_text(text)
        found = list(probe.judged(text, question, sent=1000.0, cuda=cuda))
    assert wrong(found) == [what]
    assert said in next(each.found for each in found if each.what == what)


def test_a_machine_that_does_not_see_the_folder(tmp_path: Path) -> None:
    with probe.asked(tmp_path) as question:
        text = probe.answer(str(tmp_path / "elsewhere" / "question.json"))
        found = list(probe.judged(text, question, 0.0, cuda=False))
    assert wrong(found) == ["shared folder"]
    assert found[0].found == "not shared: our file is not seen there, its file is not seen here"


def test_an_answer_that_is_still_being_written_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it is in the draft, for as long as the disk takes to be sure of it."""
    seen: list[str | None] = []
    write = whole.write_synced

    def slow(path: Path, data: bytes) -> None:
        write(path, data)
        seen.append(probe.first_answer(question))
        assert any(path.name == name.name for name in question.parent.iterdir())

    with probe.asked(tmp_path) as question:
        monkeypatch.setattr(whole, "write_synced", slow)
        text = probe.answer(str(question))
        assert seen == [None]
        assert probe.first_answer(question) == text
        assert wrong(list(probe.judged(text, question, time.time(), cuda=False))) == []


def test_exit_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "doctor") == 0
    assert "wrong" not in capsys.readouterr().out
    monkeypatch.setattr(doctor, "ROOM", 1 << 60)
    assert call(monkeypatch, "doctor") == 1
    assert "make room" in capsys.readouterr().out
    assert call(monkeypatch, "doctor", "--executor", "absent.toml") == 2
    assert "absent.toml cannot be read" in capsys.readouterr().err
    assert call(monkeypatch, "study", "digits", "--ray", "--executor", "absent.toml") == 2
    assert "give one of them" in capsys.readouterr().err


class TestChoice:
    def test_two_places_are_refused(self) -> None:
        with pytest.raises(InputError, match="give one of them"):
            choose("local", Path("jobs.toml"))

    def test_a_function_cannot_be_sent(self) -> None:
        with pytest.raises(InputError, match="only this process knows"):
            choose("local", None, alone=True)

    def test_the_file_decides_the_device(self, tmp_path: Path) -> None:
        file = tmp_path / "jobs.toml"
        file.write_text('kind = "local"\ngpus_per_node = 1\nconcurrency = 7\n')
        assert choose(None, file).look("cpu") == ("cuda", 7)
        assert choose(None, file, jobs=2).look("cpu") == ("cuda", 2)
        with pytest.raises(InputError, match="set its gpus_per_node to 1 for cuda and to 0"):
            choose(None, file, device="cpu")

    def test_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("whet.study.executors.choice.cores", lambda: 8)
        assert Choice(threads=3).look("cpu") == ("cpu", 2)
        assert Choice(ray="local", threads=3).look("cpu") == ("cpu", 2)
        assert Choice().look("cuda") == ("cuda", 1)
        assert Choice(jobs=5).look("cuda") == ("cuda", 5)
        assert Choice(alone=True).look("cpu") == ("cpu", 1)


@pytest.mark.parametrize(
    ("name", "extra", "begin"),
    [("ray", "ray", lambda folder: ray.connect("local")),
     ("submitit", "slurm", lambda folder: batches.opened(folder, Settings(kind="local"), 1))],
)  # fmt: skip
def test_an_extra_that_is_not_installed(
    name: str, extra: str, begin: Callable[[Path], object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(WhetError, match=rf"pip install 'whet\[{extra}\]'"):
        begin(tmp_path)
