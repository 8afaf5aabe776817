"""Text data sets, their vocabularies, and logistic regression on counts beside them."""

from __future__ import annotations

from collections.abc import Callable

import local_data
import numpy as np
import torch
from torch import Tensor, nn

from whet import seeding
from whet.data.folders import load
from whet.data.parts import Loaded
from whet.data.splitting import Split, split
from whet.data.vocabulary import Vocabulary
from whet.task import Task

SETTINGS = {
    "ema": {"decay": 0.98},
    "fast_fgsm": {"scope": "embeddings", "epsilon": 0.01},
}  # fmt: skip


def parts(name: str, seed: int) -> tuple[Loaded, Split]:
    found = load(local_data.folder(name), kind="texts", objective="categorical")
    return found, split(found.joined()[0].targets, seed)


def task(
    name: str, seed: int, model: Callable[[int, int], nn.Module], *, length: int,
    characters: bool = False,
) -> Task:  # fmt: skip
    """The task of one seed: split, vocabulary and initial weights vary with it.

    Args:
        name: of the data set.
        seed: of the task.
        model: from the numbers of tokens and of classes to the network.
        length: tokens at which a text is cut.
        characters: whether a token is a character, and not a word.
    """
    found, rows = parts(name, seed)
    whole, _ = found.joined()
    known = whole.take(rows.train).inputs
    vocabulary = Vocabulary.fit(known, characters=characters, min_count=2)

    def coded(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        own = whole.take(chosen)
        return vocabulary.encode(own.inputs, length), torch.as_tensor(own.targets)

    assert found.classes is not None
    with seeding.initial(seed):
        made = model(len(vocabulary), len(found.classes))
    return Task(
        model=made, train=coded(rows.train), select=coded(rows.select), judge=coded(rows.judge),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name=name,
        identities=rows.of(whole.inputs),
    )  # fmt: skip


def regression(name: str, seed: int, *, characters: bool = False) -> float:
    """The accuracy of logistic regression on counts of words or characters, on the same rows."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    found, rows = parts(name, seed)
    whole, _ = found.joined()
    train, judge = whole.take(rows.train), whole.take(rows.judge)
    counts = CountVectorizer(analyzer="char" if characters else "word")
    model = make_pipeline(counts, LogisticRegression(max_iter=1000))
    return float(model.fit(train.inputs, train.targets).score(judge.inputs, judge.targets))
