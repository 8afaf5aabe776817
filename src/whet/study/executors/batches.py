"""Batch jobs by submitit: on Slurm, or as processes of this machine that stand for it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from whet.errors import InputError, WhetError
from whet.study.executors.processes import PATIENCE, THREADS
from whet.study.executors.settings import Settings
from whet.study.worker import TAIL

SQUEUE = ("squeue", "--me", "--noheader", "--array", "--format=%i %T")
ENDED = "ended"


class Queue:
    """What is known of jobs: asked of Slurm for all at once, of processes one by one.

    `squeue` lists what is queued or runs, on every cluster; accounting is not needed.
    """

    def __init__(self) -> None:
        self.asked = float("-inf")
        self._listed: dict[str, str] | None = None

    def ask(self) -> None:
        """Ask anew."""
        began = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S603 - a constant
                SQUEUE, check=False, capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.SubprocessError):
            return  # Slurm has its own troubles; what was known stays
        if done.returncode == 0:
            lines = (line.split() for line in done.stdout.splitlines())
            self._listed = {words[0]: words[-1] for words in lines if words}
            self.asked = began

    def state(self, job: Any, since: float = float("-inf")) -> str:
        """Where a job is; `ended` where it is no more.

        Args:
            job: of submitit.
            since: when it was submitted. Of a later one than was asked for nothing is known.
        """
        if _is_process(job):
            return "RUNNING" if _runs(job) else ENDED
        if self._listed is None or since >= self.asked:
            return "UNKNOWN"
        return self._listed.get(str(job.job_id), ENDED)


def opened(folder: Path, settings: Settings, threads: int) -> Any:
    """The executor of submitit.

    Raises:
        WhetError: submitit is not installed.
        InputError: there is no Slurm here.
    """
    try:
        import submitit
    except ImportError as error:
        raise WhetError(
            "--executor needs submitit, which is not installed: pip install 'whet[slurm]'."
        ) from error
    kind: Any = submitit.SlurmExecutor if settings.kind == "slurm" else submitit.LocalExecutor
    try:
        made = kind(folder, **({"python": settings.python} if settings.python else {}))
    except RuntimeError as error:
        raise InputError(
            'kind = "slurm", but there is no `srun` on this machine. Begin the study on a machine '
            'that submits jobs, or try the file with kind = "local".'
        ) from error
    made.update_parameters(**parameters(settings, threads))
    return made


def parameters(settings: Settings, threads: int) -> Mapping[str, Any]:
    """The settings in submitit's words."""
    found: dict[str, Any] = {"gpus_per_node": settings.gpus_per_node or None}
    if settings.kind == "local":
        found |= {"timeout_min": settings.timeout_min}
    else:
        containers = {"image": settings.container, "mounts": settings.container_mounts}
        again = "requeue" if settings.requeue else "no-requeue"
        found |= {
            "time": settings.timeout_min, "cpus_per_task": settings.cpus_per_task or threads,
            "mem": None if settings.mem_gb is None else f"{round(1024 * settings.mem_gb)}MB",
            "partition": settings.partition, "account": settings.account, "job_name": "whet",
            "array_parallelism": settings.concurrency,
            "setup": [*(f"export {name}={threads}" for name in THREADS), *settings.setup],
            "srun_args": [f"--container-{name}={v}" for name, v in containers.items() if v],
            "additional_parameters": {again: True, **settings.sbatch},
        }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def cancel(job: Any) -> None:
    """Ask a job to end; it writes a checkpoint first."""
    if not _is_process(job):
        job.cancel(check=False)
    elif _runs(job):
        os.kill(int(job.job_id), signal.SIGTERM)


def leave(job: Any) -> None:
    """Let a process end before its folder is used again; what Slurm ends is kept off by a lock."""
    if _is_process(job) and job._process is not None:
        with suppress(subprocess.TimeoutExpired):
            job._process.wait(PATIENCE)


def printed(job: Any) -> str:
    """The end of what a job said on stderr, as lines."""
    with suppress(OSError):
        tail = (job.stderr() or "")[-TAIL:].strip()
        return f"{tail}\n" if tail else ""
    return ""


def _is_process(job: Any) -> bool:
    return type(job).__name__ == "LocalJob"


def _runs(job: Any) -> bool:
    """Whether the process that stands for a job is there; it may be of a study that is dead."""
    if job._process is not None:
        return job._process.poll() is None
    with suppress(OSError):
        return b"submitit" in Path(f"/proc/{job.job_id}/cmdline").read_bytes()
    return False
