"""What the processes of the distributed tests do: `torchrun -m tests.engine.ranks DOING FOLDER`.

Each writes what it found to FOLDER/RANK.pt, which the tests compare with one process; then one of
them comes to harm, so that no launch of its own is needed to see how the others end.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from tests.contract.fixture import CLASSES, data, make_run, make_task, weights
from tests.contract.found import case, names
from whet import fsdp
from whet.batch import Batch
from whet.errors import WhetError
from whet.method import Method
from whet.methods import EMA, FGM, PGD, SAM, SWA, FixMatch, LabelSmoothing, MoCo, PreciseBN
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

# 40 rows: batches of 13, 13, 13 and 1, so that shares are uneven and the last row is one process's
UNEVEN = {"batch_size": 13, "accumulate": 2, "coupled": False, "evaluate_every": 2}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}


def trained(methods: list[Method], **changes: Any) -> dict[str, Any]:
    """A run of the fixture, and what became of it."""
    return told(make_run(methods, **(UNEVEN | changes)).fit())


def told(run: Run) -> dict[str, Any]:
    return {
        "weights": fsdp.gathered(run.module.state_dict()), "history": [*run.history],
        "loss": run.stack.loss, "terms": run.stack.terms,
        "metrics": run.evaluate(), "judged": run.predictor()(Batch.of(data(20, 2))),
    }  # fmt: skip


def patient() -> dict[str, Any]:
    """A stage that stops early, and is judged where it was best."""
    changes = {"evaluate_every": 1, "updates": 20, "optimizer": {"name": "sgd", "lr": 2.0}}
    return trained([EMA(0.5)], **changes, early_stopping={"patience": 3})


def declared() -> dict[str, Method]:
    """The methods that several processes train as one does."""
    found = {name: case(name).in_processes for name in names()}
    return {name: method for name, method in found.items() if isinstance(method, Method)}


def same_views() -> Run:
    """MoCo whose views draw nothing, so that rows have the same views in any process."""
    task = make_task(coupled=False)
    resources = {**task.resources, "view": lambda given, generator: given}
    method = MoCo(queue=30, momentum=0.9, dim=4, at="head")
    stage = Stage(updates=6, batch_size=13, accumulate=2, methods=[method], optimizer=SGD)
    return Run(Task(task.model, task.train, task.select, task.judge, resources=resources), stage)


def moco() -> dict[str, Any]:
    run = same_views().fit()
    return told(run) | {"queue": run.stack.state_dict()["states"]["moco"]["queue"]}


def population() -> dict[str, Tensor]:
    """Statistics of the first normalisation under the weights that training begins with."""
    [state] = make_run([PreciseBN()], batch_size=15, dropout=0.0).predictor().members()
    return {name: tensor for name, tensor in state.items() if "running" in name}


class Squares(Dataset[Any]):
    """Samples that draw; it remembers which were fetched."""

    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        self.fetched.append(row)
        return torch.randn(3) + row, torch.tensor(row % 3)


def zeros() -> nn.Linear:
    model = nn.Linear(3, CLASSES)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


def samples() -> dict[str, Any]:
    """An epoch over a map-style Dataset."""
    rows, slow = Squares(), {"name": "sgd", "lr": 0.01}
    run = Run(Task(zeros(), rows), Stage(epochs=1, batch_size=13, optimizer=slow)).fit()
    return {"weights": weights(run.module), "fetched": rows.fetched}


def loader() -> dict[str, Tensor]:
    """An epoch over a ready DataLoader, which every process reads."""
    given = TensorDataset(torch.arange(40.0)[:, None].repeat(1, 3), torch.arange(40) % 3)
    task = Task(zeros(), DataLoader(given, batch_size=13, shuffle=True))
    return weights(Run(task, Stage(epochs=1, optimizer={"name": "sgd", "lr": 0.01})).fit().module)


def reductions(method: Method | None) -> tuple[int, int]:
    """All-reduces of gradients, and calls of the model, in one step of two micro-batches."""
    run = make_run([method] if method else [], batch_size=6, accumulate=2, coupled=False)
    seen: list[Tensor] = []
    calls: list[nn.Module] = []
    run.world.hooks.append(seen.append)
    run.module.register_forward_hook(lambda module, *_: calls.append(module))
    run.fit(until=1)
    return len(seen), len(calls)


def refusal(make: Callable[[], Any]) -> str:
    try:
        make()
    except WhetError as error:
        return str(error)
    return "nothing was refused"


def refusals() -> dict[str, str]:
    from torch.distributed.fsdp import fully_shard

    given = TensorDataset(torch.zeros(8, 3), torch.zeros(8, dtype=torch.long))
    cut = DataLoader(given, batch_size=4, sampler=DistributedSampler(given))
    stage = Stage(updates=1, batch_size=4)
    wrapped = nn.parallel.DistributedDataParallel(nn.Linear(3, 3))
    sharded = nn.Linear(3, 3)
    fully_shard(sharded)
    sparse = nn.Sequential(nn.Embedding(4, 3, sparse=True), nn.Flatten(), nn.Linear(3, 3))
    ids = (torch.zeros(8, 1, dtype=torch.long), torch.zeros(8, dtype=torch.long))
    sgd = Stage(updates=1, batch_size=4, optimizer="sgd")
    sgd_of = partial(torch.optim.SGD, lr=0.1)
    return {
        "ddp": refusal(lambda: Run(Task(wrapped, given), stage)),
        "fsdp": refusal(lambda: Run(Task(sharded, given), stage)),
        "ema": refusal(lambda: Stack(sharded, methods=[EMA()], optimizer=sgd_of).open()),
        "swa": refusal(lambda: Stack(sharded, methods=[SWA()], optimizer=sgd_of, updates=4).open()),
        "sampler": refusal(lambda: Run(Task(nn.Linear(3, 3), cut), stage).fit()),
        "sparse": refusal(lambda: Run(Task(sparse, ids), sgd).fit()),
        "micro": refusal(
            lambda: Run(Task(nn.Linear(3, 3), given), Stage(updates=1, micro_batch=2))
        ),
    }


def interrupted(folder: Path) -> dict[str, Any]:
    """Stopped and resumed in as many processes, with what draws rows of its own."""
    methods = [EMA(0.9), FixMatch(threshold=0.4, mu=2)]
    changes = {"batch_size": 15, "accumulate": 2}  # the last batch of a process is shorter
    through = make_run(methods, **changes).fit()
    make_run(methods, folder=folder / "same", **changes).fit(until=3)
    resumed = make_run(methods, folder=folder / "same", **changes)
    at = resumed.updates
    return {"at": at, "through": told(through), "resumed": told(resumed.fit())}


def halved() -> dict[str, Tensor]:
    """Mixed precision, for which Fabric wraps the model in each process."""
    stage = Stage(updates=3, batch_size=13, accumulate=2, optimizer=SGD)
    run = Run(make_task(coupled=False), stage, device="cpu", precision="bf16").fit()
    return weights(run.module)


def unequal(rank: int, **changes: Any) -> dict[str, Tensor]:
    """A task that draws another model in every process."""
    given = (torch.zeros(8, 3), torch.zeros(8, dtype=torch.long))
    torch.manual_seed(rank)
    run = Run(Task(nn.Linear(3, 3), given), Stage(updates=1), **changes)
    return fsdp.gathered(run.module.state_dict())


def everything(folder: Path, rank: int) -> dict[str, Any]:
    bare = make_run(**UNEVEN)
    return {
        "methods": {name: trained([method]) for name, method in declared().items()},
        "bare": told(bare.fit()), "position": bare.stack.run.position(),
        "smoothed ema": trained([EMA(0.9), LabelSmoothing(0.1), SAM(0.1, across="global")]),
        "moco": moco(), "population": population(), "samples": samples(), "loader": loader(),
        "coupled": trained([], coupled=True, batch_size=15), "unequal": unequal(rank),
        "patient": patient(),
        "reductions": {
            "none": reductions(None), "sam": reductions(SAM(0.1)),
            "sam global": reductions(SAM(0.1, across="global")),
            "fgm": reductions(FGM(1.0).during(0, 1)),
            "fgm global": reductions(FGM(1.0, across="global").during(0, 1)),
            "pgd": reductions(PGD().during(0, 1)),
            "pgd global": reductions(PGD(across="global").during(0, 1)),
        },
        "halved": halved(), "refusals": refusals(), "interrupted": interrupted(folder),
        "from one": told(make_run([EMA(0.9)], **UNEVEN, folder=folder / "from one").fit()),
        "to one": make_run([EMA(0.9)], **UNEVEN, folder=folder / "to one").fit(until=3).updates,
    }  # fmt: skip


def a_few(folder: Path, rank: int) -> dict[str, Any]:
    return {
        "methods": {name: trained([method]) for name, method in declared().items()},
        "bare": trained([]), "population": population(),
        "sharded": trained([EMA(0.9)], strategy="fsdp"),
    }  # fmt: skip


def killed(folder: Path, rank: int) -> None:
    """The last process dies in its third update."""
    run = make_run(**UNEVEN, folder=folder / "killed", checkpoint_every=1)

    def die(module: nn.Module, args: Any) -> None:
        if rank == run.world.size - 1 and run.updates == 2 and module.training:
            os.kill(os.getpid(), signal.SIGKILL)

    run.module.register_forward_pre_hook(die)
    run.fit()


def failed(folder: Path, rank: int) -> None:
    """One process meets a NaN in its rows."""
    given = data()
    given["floats"][7] = float("nan")
    model = make_task(coupled=False).model
    Run(Task(model, given), Stage(updates=9, batch_size=13, optimizer=SGD)).fit()


def main(doing: str, folder: Path) -> None:
    from tests.engine import shards

    found, end = {
        "everything": (everything, failed), "a_few": (a_few, killed),
        "sharded": (shards.sharded, shards.killed),
    }[doing]  # fmt: skip
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    torch.save(found(folder, rank), folder / f"{rank}.pt")
    end(folder, rank)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
