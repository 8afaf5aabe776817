"""The numbers of a run at one update, and when they are read."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from whet import settings, spans
from whet.callback import Callback

if TYPE_CHECKING:
    from whet.run import Run
    from whet.stack import Stack

EVERY = 50  # updates; each reading waits for an accelerator, and costs a CPU some 50 us


class Pace:
    """Rows per second of training, without evaluations and checkpoints.

    The first update is not counted: workers, kernels and other logs begin with it.
    """

    def __init__(self) -> None:
        self._rows, self._pause, self._since, self._last = 0, 0.0, 0.0, 0.0
        self._begun = False

    def updated(self, run: Run) -> None:
        """An update happened."""
        self._last = time.perf_counter()
        if self._begun:
            window = run.stack.run.current
            self._rows += 0 if window is None else window.rows
        else:
            self._since, self._pause, self._begun = self._last, 0.0, True

    def paused(self) -> None:
        """What was done since the last update was no training."""
        now = time.perf_counter()
        self._pause, self._last = self._pause + now - self._last, now

    def rate(self) -> float:
        """Rows per second since this was last asked; zero where nothing is known yet."""
        now = time.perf_counter()
        spent, rows = now - self._since - self._pause, self._rows
        self._rows, self._pause, self._since, self._last = 0, 0.0, now, now
        return rows / spent if spent > 0 else 0.0


class Rates:
    """The learning rates that an optimizer's last step took.

    They are read as it steps: afterwards it holds the schedule's next ones, and what a method such
    as SWA lent it is gone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._groups = optimizer.param_groups
        self._taken: list[float | Tensor] = []
        self._hook = optimizer.register_step_pre_hook(self._stepping)

    def _stepping(self, *_: Any) -> None:
        self._taken = [_kept(group["lr"]) for group in self._groups]

    def close(self) -> None:
        """Leave the optimizer alone."""
        self._hook.remove()

    def named(self) -> dict[str, float]:
        """`lr`, or where groups differ `lr_0`, `lr_1` and so on."""
        rates = [float(rate) for rate in self._taken]
        alone = len({float(group.get("initial_lr", group["lr"])) for group in self._groups}) == 1
        if alone and len(set(rates)) == 1:
            return {"lr": rates[0]}
        return {f"lr_{number}": rate for number, rate in enumerate(rates)}


def _kept(rate: float | Tensor) -> float | Tensor:
    return rate.detach().clone() if isinstance(rate, Tensor) else rate  # changed in place


def readings(stack: Stack) -> dict[str, float]:
    """Loss, terms and what methods read of themselves, at the last update; waits for the device.

    >>> from whet.methods import ClipGradNorm
    >>> from whet.stack import Stack
    >>> stack = Stack(torch.nn.Linear(2, 3), "categorical", [ClipGradNorm()],
    ...     optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    >>> happened = stack.step((torch.ones(4, 2), torch.tensor([0, 1, 2, 0])))
    >>> list(readings(stack))
    ['loss', 'clip_grad_norm/norm']
    """
    values, terms = {"loss": stack.loss}, stack.terms
    if len(terms) > 1:
        values |= {f"terms/{name}": value for name, value in terms.items()}
    # those of the update before this moment: at a cut, others take part from here on
    active, _ = spans.current(stack.methods, stack.run.total, stack.run.updates - 1)
    for method in active:
        values |= {f"{method.key}/{name}": value for name, value in method.readings().items()}
    return values


class Log(Callback, ABC):
    """Writes a run's numbers down every so many updates, at a stage's end, and at evaluations.

    A subclass gives `write`. Of several processes the first one writes.

    Args:
        every: updates between readings. Each waits for an accelerator to catch up.

    >>> class Losses(Log):
    ...     def write(self, run, values):
    ...         print(run.updates, sorted(values))
    """

    def __init__(self, every: int = EVERY) -> None:
        settings.at_least_one(every=every)
        self.every = every
        self._open = False

    # what a subclass gives -------------------------------------------------------------------
    def open(self, run: Run) -> None:
        """`fit` was called; everything after update `run.updates` was never trained."""

    @abstractmethod
    def write(self, run: Run, values: dict[str, float]) -> None:
        """Note values at `run.updates`; once more, with metrics, where that is evaluated too."""

    def close(self, run: Run, error: BaseException | None) -> None:
        """`fit` ends."""

    # what the run tells ----------------------------------------------------------------------
    def began(self, run: Run) -> None:
        if run.stack.run.rank != 0:
            return
        self.open(run)
        self._open, self._pace = True, Pace()
        self._rates = Rates(run.stack.optimizer)
        self._read: tuple[int, dict[str, float]] = (-1, {})

    def entered(self, run: Run) -> None:
        if self._open:
            self._rates.close()
            self._rates = Rates(run.stack.optimizer)
            self._pace.paused()

    def updated(self, run: Run) -> None:
        if self._open:
            self._pace.updated(run)
            position = run.stack.run
            if run.updates % self.every == 0 or position.updates >= (position.total or 0):
                self.write(run, self._values(run))

    def evaluated(self, run: Run, metrics: Mapping[str, float]) -> None:
        if self._open:
            self._pace.paused()
            named = {f"select/{name}": value for name, value in metrics.items()}
            self.write(run, self._values(run) | named)

    def saved(self, run: Run, place: object) -> None:
        if self._open:
            self._pace.paused()

    def ended(self, run: Run, error: BaseException | None) -> None:
        if self._open:
            self._open = False
            self._rates.close()
            self.close(run, error)

    def _values(self, run: Run) -> dict[str, float]:
        at, values = self._read
        if at != run.updates:  # an evaluation falls on an update that may have been read already
            values = readings(run.stack) | self._rates.named()
            if rate := self._pace.rate():  # after the wait for the device
                values["samples_per_second"] = rate
            self._read = run.updates, values
        return values
