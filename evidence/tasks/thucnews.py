"""THUCNews, 20,000 Chinese headlines of 10 topics, and a small transformer of characters."""

from __future__ import annotations

from functools import partial

import texts

from whet.task import Task
from whet.tasks import About
from whet.tasks.intents import TextEncoder

REFERENCE = "logistic regression on the counts of characters"
LENGTH = 32
ABOUT = About(
    title="THUCNews, Chinese headlines, 10 topics",
    updates=400,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.005, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=texts.SETTINGS,
)


def task(seed: int) -> Task:
    encoder = partial(TextEncoder, depth=1, longest=LENGTH)
    return texts.task("thucnews", seed, encoder, length=LENGTH, characters=True)


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return texts.regression("thucnews", seed, characters=True)
