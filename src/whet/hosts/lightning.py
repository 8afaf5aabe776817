"""Training methods in Lightning: a module that trains by a Stack.

`WhetModule` takes the step out of Lightning's hands (manual optimisation), so that every method has
its place in it. For modules that are there already there are `Observers`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import lightning.pytorch as pl
import numpy as np
from torch import Tensor, nn

from whet import evaluation, modes, objectives, optim
from whet import metrics as measures
from whet.batch import Batch
from whet.errors import CheckpointError, InputError
from whet.hosts.observers import Judging, Observers
from whet.hosts.reading import passes
from whet.hosts.stepping import check_step
from whet.loading import Epochs
from whet.method import Method
from whet.predict import ModelPredictor, Predictor
from whet.stack import Stack

__all__ = ["Observers", "WhetModule"]

KEY = "whet"  # within the host's checkpoint


class WhetModule(pl.LightningModule):
    """A LightningModule around a model, trained by a Stack.

    A checkpoint holds the weights that are trained, and the methods' state beside them. `validate`,
    `test` and `predict` work on what is judged, also after loading one (`ckpt_path="best"`);
    `predictor()` gives and saves it. Modules of which no parameter is trained stay in evaluation
    mode. Metrics are logged as `val_...` and `test_...`, the loss as `train_loss`.

    Args:
        model: called on a batch's inputs.
        objective: a name or an Objective.
        methods: Methods in any order; layers nest them.
        optimizer: as in a Stage: a name, settings, or a function from parameters to one.
        schedule: as in a Stage; stepped once for each update.
        accumulate: batches per update; the last window of an epoch may be shorter.
        resources: what methods name in `needs`.
        metrics: what is logged; the objective's defaults where None.
        data: a DataLoader of the training data for methods that read it (PreciseBN), where the
            trainer has none: when a checkpoint is tested in a process of its own.
        seed: decides all randomness, together with the position.

    Raises:
        InputError: several processes, or fp16, whose scaler Lightning keeps to itself.

    >>> from whet.methods import EMA
    >>> module = WhetModule(nn.Linear(2, 3), "categorical", [EMA(0.9)], optimizer="adamw")
    >>> module.automatic_optimization
    False
    """

    def __init__(
        self, model: nn.Module, objective: objectives.Objective | str = "categorical",
        methods: Sequence[Method] = (), *, optimizer: Any = "adamw", schedule: Any = None,
        accumulate: int = 1, resources: Mapping[str, Any] | None = None,
        metrics: Sequence[Any] | None = None, data: Any = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        if accumulate < 1:
            raise InputError(f"accumulate is {accumulate}; it must be at least 1.")
        self.automatic_optimization = False
        self.model, self.objective, self.methods = model, objectives.make(objective), list(methods)
        self.given, self.schedule, self.accumulate = optimizer, schedule, accumulate
        self.resources, self.metrics, self.data, self.seed = resources, metrics, data, seed
        self.stack: Stack | None = None
        self._total: int | None = None
        self._waiting: Mapping[str, Any] | None = None
        self._micros: list[Batch] = []
        self._frozen: list[nn.Module] = []
        self._seen: list[tuple[Any, Any]] = []
        self._epoch_ended = False

    def forward(self, *given: Any, **named: Any) -> Any:
        """The model's own."""
        return self.model(*given, **named)

    # training --------------------------------------------------------------------------------
    def configure_optimizers(self) -> Any:
        """The stack is made here: methods build before the optimizer exists."""
        trainer = self.trainer
        check(trainer)
        check_step(self.methods, "Lightning")
        trainer.estimated_stepping_batches  # noqa: B018 - opens the loader, whose length is asked for
        epochs, windows = trainer.max_epochs, -(-trainer.num_training_batches // self.accumulate)
        lengths = [trainer.max_steps, windows * epochs if epochs is not None else -1]
        lengths = [length for length in lengths if 0 < length < float("inf")]
        self._make_stack(int(min(lengths)) if lengths else None)
        stack = self._made()
        stack.set_scheduler(optim.schedule(self.schedule, stack.optimizer, self._total or 0))
        if stack.run.scheduler is None:
            return stack.optimizer
        return [stack.optimizer], [stack.run.scheduler]  # Lightning saves it, the stack steps it

    def _make_stack(self, total: int | None) -> None:
        self._total, self._micros, self._frozen = total, [], modes.frozen(self.model)
        with modes.training_mode(self.model, self._frozen):
            self.stack = Stack(
                self.model, self.objective, [method.clone() for method in self.methods],
                optimizer=lambda params: optim.optimizer(self.given, params, self.model),
                updates=total, resources=self.resources, seed=self.seed, loader=self._passes,
                backward=self.manual_backward,
            )  # fmt: skip
        self.stack.run.heads.to(self.device)

    def _passes(self, purpose: str) -> Epochs:
        own = self.trainer.train_dataloader if self.data is None else self.data
        return passes(own, self.seed)(purpose)

    def _made(self) -> Stack:
        if self.stack is None:
            raise InputError("this module is not training: call Trainer.fit first.")
        return self.stack

    def on_fit_start(self) -> None:
        """The model's weights are in place, those of a checkpoint too."""
        modes.train_mode(self.model, self._frozen)
        self._begin()

    def _begin(self) -> None:
        """Begin, or continue from the state that a checkpoint brought."""
        state, self._waiting = self._waiting, None
        if self.stack is None:
            self._make_stack(None if state is None else state["total"])
        with modes.training_mode(self.model, self._frozen):
            if state is None:
                self._made().open()
            else:
                self._made().load_state_dict(state["stack"])

    def on_train_epoch_start(self) -> None:
        """A new epoch."""
        self._epoch_ended, self._micros = False, []

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Keep a micro-batch; the window's last one trains them all."""
        stack, last = self._made(), self.trainer.is_last_batch
        self._micros.append(Batch.of(batch))
        if len(self._micros) < self.accumulate and not last:
            return
        micros, self._micros = self._micros, []
        stack.gradients(stack.window(micros))
        stack.before_update()
        self.optimizers().step()  # the host counts its steps there
        stack.after_update(happened=True)
        self.log("train_loss", stack.loss, prog_bar=True)
        if last:  # before a checkpoint can be due, so that it stands at the next epoch
            self._end_epoch()

    def on_train_epoch_end(self) -> None:
        """An epoch of unknown length, or one that was left early."""
        if not self._epoch_ended:
            self._end_epoch()

    def _end_epoch(self) -> None:
        self._epoch_ended = True
        self._made().end_epoch()

    # what is judged --------------------------------------------------------------------------
    def configure_callbacks(self) -> list[pl.Callback]:
        """What is judged stands in place while the host evaluates."""
        return [Judging(lambda trainer, module: self.judged())]

    def judged(self) -> AbstractContextManager[None]:
        """The weights and buffers that are judged in the model's place; undone on exit."""
        if self.stack is None or self._waiting is not None:
            self._begin()
        self._seen = []
        return self._made().evaluating()

    def predictor(self) -> Predictor:
        """What is judged and exported: `predictor().save(path)`; ensembles too."""
        return self._made().predictor()

    def _now(self) -> Predictor:
        state = dict(self.model.state_dict())
        return ModelPredictor(self.model, state, self.objective.family)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Predict under what is judged."""
        self._seen.append(evaluation.predict(self._now(), [Batch.of(batch)]))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Probabilities (predictions, for reals) under what is judged."""
        return self._now()(Batch.of(batch))

    def on_validation_epoch_end(self) -> None:
        """Log the metrics, and tell the methods."""
        found = self._measure("val")
        if self.trainer.training and not self.trainer.sanity_checking:
            self._made().evaluated(found)

    def on_test_epoch_end(self) -> None:
        """Log the metrics."""
        self._measure("test")

    def _measure(self, part: str) -> dict[str, float]:
        seen, self._seen = self._seen, []
        probabilities, targets = (np.concatenate(parts) for parts in zip(*seen, strict=True))
        wanted = evaluation.wanted(self._now(), self.metrics)
        found = measures.evaluate(wanted, probabilities, targets)
        self.log_dict({f"{part}_{name}": value for name, value in found.items()})
        return found

    # checkpoints -----------------------------------------------------------------------------
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the methods' state."""
        if self.stack is not None:
            checkpoint[KEY] = {"total": self._total, "stack": self.stack.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the methods' state until the weights are in place."""
        if KEY not in checkpoint:
            raise CheckpointError(
                "the checkpoint holds no state of the methods: another module wrote it. Load its "
                "weights into the model, and begin anew."
            )
        self._waiting = checkpoint[KEY]


def check(trainer: Any) -> None:
    """Refuse trainers in which methods would be wrong."""
    if trainer.world_size > 1:
        raise InputError("WhetModule trains in one process on one device: use Run for several, or "
                         "Trainer(devices=1).")  # fmt: skip
    if getattr(trainer.precision_plugin, "scaler", None) is not None:
        raise InputError("in fp16 Lightning scales, unscales and steps in one, and methods stand "
                         "between: use Trainer(precision='bf16-mixed'), or Run.")  # fmt: skip
