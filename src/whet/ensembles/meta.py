"""The model that stands over a stack's members, and what it makes of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whet import metrics as measures
from whet.batch import Batch
from whet.ensembles.out_of_fold import Member
from whet.objectives.families import Family
from whet.predict import Predictor
from whet.predict.stacked import features_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Meta:
    """Who learns from the members' answers.

    Args:
        member: the estimator.
        features: of the answers.
        targets: of the rows.
        like: the shape of an answer for one row.
        seed: of what draws in it.
    """

    member: Member
    features: str
    targets: Tensor
    like: tuple[int, ...]
    seed: int

    def fitted(self, answers: Sequence[Tensor]) -> Predictor:
        """Fitted to all of the answers."""
        return self.member.fitted(self._rows(answers), "all rows", self.seed)

    def crossed(self, answers: Sequence[Tensor], fold: Array) -> Tensor:
        """What it says of each fold where it was fitted to the answers of the others."""
        rows, found = self._rows(answers), torch.zeros(len(fold), *self.like)
        for number in range(int(fold.max()) + 1):
            here = torch.from_numpy(fold == number)
            one = self.member.fitted(rows.take(~here), f"fold {number}", self.seed)
            found[here] = self.member.ask(one, rows.take(here), self.like)
        return found

    def _rows(self, answers: Sequence[Tensor]) -> Batch:
        return Batch(features_of(answers, self.member.kind, self.features), self.targets)


def default(kind: Family) -> Any:
    """A regularised regression of logits; of reals one with weights from 0, at any scale of them.

    >>> from whet.objectives import family
    >>> default(family("real"))
    LinearRegression(positive=True)
    """
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if kind.name == "real":
        return LinearRegression(positive=True)
    one = LogisticRegression(max_iter=1000)
    return one if kind.name == "categorical" else OneVsRestClassifier(one)


def value(metric: Any, answers: Tensor, targets: Array) -> float:
    """A metric of answers."""
    return measures.evaluate([metric], np.asarray(answers.double()), targets)[metric.name]
