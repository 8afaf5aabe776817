"""CIFAR-10, 10,000 images of 32x32 in colour, and a small convolutional network."""

from __future__ import annotations

import local_data
import networks
import torch
from torch import Tensor

from whet import seeding
from whet.data.folders import load
from whet.data.images import pixels
from whet.data.splitting import split
from whet.task import Task
from whet.tasks import About

REFERENCE = "random forest of 200 trees on the pixels"
ABOUT = About(
    title="CIFAR-10 (10,000 of its images), 32x32 colour, 10 classes",
    updates=500,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings={
        "ema": {"decay": 0.98}, "fast_fgsm": {"during": [0.25, 1]},
        "pgd_inputs": {"during": [0.25, 1]},
        "random_noise": {"scope": "inputs", "epsilon": 8 / 255, "during": [0.25, 1]},
    },
)  # fmt: skip


def task(seed: int) -> Task:
    """The task of one seed: split and initial weights vary with it."""
    found = load(local_data.folder("cifar10"), kind="images", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed, shares=(0.7, 0.1, 0.2))
    images, labels = pixels(whole.inputs), torch.as_tensor(whole.targets)

    def rows(chosen: object) -> tuple[Tensor, Tensor]:
        return images[chosen], labels[chosen]

    with seeding.borrowed(seeding.key(seed, "init")):
        model = networks.convolutional(3, 32, 32, 10)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name="cifar10",
        resources={"valid_range": (0.0, 1.0)},
    )  # fmt: skip


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    from sklearn.ensemble import RandomForestClassifier

    made = task(seed)
    forest = RandomForestClassifier(200, random_state=seed).fit(
        made.train[0].flatten(1), made.train[1]
    )
    return float(forest.score(made.judge[0].flatten(1), made.judge[1]))
