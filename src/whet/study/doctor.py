"""`whet doctor`: is everything there that a study needs, here and where it trains?"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whet import whole
from whet.errors import WhetError
from whet.study import files
from whet.study.executors import batches, probe
from whet.study.executors.batches import ENDED, Queue
from whet.study.executors.choice import choose
from whet.study.executors.executor import cores
from whet.study.executors.job import CODE, same
from whet.study.executors.probe import Check
from whet.study.executors.settings import Settings

SILENT = (
    "see that the folder is shared, that whet is installed where the job runs, and that the queue "
    "is not full"
)
HERE = "this machine"
ROOM = 1 << 30  # bytes free, for checkpoints
TOOLS = {"dev", "docs"}


def check(
    folder: Path, ray: str | None = None, executor: Path | None = None, wait: float = 600.0
) -> Iterator[Check]:
    """Look at this machine, and at those where a study would train.

    Args:
        folder: where studies go.
        ray: a cluster's address.
        executor: an executor file.
        wait: seconds until a machine must have answered.

    Raises:
        InputError: there is no such cluster, or the file is wrong.
    """
    where = choose(ray, executor)
    yield from _here(folder)
    if where.settings is not None:
        yield from _batch(folder, where.settings, wait)
    elif ray is not None:
        yield from _ray(folder, ray, wait)


def _here(folder: Path) -> Iterator[Check]:
    import torch

    yield Check(HERE, "python", platform.python_version())
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Check(HERE, "torch", f"{torch.__version__}, {gpus or 'no'} GPU{'s' * (gpus != 1)}")
    ours = same()
    yield Check(HERE, "whet", f"{ours['whet']}, code {ours[CODE]}")
    yield from _threads(os.environ.get("OMP_NUM_THREADS", ""))
    yield _disk(folder)
    yield _folder(folder)
    have, lack = _extras()
    yield Check(HERE, "extras", f"{', '.join(have) or 'none'}; not installed: {', '.join(lack)}")


def _threads(given: str) -> Iterator[Check]:
    yield Check(HERE, "cores", str(cores()))
    many = given.isdigit() and int(given) > cores()
    yield Check(HERE, "threads", f"OMP_NUM_THREADS={given}" if given else "1 a run, or --threads",
                "it is more than there are cores: unset it" if many else "")  # fmt: skip


def _disk(folder: Path) -> Check:
    there = next(each for each in [folder.resolve(), *folder.resolve().parents] if each.exists())
    free = shutil.disk_usage(there).free
    return Check(HERE, "disk", f"{free / 1e9:.1f} GB free for {folder}",
                 "make room, or choose another --out" if free < ROOM else "")  # fmt: skip


def _folder(folder: Path) -> Check:
    """Files are renamed into place and locked; not every file system can."""
    try:
        with probe.asked(folder) as path, files.locked(path.with_name("lock"), "The check"):
            whole.replace(path, path.read_bytes())
    except (WhetError, OSError) as error:
        return Check(HERE, "folder", str(error), "choose another folder with --out")
    return Check(HERE, "folder", "written and locked")


def _extras() -> tuple[list[str], list[str]]:
    """The optional parts of whet: those whose packages are there, and the others."""
    needs: dict[str, list[str]] = {}
    for line in importlib.metadata.requires("whet") or []:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if found and found[2] not in TOOLS:
            needs.setdefault(found[2], []).append(found[1])
    have = [extra for extra, names in needs.items() if all(map(_installed, names))]
    return have, [extra for extra in needs if extra not in have]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _ray(folder: Path, address: str, wait: float) -> Iterator[Check]:
    """Ask every machine of a cluster."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    from whet.study.executors.ray import connect

    ray = connect(address)
    try:
        with probe.asked(folder) as path:
            sent, tasks = time.time(), {}
            for machine in filter(lambda each: each["Alive"], ray.nodes()):
                cuda = machine["Resources"].get("GPU", 0) >= 1
                task = ray.remote(num_cpus=1, num_gpus=int(cuda), max_retries=0)(probe.answer)
                on = task.options(scheduling_strategy=On(machine["NodeID"], soft=False))
                tasks[on.remote(str(path))] = (machine, cuda)
            yield Check("the cluster", "machines", str(len(tasks)))
            for task, (machine, cuda) in tasks.items():
                yield from _told(ray, task, machine, path, sent, cuda, wait)
    finally:
        ray.shutdown()


def _told(
    ray: Any, task: Any, machine: Any, path: Path, sent: float, cuda: bool, wait: float
) -> Iterator[Check]:
    try:
        text = ray.get(task, timeout=max(0.0, sent + wait - time.time()))
    except ray.exceptions.RayError as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        yield Check(machine["NodeManagerHostname"], "answer", first,
                    "see that whet is installed there, and that a CPU is free")  # fmt: skip
        return
    yield from probe.judged(text, path, sent, cuda)


def _batch(folder: Path, settings: Settings, wait: float) -> Iterator[Check]:
    """Send one job."""
    with probe.asked(folder) as path:
        sent = time.time()
        queue = batches.opened(path.parent / "jobs", settings, 1)
        try:
            job = queue.submit(probe.answer, str(path))
        except Exception as error:  # submitit's own, or that of `sbatch`
            yield Check("the queue", "submitting", str(error), "mend the executor file")
            return
        jobs = batches.Queue()
        text = _waited(path, job, jobs, settings.period_s, sent + wait)
        if text is not None:
            yield from probe.judged(text, path, sent, settings.device == "cuda")
        else:
            found = f"{batches.printed(job)}none, job {job.job_id} is {jobs.state(job)}"
            yield Check("the job", "answer", found, SILENT)
        batches.cancel(job)
        batches.leave(job)


def _waited(path: Path, job: Any, jobs: Queue, period: float, until: float) -> str | None:
    """The job's answer; None if it ends, or the time does, without one."""
    over = False
    while time.time() < until:
        time.sleep(min(period, 10.0))
        text = probe.first_answer(path)
        if text is not None or over:
            return text
        jobs.ask()
        over = jobs.state(job) == ENDED
    return None
