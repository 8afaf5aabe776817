"""Which learning rate to try first: a short run in which the rate grows until the loss explodes."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from whet import methods as catalogue
from whet import nesting, seeding, whole
from whet.callback import Callback
from whet.errors import Clash, InputError, NonFiniteLoss
from whet.loading import open_loader
from whet.method import Method, Resource
from whet.rows import kept_generators
from whet.run import Run
from whet.stage import Stage
from whet.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEMORY = 0.9  # of the running mean that smooths the losses
EXPLODED = 4.0  # times the smallest smoothed loss: beyond it nothing is to be seen
FALL = 0.01  # of the first smoothed loss: less is noise
FEWEST = 10  # updates before an explosion is believed, and for a slope


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Loss over learning rate.

    Args:
        rates: the rate of each update, of the optimizer's first group.
        losses: the loss of each update's window, before the update.
        suggestion: where the smoothed loss falls steepest; None where it never falls.
        left_out: methods that own the learning rate and so took no part.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float | None
    left_out: tuple[str, ...] = ()

    @property
    def smoothed(self) -> list[float]:
        """The losses' running mean, free of the bias of its beginning."""
        return _smoothed(self.losses)

    def __str__(self) -> str:
        swept = f"{self.rates[0]:.2g} to {self.rates[-1]:.2g} in {len(self.rates)} updates"
        if self.suggestion is None:
            return f"learning rate {swept}: the loss never falls, so there is no suggestion"
        return f"learning rate {swept}: the loss falls steepest at {self.suggestion:.2g}"

    def plot(self, path: str | Path | None = None) -> Figure:
        """The curve as a small figure; written to `path` too, as its ending says (png, svg, pdf).

        Raises:
            InputError: matplotlib knows no such ending, or the file cannot be written.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(self.rates, self.losses, color="0.8", linewidth=1, label="loss")
        axes.plot(self.rates, self.smoothed, color="#0067a5", label="smoothed")
        if self.suggestion is not None:
            label = f"suggestion {self.suggestion:.2g}"
            axes.axvline(self.suggestion, color="#c2500a", linestyle="--", label=label)
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        axes.legend(frameon=False, fontsize="small")
        if path is not None:
            _write(figure, Path(path))
        return figure


def find_lr(
    task: Task, stage: Stage, *, low: float = 1e-7, high: float = 10.0, updates: int = 100,
    seed: int = 0, device: str = "auto", precision: str = "fp32",
) -> RateCurve:  # fmt: skip
    """The loss while the learning rate grows from `low` to `high`, and a rate to try first.

    lr(u) = low * (high / low)^(u / (updates - 1))
    suggestion = argmin d(smoothed loss) / d(log lr)

    The suggestion is a starting point and no optimum: it is seen in a hundred updates from fresh
    weights. A copy of the model is trained; the task's own, its data's order and generators, and
    torch's, numpy's and Python's generators are left as they are. Groups of the optimizer keep the
    ratio of their rates. A sweep ends where the smoothed loss is four times its smallest value.

    Methods that begin late where nobody says when act in all of the sweep, unless they would clash
    with another there: else a quarter of the rates would be met without them.

    Args:
        task: what is learned.
        stage: as it would be trained: batch size, accumulation, optimizer, methods, frozen parts.
            Its schedule, its length and methods that own the learning rate are left out.
        low: first rate, above 0.
        high: last rate.
        updates: length of the sweep, at least 10.
        seed: of order, dropout and the methods' draws.
        device: as of a `Run`.
        precision: as of a `Run`.

    Cost: `updates` updates, and a copy of the model.

    Raises:
        InputError: the range is empty or the sweep too short to have a slope.

    Paper: Smith, Cyclical Learning Rates for Training Neural Networks (WACV 2017).

    >>> import torch
    >>> from whet import Stage, Task, find_lr
    >>> x = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    >>> task = Task(torch.nn.Linear(2, 2), (x, (x[:, 0] > 0).long()))
    >>> curve = find_lr(task, Stage(epochs=5, batch_size=16, optimizer="sgd"), updates=40)
    >>> 1e-4 < curve.suggestion < 10
    True
    """
    if not 0.0 < low < high or updates < FEWEST:
        raise InputError(
            f"find_lr sweeps from low={low} to high={high} in updates={updates}; it must be "
            f"0 < low < high, in at least {FEWEST} updates."
        )
    methods = [catalogue.make(spec) for spec in stage.methods]
    owners = [method for method in methods if Resource.LEARNING_RATE in method.owns]
    growth = (high / low) ** (1 / (updates - 1))

    def grow(optimizer: Any, _: int) -> LambdaLR:
        first = float(optimizer.param_groups[0]["lr"])
        return LambdaLR(optimizer, lambda update: low * growth**update / first)

    swept = replace(
        stage, updates=updates, epochs=None, schedule=grow, starts_from=_start(stage),
        early_stopping=None,
        methods=_throughout([method for method in methods if method not in owners]),
    )  # fmt: skip
    sweep = _Sweep(updates)
    with kept_generators(), seeding.borrowed():
        _train(_copy(task), swept, sweep, seed, device, precision)
    if not sweep.losses:
        raise InputError(
            "find_lr: the loss is not finite at the very first update, before any rate could "
            "matter. Look at the data and the model first."
        )
    left_out = tuple(method.key for method in owners)
    suggestion = _steepest(sweep.rates, _smoothed(sweep.losses))
    return RateCurve(tuple(sweep.rates), tuple(sweep.losses), suggestion, left_out)


def _throughout(methods: Sequence[Method]) -> Sequence[Method]:
    """The methods, those with a span of their own kind from the start, where they compose so."""
    wider = [
        method.during(0.0, 1.0) if method.span == type(method).span != (0.0, 1.0) else method
        for method in methods
    ]
    try:
        nesting.arrange(wider)
    except Clash:
        return methods
    return wider


def _start(stage: Stage) -> str:
    # of a single stage "evaluation" has no stage before it; a file of weights is begun from
    return "training" if stage.starts_from == "evaluation" else stage.starts_from


def _copy(task: Task) -> Task:
    """The task with a model and resources that a run may move, freeze and train."""
    resources = {
        name: copy.deepcopy(value) if isinstance(value, nn.Module) else value
        for name, value in task.resources.items()
    }
    return replace(task, model=copy.deepcopy(task.model), resources=resources)


def _train(task: Task, stage: Stage, sweep: _Sweep, seed: int, device: str, precision: str) -> None:
    run = Run(
        task, stage, seed, device=device, precision=precision, callbacks=[sweep], log=None
    )  # fmt: skip
    # under a purpose of its own a DataLoader's generators, epoch and state stay where they are
    run.loader = open_loader(
        task.train if stage.data is None else stage.data, stage.batch_size, seed, "find_lr",
        drop_last=stage.drop_last, workers=stage.workers, collate=task.collate,
        prefetch=stage.prefetch,
    )  # fmt: skip
    try:
        run.fit()
    except (_Done, NonFiniteLoss):
        return


class _Done(Exception):
    """The sweep has seen enough."""


class _Sweep(Callback):
    """Keeps rates and losses, and ends the run before anything is evaluated."""

    def __init__(self, updates: int) -> None:
        self.updates = updates
        self.rates: list[float] = []
        self.losses: list[float] = []

    def updated(self, run: Run) -> None:
        loss, scheduler = run.stack.loss, run.stack.run.scheduler
        if math.isfinite(loss):
            group = run.stack.optimizer.param_groups[0]
            # the schedule has gone on already: this window's rate is that of the update before
            self.rates.append(group["initial_lr"] * scheduler.lr_lambdas[0](run.updates - 1))
            self.losses.append(loss)
        if not math.isfinite(loss) or run.updates >= self.updates or self._exploded():
            raise _Done

    def _exploded(self) -> bool:
        smoothed = _smoothed(self.losses)
        low = min(smoothed)
        return len(smoothed) > FEWEST and smoothed[-1] > EXPLODED * low > 0


def _smoothed(losses: Sequence[float]) -> list[float]:
    mean, result = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        result.append(mean / (1 - MEMORY**count))
    return result


def _steepest(rates: Sequence[float], smoothed: Sequence[float]) -> float | None:
    """Where the loss falls most per factor of the rate, before its minimum."""
    bottom = smoothed.index(min(smoothed))
    logs = [math.log(rate) for rate in rates]
    slopes = {
        at: (smoothed[at + 1] - smoothed[at - 1]) / (logs[at + 1] - logs[at - 1])
        for at in range(1, min(bottom, len(rates) - 1))
    }
    if not slopes or smoothed[0] - smoothed[bottom] < FALL * abs(smoothed[0]):
        return None
    return rates[min(slopes, key=lambda at: slopes[at])]


def _write(figure: Figure, path: Path) -> None:
    kind, content = path.suffix.lstrip(".").lower() or "png", io.BytesIO()
    try:
        figure.savefig(content, format=kind, dpi=120)
        whole.replace(path, content.getvalue())
    except (ValueError, OSError) as error:
        raise InputError(f"cannot write the plot to {path}: {error}") from error
