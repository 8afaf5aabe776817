"""Mammography, 11,183 rows of which 2.3 % are positive, and a small network."""

from __future__ import annotations

import tables

from whet.task import Task
from whet.tasks import About

REFERENCE = "logistic regression on standardised numbers"
ABOUT = About(
    title="Mammography, table of numbers, 2.3 % positive",
    updates=500,
    batch_size=128,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings=tables.SETTINGS,
)


def task(seed: int) -> Task:
    return tables.task("mammography", seed, ("average_precision", "auc", "log_loss", "ece"))


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(*tables.regression(task(seed))))
