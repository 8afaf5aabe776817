"""One training in four hosts: the contract's fixture, seven methods, a window of four, dropout."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer, TrainingArguments

from tests.contract import fixture
from whet.batch import Batch
from whet.hosts import Order
from whet.hosts.lightning import WhetModule
from whet.hosts.transformers import WhetTrainer
from whet.method import Method
from whet.methods import EMA, FGM, LabelSmoothing, Lookahead, MixUp, PreciseBN, RDrop
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

SEED, ROWS_A_BATCH, WINDOW = 5, 6, 4
EPOCHS, UPDATES = 4, 8  # seven batches an epoch: windows of four and of three
SGD = {"lr": 0.1, "momentum": 0.9}


def methods() -> list[Method]:
    return [
        EMA(0.8, warmup="none"), FGM(epsilon=0.5).during(0.25, 1), RDrop(), MixUp(at="floats"),
        LabelSmoothing(0.1), Lookahead(k=3), PreciseBN(),
    ]  # fmt: skip


def optimizer(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, **SGD)


class Rows(Dataset[dict[str, Tensor]]):
    """The fixture's rows one by one, as a host reads them."""

    def __init__(self, rows: int = fixture.ROWS, seed: int = 0) -> None:
        self.whole = fixture.data(rows, seed)

    def __len__(self) -> int:
        return len(self.whole["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: tensor[row] for name, tensor in self.whole.items()}


def loader() -> DataLoader[Any]:
    rows = Rows()
    return DataLoader(rows, batch_size=ROWS_A_BATCH, sampler=Order(rows, SEED))


def held_out() -> DataLoader[Any]:
    return DataLoader(Rows(20, 1), batch_size=8)


class Plain(WhetTrainer, Trainer):
    """The host's own order of rows."""


class Ordered(Plain):
    """Rows in the order in which `Run` reads them."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        return self.accelerator.prepare(loader())

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        return [name for name, _ in model.named_parameters()]  # one group: norms are sums in order


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    given: dict[str, Any] = {
        "output_dir": str(folder), "seed": SEED, "use_cpu": True, "report_to": [],
        "num_train_epochs": EPOCHS, "per_device_train_batch_size": ROWS_A_BATCH,
        "gradient_accumulation_steps": WINDOW, "max_grad_norm": 0.0, "disable_tqdm": True,
        "lr_scheduler_type": "linear", "save_strategy": "no", "logging_strategy": "no",
        "dataloader_pin_memory": False,
    } | changes  # fmt: skip
    return TrainingArguments(**given)


def trainer(folder: Path, kind: type[WhetTrainer] = Ordered, **changes: Any) -> WhetTrainer:
    own = ("methods", "model", "train_dataset", "eval_dataset", "callbacks", "optimizers",
           "compute_metrics", "objective", "optimizer_cls_and_kwargs",
           "compute_loss_func")  # fmt: skip
    given: dict[str, Any] = {
        "methods": methods(), "model": fixture.make_model(SEED), "train_dataset": Rows(),
        "optimizer_cls_and_kwargs": (torch.optim.SGD, dict(SGD)),
        "resources": fixture.resources(),
    } | {name: changes.pop(name) for name in own if name in changes}  # fmt: skip
    return kind(args=arguments(folder, **changes), **given)


def module(**changes: Any) -> WhetModule:
    given: dict[str, Any] = {
        "methods": methods(), "optimizer": optimizer, "schedule": "linear", "accumulate": WINDOW,
        "seed": SEED, "resources": fixture.resources(),
    } | changes  # fmt: skip
    return WhetModule(fixture.make_model(SEED), "categorical", **given)


def lightning(folder: Path, **changes: Any) -> pl.Trainer:
    given: dict[str, Any] = {
        "default_root_dir": folder, "max_epochs": EPOCHS, "accelerator": "cpu", "logger": False,
        "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False,
    } | changes  # fmt: skip
    return pl.Trainer(**given)


def checkpoints(folder: Path) -> pl.callbacks.ModelCheckpoint:
    """One at the end of each epoch."""
    return pl.callbacks.ModelCheckpoint(folder, "{epoch}", every_n_epochs=1, save_top_k=-1)


def engine(folder: Path | None = None, **changes: Any) -> Run:
    given: dict[str, Any] = {
        "epochs": EPOCHS, "batch_size": ROWS_A_BATCH, "accumulate": WINDOW, "methods": methods(),
        "optimizer": optimizer, "schedule": "linear",
    } | changes  # fmt: skip
    task = Task(fixture.make_model(SEED), fixture.data(), resources=fixture.resources())
    return Run(task, Stage(**given), SEED, folder=folder, device="cpu", checkpoint_every=3)


class Loop:
    """A loop by hand around a Stack."""

    def __init__(self, wanted: list[Method] | None = None) -> None:
        self.model = fixture.make_model(SEED)
        self.stack = Stack(
            self.model, "categorical", methods() if wanted is None else wanted,
            optimizer=optimizer, updates=UPDATES, seed=SEED, data=fixture.data(),
            batch_size=ROWS_A_BATCH, resources=fixture.resources(),
        )  # fmt: skip
        self.optimizer = self.stack.optimizer
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda update: 1.0 - update / UPDATES
        )
        self.stack.set_scheduler(self.scheduler)
        self.judged = self.stack.evaluating

    def train(self, first: int = 0, last: int = UPDATES) -> Loop:
        """Windows number `first` to `last`."""
        for number in range(first, last):
            epoch, half = divmod(number, 2)
            reading = loader()
            reading.sampler.set_epoch(epoch)
            batches = [Batch.of(raw) for raw in reading]
            self.stack.step(batches[half * WINDOW : (half + 1) * WINDOW])
            if half:
                self.stack.end_epoch()
        return self

    def state(self) -> dict[str, Any]:
        parts = (self.model, self.optimizer, self.scheduler, self.stack)
        return copy.deepcopy({"parts": [part.state_dict() for part in parts]})

    def load(self, state: dict[str, Any]) -> None:
        parts = (self.model, self.optimizer, self.scheduler, self.stack)
        for part, saved in zip(parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def judged(host: Any, module: torch.nn.Module) -> dict[str, Tensor]:
    """The weights and buffers that a host's `judged()` puts in place."""
    with host.judged():
        return fixture.weights(module)


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are not the same to the bit."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]
