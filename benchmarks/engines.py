"""One training step in whet, against the loop one would write by hand.

Everybody trains the same model on the same rows with the same optimizer. A chunk is one epoch over
tensors in memory in a new order. The hand loop and the peers slice the tensors by a permutation,
which costs them less than a DataLoader would; whet reads them with its own loader. A chunk is long
enough for what an epoch costs at its beginning to count for little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import Chunk, timed


@dataclass(frozen=True)
class Setting:
    """A model's widths, the rows of a batch, the batches of a chunk."""

    widths: tuple[int, ...]
    batch: int
    steps: int

    @property
    def words(self) -> str:
        """What is trained."""
        return f"MLP {'-'.join(map(str, self.widths))}, batch {self.batch}, AdamW"


SMALL = Setting((64, 128, 128, 10), batch=64, steps=100)
TEN_MS = Setting((64, 512, 512, 10), batch=320, steps=16)
TWENTY_MS = Setting((64, 256, 256, 10), batch=4096, steps=16)
WIDE = Setting((64, 4096, 4096, 10), batch=64, steps=3)


def mlp(setting: Setting) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for width, following in zip(setting.widths, setting.widths[1:], strict=False):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def adamw(parameters: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=1e-3)


class Rows:
    """The batches of an epoch: tensors in memory, sliced by a permutation."""

    def __init__(self, setting: Setting) -> None:
        maker = torch.Generator().manual_seed(0)
        rows = setting.batch * setting.steps
        self.x = torch.randn(rows, setting.widths[0], generator=maker)
        self.y = torch.randint(setting.widths[-1], (rows,), generator=maker)
        self.batch = setting.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.x))
        for at in range(0, len(order), self.batch):
            rows = order[at : at + self.batch]
            yield self.x[rows], self.y[rows]


def hand(setting: Setting) -> Chunk:
    batches, model = Rows(setting), mlp(setting)
    optimizer = adamw(model.parameters())

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    return timed(epoch)


def with_whet(setting: Setting, *methods: str) -> Chunk:
    import whet  # here, so that a process that measures the hand loop holds nothing of it

    rows = Rows(setting)
    run = whet.Run(
        whet.Task(mlp(setting), (rows.x, rows.y)),
        whet.Stage(
            updates=1 << 40, batch_size=setting.batch, optimizer=adamw, methods=list(methods)
        ),
        device="cpu", log=None,
    )  # fmt: skip
    return timed(lambda: run.fit(until=run.updates + setting.steps))
