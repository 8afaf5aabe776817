"""Small models, rows, and predictors that say what they are told to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet import seeding
from whet.batch import Batch
from whet.objectives.families import family
from whet.predict import ModelPredictor, Predictor, model_state

PIXELS = torch.rand(6, 1, 8, 8, generator=seeding.generator(1))


class Told(Predictor):
    """Gives the probabilities of the rows that a batch names."""

    def __init__(self, probabilities: Any, kind: str = "categorical") -> None:
        self.table, self.family = torch.as_tensor(probabilities), family(kind)

    def __call__(self, batch: Batch) -> Tensor:
        return self.table[batch.inputs.long()]

    def members(self) -> list[dict[str, Tensor]]:
        return []


def rows(targets: Any) -> Batch:
    return Batch(torch.arange(len(targets)), torch.as_tensor(targets))


def picture_model(seed: int = 0, width: int = 4, classes: int = 3) -> nn.Module:
    with seeding.borrowed(seed):
        return nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(),
            nn.Linear(36 * width, classes),
        )  # fmt: skip


def predictor(seed: int = 0, kind: str = "categorical", **given: Any) -> ModelPredictor:
    model = picture_model(seed, **given)
    return ModelPredictor(model, model_state(model), family(kind))
