"""A prediction at a temperature."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from whet.batch import Batch
from whet.predict.predictor import Predictor, State


class Calibrated(Predictor):
    """Another's prediction at a temperature: `softmax(z / T)`, of an ensemble its mean tempered."""

    def __init__(self, inner: Predictor, temperature: float) -> None:
        self.inner, self.temperature, self.family = inner, float(temperature), inner.family

    def members(self) -> list[State]:
        return self.inner.members()

    def models(self) -> list[Predictor]:
        return self.inner.models()

    def form(self) -> Any:
        return {"temperature": self.temperature, "of": self.inner.form()}

    def __call__(self, batch: Batch) -> Tensor:
        return self.family.probabilities(self.logits(batch))

    def logits(self, batch: Batch) -> Tensor:
        return self.inner.logits(batch) / self.temperature

    def traced(self, batch: Batch) -> Tensor:
        return self.family.probabilities(self.traced_logits(batch))

    def traced_logits(self, batch: Batch) -> Tensor:
        return self.inner.traced_logits(batch) / self.temperature
