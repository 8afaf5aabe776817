"""Which executor a study asks for, and what is known of it before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import InputError
from whet.study.executors.executor import Executor, cores
from whet.study.store import Store

if TYPE_CHECKING:
    from whet.study.executors.settings import Settings

LOCAL = "local"  # as a cluster's address: one on this machine, for this study alone
TRAIN = "whet.study.node:train"


@dataclass(frozen=True)
class Choice:
    """Where a study trains.

    Args:
        threads: torch threads of each run.
        jobs: runs at a time; None leaves it to the executor.
        device: `auto`, `cpu` or `cuda`, where it is known without the machines that train.
        ray: a cluster's address.
        settings: an executor file's.
        alone: only this process knows the task.
    """

    threads: int = 1
    jobs: int | None = None
    device: str = "auto"
    ray: str | None = None
    settings: Settings | None = None
    alone: bool = False

    @property
    def elsewhere(self) -> bool:
        """Whether other machines may train, whose devices are not this one's."""
        return self.settings is not None or self.ray not in (None, LOCAL)

    def look(self, here: str) -> tuple[str, int]:
        """The device that is trained on, and runs at a time.

        Args:
            here: the device that this machine would train on.
        """
        if self.settings is not None:
            return self.settings.device, self.jobs or self.settings.concurrency
        if self.ray is not None and self.elsewhere:
            from whet.study.executors.ray import look

            device, slots = look(self.ray, self.threads, self.device)
            return device, self.jobs or slots
        alone = here != "cpu" or self.alone
        return here, self.jobs or (1 if alone else max(1, cores() // self.threads))

    def open(self, store: Store, train: str, device: str, jobs: int | None) -> Executor:
        """The executor, for the nodes of one store."""
        if self.alone:
            from whet.study.executors.here import Here

            return Here(store, train, self.threads)
        if self.settings is not None:
            from whet.study.executors.slurm import Batch

            return Batch(store, train, self.threads, self.settings, self.jobs)
        if self.ray is not None:
            from whet.study.executors.ray import Ray

            return Ray(store, train, self.threads, self.ray, device, self.jobs)
        from whet.study.executors.processes import Processes

        return Processes(store, train, self.threads, jobs or 1)


def choose(
    ray: str | None, executor: Path | None, *, threads: int = 1, jobs: int | None = None,
    device: str = "auto", alone: bool = False,
) -> Choice:  # fmt: skip
    """What a request's options come to.

    Raises:
        InputError: they contradict each other, or the executor file is wrong.
    """
    if ray is not None and executor is not None:
        raise InputError("--ray and --executor are two places to train at: give one of them.")
    if alone and (ray is not None or executor is not None):
        raise InputError(
            "a function that only this process knows cannot be trained elsewhere: write it to a "
            "file (`whet new task.py`) and study the file."
        )
    settings = None
    if executor is not None:
        from whet.study.executors.settings import read

        settings = read(executor)
        if device not in ("auto", settings.device):
            raise InputError(
                f"--device {device}, but the jobs of {executor} train on {settings.device}: set "
                "its gpus_per_node to 1 for cuda and to 0 for cpu."
            )
        device = settings.device
    return Choice(threads, jobs, device, ray, settings, alone)
