"""One execution of a recipe with one seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch

from whet import callback, diagnosis, entering, fsdp, judging, logs, resume, settings
from whet import device as devices
from whet import reducing as processes
from whet.batch import Batch
from whet.callback import CallbackLike
from whet.evaluation import evaluate, score
from whet.freezing import Frozen
from whet.keeping import AUTO, Keeper
from whet.loading import Epochs, open_loader
from whet.patience import Patience
from whet.predict import Predictor, take_weights
from whet.sharding import share
from whet.stack import Stack
from whet.stage import Recipe, Stage
from whet.task import Task


class Run:
    """One execution of a recipe: model, position and artifacts; resumable at every step.

    The loop, stage by stage:

        while the stage's updates have not all happened:
            window = the next `accumulate` batches, never across the end of an epoch
            stack.gradients(window)
            happened = stack.update()      # unscale, before_update, step, after_update
            evaluate on the select part and save a checkpoint when due

    Args:
        task: model, data, objective, metrics, resources.
        recipe: a Recipe, or one Stage.
        seed: decides, with the position, everything random.
        folder: where checkpoints go; None keeps nothing. A run that finds its own checkpoint
            there continues from it, and SIGTERM leaves one before `fit` ends with code 143.
        device: `auto`, `cpu` or `cuda`; of each process that `torchrun` started.
        precision: `fp32`, `bf16` or `fp16` (needs CUDA).
        strategy: of several processes, `ddp`: each holds the whole model; or `fsdp`: each holds a
            part of every weight, gradient and optimizer's state (not with fp16, nor with methods
            that need whole weights).
        evaluate_every: updates between evaluations on the select part; None for stage ends only.
        checkpoint_every: updates between checkpoints; "auto" spaces them by time, so that they
            cost at most 5 % of training; None for stage ends only.
        keep: how many of the newest checkpoints stay, beside the ends of stages.
        keep_best: how many of the best by the deciding metric on the select part stay, too.
        keep_at: updates at which a checkpoint is written that stays, for branches to begin from.
        on_change: `refuse` a checkpoint of a changed recipe, or `continue` with the new one.
        callbacks: told how the run goes; a plain function is called after each update.
        log: beside a bar, and metrics.csv in the folder: `"tensorboard"`, `"wandb"`, `"mlflow"`,
            Logs, loggers of Fabric or Lightning, or a list of them; None logs and shows nothing.
        overfit: train on so many fixed batches only, and report whether their loss goes to 0.
        profile: trace so many updates with torch's profiler into the folder.
        anomaly: name the operation whose backward gives the first NaN; several times slower.

    >>> task = Task(torch.nn.Linear(2, 2), (torch.ones(8, 2), torch.zeros(8, dtype=torch.long)))
    >>> run = Run(task, Stage(updates=3, batch_size=4)).fit()
    >>> run.updates
    3
    """

    def __init__(
        self, task: Task, recipe: Recipe | Stage, seed: int = 0, *,
        folder: str | Path | None = None, device: str = "auto", precision: str = "fp32",
        strategy: str = "ddp",
        evaluate_every: int | None = None, checkpoint_every: int | str | None = AUTO,
        keep: int = 2, keep_best: int = 0, keep_at: Iterable[int] = (), on_change: str = "refuse",
        callbacks: Iterable[CallbackLike] = (), log: Any = (), overfit: int | None = None,
        profile: int | None = None, anomaly: bool = False,
    ) -> None:  # fmt: skip
        settings.at_least_one(evaluate_every=evaluate_every)
        self.keeper = Keeper(task, checkpoint_every, keep, keep_best, keep_at, on_change)
        self.device = devices.pick(device)
        devices.check(self.device, precision)
        fsdp.check(strategy, precision)
        self.task, self.seed, self.strategy = task, seed, strategy
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe([recipe])
        self.recipe.check(sharded=strategy == "fsdp")
        self.folder = Path(folder) if folder is not None else None
        self.evaluate_every, self.checkpoint_every = evaluate_every, checkpoint_every
        self.precision, self.overfit = precision, overfit
        self.world = processes.join(self.device, task.model)
        self.callbacks = callback.made(callbacks) + logs.chosen(log, self.folder)
        self.callbacks += diagnosis.made(self, overfit, profile, anomaly)
        self.callbacks = self.callbacks if self.world.leads else []
        self.scaler = torch.amp.GradScaler(self.device.type) if precision == "fp16" else None
        self.fabric = devices.open_fabric(self.device, precision, self.scaler)
        self.notes: list[str] = []
        self.module, self.outline = processes.placed(self)
        self.trainable = {n: p.requires_grad for n, p in self.module.named_parameters()}
        self.stage_number, self.updates, self.offset = 0, 0, 0
        self.history: list[dict[str, Any]] = []
        self.carried: dict[str, Any] = {}
        self.loader: Epochs
        self.stack: Stack
        self.patience: Patience
        self.frozen, self.judges, self._last = Frozen(), False, False
        if self.stage.starts_from not in ("training", "evaluation"):
            take_weights(self.stage.starts_from, self.module)
        entering.enter(self)
        if (state := self.keeper.newest(self)) is not None:
            self.load_state_dict(state)

    # stages ----------------------------------------------------------------------------------
    @property
    def stage(self) -> Stage:
        """The stage that is being trained."""
        return self.recipe.stages[self.stage_number]

    # the loop --------------------------------------------------------------------------------
    def fit(self, until: int | None = None) -> Self:
        """Train to the end of the recipe, or until so many updates have happened in all.

        Raises:
            Terminated: SIGTERM came; what was trained is saved, where the run has a folder.
        """
        with callback.telling(self), self.keeper.training(), self.world.failing():
            return self._fit(until)

    def _fit(self, until: int | None) -> Self:
        judging.check_early_stopping(self)
        while until is None or self.updates < until:
            if self.stack.run.over:
                if self.stage_number + 1 == len(self.recipe.stages):
                    entering.leave(self)
                    break
                entering.hand_over(self)
                continue
            self._train_stage(until)
        self.stack.settle()
        if self.folder is not None and self.keeper.saved_at != self.updates:
            self.save()
        return self

    def _train_stage(self, until: int | None) -> None:
        run = self.stack.run
        judging.check_plateau(self)
        with self.frozen.staying():
            for batches in self.keeper.heeding(self, self._windows()):
                self.frozen.still()
                happened = self._update(batches)
                if happened:
                    self._due()
                if run.over or (until is not None and self.updates >= until):
                    return

    def _windows(self) -> Iterator[list[Batch]]:
        run, size = self.stack.run, self.stage.accumulate
        while True:
            batches = share(self.loader, self.world).epoch(run.epoch, self.offset)
            while window := list(islice(batches, size)):
                seen, known = self.offset + len(window), self.loader.batches
                self._last = known is not None and seen >= known
                yield window
                if self._last:
                    break
            else:
                self._end_epoch()

    def _end_epoch(self) -> None:
        self.offset = 0
        self.stack.end_epoch()

    def _update(self, batches: list[Batch]) -> bool:
        happened = self.stack.step(batches)
        self.offset += len(batches)
        if self._last:  # before a checkpoint can be due, so that it stands at the next epoch
            self._end_epoch()
        self.updates += happened
        if happened:
            callback.tell(self, "updated")
        return happened

    def _due(self) -> None:
        self.judge_if_due(self.stack.run.over)
        if self.folder is not None and self.keeper.due(self, self.stack.run.over):
            self.save()

    def judge_if_due(self, ended: bool) -> None:
        """Evaluate on the select part, where that is due after this update."""
        every = self.evaluate_every
        if self.judges and (ended or (every is not None and self.updates % every == 0)):
            judging.judged(self, metrics := self.evaluate("select"))
            row = {"update": self.updates, "stage": self.stage_number, "loss": self.stack.loss}
            self.history.append({**row, "metrics": metrics})
            callback.tell(self, "evaluated", metrics)
            self.patience.conclude(self)

    # what is judged --------------------------------------------------------------------------
    def predictor(self) -> Predictor:
        """What is judged and exported; of a sharded model whole, in each process's host memory."""
        self.world.meet("run.predictor()", "Call it after fit, in every process.")
        with self.patience.standing_at_best(self):
            return self.stack.predictor()

    def evaluate(self, part: str = "judge") -> dict[str, float]:
        """Metrics on a part of the task: `select`, `judge` or `train`."""
        self.world.meet("run.evaluate()", "Let the run do it: Run(evaluate_every=...).")
        live = self.world.sharded
        with ExitStack() as within:
            within.enter_context(self.patience.standing_at_best(self))
            if live:
                within.enter_context(self.stack.evaluating())
            judged = (self.stack.predictor(live), self.batches(part), self.task.metrics)
            return evaluate(*judged, self.world)

    def batches(self, part: str) -> Iterator[Batch]:
        """The rows of a part in their own order; of several processes each has its share."""
        loader = open_loader(
            self.task.part(part), max(self.stage.batch_size, 256), self.seed, part,
            shuffle=False, collate=self.task.collate,
        )  # fmt: skip
        return share(loader, self.world).epoch(0)

    def score(self, predictor: Predictor) -> float:
        """The deciding metric on the select part; more is better."""
        return score(predictor, self.batches("select"), self.task.metrics, self.world)

    # checkpoints -----------------------------------------------------------------------------
    def manifest(self) -> dict[str, Any]:
        """What "to the bit" depends on."""
        here = devices.surroundings(self.device, self.precision, self.seed, self.world.size)
        return here | {"strategy": self.strategy}

    def state_dict(self) -> dict[str, Any]:
        """Everything the run continues from; of a sharded model in the first process alone."""
        self.world.meet("run.state_dict()", "Let the run save: Run(folder=..., keep=...).")
        return resume.state_of(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            CheckpointError: it belongs to another seed, recipe or set of methods.
        """
        changed = resume.check(self, state)
        self.carried = {}
        self.stage_number, self.offset = state["stage"], resume.offset(self, state)
        entering.enter(self)
        resume.restore(self, state, changed)

    def save(self) -> Path:
        """Write a checkpoint, whole or not at all."""
        self.world.meet("run.save()", "Let the run do it: Run(checkpoint_every=..., keep=...).")
        place = self.keeper.save(self)
        callback.tell(self, "saved", place)
        return place
