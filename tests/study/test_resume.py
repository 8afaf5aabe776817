"""Ctrl-C, kill -9, changed settings, two processes: the same command always continues."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.study.conftest import TRAIN
from whet.study import curves, figures
from whet.study.conduct import conduct
from whet.study.request import Request

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.study.fakes")
PATIENCE = 30.0


def _as_in_a_terminal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background may ignore it


class Study:
    """The command line on a folder, with fakes for the training."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *words: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        arguments = [*COMMAND, "study", "toy", "--out", str(self.out), "--jobs", "2", *words]
        process = subprocess.Popen(
            arguments, cwd=ROOT, text=True, start_new_session=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=os.environ | {"FAKE_SECONDS": str(seconds)},
            preexec_fn=_as_in_a_terminal,  # noqa: PLW1509 - one signal, and no threads here
        )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, methods: str = "good,noise", seeds: int = 3, fresh: bool = False) -> str:
        """The same in this process, where no signal is sent."""
        console = Console(file=io.StringIO(), width=200)
        request = Request("toy", None, methods, seeds, out=self.out, jobs=1, fresh=fresh)
        self.evidence = conduct(request, console, TRAIN)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def manifests(self) -> list[Path]:
        return sorted(self.out.glob("nodes/*/manifest.json"))

    def wait_for(self, finished: int) -> None:
        until = time.monotonic() + PATIENCE
        while len(self.manifests()) < finished:
            assert time.monotonic() < until
            time.sleep(0.01)

    def attempts(self) -> dict[str, list[str]]:
        """For each node the processes that trained it."""
        paths = self.out.glob("nodes/*/attempts")
        return {
            path.parent.name: [line.split()[0] for line in path.read_text().splitlines()]
            for path in paths
        }

    def results(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in (self.out / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    for module, figure in ((figures, "forest"), (curves, "_panel")):
        monkeypatch.setattr(module, figure, lambda *_: "")
    made = Study(tmp_path / "study")
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def all_end(pids: set[str]) -> bool:
    until = time.monotonic() + PATIENCE
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(map(alive, pids))


@pytest.mark.usefixtures("faked")
def test_ctrl_c_leaves_everything_whole_and_names_the_command(study: Study) -> None:
    process = study.start(seconds=0.2)
    study.wait_for(2)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: all processes get it
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (130, "")
    assert f"Continue with: whet study toy --out {study.out} --jobs 2\n" in out
    kept = study.manifests()
    assert len(study.results()) == len(kept) >= 2
    workers = {pid for pids in study.attempts().values() for pid in pids}
    assert all_end(workers)
    said = study.run()
    assert f"{len(kept)} of 9 runs done" in said
    assert "note:" not in said
    assert len(study.results()) == 9
    assert all(len(study.attempts()[path.parent.name]) == 1 for path in kept)


@pytest.mark.usefixtures("faked")
def test_kill_9_loses_nothing_that_was_done(study: Study) -> None:
    process = study.start(seconds=0.2)
    study.wait_for(2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert all_end({pid for pids in study.attempts().values() for pid in pids})
    kept = study.manifests()
    with (study.out / "results.jsonl").open("a") as file:
        file.write('{"arm": "goo')
    said = study.run()
    assert f"took over from process {process.pid}, which is gone" in said
    assert "cut a torn line from results.jsonl" in said
    assert len(study.results()) == 9
    assert all(len(study.attempts()[path.parent.name]) == 1 for path in kept)


@pytest.mark.usefixtures("faked")
def test_only_what_changed_is_trained(study: Study) -> None:
    assert "0 of 9 runs done" in study.run()
    before = study.attempts()
    assert "9 of 9 runs done" in study.run()
    assert study.attempts() == before
    said = study.run("good:weight=0.5,noise")
    assert "6 of 9 runs done" in said
    assert "3 runs of other settings or code: kept, unused" in said
    assert {row["arm"] for row in study.results()} == {"baseline", "good:weight=0.5", "noise"}
    assert "9 of 12 runs done" in study.run(seeds=4)
    assert all(study.attempts()[name] == pids for name, pids in before.items())
    assert "0 of 2 runs done" in study.run("good", seeds=1, fresh=True)
    assert set(map(len, study.attempts().values())) == {1}
    assert len(study.attempts()) == 2


@pytest.mark.usefixtures("faked")
def test_failed_runs_are_tried_again(study: Study) -> None:
    for tries in (1, 2):
        study.run("raises", seeds=1)
        assert sorted(len(pids) for pids in study.attempts().values()) == [1, tries]
        assert [row["status"] for row in study.results()] == ["done", "failed"]


def test_failed_runs_are_told(study: Study) -> None:
    process = study.start("--methods", "raises", "--seeds", "1")
    out, error = process.communicate(timeout=PATIENCE)
    assert (process.returncode, error) == (1, "")
    assert "1 run(s) failed" in out
    assert out.endswith(f"report: {study.out / 'report.html'}\n")


def test_a_second_process_is_refused_and_can_report(study: Study) -> None:
    first = study.start(seconds=3.0)
    study.wait_for(1)
    second = study.start()
    _, error = second.communicate(timeout=PATIENCE)
    assert second.returncode == 2
    assert f"is in use by process {first.pid}." in error
    report = subprocess.run(
        [*COMMAND, "report", str(study.out)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert report.stdout == f"report: {study.out / 'report.html'}\n"
    assert re.match(r"not complete: [0-8] of 9 runs done.*; conducted by process", report.stderr)
    assert "Not complete" in (study.out / "report.html").read_text()
