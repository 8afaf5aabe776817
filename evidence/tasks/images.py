"""Image data sets with a small convolutional network, and a forest on the pixels beside them."""

from __future__ import annotations

import local_data
import networks
import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.data.folders import load
from whet.data.images import pixels
from whet.data.splitting import split
from whet.task import Task

REFERENCE = "random forest of 200 trees on the pixels"
SETTINGS = {
    "ema": {"decay": 0.98},
    "random_noise": {"scope": "inputs", "epsilon": 8 / 255},
}  # fmt: skip


def task(name: str, seed: int, shares: tuple[float, float, float]) -> Task:
    """The task of one seed: split and initial weights vary with it."""
    found = load(local_data.folder(name), kind="images", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed, shares=shares)
    images, labels = pixels(whole.inputs), torch.as_tensor(whole.targets)

    def rows(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        return images[chosen], labels[chosen]

    with seeding.initial(seed):
        model = networks.convolutional(*images.shape[1:], classes=10)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name=name,
        resources={"valid_range": (0.0, 1.0)},
    )  # fmt: skip


def forest(made: Task, seed: int) -> float:
    """The accuracy of a forest on the same rows."""
    from sklearn.ensemble import RandomForestClassifier

    trees = RandomForestClassifier(200, random_state=seed)
    trees.fit(made.train[0].flatten(1), made.train[1])
    return float(trees.score(made.judge[0].flatten(1), made.judge[1]))
