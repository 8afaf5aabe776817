"""Snapshot ensembles: several minima from one training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from whet import spans
from whet.errors import InputError
from whet.method import Card, Layer, Method, Placement, Resource, method
from whet.optim import set_rates
from whet.predict import MeanPredictor, Predictor, State, model_state
from whet.settings import number
from whet.training import Training


def cycle_ends(total: int, cycles: int) -> list[int]:
    """The updates after which a cycle is complete; the last is `total`.

    >>> cycle_ends(10, 3)
    [3, 6, 10]
    """
    return [number * total // cycles for number in range(1, cycles + 1)]


def cyclic_share(update: int, total: int, cycles: int) -> float:
    """The share of the base rate for the update that follows `update` others.

    Half a cosine from 1 towards 0 over each cycle. Where `cycles` divides `total` this is the
    paper's formula with t = update + 1.

    >>> [round(cyclic_share(t, 4, 2), 3) for t in range(4)]
    [1.0, 0.5, 1.0, 0.5]
    """
    ends = cycle_ends(total, cycles)
    number = next((at for at, end in enumerate(ends) if update < end), cycles - 1)
    first = ends[number - 1] if number else 0
    return 0.5 * (math.cos(math.pi * (update - first) / (ends[number] - first)) + 1.0)


@method
class Snapshot(Method):
    """Restart the learning rate in cycles, and judge the mean of the minima they end in.

    $$\\alpha(t) = \\frac{\\alpha_0}{2} \\Bigl(\\cos\\frac{\\pi\\,((t - 1) \\bmod c)}{c} + 1\\Bigr),
    \\quad c = T / M, \\qquad p(y | x) = \\frac{1}{M} \\sum_{i=1}^{M} p(y | x; s_i)$$

    with $s_i$ the weights at the end of cycle i, before the rate restarts, as they would be judged
    then (averaged, where an EMA stands beside it). Probabilities are averaged, not logits. Cycles
    end at floor(i T / M), so that the last one is complete where M does not divide T.

    Args:
        cycles: M, from 1; at most the number of updates.

    The base rates are the optimizer's, and come back at the end; the stage has no schedule. During
    a cycle the snapshots taken so far are judged, and the model itself as long as there is none.

    Cost: no pass in training; M copies of the weights, M forwards in prediction.

    Raises:
        InputError: the number of updates is unknown, or below the number of cycles.

    Paper: Huang et al. 2017, arXiv:1704.00109.

    >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    >>> for update in range(6):
    ...     set_rates(optimizer, cyclic_share(update, total=6, cycles=2))
    ...     optimizer.step()
    ...     taken = update + 1 in cycle_ends(6, 2)      # keep model_state(model)
    """

    cycles: int = number(3, 1, whole=True)

    name: ClassVar[str] = "snapshot"
    layer: ClassVar[Layer] = Layer.PREDICTION
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.LEARNING_RATE})
    placements: ClassVar[Placement] = Placement.START
    looks_ahead: ClassVar[bool] = True
    neutral: ClassVar[str] = "it sets the learning rate; one cycle is cosine annealing"
    card: ClassVar[Card] = Card(
        title="Snapshot ensemble", paper="arXiv:1704.00109",
        cost="no pass in training, M forwards in prediction", tier=1, phase="whole training",
        data="any", avoid_when="a cycle is too short to converge, or prediction must be cheap",
        zh={
            "title": "快照集成（Snapshot）", "cost": "训练不增加开销，预测需 M 次前向传播",
            "phase": "整个训练过程", "data": "任意",
            "avoid_when": "单个周期太短而无法收敛，或预测开销必须很低",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._length = 0
        self._snapshots: list[State] = []

    def build(self, run: Training) -> None:
        if run.total is None:
            raise InputError(
                f"{self.key} cuts training into cycles, so its length must be known: pass "
                "updates=N to Stack."
            )
        self._length = spans.cut(self.span[1], run.total)
        if self._length < self.cycles:
            raise InputError(
                f"{self.key}: {self.cycles} cycles do not fit into {self._length} updates; set "
                "cycles to at most that, or train longer."
            )

    def start(self, run: Training) -> None:
        self._snapshots = []

    def before_update(self, run: Training) -> None:
        assert run.optimizer is not None
        assert run.total is not None
        share = self.rate_share(run.updates, run.total)
        if share is not None:
            set_rates(run.optimizer, share)

    def rate_share(self, updates: int, total: int) -> float | None:
        length = spans.cut(self.span[1], total)
        return cyclic_share(updates, length, self.cycles) if updates < length else None

    def after_update(self, run: Training) -> None:
        if run.updates in cycle_ends(self._length, self.cycles):
            with run.evaluating():
                self._snapshots.append(model_state(run.module))
        if run.updates == self._length:
            assert run.optimizer is not None
            set_rates(run.optimizer, 1.0)

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        if not self._snapshots:
            return inner()
        # within `evaluating` the inner predictors copy what stands in the model: so test-time
        # augmentation or calibration listed after this one hold for every member
        with run.evaluating():
            kept = model_state(run.module)
            try:
                return MeanPredictor([_under(run, state, inner) for state in self._snapshots])
            finally:
                _put(run, kept)

    def state_dict(self) -> dict[str, Any]:
        return {"snapshots": list(self._snapshots)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._snapshots = list(state["snapshots"])


def _under(run: Training, state: State, inner: Callable[[], Predictor]) -> Predictor:
    _put(run, state)
    return inner()


@torch.no_grad()
def _put(run: Training, state: State) -> None:
    for name, tensor in run.module.state_dict().items():
        tensor.copy_(state[name])
