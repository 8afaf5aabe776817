"""Trains nodes as tasks of a Ray cluster.

Each task holds as many CPUs as a run has threads, and on CUDA one GPU, so that Ray places them.
Ray retries nothing: the scheduler does, and counts.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from whet.errors import InputError, WhetError
from whet.study.executors.choice import LOCAL
from whet.study.executors.executor import RETRIES, Closing, Ended, cores
from whet.study.executors.job import Jobs, answered, perform
from whet.study.executors.processes import THREADS
from whet.study.plan import Node
from whet.study.store import Store
from whet.study.worker import failed, last_words

STORED = 100 << 20  # bytes for Ray's object store, in which only rows pass by
PERIOD = 1.0  # seconds after which a changed number of machines is noticed


class Ray(Closing):
    """A Ray cluster.

    Args:
        store: of the study, in a folder that all machines see.
        train: what trains, as `module:function`.
        threads: torch threads of each run, and CPUs that it holds.
        address: `local`, or that of a cluster, as `10.0.0.1:6379` or `auto`.
        device: `cuda` for a GPU each.
        jobs: runs at a time; None for as many as the cluster has room for, at each moment.
        retries: how often a node is tried again whose worker died.
    """

    def __init__(
        self, store: Store, train: str, threads: int, address: str, device: str = "cpu",
        jobs: int | None = None, retries: int = RETRIES,
    ) -> None:  # fmt: skip
        self._jobs, self._limit, self.retries = Jobs(store, train, threads), jobs, retries
        self._store, self._threads, self._cuda = store, threads, device == "cuda"
        self._ray = connect(address, threads)
        needs = {"num_cpus": threads, "num_gpus": int(self._cuda), "max_retries": 0}
        self._task = self._ray.remote(**needs)(perform)
        self._training: dict[Any, Node] = {}

    @property
    def slots(self) -> int:
        """Runs that the cluster has room for now; one that grows must see a demand."""
        return self._limit or max(1, room(self._ray, self._threads, self._cuda))

    def submit(self, node: Node) -> None:
        self._training[self._task.remote(str(self._jobs.write(node)))] = node

    def ended(self) -> list[Ended]:
        ready, _ = self._ray.wait(list(self._training), timeout=PERIOD)
        return [self._answer(task) for task in ready]

    def _answer(self, task: Any) -> Ended:
        node = self._training.pop(task)
        try:
            ended = Ended(node, answered(self._ray.get(task)))
        except self._ray.exceptions.RayTaskError as error:
            ended = Ended(node, failed(node, str(error.cause)))
        except self._ray.exceptions.RayError as error:
            done = self._store.done(node)
            said = f"{last_words(node, self._store)}the worker was lost: {_first(error)}"
            ended = Ended(node, done or failed(node, said), lost=done is None)
        self._jobs.remove(node)
        return ended

    def close(self) -> None:
        """Leave the cluster, which then ends this study's tasks by itself.

        To cancel them first would be a race that Ray loses: its process aborts in between.
        """
        for node in self._training.values():
            self._jobs.remove(node)
        self._training.clear()
        self._ray.shutdown()


def connect(address: str, threads: int = 1) -> Any:
    """Ray itself, connected to a cluster, or to a new one on this machine's loopback address.

    Raises:
        InputError: Ray is not installed, or there is no cluster.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    given: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    given["runtime_env"] = {"env_vars": dict.fromkeys(THREADS, str(threads))}
    if address == LOCAL:
        given |= {"num_cpus": cores(), "include_dashboard": False, "object_store_memory": STORED}
        # the one switch by which Ray's servers listen on the loopback address and nowhere else
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray = _installed()
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        if address not in (LOCAL, "auto"):
            _reach(address)
        ray.init(address, **given)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--ray {address}: no Ray cluster answers ({_first(error)}). Start one with `ray start "
            "--head`, give its address as HOST:PORT, or use --ray local."
        ) from error
    return ray


def _reach(address: str) -> None:
    """Ray itself would try for minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ValueError("an address is HOST:PORT")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def look(address: str, threads: int, device: str) -> tuple[str, int]:
    """The device that a cluster trains on, and the runs that it has room for.

    Raises:
        InputError: CUDA is asked for, and the cluster has no GPU.
    """
    ray = connect(address, threads)
    try:
        there = room(ray, threads, True) > 0
        if device == "cuda" and not there:
            raise InputError(
                f"--device cuda, but no machine of the Ray cluster {address} offers a GPU (and "
                f"{threads} CPUs beside it). Start its machines with --num-gpus, or use cpu."
            )
        cuda = there and device != "cpu"
        return "cuda" if cuda else "cpu", max(1, room(ray, threads, cuda))
    finally:
        ray.shutdown()


def room(ray: Any, threads: int, cuda: bool) -> int:
    """Runs that the machines of a cluster have room for, those in progress included."""
    total = 0
    for machine in ray.nodes():
        if machine["Alive"]:
            has = machine["Resources"]
            each = int(has.get("CPU", 0) // threads)
            total += min(each, int(has.get("GPU", 0))) if cuda else each
    return total


def _installed() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise WhetError(
            "--ray needs Ray, which is not installed: pip install 'whet[ray]'."
        ) from error
    return ray


def _first(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
