"""Several processes train as one does: launched by torchrun, over gloo, on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.fixture import close, data, equal, make_model, make_run, weights
from tests.contract.found import case, names
from tests.engine import ranks
from tests.engine.ranks import UNEVEN
from whet import sharding
from whet.batch import Batch
from whet.loading import open_loader
from whet.methods import EMA, SAM, LabelSmoothing
from whet.world import World

ROOT = Path(__file__).parents[2]
Found = list[dict[str, Any]]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@dataclass
class Launch:
    """What became of a launch: how it ended, what it printed, and what every process found."""

    codes: list[int]
    output: str
    found: Found


def launch(doing: str, folder: Path, nodes: int, each: int = 2) -> Launch:
    """torchrun as on so many machines, all of which are this one."""
    port = str(free_port())
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(nodes),
             "--node-rank", str(node), "--nproc-per-node", str(each), "--master-addr", "127.0.0.1",
             "--master-port", port, "-m", "tests.engine.ranks", doing, str(folder)],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(nodes)
    ]  # fmt: skip
    try:
        output = "".join(agent.communicate(timeout=300)[0] for agent in agents)
    finally:
        for agent in agents:
            agent.kill()
    files = [folder / f"{rank}.pt" for rank in range(nodes * each)]
    assert all(file.exists() for file in files), output
    found = [torch.load(file, weights_only=True) for file in files]
    return Launch([agent.returncode for agent in agents], output, found)


@pytest.fixture(scope="module")
def one_machine(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """One launch of two processes, for all tests."""
    folder = tmp_path_factory.mktemp("two")
    make_run([EMA(0.9)], **UNEVEN, folder=folder / "from one").fit(until=3)
    launched = launch("everything", folder, nodes=1)
    launched.found[0]["folder"] = str(folder)
    return launched


@pytest.fixture(scope="module")
def two_machines(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Two launches of two processes each: two machines, as far as the processes know."""
    folder = tmp_path_factory.mktemp("four")
    launched = launch("a_few", folder, nodes=2)
    launched.found[0]["folder"] = str(folder)
    return launched


@pytest.fixture(scope="module")
def two(one_machine: Launch) -> Found:
    return one_machine.found


@pytest.fixture(scope="module")
def four(two_machines: Launch) -> Found:
    return two_machines.found


def same_as(one: dict[str, Any], several: dict[str, Any]) -> bool:
    """Weights, losses, metrics and judgements to rounding."""
    rows = [[row["loss"], *row["metrics"].values()] for row in one["history"]]
    others = [[row["loss"], *row["metrics"].values()] for row in several["history"]]
    numbers = zip(
        [*rows, [one["loss"]], one["metrics"].values(), one["terms"].values()],
        [*others, [several["loss"]], several["metrics"].values(), several["terms"].values()],
        strict=True,
    )  # fmt: skip
    return (
        one["terms"].keys() == several["terms"].keys()
        and close(one["weights"], several["weights"])
        and all(list(a) == pytest.approx(list(b), abs=1e-5) for a, b in numbers)
        and torch.allclose(one["judged"], several["judged"], atol=1e-5)
    )


class TestEquality:
    @pytest.mark.parametrize("name", names())
    def test_two_processes_equal_one(self, name: str, two: Found) -> None:
        method = case(name).in_processes
        if isinstance(method, str):
            assert name not in two[0]["methods"]
            assert len(method) > 20, "say why not"
            return
        one = ranks.trained([method])
        assert len(one["history"]) == 3
        for found in two:
            assert same_as(one, found["methods"][name])

    def test_four_processes_on_two_machines_equal_one(self, four: Found) -> None:
        """Every method that says so; of the last batch three of the four have no row."""
        for name, method in ranks.declared().items():
            one = ranks.trained([method])
            assert all(same_as(one, found["methods"][name]) for found in four)
            if name == "ema":
                assert all(same_as(one, found["sharded"]) for found in four)
        assert all(same_as(ranks.trained([]), found["bare"]) for found in four)

    def test_processes_are_alike_to_the_bit(self, two: Found, four: Found) -> None:
        for found in (two, four):
            for name, first in found[0]["methods"].items():
                for other in found[1:]:
                    assert equal(first["weights"], other["methods"][name]["weights"])
                    assert first["history"] == other["methods"][name]["history"]

    def test_methods_together(self, two: Found) -> None:
        methods = [EMA(0.9), LabelSmoothing(0.1), SAM(0.1, across="global")]
        assert same_as(ranks.trained(methods), two[1]["smoothed ema"])

    def test_early_stopping(self, two: Found) -> None:
        one = ranks.patient()
        assert 3 < len(one["history"]) < 20
        assert all(same_as(one, found["patient"]) for found in two)

    def test_one_queue_of_keys(self, two: Found) -> None:
        one = ranks.moco()
        assert close(one["weights"], two[0]["moco"]["weights"])
        for found in two:
            assert torch.allclose(one["queue"], found["moco"]["queue"], atol=1e-5)
        assert torch.equal(two[0]["moco"]["queue"], two[1]["moco"]["queue"])

    def test_population_statistics_are_pooled(self, two: Found, four: Found) -> None:
        one = ranks.population()
        for found in (*two, *four):
            assert close(one, found["population"])

    def test_batch_statistics_are_averaged(self, two: Found) -> None:
        first, second = (found["coupled"] for found in two)
        assert equal(first["weights"], second["weights"])
        assert first["metrics"] == second["metrics"]

    def test_mixed_precision(self, two: Found) -> None:
        one = ranks.halved()
        assert equal(two[0]["halved"], two[1]["halved"])
        assert close(one, two[0]["halved"], atol=2e-3)
        assert not close(one, weights(make_model(coupled=False)), atol=2e-2)

    def test_a_model_that_each_process_draws_is_the_firsts(self, two: Found) -> None:
        assert equal(two[0]["unequal"], two[1]["unequal"])


class TestReductions:
    def test_local_is_one_a_step_and_global_one_a_pass(self, two: Found) -> None:
        """Of gradients; two micro-batches a step, each with FGM's second pass or PGD's three."""
        for found in two:
            count = {name: reductions for name, (reductions, _) in found["reductions"].items()}
            assert count == {
                "none": 1, "sam": 1, "sam global": 2, "fgm": 1, "fgm global": 3,
                "pgd": 1, "pgd global": 7,
            }  # fmt: skip

    def test_calls_of_the_model_are_the_methods_own(self, two: Found) -> None:
        for found in two:
            calls = {name: calls for name, (_, calls) in found["reductions"].items()}
            assert calls == {
                "none": 2, "sam": 4, "sam global": 4, "fgm": 4, "fgm global": 4,
                "pgd": 8, "pgd global": 8,
            }  # fmt: skip

    def test_ranks_draw_differently(self, two: Found) -> None:
        assert two[0]["position"] != two[1]["position"]


class TestData:
    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
    @pytest.mark.parametrize("rows", [0, 1, 5, 6, 13])
    def test_shares_are_a_partition(self, size: int, rows: int) -> None:
        found = [list(range(rows))[World(rank, size).share(rows)] for rank in range(size)]
        assert [row for rows_of in found for row in rows_of] == list(range(rows))
        assert max(map(len, found)) - min(map(len, found)) <= 1
        assert len(found[0]) == max(map(len, found))

    def test_a_sample_is_fetched_once_and_draws_the_same(self, two: Found) -> None:
        one = ranks.samples()
        fetched = [found["samples"]["fetched"] for found in two]
        # of batches of 13, 13, 13 and 1; the second process fetches one for a share of no row
        assert list(map(len, fetched)) == [7 + 7 + 7 + 1, 6 + 6 + 6 + 1]
        assert set(fetched[0]) | set(fetched[1]) == set(range(40))
        assert len(set(fetched[0]) & set(fetched[1])) == 1
        assert close(one["weights"], two[0]["samples"]["weights"])

    def test_a_ready_loader_is_read_by_all(self, two: Found) -> None:
        assert close(ranks.loader(), two[1]["loader"])

    def test_an_epoch_is_entered_anywhere(self) -> None:
        for given in (data(), ranks.Squares()):
            shares = [sharding.share(open_loader(given, 13), World(rank, 3)) for rank in range(3)]
            whole = list(open_loader(given, 13).epoch(1, 2))
            parts = [list(share.epoch(1, 2)) for share in shares]
            for batch, mine in zip(whole, zip(*parts, strict=True), strict=True):
                found = Batch.join([one for one in mine if one.size])
                assert batch.indices is not None
                assert found.indices is not None
                assert torch.equal(batch.indices, found.indices)
                assert all(map(torch.equal, _tensors(batch), _tensors(found)))


def _tensors(batch: Batch) -> list[Tensor]:
    found: list[Tensor] = []
    batch.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return found


class TestResume:
    def test_in_as_many_processes_to_the_bit(self, two: Found) -> None:
        for found in two:
            about = found["interrupted"]
            assert about["at"] == 3
            assert equal(about["through"]["weights"], about["resumed"]["weights"])
            assert torch.equal(about["through"]["judged"], about["resumed"]["judged"])

    def test_in_more_processes(self, two: Found) -> None:
        one = ranks.trained([EMA(0.9)])
        assert all(same_as(one, found["from one"]) for found in two)

    def test_in_fewer_processes(self, two: Found) -> None:
        run = make_run([EMA(0.9)], **UNEVEN, folder=Path(two[0]["folder"]) / "to one")
        assert run.updates == two[0]["to one"] == 3
        assert same_as(ranks.trained([EMA(0.9)]), ranks.told(run.fit()))


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "words"),
        [("ddp", "wrapped in DistributedDataParallel"), ("fsdp", "FSDP2"), ("micro", "micro_batch"),
         ("ema", "ema does not apply: the weights are sharded"), ("swa", "swa does not apply"),
         ("sampler", "DistributedSampler"), ("sparse", "sparse=False")],
    )  # fmt: skip
    def test_names_thing_and_remedy(self, kind: str, words: str, two: Found) -> None:
        for found in two:
            assert words in found["refusals"][kind]


class TestLoss:
    def test_a_killed_process_stops_all_with_one_message(self, two_machines: Launch) -> None:
        assert all(code != 0 for code in two_machines.codes)
        output, folder = two_machines.output, Path(two_machines.found[0]["folder"])
        assert "Signal 9 (SIGKILL)" in output  # the launcher's summary names who died
        assert output.count("LostProcess: process") <= 1
        tracebacks = output.count("Traceback (most recent call last)")
        assert tracebacks <= len(two_machines.codes) + 1  # the launchers' own, and one
        resumed = make_run(**UNEVEN, folder=folder / "killed")  # the same command goes on
        assert resumed.updates == 2
        assert same_as(ranks.trained([]), ranks.told(resumed.fit()))

    def test_an_error_in_one_process_is_told_once(self, one_machine: Launch) -> None:
        assert one_machine.codes == [1]
        assert one_machine.output.count("NonFiniteLoss: the loss is not finite") == 1
        assert "data set rows 7" in one_machine.output
        assert "LostProcess" not in one_machine.output


def test_one_process_needs_no_fabric() -> None:
    code = (
        "import sys; from tests.contract.fixture import make_run; make_run().fit(until=1);"
        "assert not [m for m in sys.modules if m.startswith('lightning')]"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_world_of_one_waits_for_nobody() -> None:
    world, model = World(), make_model()
    before = weights(model)
    world.copy([*model.parameters()])
    assert equal(before, weights(model))
    assert world.sums(1.0, 2.5) == [1.0, 2.5]
    assert world.leads
    assert not world.any(False)
    ones = torch.ones(3)
    assert torch.equal(world.add(ones), torch.ones(3))
    assert [one.tolist() for one in world.joined([ones, None])] == [[1.0, 1.0, 1.0]]
