"""AG News, 7,600 news items of 4 topics, and a bag of embedded words."""

from __future__ import annotations

import networks
import texts

from whet.task import Task
from whet.tasks import About

REFERENCE = "logistic regression on the counts of words"
ABOUT = About(
    title="AG News, English, 4 topics",
    updates=400,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.005, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=texts.SETTINGS,
)


def task(seed: int) -> Task:
    return texts.task("ag_news", seed, networks.WordBag, length=64)


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return texts.regression("ag_news", seed)
