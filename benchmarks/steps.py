"""What methods add to a step of whet's engine: FGM, and ten methods that do nothing."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import whet
from benchmarks.engines import Rows, Setting, adamw, mlp
from benchmarks.timing import Chunk, timed
from whet.batch import Batch
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.methods import FGM
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


class Sentences(nn.Module):
    """A classifier of token sequences: embedding, one transformer layer, mean, logits."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.body = nn.TransformerEncoderLayer(width, 2, 4 * width, batch_first=True)
        self.head = nn.Linear(width, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(self.words(ids)).mean(1))


WORDS, WORD_WIDTH, BATCH, LENGTH, STEPS = 30522, 64, 16, 32, 4


def tokens(*methods: Method) -> Chunk:
    maker = torch.Generator().manual_seed(0)
    ids = torch.randint(WORDS, (BATCH * STEPS, LENGTH), generator=maker)
    labels = torch.randint(2, (BATCH * STEPS,), generator=maker)
    torch.manual_seed(0)
    stage = whet.Stage(updates=1 << 40, batch_size=BATCH, methods=methods, optimizer=adamw)
    task = whet.Task(Sentences(WORDS, WORD_WIDTH), (ids, labels))
    run = whet.Run(task, stage, device="cpu", log=None)
    return timed(lambda: run.fit(until=run.updates + STEPS))


def fgm() -> Chunk:
    return tokens(FGM().during(0, 1))
