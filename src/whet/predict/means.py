"""The mean of several predictors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet import settings
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.pooling import pooled
from whet.predict.predictor import Predictor, State


class MeanPredictor(Predictor):
    """The mean of the members' probabilities, plain or weighted.

    Args:
        predictors: of one family; of any architecture.
        weights: a number from 0 for each, which are divided by their sum; None for a plain mean.

    Raises:
        InputError: there is no predictor, they are of several families, or weights do not fit.
    """

    def __init__(
        self, predictors: Sequence[Predictor], weights: Sequence[float] | None = None
    ) -> None:
        if not predictors:
            raise InputError("a mean of predictors needs at least one.")
        self.predictors, self.family = list(predictors), predictors[0].family
        families = sorted({one.family.name for one in predictors})
        if len(families) > 1:
            raise InputError(f"predictors of {' and '.join(families)} have no mean in common.")
        self.weights = None if weights is None else _shares(weights, len(predictors))

    def members(self) -> list[State]:
        return [state for predictor in self.predictors for state in predictor.members()]

    def models(self) -> list[Predictor]:
        return [one for predictor in self.predictors for one in predictor.models()]

    def form(self) -> Any:
        each = [predictor.form() for predictor in self.predictors]
        return each if self.weights is None else {"mean": each, "weights": self.weights}

    def __call__(self, batch: Batch) -> Tensor:
        return self._mean([predictor(batch) for predictor in self.predictors])

    def logits(self, batch: Batch) -> Tensor:
        return self._pooled([one.logits(batch) for one in self.predictors])

    def traced(self, batch: Batch) -> Tensor:
        return self._mean([predictor.traced(batch) for predictor in self.predictors])

    def traced_logits(self, batch: Batch) -> Tensor:
        return self._pooled([one.traced_logits(batch) for one in self.predictors])

    def _mean(self, each: Sequence[Tensor]) -> Tensor:
        first, *others = _alike(each)
        if self.weights is None:
            return sum(others, first) / len(each)
        pairs = zip(self.weights[1:], others, strict=True)
        return sum((share * one for share, one in pairs), self.weights[0] * first)

    def _pooled(self, each: Sequence[Tensor]) -> Tensor:
        return pooled(torch.stack(_alike(each)), self.family, self.weights)


def _alike(each: Sequence[Tensor]) -> list[Tensor]:
    """The members' answers on the first one's device."""
    shapes = list(dict.fromkeys(tuple(one.shape) for one in each))
    if len(shapes) > 1:
        raise InputError(
            f"the members of a mean answer in the shapes {', '.join(map(str, shapes))}: they were "
            "trained for other classes, or for other rows."
        )
    return [one.to(each[0].device) for one in each]


def _shares(weights: Sequence[float], count: int) -> list[float]:
    given = list(weights)
    right = all(settings.Range(0.0, 1e30).holds(one) for one in given)
    if len(given) != count or not right or not sum(given) > 0.0:
        raise InputError(
            f"the weights are {given!r}; they must be {count} finite numbers from 0, one for each "
            "predictor, that are not all 0."
        )
    total = math.fsum(given)
    total = 1.0 if math.isclose(total, 1.0, rel_tol=1e-12) else total  # shares stay what they are
    return [float(one) / total for one in given]
