"""Mammography, 11,183 rows of which 2.3 % are positive, and a small network."""

from __future__ import annotations

import local_data
import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.data.columns import Columns
from whet.data.folders import load
from whet.data.splitting import split
from whet.task import Task
from whet.tasks import About
from whet.tasks.churn import TableNet

NAME, METRICS = "mammography", ("average_precision", "auc", "log_loss", "ece")
REFERENCE = "logistic regression on standardised numbers"
ABOUT = About(
    title="Mammography, table of numbers, 2.3 % positive",
    updates=500,
    batch_size=128,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings={
        "ema": {"decay": 0.98}, "fgm": {"during": [0.25, 1]}, "freelb": {"during": [0.25, 1]},
        "fast_fgsm": {"during": [0.25, 1]}, "pgd": {"during": [0.25, 1]},
        "pgd_inputs": {"during": [0.25, 1]}, "random_noise": {"during": [0.25, 1]},
    },
)  # fmt: skip


def task(seed: int) -> Task:
    """The task of one seed: split, encoding and initial weights vary with it."""
    found = load(local_data.folder(NAME), kind="table", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed)
    columns = Columns.fit(whole.take(parts.train).inputs, found.types)

    def rows(chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        own = whole.take(chosen)
        return columns.encode(own.inputs), torch.as_tensor(own.targets)

    with seeding.borrowed(seeding.key(seed, "init")):
        model = TableNet(columns.cardinalities, len(columns.number_names), 2)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=METRICS, classes=found.classes, name=NAME, identities=parts.of(whole.inputs),
    )  # fmt: skip


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score, roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    made = task(seed)
    (train, targets), (judge, truth) = made.train, made.judge
    several = list(range(train["categories"].shape[1]))
    encoder = OneHotEncoder(handle_unknown="ignore")
    spread = ColumnTransformer([("categories", encoder, several)], remainder="passthrough")
    model = make_pipeline(spread, LogisticRegression(max_iter=2000))

    def flat(rows: dict[str, Tensor]) -> np.ndarray:
        return np.concatenate([rows["categories"], rows["numbers"]], 1)

    model.fit(flat(train), targets)
    score = {"auc": roc_auc_score, "average_precision": average_precision_score}[METRICS[0]]
    return float(score(truth, model.predict_proba(flat(judge))[:, 1]))
