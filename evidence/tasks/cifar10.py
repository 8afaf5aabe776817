"""CIFAR-10, 10,000 images of 32x32 in colour, and a small convolutional network."""

from __future__ import annotations

import images

from whet.task import Task
from whet.tasks import About

REFERENCE = images.REFERENCE
ABOUT = About(
    title="CIFAR-10 (10,000 of its images), 32x32 colour, 10 classes",
    updates=500,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=images.SETTINGS,
)


def task(seed: int) -> Task:
    return images.task("cifar10", seed, (0.7, 0.1, 0.2))


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return images.forest(task(seed), seed)
