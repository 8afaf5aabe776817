"""Fashion-MNIST, 30,000 images of 28x28 grey, and a small convolutional network."""

from __future__ import annotations

import images

from whet.task import Task
from whet.tasks import About

REFERENCE = images.REFERENCE
ABOUT = About(
    title="Fashion-MNIST, 28x28 grey, 10 classes",
    updates=500,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=images.SETTINGS,
)


def task(seed: int) -> Task:
    return images.task("fashion_mnist", seed, (0.6, 0.1, 0.3))


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return images.forest(task(seed), seed)
