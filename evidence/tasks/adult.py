"""UCI Adult, 48,842 people and whether they earn more than 50,000 dollars, and a small network."""

from __future__ import annotations

import tables

from whet.task import Task
from whet.tasks import About

REFERENCE = "logistic regression on standardised numbers and one column for each category"
ABOUT = About(
    title="Adult, mixed table, 2 classes",
    updates=1500,
    batch_size=128,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=tables.SETTINGS,
)


def task(seed: int) -> Task:
    return tables.task("adult", seed, ("auc", "average_precision", "log_loss", "ece"))


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(*tables.regression(task(seed))))
