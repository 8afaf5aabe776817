"""Batch jobs: what Slurm is told, and studies on processes that stand for its jobs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.study import pretended_slurm
from tests.study.test_resume import PATIENCE, all_end
from whet.errors import InputError, WhetError
from whet.stopping import Terminated, listening
from whet.study import files
from whet.study.executors import batches, job
from whet.study.executors.settings import Settings, read
from whet.study.executors.slurm import Batch
from whet.study.plan import Node, Row
from whet.study.schedule import schedule
from whet.study.simulate import Nobody
from whet.study.store import Store

ROOT = Path(__file__).parents[2]
TRAIN = "tests.study.fakes:train"
QUICK = 'kind = "local"\nconcurrency = 4\nperiod_s = 0.05\npatience_s = 0.5\n'
PERFORM = "import sys; from whet.study.executors.job import perform; perform(sys.argv[1])"
NODE = Node("toy", "good", ({"name": "good"},), 0, {"threads": 1})


class TestSettings:
    def test_the_documented_file(self, tmp_path: Path) -> None:
        text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
        path = tmp_path / "slurm.toml"
        path.write_text(text.split("```toml\n")[1].split("```")[0])
        found = read(path)
        assert (found.kind, found.device, found.setup) == ("slurm", "cuda", ("module load cuda",))
        assert found.model_fields_set == set(Settings.model_fields)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", 'kind is missing: write kind = "slurm"'),
            ('kind = "pbs"', "kind = 'pbs': input should be 'slurm' or 'local'"),
            (
                'kind = "slurm"\npartitoin = "gpu"',
                "there is no setting 'partitoin'. There are:",
            ),
            ('kind = "slurm"\ngpus_per_node = 8', "gpus_per_node = 8: input should be less than"),
            ('kind = "slurm"\ntimeout_min = "1h"', "timeout_min = '1h': input should be a valid"),
            ('kind = "slurm"\nsetup = "module load"', "setup = 'module load': input should be"),
            ("kind = slurm", "is no TOML"),
        ],
    )
    def test_a_mistake_is_named_with_its_field(self, text: str, said: str, tmp_path: Path) -> None:
        path = tmp_path / "slurm.toml"
        path.write_text(text)
        with pytest.raises(InputError) as error:
            read(path)
        assert said in str(error.value)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "absent.toml")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which programs that stand for Slurm's keep what they are told."""
    folder = pretended_slurm.install(tmp_path)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    return tmp_path


class TestSlurm:
    """Programs stand for Slurm's: what they are told is real, what they do is not."""

    def test_what_sbatch_is_told(self, slurm: Path) -> None:
        given: dict[str, Any] = {
            "kind": "slurm", "partition": "gpu", "gpus_per_node": 1, "cpus_per_task": 8,
            "mem_gb": 32, "timeout_min": 90, "account": "us", "setup": ("module load cuda",),
            "container": "image:1", "container_mounts": "/a:/a", "sbatch": {"qos": "high"},
            "python": "/env/bin/python", "concurrency": 3,
        }  # fmt: skip
        queue = batches.opened(slurm / "jobs", Settings(**given), threads=2)
        text = queue._make_submission_file_text("COMMAND", "id")
        for line in (
            "--partition=gpu", "--gpus-per-node=1", "--cpus-per-task=8", "--mem=32768MB",
            "--time=90", "--account=us", "--qos=high", "--no-requeue", "--job-name=whet",
        ):  # fmt: skip
            assert f"#SBATCH {line}\n" in text
        assert "export OMP_NUM_THREADS=2\n" in text
        assert "\nmodule load cuda\n" in text
        assert "--container-image=image:1 --container-mounts=/a:/a COMMAND" in text
        assert queue._submitit_command_str.startswith("/env/bin/python ")
        queue = batches.opened(slurm / "jobs", Settings(kind="slurm", requeue=True), threads=2)
        text = queue._make_submission_file_text("COMMAND", "id")
        assert "#SBATCH --requeue\n" in text
        assert "gpus" not in text
        assert "--cpus-per-task=2\n" in text

    def test_a_study_of_an_array_and_a_preempted_job(self, slurm: Path) -> None:
        settings = Settings(kind="slurm", concurrency=4, period_s=0.1, patience_s=3.0)
        out = Store(slurm / "study")
        arms = ("good", "noise", "fragile", "raises")
        nodes = [Node("toy", arm, ({"name": arm},), 0, {"threads": 1}) for arm in arms]
        schedule(nodes, out, Nobody(), Batch(out, TRAIN, 1, settings))
        assert [row["status"] for row in out.rows(nodes)] == ["done", "done", "done", "failed"]
        assert "--array=0-3%4" in (slurm / "submitted-1.sh").read_text()
        ids = [line.split()[0] for line in (slurm / "ids").read_text().splitlines()]
        assert ids == ["1_0", "1_1", "1_2", "1_3", "5"]
        assert (slurm / "cancelled").read_text().split() == ["1_2"]  # lest Slurm begins it again

    def test_jobs_that_are_not_accepted(self, slurm: Path) -> None:
        (slurm / "bin" / "sbatch").write_text("#!/bin/sh\necho invalid partition >&2\nexit 1\n")
        out = Store(slurm / "study")
        with pytest.raises(WhetError, match=r"(?s)the jobs were not accepted: .*invalid partition"):
            schedule([NODE], out, Nobody(), Batch(out, TRAIN, 1, Settings(kind="slurm")))


def test_no_slurm_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="no `srun` on this machine"):
        batches.opened(tmp_path, Settings(kind="slurm"), 1)


class Study:
    """The toy study as a command, on jobs that are processes."""

    def __init__(self, folder: Path) -> None:
        self.out, self.file = folder / "study", folder / "jobs.toml"
        self.file.write_text(QUICK)
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *words: str, seconds: float = 0.0) -> subprocess.Popen[str]:
        given = [str(self.out), f"executor={self.file}", *words]
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.study.elsewhere", *given], cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env=os.environ | {"FAKE_SECONDS": str(seconds)},
        )  # fmt: skip
        self.processes.append(process)
        return process

    def wait_for(self, finished: int) -> None:
        until = time.monotonic() + PATIENCE
        while len(list(self.out.glob("nodes/*/manifest.json"))) < finished:
            assert time.monotonic() < until
            time.sleep(0.02)

    def attempts(self) -> dict[str, list[str]]:
        paths = self.out.glob("nodes/*/attempts")
        return {
            path.parent.name: [line.split()[0] for line in path.read_text().splitlines()]
            for path in paths
        }

    def statuses(self) -> list[str]:
        lines = (self.out / "results.jsonl").read_text().splitlines()
        return [json.loads(line)["status"] for line in lines]


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Study]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    made = Study(tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_killed_study_finds_its_jobs_again(study: Study) -> None:
    first = study.start("seeds=1", seconds=4.0)
    until = time.monotonic() + PATIENCE
    while len(study.attempts()) < 3:
        assert time.monotonic() < until
        time.sleep(0.02)
    first.kill()
    first.communicate()
    said, error = study.start("seeds=1").communicate(timeout=60)
    assert f"took over from process {first.pid}, which is gone" in said, error
    assert study.statuses() == ["done"] * 3
    assert all(len(pids) == 1 for pids in study.attempts().values())
    assert not list(study.out.glob("nodes/*/batch.json"))


def test_jobs_of_a_killed_study_are_found_by_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "src")]))
    monkeypatch.setenv("FAKE_SECONDS", "1.5")
    settings = Settings(kind="local", period_s=0.05, patience_s=0.5)
    store = Store(tmp_path)
    killed = Batch(store, TRAIN, 1, settings)
    killed.submit(NODE)
    killed.ended()
    (process,) = [each.job._process for each in killed._training]
    schedule([NODE], store, Nobody(), Batch(store, TRAIN, 1, settings))
    process.wait()
    assert store.done(NODE) is not None
    assert len((store.folder_of(NODE) / "attempts").read_text().splitlines()) == 1
    assert len(list((tmp_path / "jobs").glob("*_submitted.pkl"))) == 1


def test_ctrl_c_ends_the_jobs(study: Study) -> None:
    process = study.start("seeds=2", seconds=0.5)
    study.wait_for(1)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert f"--executor {study.file}" in said
    assert all_end({pid for pids in study.attempts().values() for pid in pids})
    assert not list(study.out.glob("nodes/*/job.json"))


def test_a_job_that_vanishes_is_submitted_again(study: Study) -> None:
    study.file.write_text(QUICK + "resubmissions = 1\n")
    said, error = study.start("seeds=1", "methods=fragile,killed").communicate(timeout=60)
    assert study.statuses() == ["done", "done", "failed"], error
    row = json.loads(next(study.out.glob("nodes/killed*/failed.json")).read_text())
    assert row["reason"].startswith("last words\njob ")
    assert row["reason"].endswith("is gone without a result")
    assert sorted(map(len, study.attempts().values())) == [1, 2, 2]
    assert "fragile, seed 0: tried again" in said


def announced(node: Node, folder: Path) -> Row:
    """Trains until Slurm announces the end of the job's time, as a Run does."""
    with listening() as asked:
        os.kill(os.getpid(), signal.SIGUSR2)
        assert asked.to_stop
        (folder / "checkpoint").touch()
        raise Terminated
    return {}


def test_a_job_whose_time_is_over_leaves_a_checkpoint_and_no_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = job.Jobs(store, "tests.study.test_batches:announced", 1).write(NODE)
    code = "import sys; from whet.study.executors.slurm import work; work(sys.argv[1])"
    surroundings = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, env=surroundings,
                          check=False)  # fmt: skip
    assert done.returncode == 143
    assert (store.folder_of(NODE) / "checkpoint").exists()
    assert (store.done(NODE), store.failed(NODE)) == (None, None)


class TestJob:
    """What a machine does with the file that it is told of."""

    def test_trains_and_keeps_the_row(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        path = job.Jobs(store, TRAIN, 1).write(NODE)
        found = subprocess.run(
            [sys.executable, "-c", PERFORM, str(path)],
            cwd=ROOT, capture_output=True, text=True, check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])},
        )  # fmt: skip
        assert found.stdout == ""
        assert store.done(NODE) is not None

    def test_a_folder_that_is_not_shared(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"does not see .* that all machines share"):
            job.perform(str(tmp_path / "absent" / "job.json"))
        assert not list(tmp_path.iterdir())

    def test_other_code_or_versions_train_nothing(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        path = job.Jobs(store, TRAIN, 1).write(NODE)
        told = json.loads(path.read_text())
        told["same"] |= {"torch": "1.0", "whet's code": "edited"}
        path.write_text(json.dumps(told))
        row = json.loads(job.perform(str(path)))
        assert row["status"] == "failed"
        for said in ("torch is 2.", ", not 1.0; ", "whet's code is ", ", not edited. "):
            assert said in row["reason"]
        assert store.failed(NODE) == row

    def test_a_tasks_file_is_part_of_the_code(self, tmp_path: Path) -> None:
        file = tmp_path / "my_task.py"
        file.write_text("def task(seed): ...\n")
        before = job.same(str(file))
        assert job.differences(before, job.same(str(file))) == []
        file.write_text("def task(seed): return 1\n")
        (found,) = job.differences(before, job.same(str(file)))
        assert found.startswith(f"the code of {file} is ")

    def test_two_machines_do_not_train_one_node(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(job, "HELD", 0.3)
        store = Store(tmp_path)
        path = job.Jobs(store, TRAIN, 1).write(NODE)
        with files.locked(store.folder_of(NODE) / job.LOCK, "The run"):
            row = json.loads(job.perform(str(path)))
        assert row["status"] == "failed"
        assert f"is in use by process {os.getpid()}" in row["reason"]
        assert not (store.folder_of(NODE) / "attempts").exists()
