"""What ten methods that do nothing add to a step of whet's engine."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

import whet
from benchmarks.engines import Rows, Setting, mlp
from benchmarks.timing import Chunk, timed
from whet.batch import Batch
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.training import Training

NO_OP = Setting((8, 4), batch=8, steps=20)


@method
class NoOp(Method):
    """Overrides three moments and changes nothing."""

    name: ClassVar[str] = "no_op"
    layer: ClassVar[Layer] = Layer.MODEL_NOISE
    neutral: ClassVar[dict[str, Any]] = {}
    card: ClassVar[Card] = Card(
        title="Nothing", paper="-", cost="no pass", tier=1, phase="any", data="any",
        avoid_when="always",
    )  # fmt: skip

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        return inner(batch)

    def before_update(self, run: Training) -> None:
        pass

    def after_update(self, run: Training) -> None:
        pass


def no_ops(count: int) -> Chunk:
    rows = Rows(NO_OP)
    methods = [NoOp().labelled(str(number)) for number in range(count)]
    stage = whet.Stage(
        updates=1 << 40, batch_size=NO_OP.batch, methods=methods,
        optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
    )  # fmt: skip
    run = whet.Run(whet.Task(mlp(NO_OP), (rows.x, rows.y)), stage, device="cpu", log=None)
    return timed(lambda: run.fit(until=run.updates + NO_OP.steps))
