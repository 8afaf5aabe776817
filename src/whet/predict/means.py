"""The mean of several predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.pooling import pooled
from whet.predict.predictor import Predictor, State


class MeanPredictor(Predictor):
    """The mean of the members' probabilities."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if not predictors:
            raise InputError("a mean of predictors needs at least one.")
        self.predictors, self.family = list(predictors), predictors[0].family

    def members(self) -> list[State]:
        return [state for predictor in self.predictors for state in predictor.members()]

    def models(self) -> list[Predictor]:
        return [one for predictor in self.predictors for one in predictor.models()]

    def form(self) -> Any:
        return [predictor.form() for predictor in self.predictors]

    def __call__(self, batch: Batch) -> Tensor:
        return _mean([predictor(batch) for predictor in self.predictors])

    def logits(self, batch: Batch) -> Tensor:
        return pooled(torch.stack([one.logits(batch) for one in self.predictors]), self.family)

    def traced(self, batch: Batch) -> Tensor:
        return _mean([predictor.traced(batch) for predictor in self.predictors])

    def traced_logits(self, batch: Batch) -> Tensor:
        each = [one.traced_logits(batch) for one in self.predictors]
        return pooled(torch.stack(each), self.family)


def _mean(each: Sequence[Tensor]) -> Tensor:
    first, *others = each
    return sum(others, first) / len(each)
