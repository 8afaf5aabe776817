"""Precise batch normalisation: population statistics for the weights that are judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from whet import modes, objectives
from whet.batch import Batch
from whet.batch_statistics import Statistics, applied, precise_statistics, put
from whet.errors import InputError, NotApplicable
from whet.method import Card, Layer, Method, Placement, Resource, method
from whet.settings import number
from whet.training import Training

DEFAULT = 200


def refresh_batch_statistics(model: nn.Module, loader: Iterable[Any]) -> None:
    """Population statistics of the data for every batch normalisation, to stay in the model.

    For a loop of one's own, once the weights are final (averaged, say): what `update_bn` of
    `torch.optim.swa_utils` is meant for, which averages the variances of batches instead of
    taking that of the data. Modes, generators, momenta and the counts of batches stay as they are,
    and so does everything else where an error is raised on the way.

    Args:
        model: layers that it has frozen (in evaluation mode, in a model in training mode) keep
            theirs.
        loader: what a DataLoader gives: `(x, y)`, mappings with or without labels, or Batches;
            rows are moved to the model's device. Targets are not looked at.

    Cost: a forward pass over the loader, to the end.

    Raises:
        NotApplicable: the model has no batch normalisation with running statistics.
        InputError: as `precise_statistics`.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> data = [(torch.randn(8, 2), torch.zeros(8)), (torch.randn(5, 2), torch.zeros(5))]
    >>> refresh_batch_statistics(model, data)
    >>> predicted = model.eval()(torch.ones(1, 2))
    """
    if not modes.batch_norms(model):
        raise NotApplicable("refresh_batch_statistics", NO_NORMS)
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))

    def forward(raw: Any) -> None:
        objectives.call(model, Batch.of(raw).to(device).inputs)

    put(model, precise_statistics(model, loader, forward))


NO_NORMS = "the model has no batch normalisation with running statistics."


@method
class PreciseBN(Method):
    r"""Population statistics for batch normalisation, computed for the weights that are judged.

    $$\mu = \frac1n \sum_i x_i, \quad \sigma^2 = \frac1n \sum_i (x_i - \mu)^2$$

    over all values x of a channel in N batches, the weights standing still and dropout off, as
    when the model is judged (dropout before a layer would widen its variance). Batches are drawn
    from the training data in an order of their own. Beside EMA or SWA the statistics belong to the
    averaged weights; they are put in place for judging only and undone afterwards. Layers that are
    frozen (in evaluation mode) keep theirs.

    Args:
        batches: N, at least 1; None for 200, or one pass where the data has fewer.

    Shapes: each layer's input `(N, C, ...)`.

    Cost: N forward passes for each evaluation at new weights; no memory to speak of.

    Raises:
        NotApplicable: the model has no batch normalisation with running statistics, or all of it
            is frozen.
        InputError: there is no training data, it has fewer than `batches` batches, or one of a
            single row; statistics are not finite.

    Paper: Wu & Johnson 2021, arXiv:2105.07576.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> data = [torch.randn(8, 2), torch.randn(5, 2)]
    >>> with applied(model, precise_statistics(model, data)):   # old buffers return on exit
    ...     predicted = model.eval()(torch.ones(1, 2))
    """

    batches: int | None = number(None, 1, whole=True)

    name: ClassVar[str] = "precise_bn"
    layer: ClassVar[Layer] = Layer.STATISTICS
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.BATCH_STATISTICS})
    placements: ClassVar[Placement] = Placement.OBSERVER
    neutral: ClassVar[str] = "population statistics differ from running averages by construction"
    card: ClassVar[Card] = Card(
        title="Precise batch normalisation", paper="arXiv:2105.07576",
        cost="200 forward passes per evaluation", tier=1, phase="evaluation",
        data="any, with batch normalisation",
        avoid_when="the model has no batch normalisation, or all of it is frozen",
        zh={
            "title": "精确批归一化统计（PreciseBN）", "cost": "每次评估增加 200 次前向传播",
            "phase": "评估阶段", "data": "任意，模型须含批归一化",
            "avoid_when": "模型没有批归一化，或批归一化层全部冻结",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._norms: dict[str, _BatchNorm] = {}
        self._cached: tuple[tuple[int, ...] | tuple[Any, ...], Statistics] | None = None

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        if not modes.batch_norms(run.module):
            raise NotApplicable(self.key, NO_NORMS)

    def start(self, run: Training) -> None:
        norms = modes.batch_norms(run.module)
        self._norms = {name: norm for name, norm in norms.items() if norm.training}
        self._cached = None
        self._check_data(run)
        if not self._norms:
            raise NotApplicable(
                self.key, "every batch normalisation is in evaluation mode (frozen): call "
                "model.train() before the first step, or leave precise_bn out."
            )  # fmt: skip

    def _check_data(self, run: Training) -> None:
        """Fail before training, not at the evaluation that ends it."""
        if run.train is None:
            next(run.data("precise_bn"))
        elif self.batches is not None:
            known = run.train("precise_bn").batches
            if known is not None and known < self.batches:
                raise InputError(self._shorter(known))

    def _shorter(self, seen: int) -> str:
        return (
            f"precise_bn: batches={self.batches}, and the training data has {seen}. Ask for at "
            f"most {seen}, or for None (one pass, at most {DEFAULT})."
        )

    @contextmanager
    def evaluating(self, run: Training) -> Iterator[None]:
        with applied(run.module, self._statistics(run)):
            yield

    def _statistics(self, run: Training) -> Statistics:
        key = (run.window, run.updates, *run.views)
        if self._cached is None or self._cached[0] != key:
            found = precise_statistics(
                run.module,
                self._chosen(run),
                lambda batch: _call(run, batch),
                self._norms,
                run.world,
            )
            self._cached = (key, found)
        return self._cached[1]

    def _chosen(self, run: Training) -> Iterator[Batch]:
        wanted, seen = self.batches or DEFAULT, 0
        for batch in islice(run.data("precise_bn", share=True), wanted):
            seen += 1
            if batch.size:
                yield batch
        if self.batches is not None and seen < wanted:
            raise InputError(self._shorter(seen))


def _call(run: Training, batch: Batch) -> None:
    with run.autocast():
        objectives.call(run.module, batch.inputs)
