"""Small models, rows, and predictors that say what they are told to."""

from __future__ import annotations

from collections.abc import Callable
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


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(seed))


def made(seed: int, *layers: Callable[[], nn.Module]) -> nn.Sequential:
    with seeding.borrowed(seed):
        return nn.Sequential(*(layer() for layer in layers))


def dense(seed: int = 0, width: int = 8, classes: int = 3) -> nn.Sequential:
    return made(seed, lambda: nn.Linear(4, width), nn.ReLU, lambda: nn.Linear(width, classes))


def tokens(words: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(0, words, (6, length), generator=seeding.generator(words))
    return {"ids": ids, "mask": torch.ones(6, length)}
