"""THUCNews, 20,000 Chinese headlines of 10 topics, and a small transformer of characters."""

from __future__ import annotations

import local_data
import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.data.folders import load
from whet.data.parts import Loaded
from whet.data.splitting import Split, split
from whet.data.vocabulary import Vocabulary
from whet.task import Task
from whet.tasks import About
from whet.tasks.intents import TextEncoder

NAME, LENGTH, CHARACTERS = "thucnews", 32, True
REFERENCE = "logistic regression on the counts of characters"
ABOUT = About(
    title="THUCNews, Chinese headlines, 10 topics",
    updates=400,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.005, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings={
        "ema": {"decay": 0.98}, "fgm": {"during": [0.25, 1]}, "freelb": {"during": [0.25, 1]},
        "pgd": {"during": [0.25, 1]}, "random_noise": {"during": [0.25, 1]},
        "fast_fgsm": {"scope": "embeddings", "epsilon": 0.01, "during": [0.25, 1]},
    },
)  # fmt: skip


def parts(seed: int) -> tuple[Loaded, Split]:
    found = load(local_data.folder(NAME), kind="texts", objective="categorical")
    return found, split(found.joined()[0].targets, seed)


def task(seed: int) -> Task:
    """The task of one seed: split, vocabulary and initial weights vary with it."""
    found, rows = parts(seed)
    whole, _ = found.joined()
    known = whole.take(rows.train).inputs
    vocabulary = Vocabulary.fit(known, characters=CHARACTERS, min_count=2)

    def coded(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        own = whole.take(chosen)
        return vocabulary.encode(own.inputs, LENGTH), torch.as_tensor(own.targets)

    assert found.classes is not None
    with seeding.borrowed(seeding.key(seed, "init")):
        model = TextEncoder(len(vocabulary), len(found.classes), depth=1, longest=LENGTH)
    return Task(
        model=model, train=coded(rows.train), select=coded(rows.select), judge=coded(rows.judge),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name=NAME,
        identities=rows.of(whole.inputs),
    )  # fmt: skip


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found, rows = parts(seed)
    whole, _ = found.joined()
    train, judge = whole.take(rows.train), whole.take(rows.judge)
    kind = "char" if CHARACTERS else "word"
    model = make_pipeline(CountVectorizer(analyzer=kind), LogisticRegression(max_iter=1000))
    return float(model.fit(train.inputs, train.targets).score(judge.inputs, judge.targets))
