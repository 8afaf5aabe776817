"""What the processes of the tests of sharded models do: `tests.engine.ranks sharded FOLDER`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.contract.fixture import CLASSES, data, make_run, make_task
from tests.contract.found import case, names
from tests.engine.ranks import SGD, Squares, refusal, told, unequal, zeros
from whet import fsdp, seeding
from whet.batch import Batch
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, method
from whet.methods import EMA, FGM, PGD, SAM, SWA, ClipGradNorm, FreeLB, LabelSmoothing, Lookahead
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task
from whet.training import Training

# batches of 13, 13, 13 and 1: of the last one a process has no row
MADE = [EMA(0.9), Lookahead(k=2), LabelSmoothing(0.1)]
VARIANTS = {
    "adaptive": SAM(0.5, adaptive=True, across="global"),
    "debias": EMA(0.9, warmup="debias", buffers="average"), "swa": SWA(after=0.3, lr=None),
    "pgd of examples": PGD(scope="example"),
}  # fmt: skip
UNEVEN = {"batch_size": 13, "accumulate": 2, "coupled": False, "evaluate_every": 2}


def trains(method: Method | str) -> bool:
    return isinstance(method, Method) and not method.whole_weights


def equal_ones() -> dict[str, Method]:
    """The methods that train a sharded model as one process trains the whole."""
    found = {name: case(name).in_processes for name in names()}
    return {name: m for name, m in found.items() if isinstance(m, Method) and trains(m)}


def drawing_ones() -> dict[str, Method]:
    """Those that draw by process or couple rows: they equal as many processes of whole models."""
    found = {name: case(name) for name in names()}
    return {n: c.method for n, c in found.items()
            if isinstance(c.in_processes, str) and trains(c.method)}  # fmt: skip


def refused_ones() -> dict[str, Method]:
    found = {name: case(name) for name in names()}
    some = {n: c.method if isinstance(c.in_processes, str) else c.in_processes
            for n, c in found.items()}  # fmt: skip
    return {name: m for name, m in some.items() if not trains(m)}


class Block(nn.Module):
    """Of sizes that two processes cannot part evenly; holds a Sequential of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 6))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.body(hidden)


class Tower(nn.Module):
    """Layers in a ModuleList, between an embedding and a head of the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.layers = nn.ModuleList([Block() for _ in range(3)])
        self.head = nn.Linear(6, 20, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("scale", torch.tensor(0.5), persistent=False)

    def forward(self, tokens: Tensor, floats: Tensor, image: Tensor) -> Tensor:
        hidden = self.embed(tokens).mean(1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden) * self.scale


def tower() -> Tower:
    with seeding.borrowed(5):
        return Tower()


def towers(methods: list[Any] = [], **changes: Any) -> Run:  # noqa: B006 - is not changed
    """Three stages: frozen parts thaw and freeze, and weights go from one to the next."""
    adam = {"name": "adamw", "lr": 0.02, "weight_decay": 0.1}
    stages = [
        Stage(updates=3, batch_size=13, accumulate=2, freeze=["layers.0"], optimizer=adam,
              schedule={"name": "cosine", "warmup": 0.3}),
        Stage(updates=3, batch_size=10, optimizer=adam, starts_from="evaluation"),
        Stage(updates=2, batch_size=10, freeze=["embed"], optimizer=SGD),
    ]  # fmt: skip
    every = [EMA(0.8, warmup="none"), ClipGradNorm(0.5), *methods]
    task = Task(tower(), data(), select=data(20, 1), judge=data(1, 2))  # judged on one row
    return Run(task, Recipe(stages, methods=every), device="cpu", **changes)


@method
class Aside(Method):
    """Learns a head of its own, of which each process holds a copy, beside the parts."""

    name: ClassVar[str] = "aside"
    layer: ClassVar[Layer] = Layer.TEACHER
    whole_weights: ClassVar[bool | str] = False

    def build(self, run: Training) -> None:
        with seeding.borrowed(3):
            run.heads[self.key] = nn.Linear(CLASSES, 2)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward = inner(batch)
        off = run.heads[self.key](forward.output).square().sum(1)
        return forward.add(self.key, off, per="rows")


def headed(**changes: Any) -> dict[str, Any]:
    """A head beside the parts, whose gradients are clipped by one norm."""
    run = make_run([Aside(), ClipGradNorm(0.2)], **UNEVEN, **changes).fit()
    return told(run) | {"head": run.stack.run.heads["aside"].weight.detach().clone()}


OPTIMIZERS = ("sgd", "adam", "adamw", "radam", "nadam", "adagrad", "rmsprop")


def optimized(**changes: Any) -> dict[str, Any]:
    """Every optimizer that a recipe can name, with a state that goes through a checkpoint."""
    found = {}
    for name in OPTIMIZERS:
        about = {**UNEVEN, "optimizer": {"name": name, "lr": 0.01}, **changes}
        first = make_run(**about).fit(until=2)
        state = first.state_dict()
        second = make_run(**about)
        second.load_state_dict(state)
        found[name] = told(second.fit())
    return found


def shares() -> dict[str, Any]:
    """What a process holds, and into which blocks the model was cut."""
    run = towers(strategy="fsdp")
    parts = [p for p in run.module.parameters() if hasattr(p, "to_local")]
    return {
        "here": sum(p.to_local().numel() for p in parts), "all": sum(p.numel() for p in parts),
        "whole": sum(not hasattr(p, "to_local") for p in run.module.parameters()),
        "tied": run.module.head.weight is run.module.embed.weight,
    }  # fmt: skip


class Travelling(TorchDispatchMode):
    """Counts the collectives, the backward's own too."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op.namespace == "c10d":
            self.counts[op.__name__] = self.counts.get(op.__name__, 0) + 1
        return op(*args, **(kwargs or {}))


def waits(method: Method | None) -> dict[str, Any]:
    """What is called and what travels in an epoch whose last batch has one row."""
    changes = UNEVEN | {"strategy": "fsdp", "evaluate_every": None}
    run = make_run([method] if method else [], **changes)
    calls: list[nn.Module] = []
    run.module.register_forward_hook(lambda module, *_: calls.append(module))
    with Travelling() as travelling:
        run.fit(until=2)
    return {"calls": len(calls), "travelling": travelling.counts}


def saved(folder: Path) -> dict[str, Any]:
    """A checkpoint of each strategy, and how either goes on."""
    made = MADE
    for kind in ("fsdp", "ddp"):
        make_run(made, **UNEVEN, folder=folder / kind, strategy=kind).fit(until=3)
    through = make_run(made, **UNEVEN, strategy="fsdp").fit()
    again = {
        place: make_run(made, **UNEVEN, folder=folder / place, strategy="fsdp")
        for place in ("fsdp", "ddp", "from one")
    }
    at = [run.updates for run in again.values()]
    found = {place: told(run.fit(until=5)) for place, run in again.items()}
    # the newest in the first folder is now of the fifth update
    other = make_run(made, **UNEVEN, folder=folder / "fsdp", strategy="ddp")
    return {"at": [*at, other.updates], "through": told(through), "ddp goes on": told(other.fit()),
            "fsdp goes on": told(again["fsdp"].fit()), **found}  # fmt: skip


def carried_over() -> dict[str, Any]:
    """A state within one process's life, and what the first process's holds."""
    made = [SWA(after=0.3, every=2, lr=(0.9, 0.3))]  # has begun to collect
    first = make_run(made, **UNEVEN, strategy="fsdp").fit(until=3)
    state = first.state_dict()
    second = make_run(made, **UNEVEN, strategy="fsdp")
    second.load_state_dict(state)
    held = sum(t.untyped_storage().nbytes() for t in state["model"].values())
    return {"held": held, "first": told(first.fit()), "second": told(second.fit())}


def samples() -> dict[str, Tensor]:
    """An epoch over a map-style Dataset, whose last batch has one sample."""
    task = Task(zeros(), Squares())
    stage = Stage(epochs=1, batch_size=13, optimizer={"name": "sgd", "lr": 0.01})
    return fsdp.gathered(Run(task, stage, strategy="fsdp").fit().module.state_dict())


def halved(strategy: str) -> dict[str, Any]:
    stage = Stage(updates=3, batch_size=13, accumulate=2, optimizer=SGD, methods=[FreeLB(2)])
    task = make_task(coupled=False)
    return told(Run(task, stage, device="cpu", precision="bf16", strategy=strategy).fit())


def exported(folder: Path) -> dict[str, Tensor]:
    """A predictor's file, and a run that starts from it."""
    run = towers(strategy="fsdp", folder=folder / "towers").fit()
    path = folder / "towers.safetensors"
    run.predictor().save(path)  # by each process, whole
    run.world.wait()
    stage = Stage(updates=1, batch_size=13, starts_from=str(path))
    return fsdp.gathered(Run(Task(tower(), data()), stage, strategy="fsdp").module.state_dict())


def refusals() -> dict[str, str]:
    from torch.distributed.fsdp import fully_shard

    given, stage = (torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)), Stage(updates=1)

    def made(model: nn.Module, **changes: Any) -> str:
        return refusal(lambda: Run(Task(model, given), stage, strategy="fsdp", **changes))

    sharded, scalar, mixed = nn.Linear(3, 3), nn.Linear(3, 3), nn.Sequential(
        nn.Linear(3, 3), nn.Linear(3, 3).double()
    )  # fmt: skip
    fully_shard(sharded)
    scalar.temperature = nn.Parameter(torch.tensor(1.0))
    return {"sharded": made(sharded), "scalar": made(scalar), "mixed": made(mixed)}


def sharded(folder: Path, rank: int) -> dict[str, Any]:
    def each(methods: dict[str, Method], **changes: Any) -> dict[str, Any]:
        return {n: told(make_run([m], **changes).fit()) for n, m in methods.items()}

    normed = {"batch_size": 15, "accumulate": 2, "evaluate_every": 2}
    found: dict[str, Callable[[], Any]] = {
        "methods": lambda: each(equal_ones(), **UNEVEN, strategy="fsdp"),
        "bare": lambda: told(make_run(**UNEVEN, strategy="fsdp").fit()),
        "together": lambda: told(make_run(
            [SAM(0.1, across="global"), EMA(0.9), FGM(0.5, scope="example")], **UNEVEN,
            strategy="fsdp").fit()),
        "variants": lambda: each(VARIANTS, **UNEVEN, strategy="fsdp"),
        "drawn sharded": lambda: each(drawing_ones(), **normed, strategy="fsdp"),
        "drawn whole": lambda: each(drawing_ones(), **normed),
        "towers": lambda: told(towers(strategy="fsdp").fit()), "shares": shares,
        "waits": lambda: {n: waits(m) for n, m in {"none": None, **equal_ones()}.items()},
        "saved": lambda: saved(folder), "carried over": carried_over, "samples": samples,
        "halved": lambda: halved("fsdp"), "refusals": refusals,
        "exported": lambda: exported(folder), "headed": lambda: headed(strategy="fsdp"),
        "unequal": lambda: unequal(rank, strategy="fsdp"),
        "optimized": lambda: optimized(strategy="fsdp"),
    }  # fmt: skip
    return {name: make() for name, make in found.items()}


def killed(folder: Path, rank: int) -> None:
    """The last process dies within its third update, while the other waits in a backward."""
    stage = {**UNEVEN, "folder": folder / "killed", "checkpoint_every": 1, "strategy": "fsdp"}
    run = make_run([EMA(0.9)], **stage)

    def die(module: nn.Module, args: Any) -> None:
        if rank == run.world.size - 1 and run.updates == 2 and module.training:
            os.kill(os.getpid(), signal.SIGKILL)

    run.module.hidden.register_forward_pre_hook(die)
    run.fit()
