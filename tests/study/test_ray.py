"""A real Ray cluster on this machine: two nodes, one of which is killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.study.test_resume import PATIENCE, all_end
from whet.errors import InputError
from whet.study.doctor import check
from whet.study.executors.executor import cores
from whet.study.executors.ray import Ray, connect, look, room
from whet.study.plan import Node
from whet.study.schedule import schedule
from whet.study.simulate import Nobody
from whet.study.store import Store

ROOT = Path(__file__).parents[2]
TRAIN = "tests.study.fakes:train"
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and subprocesses to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray with its servers on the loopback address alone, as `connect` leaves it."""
    given = {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), "RAY_AUTH_MODE": "disabled",
        "FAKE_SECONDS": "0.3",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture(scope="module")
def cluster(ray: Any) -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster()
    for _ in range(2):
        made.add_node(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
    yield made
    made.shutdown()


def start(out: Path, address: str, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.study.elsewhere", str(out), f"ray={address}", *words],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(out: Path, finished: int) -> None:
    until = time.monotonic() + PATIENCE
    while len(list(out.glob("nodes/*/manifest.json"))) < finished:
        assert time.monotonic() < until
        time.sleep(0.05)


def attempts(out: Path) -> dict[str, list[str]]:
    """For each node the processes that trained it."""
    paths = out.glob("nodes/*/attempts")
    return {p.parent.name: [line.split()[0] for line in p.read_text().splitlines()] for p in paths}


def trains(out: Path, pids: set[int]) -> bool:
    """Whether one of the processes is in the middle of a node."""
    last = {name: int(tried[-1]) for name, tried in attempts(out).items() if tried}
    done = {path.parent.name for path in out.glob("nodes/*/manifest.json")}
    return any(pid in pids for name, pid in last.items() if name not in done)


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def test_the_coordinator_is_killed_and_the_command_continues(cluster: Any, tmp_path: Path) -> None:
    first = start(tmp_path, cluster.address, "seeds=3")
    wait_for(tmp_path, 2)
    first.kill()
    first.communicate()
    kept = [path.parent.name for path in tmp_path.glob("nodes/*/manifest.json")]
    assert all_end({pid for pids in attempts(tmp_path).values() for pid in pids})
    said, error = start(tmp_path, cluster.address, "seeds=3").communicate(timeout=60)
    assert f"took over from process {first.pid}, which is gone" in said, error
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 9
    assert all(len(attempts(tmp_path)[name]) == 1 for name in kept)


def test_a_mistake_and_a_killed_worker(cluster: Any, tmp_path: Path) -> None:
    words = ("seeds=1", "methods=raises,fragile,killed")
    said, error = start(tmp_path, cluster.address, *words).communicate(timeout=60)
    found = {row["arm"]: row for row in rows(tmp_path)}
    assert [found[arm]["status"] for arm in ("baseline", "fragile")] == ["done", "done"], error
    assert found["raises"]["reason"].endswith("RuntimeError: something <broke>\n")
    assert found["killed"]["reason"].startswith("last words\nthe worker was lost: ")
    assert "fragile, seed 0: tried again: the worker was lost" in said
    tried = {name.partition("-")[0]: len(pids) for name, pids in attempts(tmp_path).items()}
    assert tried == {"baseline": 1, "raises": 1, "fragile": 2, "killed": 2}


def test_ctrl_c_ends_the_tasks(cluster: Any, tmp_path: Path) -> None:
    process = start(tmp_path, cluster.address, "seeds=5")
    wait_for(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130, error
    assert f"Continue with: whet study toy --methods good,noise --seeds 5 --out {tmp_path}" in said
    assert f"--ray {cluster.address}" in said
    assert all_end({pid for pids in attempts(tmp_path).values() for pid in pids})


def test_other_code_there_is_no_result(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whet.study.executors.job._code", lambda: "edited")
    store, node = Store(tmp_path), Node("toy", "good", (), 0, {"threads": 1})
    schedule([node], store, Nobody(), Ray(store, TRAIN, 1, cluster.address))
    row = store.failed(node)
    assert row is not None
    assert "would train something else: whet's code is" in row["reason"]
    assert ", not edited." in row["reason"]


def test_doctor_asks_every_machine(
    cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = list(check(tmp_path, ray=cluster.address, wait=30))
    assert all(each.fine for each in found)
    assert sum(each.what == "shared folder" for each in found) == 2
    assert not list(tmp_path.iterdir())


def test_room_and_devices(cluster: Any) -> None:
    assert look(cluster.address, 1, "auto") == ("cpu", 2)
    assert look(cluster.address, 2, "cpu") == ("cpu", 1)  # nobody has two; Ray will say so
    with pytest.raises(InputError, match="no machine of the Ray cluster"):
        look(cluster.address, 1, "cuda")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "digits", "ray://127.0.0.1:10001"])
@pytest.mark.usefixtures("ray")
def test_no_cluster_there(address: str) -> None:
    with pytest.raises(InputError, match=f"--ray {address}: no Ray cluster answers"):
        connect(address)


def test_a_machine_that_is_killed_in_the_middle(cluster: Any, tmp_path: Path) -> None:
    process = start(tmp_path, cluster.address, "seeds=4")
    wait_for(tmp_path, 3)
    victim = cluster.list_all_nodes()[-1]
    raylet = victim.all_processes["raylet"][0].process.pid
    until = time.monotonic() + PATIENCE
    while not trains(tmp_path, machine := stopped(raylet)):  # it cannot end a run meanwhile
        assert time.monotonic() < until
        tell(machine, signal.SIGCONT)
        time.sleep(0.02)
    tell(machine, signal.SIGKILL)  # all of it at once, as when the power goes
    cluster.remove_node(victim, allow_graceful=False)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "tried again: the worker was lost" in said, said
    assert [row["status"] for row in rows(tmp_path)] == ["done"] * 12
    assert not list(tmp_path.glob("nodes/*/job.json"))


def test_a_cluster_of_its_own_listens_to_this_machine_alone(ray: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with Ray(store, TRAIN, 1, "local") as executor:
        executor.submit(Node("toy", "good", (), 0, {"threads": 1}))
        while not (ended := executor.ended()):
            pass
        assert ended[0].row["status"] == "done"
        assert executor.slots == room(ray, 1, False) == cores()
        mine = {machine["NodeManagerAddress"] for machine in ray.nodes()}
        assert mine == {"127.0.0.1"}
        assert open_ports(children(os.getpid())) <= {"0100007F", "0000000000000000FFFF00000100007F"}


def stopped(pid: int) -> set[int]:
    """All processes below one, which stand still now."""
    found = children(pid)
    tell(found, signal.SIGSTOP)
    return found


def tell(pids: set[int], sign: signal.Signals) -> None:
    for pid in sorted(pids):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def children(pid: int) -> set[int]:
    """All processes below one."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, new = set(), {pid}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in new} - found
    return found


def open_ports(pids: set[int]) -> set[str]:
    """The addresses, as the kernel writes them, on which processes listen."""
    held = set()
    for pid in pids:
        for path in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):
                held.add(os.readlink(path))
    lines = [line.split() for kind in ("tcp", "tcp6")
             for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]  # fmt: skip
    return {
        words[1].partition(":")[0]
        for words in lines if words[3] == "0A" and f"socket:[{words[9]}]" in held
    }  # fmt: skip
