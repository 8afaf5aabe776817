"""Tables of two classes with a small network, and logistic regression beside it."""

from __future__ import annotations

from collections.abc import Sequence

import local_data
import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.data.columns import Columns
from whet.data.folders import load
from whet.data.splitting import split
from whet.task import Task
from whet.tasks.churn import TableNet

SETTINGS = {"ema": {"decay": 0.98}}


def task(name: str, seed: int, metrics: Sequence[str]) -> Task:
    """The task of one seed: split, encoding and initial weights vary with it."""
    found = load(local_data.folder(name), kind="table", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed)
    columns = Columns.fit(whole.take(parts.train).inputs, found.types)

    def rows(chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        own = whole.take(chosen)
        return columns.encode(own.inputs), torch.as_tensor(own.targets)

    with seeding.initial(seed):
        model = TableNet(columns.cardinalities, len(columns.number_names), 2)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=metrics, classes=found.classes, name=name, identities=parts.of(whole.inputs),
    )  # fmt: skip


def regression(made: Task) -> tuple[np.ndarray, np.ndarray]:
    """The judge part's classes, and their probabilities by logistic regression on the same rows."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    (train, targets), (judge, truth) = made.train, made.judge
    several = list(range(train["categories"].shape[1]))
    encoder = OneHotEncoder(handle_unknown="ignore")
    spread = ColumnTransformer([("categories", encoder, several)], remainder="passthrough")
    model = make_pipeline(spread, LogisticRegression(max_iter=2000))

    def flat(rows: dict[str, Tensor]) -> np.ndarray:
        return np.concatenate([rows["categories"], rows["numbers"]], 1)

    model.fit(flat(train), targets)
    return truth.numpy(), model.predict_proba(flat(judge))[:, 1]
