"""The same training step in other libraries.

Their trainers are bare: nothing is logged, saved, judged or shown. What a fit costs at its
beginning and end is not counted.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.engines import Rows, Setting, adamw, mlp
from benchmarks.places import place
from benchmarks.timing import Chunk, Clock, timed

WARM = 3  # batches before time is taken


def fabric(setting: Setting) -> Chunk:
    from lightning_fabric import Fabric

    own = Fabric(accelerator="cpu", devices=1)
    plain = mlp(setting)
    model, optimizer = own.setup(plain, adamw(plain.parameters()))
    batches = Rows(setting)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y)
            own.backward(loss)
            optimizer.step()

    return timed(epoch)


def accelerate(setting: Setting) -> Chunk:
    from accelerate import Accelerator

    own = Accelerator(cpu=True)
    plain = mlp(setting)
    model, optimizer = own.prepare(plain, adamw(plain.parameters()))
    batches = Rows(setting)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), y)
            own.backward(loss)
            optimizer.step()

    return timed(epoch)


class Feed:
    """An epoch that is timed between two requests for a batch, with some batches around it.

    Lightning asks for a batch before it trains on another, so that one follows.
    """

    before, after = WARM, 1  # batches around it

    def __init__(
        self, epoch: Callable[[], Iterator[tuple[Tensor, Tensor]]],
        form: Callable[[Tensor, Tensor], Any], clock: Clock = time.perf_counter,
    ) -> None:  # fmt: skip
        self.epoch, self.form, self.clock = epoch, form, clock
        self.begin = self.end = 0.0

    def __iter__(self) -> Iterator[Any]:
        yield from self._some(self.before)
        self.begin = self.clock()
        for x, y in self.epoch():
            yield self.form(x, y)
        self.end = self.clock()
        yield from self._some(self.after)

    def _some(self, count: int) -> Iterator[Any]:
        for _, (x, y) in zip(range(count), self.epoch(), strict=False):
            yield self.form(x, y)


@contextmanager
def quiet() -> Iterator[None]:
    """Advice about workers, loggers and the like is not what is measured."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lightning(setting: Setting) -> Chunk:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(setting)
            self.own = adamw(self.net.parameters())

        def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
            x, y = batch
            return F.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.own

    module, feed = Module(), Feed(Rows(setting).__iter__, lambda x, y: (x, y))

    def chunk() -> float:
        with quiet():
            trainer = lightning.Trainer(accelerator="cpu", devices=1, max_epochs=1, barebones=True)
            trainer.fit(module, feed)
        return feed.end - feed.begin

    return chunk


class WithLoss(nn.Module):
    """What Hugging Face's Trainer asks of a model: to give its loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


def trainer(setting: Setting) -> Chunk:
    import transformers

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self) -> Any:
            return feed  # as it is: a DataLoader would cost more

    model = WithLoss(mlp(setting))
    feed = Feed(Rows(setting).__iter__, lambda x, y: {"x": x, "labels": y})
    optimizer = adamw(model.parameters())

    def chunk() -> float:
        with quiet():
            args = transformers.TrainingArguments(
                str(place("trainer")), max_steps=WARM + setting.steps + 1, max_grad_norm=0.0,
                lr_scheduler_type="constant", use_cpu=True, disable_tqdm=True, report_to=[],
                save_strategy="no", logging_strategy="no", eval_strategy="no",
                logging_nan_inf_filter=False,
            )  # fmt: skip
            own = Trainer(model, args, optimizers=(optimizer, None))
            own.remove_callback(transformers.PrinterCallback)
            own.train()
        return feed.end - feed.begin

    return chunk


PEERS: dict[str, Callable[[Setting], Chunk]] = {
    "fabric": fabric,
    "accelerate": accelerate,
    "lightning": lightning,
    "trainer": trainer,
}
