"""A study that one process conducts, seen from another: while it runs, killed, stopped, ended."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.study.test_resume import COMMAND, PATIENCE, ROOT, Study, _as_in_a_terminal, all_end
from whet.cli import main
from whet.study import files, live, pulse
from whet.study.evidence import Evidence
from whet.study.live import Watcher, look
from whet.study.plan import Node
from whet.study.store import Store
from whet.study.view import View

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f\x9b]")


def watch(*words: str, **given: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "watch", *words], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env=os.environ | {"COLUMNS": "80"}, **given,
    )  # fmt: skip


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What is still to be read, after lines were: `communicate` would lose what is read ahead."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process:  # closes both
        said = process.stdout.read(), process.stderr.read()
        process.wait(PATIENCE)
    return said


def until(found: Callable[[], bool]) -> None:
    late = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < late
        time.sleep(0.02)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    made = Study(tmp_path / "study")
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_lines_tell_what_changed_and_nothing_else(study: Study) -> None:
    conductor = study.start("--methods", "good,noise,raises", "--seeds", "2", seconds=0.3)
    until((study.out / "study.json").exists)
    os.killpg(conductor.pid, signal.SIGSTOP)  # until those who look on are there
    seen = look(study.out)
    quick = ("--every", "0.1")
    lines, objects = watch(str(study.out), *quick), watch(str(study.out), *quick, "--json")
    assert lines.stdout is not None
    assert objects.stdout is not None
    out, told = lines.stdout.readline(), objects.stdout.readline()
    os.killpg(conductor.pid, signal.SIGCONT)
    assert conductor.wait(PATIENCE) == 1
    (more, error), (others, _) = rest(lines), rest(objects)
    out, told = out + more, told + others
    assert (lines.returncode, objects.returncode, error) == (1, 1, "")  # a run failed
    every = [line[9:] for line in out.splitlines()]
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in out.splitlines())
    assert len(every) == len(set(every))  # nothing is said twice
    assert not CONTROL.search(out)
    assert every[0] == "The toy task"
    assert every[2] == f"conducted by process {conductor.pid} on this machine"
    ended = [line for line in every if line.startswith("[")]
    assert 0 < len(ended) <= 8
    assert any(
        "raises, seed 0: failed: RuntimeError: something <broke>" in line for line in every
    ), out
    assert "finished" in every
    assert "6 of 8 runs done, 2 failed" in every
    assert "Try the failed runs again with: whet study toy --methods good,noise,raises" in out
    assert seen.state == live.RUNNING
    views = [json.loads(line) for line in told.splitlines()]
    assert (views[-1]["state"], views[-1]["done"], views[-1]["failed"]) == ("finished", 6, 2)
    assert any(view["running"] for view in views)
    keys = ("state", "running", "done", "failed", "holder")
    assert all(_timeless(a, keys) != _timeless(b, keys)
               for a, b in itertools.pairwise(views))  # fmt: skip


def _timeless(view: dict[str, Any], keys: tuple[str, ...]) -> str:
    text = json.dumps({key: view[key] for key in keys})
    return re.sub(r'"(seconds|silent)": [\d.e-]+', "", text)


def test_a_killed_conductor_is_gone_and_its_runs_go_on_later(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    conductor = study.start(seconds=20)
    until(lambda: len([*study.out.glob("nodes/*/now.json")]) == 2)
    before = look(study.out)
    assert (before.state, len(before.running), before.done, before.of) == ("running", 2, 0, 9)
    assert before.holder is not None
    assert (before.holder.process, before.holder.here) == (conductor.pid, True)
    assert {now.phase for now in before.running} == {pulse.PREPARES}
    workers = {pid for pids in study.attempts().values() for pid in pids}
    os.kill(conductor.pid, signal.SIGKILL)
    conductor.wait()
    assert all_end(workers)
    later = Watcher(study.out, lambda: time.time() + 7)  # seven seconds without a sign of life
    after = later.look()
    assert (after.state, after.running, after.interrupted) == (live.GONE, (), 2)
    assert after.left is None
    monkeypatch.setattr(live.time, "time", lambda: 0.0)
    elsewhere = (study.out / "study.lock").read_text().split()[0] + " another-machine"
    (study.out / "study.lock").write_text(elsewhere)
    assert later.look().state == live.RUNNING  # its process is not to be asked for here
    assert Watcher(study.out, lambda: time.time() + 1e10).look().state == live.SILENT


def test_looking_leaves_the_lock_alone(study: Study) -> None:
    study.out.mkdir()
    (study.out / "study.lock").touch()
    with Store(study.out).locked():
        held = (study.out / "study.lock").read_text()
        before = _stamps(study.out)
        seen = look(study.out)
        assert (seen.state, seen.holder and seen.holder.process) == ("preparing", os.getpid())
        assert _stamps(study.out) == before
        assert (study.out / "study.lock").read_text() == held
    assert look(study.out).holder is None


def _stamps(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_ino for path in folder.rglob("*")}


def test_whoever_holds_a_study_touches_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    os.utime(path, (0, 0))
    with pulse.beating(path, 0.01):
        until(lambda: path.stat().st_mtime > 0)
    os.utime(path, (0, 0))
    time.sleep(0.05)
    assert path.stat().st_mtime == 0


class TestFinished:
    """The toy study, with all that can go wrong in it."""

    def test_view(self, toy: Evidence, folder: Path) -> None:
        seen = look(folder)
        assert (seen.state, seen.of, len(seen.ended)) == (live.FINISHED, 60, 60)
        assert seen.running == ()
        assert seen.holder is None
        assert {each.status for each in seen.troubles} == {"failed", "diverged"}
        (title, found), *_ = seen.verdicts
        assert title == "against the baseline"
        assert found[0].arm == "good"
        wanted = {each.arm: each for each in toy.comparisons}
        assert all(wanted[each.arm] == each for each in found)

    def test_once(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["whet", "watch", str(folder), "--once"])
        with pytest.raises(SystemExit, match="1"):  # runs failed
            main()
        out, error = capsys.readouterr()
        assert error == ""
        assert not CONTROL.search(out)
        assert max(map(len, out.splitlines())) <= 80
        assert "provisional" in out  # those that failed are missing

    def test_on_a_folder_that_may_only_be_read(self, folder: Path) -> None:
        places = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
        modes = {path: path.stat().st_mode for path in places}
        before = _stamps(folder)
        try:
            for path in places:
                path.chmod(0o555)
            assert look(folder).state == live.FINISHED
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        assert _stamps(folder) == before

    def test_half_written_files_count_as_not_there(self, folder: Path, tmp_path: Path) -> None:
        watcher = Watcher(_copied(folder, tmp_path / "torn"))
        whole = watcher.look()
        paths = sorted(tmp_path.rglob("*.json"))
        for path in paths:
            text = path.read_bytes()
            for cut in (0, 1, len(text) // 2, len(text) - 1):
                path.write_bytes(text[:cut])
                assert isinstance(watcher.look(), View)
            path.write_bytes(text)
        fresh = look(tmp_path / "torn")
        assert (fresh.ended, fresh.verdicts) == (whole.ended, whole.verdicts)

    def test_a_damaged_plan_is_said(self, folder: Path, tmp_path: Path) -> None:
        torn = _copied(folder, tmp_path / "torn")
        (torn / "study.json").write_text('{"task"')
        seen = look(torn)
        assert seen.state == live.UNREADABLE
        assert "study.json is damaged" in seen.note


def _copied(folder: Path, to: Path) -> Path:
    """Three runs of a study: a finished, a failed and one in progress."""
    study = files.read_json(folder / "study.json")
    assert study is not None
    nodes = [Node.from_json(values) for values in study["nodes"]]
    done = next(node for node in nodes if node.arm == "good")
    failed = next(node for node in nodes if node.arm == "raises")
    now = next(node for node in nodes if node.arm == "noise")
    study["nodes"] = [node.to_json() for node in (done, failed, now)]
    store = Store(to)
    files.write(to / "study.json", files.to_json(study))
    for node, name in ((done, "row.json"), (done, "manifest.json"), (failed, "failed.json")):
        text = (folder / "nodes" / node.folder / name).read_text()
        files.write(store.folder_of(node) / name, text)
    store.folder_of(now).mkdir()
    pulse.begin(now, store.folder_of(now))
    return to


class TestNoStudyYet:
    @pytest.mark.parametrize(("name", "said"), [("", "holds no study yet"), ("no", "is no folder")])
    def test_how_to_begin(
        self, name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        place = tmp_path / name
        monkeypatch.setattr(sys, "argv", ["whet", "watch", str(place), "--once"])
        with pytest.raises(SystemExit, match="2"):
            main()
        out, error = capsys.readouterr()
        assert out == ""
        assert f"{place} {said}. Begin with: whet study TASK --out {place}" in error
        assert [*tmp_path.iterdir()] == []

    def test_a_rehearsal_only(self, folder: Path, tmp_path: Path) -> None:
        one = _copied(folder, tmp_path / "one")
        (one / "nodes").rename(tmp_path / "rehearsal_nodes")
        (one / "study.json").unlink()
        (one / "rehearsal").mkdir()
        (tmp_path / "rehearsal_nodes").rename(one / "rehearsal" / "nodes")
        seen = look(one)
        assert (seen.state, seen.of, seen.failed) == (live.REHEARSED, 2, 1)


def test_ctrl_c_leaves_cleanly(folder: Path, tmp_path: Path) -> None:
    process = watch(str(_copied(folder, tmp_path / "stopped")), preexec_fn=_as_in_a_terminal)
    assert process.stdout is not None
    assert "The toy task" in process.stdout.readline()
    assert "1 of 3 runs done" in process.stdout.readline()
    assert "stopped" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, error = rest(process)
    assert (process.returncode, error) == (0, "")
    assert "Traceback" not in out


def test_a_report_says_what_is_missing(folder: Path, tmp_path: Path) -> None:
    stopped = _copied(folder, tmp_path / "stopped")
    done = subprocess.run([*COMMAND, "report", str(stopped)], cwd=ROOT, capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert done.stdout == f"report: {stopped / 'report.html'}\n"
    first, second = done.stderr.splitlines()
    said = "not complete: 1 of 3 runs done, 1 failed(, 1 interrupted)?; stopped"
    assert re.fullmatch(said, first)  # whether the run that is cut off is silent by now
    assert second.startswith("Continue with: whet study toy --methods 'good,")
