"""Methods nested around one training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from whet import judging, nesting, objectives, optim, reducing, seeding, spans
from whet.batch import Batch
from whet.forward import Forward, Window
from whet.loading import Epochs, open_loader
from whet.method import Method
from whet.microbatches import MicroBatch, MicroBatches
from whet.predict import Predictor
from whet.training import Optimizer, Training
from whet.trouble import LossWatch
from whet.world import World


class Stack:
    """Methods nested around one training step, for a plain loop or an engine.

    A step is `gradients` over a window of micro-batches and then `update`, which is `unscale`,
    `before_update`, the optimizer's step and `after_update`; each is public.

    Args:
        model: the module, compiled in place or not; or put a compiled callable at `run.model`.
        objective: a name or an Objective.
        methods: Methods in any order; layers nest them.
        optimizer: an optimizer, or a function from parameters to one. It may be set later, when a
            method builds parameters (`stack.parameters()`).
        scheduler: stepped once for each update that happened.
        scaler: a GradScaler for fp16.
        updates: length of the stage, needed where a method has a span (FGM by default) or a cycle.
        data: the training data, for methods that read it themselves (PreciseBN).
        batch_size: rows per batch of `data`.
        resources: what methods name in `needs`: unlabelled data, views, a teacher.
        seed: decides all randomness, together with the position.
        stage: number of the stage in its recipe.
        backward: sends a loss back, where not by `loss.backward()`.
        loader: from a purpose to a loader of the training data, in place of `data`.
        world: the processes that train together; a step is given this one's rows.
        micro_batch: rows at most that are forwarded at a time, or `auto`; see `MicroBatches`.

    Raises:
        Clash, InputError, NotApplicable: before training begins.

    >>> from whet.methods import EMA
    >>> model = nn.Linear(2, 3)
    >>> stack = Stack(model, "categorical", [EMA(0.9)], optimizer=torch.optim.SGD(
    ...     model.parameters(), lr=0.1))
    >>> stack.step((torch.ones(4, 2), torch.tensor([0, 1, 2, 0])))
    True
    >>> with stack.evaluating():
    ...     judged = model(torch.ones(1, 2))
    """

    def __init__(
        self, model: nn.Module, objective: objectives.Objective | str = "categorical",
        methods: Sequence[Method] = (), *,
        optimizer: Optimizer | Callable[[Any], Optimizer] | None = None, scheduler: Any = None,
        scaler: torch.amp.GradScaler | None = None, updates: int | None = None, data: Any = None,
        batch_size: int = 64, resources: Mapping[str, Any] | None = None, seed: int = 0,
        stage: int = 0, backward: Callable[[Tensor], None] | None = None,
        loader: Callable[[str], Epochs] | None = None, micro_batch: MicroBatch = None,
        world: World | None = None,
    ) -> None:  # fmt: skip
        def train(purpose: str) -> Epochs:
            return open_loader(data, batch_size, seeding.key(seed, stage), purpose)

        self.methods = nesting.arrange(methods)
        self.objective = objectives.make(objective)
        self.run = Training(
            model, self.objective, seed=seed, stage=stage, updates=updates, resources=resources,
            train=loader if data is None else train, world=world,
        )  # fmt: skip
        self.run.scaler, self.run.make_optimizer = optim.enabled(scaler), optimizer
        self.set_scheduler(scheduler)
        self.run.evaluating, self.run.beside = self.evaluating, self.methods
        self.objective.conclude(self.run, self.methods)
        spans.check(self.methods, updates)
        for method in self.methods:
            for need in sorted(method.needs):
                self.run.resource(need, method)
            method.build(self.run)
        self._send_back = backward or optim.backward(scaler)
        self._watch, self.micro = LossWatch(), MicroBatches(micro_batch)
        self._active: list[Method] = []
        self._carried: dict[str, Any] = {}
        self._next_cut = spans.NEVER
        self._open = self._happened = False

    # the nesting -----------------------------------------------------------------------------
    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable, with what methods built: what an optimizer should be given."""
        return [p for p in self.run.parameters() if p.requires_grad]

    def open(self) -> None:
        """Begin: the optimizer is known, the methods of the first interval start."""
        if not self._open:
            optim.check_holds(self.optimizer, self.run.heads)
            self._open = True
            self._activate()

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer, made from `parameters()` where a function was given."""
        return self.run.open_optimizer()

    @optimizer.setter
    def optimizer(self, given: Optimizer) -> None:
        self.run.optimizer = given
        self.run.walk()

    def set_scheduler(self, scheduler: Any) -> None:
        """Step a scheduler once for each update that happens.

        Raises:
            Clash: a method owns the learning rate.
        """
        if scheduler is not None:
            nesting.check_schedule(self.methods)
        self.run.scheduler = scheduler

    def _activate(self) -> None:
        """Rebuild the nesting for the interval that begins at this update."""
        run, before = self.run, self._active
        self._active, self._next_cut = spans.current(self.methods, run.total, run.updates)
        for method in self._active:
            if method not in before:
                method.start(run)
                if method.key in self._carried:
                    method.load_state_dict(self._carried.pop(method.key))
        run.walk()
        self._now = nesting.Interval(
            run, self._active, forward=nesting.innermost(self.objective, run),
            backward=self._send, gradients=self._accumulate, step=self._plain_step,
        )  # fmt: skip

    def explain(self) -> str:
        """The nesting in print, outermost first."""
        return nesting.explain(self.objective, self.methods)

    # one step --------------------------------------------------------------------------------
    def step(self, batches: Any) -> bool:
        """Gradients and update over one batch, or over a list of Batches as one window."""
        micros = batches if isinstance(batches, Window) else self.window(batches)
        self.open()
        self._happened = False
        self._now.step(micros)
        return self._happened

    def window(self, batches: Any) -> Window:
        """The micro-batches of one update, on the model's device, with exact totals."""
        several = isinstance(batches, list) and all(isinstance(b, Batch) for b in batches)
        given = batches if several else [Batch.of(batches)]
        return reducing.totals(self.objective.window(given, self.run.device), self.run.world)

    def _plain_step(self, window: Window) -> None:
        self.gradients(window)
        self._happened = self.update()

    def gradients(self, window: Window) -> None:
        """Fill the gradients from a window.

        Raises:
            NonFiniteLoss: the loss is NaN or infinite; before the update on a CPU, one step late
                on an accelerator (see `settle`), never where a scaler will skip the step.
        """
        if not self._open:
            self.open()
        self.micro.gradients(self.run, self._watch, window, self._now.gradients)
        reducing.finish(self.run, self._watch)

    def _accumulate(self, window: Window) -> None:
        run, now = self.run, self._now
        for number, batch in enumerate(window.batches):
            run.open_micro(number, batch, now.forward)
            try:
                now.micro(run, batch)
            finally:
                run.close_micro()

    def _send(self, forward: Forward) -> None:
        run, window = self.run, self.run.current
        assert window is not None
        if window.batches[run.micro].spare:  # it went through for the other processes' sake
            forward = forward.replace(scale=0.0)
        loss = forward.total(window)
        self._watch.saw(run, forward, loss)
        if loss.requires_grad:
            self._send_back(loss)

    def settle(self) -> None:
        """Raise where the last window's loss was not finite; an accelerator is waited for."""
        self._watch.settle()

    def update(self) -> bool:
        """Unscale, `before_update`, the optimizer's step, `after_update`; whether it happened."""
        self.unscale()
        self.before_update()
        happened = self.step_optimizer()
        self.after_update(happened)
        return happened

    def unscale(self) -> None:
        """Bring fp16 gradients back to their true size."""
        if self.run.scaler is not None:
            optim.unscale(self.optimizer, self.run.scaler)

    def before_update(self) -> None:
        """Tell the methods that the gradients are whole."""
        for method in self._now.before_update:
            method(self.run)

    def step_optimizer(self) -> bool:
        """Step; False where the scaler found an overflow and skipped."""
        return optim.step(self.optimizer, self.run.scaler)

    def after_update(self, happened: bool) -> None:
        """Advance: everything where the update happened, only the window where it did not."""
        run = self.run
        run.end_update()
        if happened:
            run.updates += 1
            if run.scheduler is not None:
                run.scheduler.step()
            for method in self._now.after_update:
                method(run)
        self._watch.updated(run, happened)
        run.close_window()
        if run.updates >= self._next_cut:
            self._activate()

    @property
    def loss(self) -> float:
        """The last window's loss."""
        return self._watch.value

    @property
    def terms(self) -> dict[str, float]:
        """What the last window's loss is the sum of: the objective's, and each method's term."""
        return self._watch.terms(self.objective.name)

    # what is judged --------------------------------------------------------------------------
    def evaluating(self) -> AbstractContextManager[None]:
        """Evaluation mode under the weights and buffers that are judged; undone on exit."""
        self.open()
        self.settle()
        return judging.evaluating(self.run, self._active)

    def predictor(self, live: bool = False) -> Predictor:
        """What is judged and exported: a copy; a `live` one lasts while `evaluating` is entered."""
        self.open()
        self.settle()
        return judging.predictor(self.run, self._active, live)

    # moments that the host announces ---------------------------------------------------------
    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Tell the methods what the select part gave."""
        for method in self._active:
            method.evaluated(self.run, metrics)

    def end_epoch(self) -> None:
        """Tell the methods that the training data was gone through."""
        self.run.epoch += 1
        for method in self._active:
            method.end_epoch(self.run)

    # state -----------------------------------------------------------------------------------
    def carry(self, states: Mapping[str, Any]) -> None:
        """States that methods continue from when they start."""
        self._carried.update(states)

    def state_dict(self) -> dict[str, Any]:
        """Position, methods' states and what they built; model and optimizer are the host's."""
        self.settle()  # weights that a NaN has reached must not be saved
        return {
            "position": self.run.state_dict(), "heads": self.run.heads.state_dict(),
            "methods": [m.key for m in self.methods], "loss": self.loss,
            "states": {**self._carried, **{m.key: m.state_dict() for m in self._active}},
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state; after the model's and the optimizer's own.

        Raises:
            CheckpointError: the state belongs to other methods; both lists are named.
        """
        nesting.check_same(state["methods"], [method.key for method in self.methods])
        self.run.load_state_dict(state["position"])
        self.run.heads.load_state_dict(state["heads"])
        self._watch.replace(state.get("loss", 0.0), {})
        self.carry(state["states"])
        self._open, self._active = False, []
        self.open()
