"""What several predictors say, as the inputs of another: stacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.families import Family
from whet.predict.predictor import Predictor, State

FEATURES = ("logits", "probabilities")
LEAST = 1e-4  # a probability whose logarithm is asked for: a forest says 0 where no tree says more


class Stacked(Predictor):
    """A predictor of the members' answers.

    Args:
        predictors: the members, of one family.
        meta: who predicts from `features_of` their answers, as a batch's inputs.
        features: `logits` or `probabilities`; of reals both are their values.

    Raises:
        InputError: there is no member, or they are of several families.
    """

    def __init__(
        self, predictors: Sequence[Predictor], meta: Predictor, features: str = "logits"
    ) -> None:
        if not predictors:
            raise InputError("a stack of predictors needs at least one.")
        families = sorted({one.family.name for one in [*predictors, meta]})
        if len(families) > 1:
            raise InputError(f"predictors of {' and '.join(families)} cannot be stacked.")
        check_features(features)
        self.predictors, self.meta, self.features = list(predictors), meta, features
        self.family = meta.family

    def members(self) -> list[State]:
        return [state for one in [*self.predictors, self.meta] for state in one.members()]

    def models(self) -> list[Predictor]:
        return [model for one in [*self.predictors, self.meta] for model in one.models()]

    def form(self) -> Any:
        each = [one.form() for one in self.predictors]
        return {"stacked": each, "by": self.meta.form(), "features": self.features}

    def __call__(self, batch: Batch) -> Tensor:
        answers = [one(batch).to(batch.device) for one in self.predictors]
        return self.meta(Batch(features_of(answers, self.family, self.features)))


def check_features(features: str) -> None:
    """Refuse what is none of `FEATURES`."""
    if features not in FEATURES:
        raise InputError(f"features is {features!r}; it must be one of {', '.join(FEATURES)}.")


def features_of(answers_K: Sequence[Tensor], kind: Family, features: str = "logits") -> Tensor:
    r"""The members' answers as columns, one member's beside another's.

    Of C > 2 classes there is a column each, their probability or $\log p_c$; of two classes one,
    $p_1$ or $\log (p_1 / p_0)$; of labels one each, $p$ or $\log (p / (1 - p))$. A probability
    under 0.0001 counts as that much. Reals stand as they are.

    Args:
        answers_K: of K members, `(N, C)`, or `(N,)` or `(N, D)` reals.
        kind: the family.
        features: `logits` or `probabilities`.

    >>> from whet.objectives import family
    >>> p = [torch.tensor([[0.25, 0.75]]), torch.tensor([[0.0, 1.0]])]
    >>> features_of(p, family("categorical"), "probabilities")
    tensor([[0.7500, 1.0000]])
    >>> features_of(p, family("categorical"))
    tensor([[1.0986, 9.2103]])
    """
    return torch.cat([_columns(one, kind.name, features) for one in answers_K], 1)


def _columns(p: Tensor, family: str, features: str) -> Tensor:
    if family == "real":
        return p.reshape(len(p), -1)
    two = family == "categorical" and p.shape[1] == 2
    if features == "probabilities":
        return p[:, 1:] if two else p
    log = p.clamp(min=LEAST).log()
    if family == "multi-label":
        return log - (1.0 - p).clamp(min=LEAST).log()
    return log[:, 1:] - log[:, :1] if two else log
