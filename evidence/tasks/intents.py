"""BANKING77, 13,083 requests to a bank of 77 intents, and a bag of embedded words."""

from __future__ import annotations

from functools import partial

import networks
import texts

from whet.task import Task
from whet.tasks import About

REFERENCE = "logistic regression on the counts of words"
ABOUT = About(
    title="BANKING77, English, 77 intents",
    updates=800,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.01, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=texts.SETTINGS | {"ema": {"decay": 0.99}},
)


def task(seed: int) -> Task:
    bag = partial(networks.WordBag, size=128, hidden=256)
    return texts.task("banking77", seed, bag, length=24)


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return texts.regression("banking77", seed)
