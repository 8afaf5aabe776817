"""A callback for Lightning's own modules: it looks on, and says what is judged.

`Observers` does not touch training; evaluation happens under what EMA, SWA and precise batch
normalisation make of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

from whet import modes
from whet.errors import InputError
from whet.forward import Window
from whet.hosts.reading import passes
from whet.loading import Epochs
from whet.method import Method, Placement
from whet.stack import Stack


class Judging(pl.Callback):
    """While the host evaluates, what is judged stands in the module's place."""

    def __init__(self, judged: Callable[[Any, Any], AbstractContextManager[None]]) -> None:
        self._judged = judged
        self._view = ExitStack()

    def _enter(self, trainer: Any, module: Any, *given: Any) -> None:
        self._view.enter_context(self._judged(trainer, module))

    def _leave(self, *given: Any) -> None:
        self._view.close()

    on_validation_start = on_test_start = on_predict_start = _enter
    on_validation_end = on_test_end = on_predict_end = on_exception = _leave


class Observers(Judging):
    """EMA, SWA, precise batch normalisation: what a module is judged by, without touching training.

    For LightningModules that are there already, whatever they do in a step. Batches of the training
    data reach the module's `forward` as they reach a model of whet: `(inputs, targets)`, or a
    mapping of keyword arguments with `labels`.

    Args:
        methods: those that only observe.
        data: a DataLoader of the training data for those that read it (PreciseBN), where the
            trainer has none: when a checkpoint is tested in a process of its own.
        seed: of the order in which they read it.

    Raises:
        InputError: a method takes part in training.

    >>> from whet.methods import EMA, PreciseBN
    >>> callbacks = [Observers(EMA(0.999), PreciseBN())]    # for Trainer(callbacks=...)
    """

    def __init__(self, *methods: Method, data: Any = None, seed: int = 0) -> None:
        super().__init__(self._context)
        for method in methods:
            if method.placements is not Placement.OBSERVER:
                raise InputError(
                    f"{method.key} takes part in training, and Observers only look on "
                    "(SWA with lr=None does). Train with WhetModule."
                )
        self.methods, self.data, self.seed = methods, data, seed
        self.stack: Stack | None = None
        self._total: int | None = None
        self._waiting: Mapping[str, Any] | None = None
        self._steps, self._scale = 0, 0.0

    @property
    def state_key(self) -> str:
        """Where its state lies in a checkpoint."""
        key: str = self._generate_state_key(methods=[method.key for method in self.methods])
        return key

    def _context(self, trainer: Any, module: nn.Module) -> AbstractContextManager[None]:
        if self.stack is None or self._waiting is not None:
            self._begin(trainer, module)
        assert self.stack is not None
        return self.stack.evaluating()

    def _begin(self, trainer: Any, module: nn.Module) -> None:
        state, self._waiting = self._waiting, None
        if state is not None:
            self._total = state["total"]

        def train(purpose: str) -> Epochs:  # opened late: Lightning may not have a loader yet
            own = trainer.train_dataloader if self.data is None else self.data
            return passes(own, self.seed)(purpose)

        with modes.training_mode(module, modes.frozen(module)):
            self.stack = Stack(
                module, "categorical", [method.clone() for method in self.methods],
                optimizer=torch.optim.SGD,  # never stepped: the module's own optimizer is
                updates=self._total, loader=train,
            )  # fmt: skip
            if state is None:
                self.stack.open()
            else:
                self.stack.load_state_dict(state["stack"])

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        steps = trainer.estimated_stepping_batches
        self._total = int(steps) if 0 < steps < float("inf") else None
        self._begin(trainer, module)

    def on_train_batch_start(self, trainer: Any, *given: Any) -> None:
        self._steps, self._scale = trainer.global_step, scale_of(trainer)

    def on_train_batch_end(self, trainer: Any, *given: Any) -> None:
        assert self.stack is not None
        if trainer.global_step > self._steps:
            self.stack.run.current = Window((), 0.0, 0, 0)  # the host's own
            self.stack.after_update(happened=scale_of(trainer) >= self._scale)
        if trainer.is_last_batch:
            self.stack.end_epoch()

    def state_dict(self) -> dict[str, Any]:
        if self.stack is None:
            return {}
        return {"total": self._total, "stack": self.stack.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._waiting = state_dict or None


def scale_of(trainer: Any) -> float:
    """The fp16 scale, which falls where a step was skipped; 0 where there is none."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 0.0 if scaler is None else float(scaler.get_scale())
