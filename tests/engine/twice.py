"""What two processes do that train together: `python -m tests.engine.twice RANK FOLDER`.

Loops around DistributedDataParallel as they are written by hand, right ones and those that are
passed around, and the engine. Each tells what it exchanged, and what was learned from which rows.
The processes meet in a file, without a launcher.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from whet import reducing, seeding
from whet.forward import Forward
from whet.method import InnerBackward, Method, method
from whet.methods.distillation import Distillation, distillation_loss
from whet.methods.fgm import FGM
from whet.methods.sam import SAM
from whet.run import Run
from whet.stage import Stage
from whet.task import Task
from whet.training import Training

SIZE, ROWS = 2, 5  # processes, and rows of each
EPSILON, RHO = 1.0, 0.5


class Net(nn.Module):
    """A classifier of words that remembers the rows it met."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)
        self.met: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        self.met.append(ids)
        return self.head(self.embed(ids).mean(1).tanh())


class Normed(Net):
    """With batch statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, ids: Tensor) -> Tensor:
        self.met.append(ids)
        return self.head(self.norm(self.embed(ids).mean(1)))


def make(seed: int = 0, kind: type[Net] = Net) -> Net:
    with seeding.borrowed(seed):
        return kind()


def rows() -> tuple[Tensor, Tensor]:
    """Those of all processes."""
    maker = torch.Generator().manual_seed(0)
    ids = torch.randint(9, (SIZE * ROWS, 3), generator=maker)
    return ids, labels(ids)


def labels(ids: Tensor) -> Tensor:
    return ids.sum(1) % 3


def mine(rank: int) -> tuple[Tensor, Tensor]:
    ids, targets = rows()
    return ids[rank * ROWS :][:ROWS], targets[rank * ROWS :][:ROWS]


# by hand, around DistributedDataParallel ----------------------------------------------------------
def wrapped(model: nn.Module, **changes: Any) -> tuple[DistributedDataParallel, list[int]]:
    """The wrapper, and how many numbers each of its all-reduces sends."""
    sent: list[int] = []

    def hook(state, bucket):  # type: ignore[no-untyped-def]  # torch reads no annotation as text
        sent.append(bucket.buffer().numel())
        return default_hooks.allreduce_hook(None, bucket)

    made = DistributedDataParallel(model, **changes)
    made.register_comm_hook(None, hook)
    return made, sent


Attack = Callable[[nn.Module], AbstractContextManager[None]]
Around = Callable[[DistributedDataParallel], AbstractContextManager[Any]]


def by_hand(attack: Attack, rank: int, clean: Around, late: bool = False) -> dict[str, Any]:
    """Two passes, the clean one within `clean`; of `late` its backward alone."""
    model, (ids, targets) = make(), mine(rank)
    ddp, sent = wrapped(model)
    loss = F.cross_entropy(ddp(ids), targets) if late else None
    with clean(ddp):
        (F.cross_entropy(ddp(ids), targets) if loss is None else loss).backward()
    with attack(ddp):
        F.cross_entropy(ddp(ids), targets).backward()
    return {"sent": sent, "met": ids, "learned": gradients(model)}


def loops(kind: str, attack: Attack, rank: int) -> dict[str, Any]:
    quiet = DistributedDataParallel.no_sync
    return {
        f"{kind}, no_sync": by_hand(attack, rank, quiet),
        f"{kind}, as wrapped": by_hand(attack, rank, nullcontext),
        f"{kind}, no_sync too late": by_hand(attack, rank, quiet, late=True),
    }


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def accumulated(rank: int, clean: Around) -> dict[str, Any]:
    """Two micro-batches, the first one within `clean`."""
    model, (ids, targets) = make(), mine(rank)
    ddp, sent = wrapped(model)
    for part, around in [(slice(0, 3), clean), (slice(3, ROWS), nullcontext)]:
        with around(ddp):
            F.cross_entropy(ddp(ids[part]), targets[part], reduction="sum").div(ROWS).backward()
    return {"sent": sent, "learned": gradients(model)}


def uneven(rank: int, of_all: bool) -> dict[str, Any]:
    """Eight rows in the first process and two in the other; a row weighs as one `of_all`."""
    model, (ids, targets) = make(), rows()
    part = slice(0, 8) if rank == 0 else slice(8, None)
    ddp, _ = wrapped(model)
    loss = F.cross_entropy(ddp(ids[part]), targets[part], reduction="sum")
    (loss * (SIZE / len(ids) if of_all else 1 / len(ids[part]))).backward()
    return {"learned": gradients(model)}


def statistics(rank: int) -> dict[str, Any]:
    """Wrong: of the processes' running statistics the first one's are kept."""
    model, (ids, targets) = make(kind=Normed), mine(rank)
    F.cross_entropy(wrapped(model)[0](ids), targets).backward()
    return {"met": ids, "mean": model.norm.running_mean}


# the engine ---------------------------------------------------------------------------------------
@method
class Eager(FGM):
    """Wrong where gradients are summed: that of the clean pass is, and is still there later."""

    name: ClassVar[str] = "eager"

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        inner(forward)
        reducing.add_gradients(run)
        with self.attack(run.module):
            inner(run.again(fresh=True))


@method
class Registered(Distillation):
    """Wrong: the teacher is an attribute of the student."""

    name: ClassVar[str] = "registered"

    def build(self, run: Training) -> None:
        run.module.teacher = run.resource("teacher", self)


def begun(*methods: Method, kind: type[Net] = Net) -> Run:
    task = Task(make(kind=kind), rows(), resources={"teacher": make(1)})
    optimizer = {"name": "sgd", "lr": 1.0}
    return Run(task, Stage(updates=1, batch_size=SIZE * ROWS, methods=methods, optimizer=optimizer))


def by_engine(*methods: Method) -> dict[str, Any]:
    """One update at a rate of 1, so that the weights move by the gradient."""
    run = begun(*methods)
    sent: list[int] = []
    run.world.hooks.append(lambda buffer: sent.append(buffer.numel()))
    run.fit()
    before, after = dict(make().named_parameters()), dict(run.module.named_parameters())
    learned = {name: (before[name] - after[name]).detach() for name in before}
    return {"sent": sent, "met": run.module.met[0], "learned": learned}


def pooled() -> dict[str, Any]:
    run = begun(kind=Normed).fit()
    return {"met": run.module.met[0], "mean": run.module.norm.running_mean}


def drawn(seed: int) -> Tensor:
    """What dropout would draw from."""
    torch.manual_seed(seed)
    return torch.rand(8)


# a teacher ----------------------------------------------------------------------------------------
def taught(rank: int, inside: bool, **changes: Any) -> dict[str, Any]:
    """Two steps of a student, wrapped with its teacher inside or beside."""
    (ids, targets), student, teacher = mine(rank), make(), make(1).eval()
    if inside:
        student.teacher = teacher
    ddp, sent = wrapped(student, **changes)
    optimizer, told = torch.optim.SGD(ddp.parameters(), lr=0.1), ""
    try:
        for _ in range(2):
            ddp.train()
            with torch.no_grad():
                soft = teacher(ids)
            optimizer.zero_grad()
            distillation_loss(ddp(ids), soft, targets).backward()
            optimizer.step()
    except RuntimeError as error:
        told = str(error)
    return {
        "sent": sent, "told": told, "training": teacher.training,
        "weights": student.head.weight.detach(), "held": [*ddp.state_dict()],
    }  # fmt: skip


def everything(rank: int) -> dict[str, Any]:
    return {
        **loops("fgm", FGM(EPSILON).attack, rank), **loops("sam", SAM(RHO).ascend, rank),
        "fgm": by_engine(FGM(EPSILON).during(0, 1)), "fgm, summed": by_engine(Eager(EPSILON)),
        "sam": by_engine(SAM(RHO)), "plain": by_engine(),
        "teacher": by_engine(Distillation()), "teacher, registered": by_engine(Registered()),
        "window, no_sync": accumulated(rank, DistributedDataParallel.no_sync),
        "window, as wrapped": accumulated(rank, nullcontext),
        "rows": uneven(rank, of_all=True), "shares": uneven(rank, of_all=False),
        "pooled": pooled(), "first": statistics(rank),
        "by rank": drawn(begun().stack.run.position()), "one seed": drawn(0),
        "beside": taught(rank, inside=False), "inside": taught(rank, inside=True),
        "inside, searched": taught(rank, inside=True, find_unused_parameters=True),
    }  # fmt: skip


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=SIZE
    )
    # as torchrun would have it: the engine then finds the processes that are joined already
    os.environ |= {"TORCHELASTIC_RUN_ID": "twice", "WORLD_SIZE": str(SIZE)}
    torch.save(everything(rank), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
