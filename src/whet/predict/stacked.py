"""What several predictors say, as the inputs of another: stacking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet import settings
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.families import Family
from whet.predict.predictor import Predictor, State

FEATURES = ("logits", "probabilities")
# The least probability whose logarithm is a feature: forests and neighbourhoods say 0 where they
# have seen none. Of forest, neighbours and naive Bayes over digits, the log loss of the stack on
# fresh rows is 0.15 at this, 0.26 at 0.0001, and 0.21 with the probabilities themselves.
LEAST = 0.01


class Stacked(Predictor):
    """A predictor of the members' answers.

    Args:
        predictors: the members, of one family.
        meta: who predicts from `features_of` their answers, as a batch's inputs.
        features: `logits` or `probabilities`; of reals both are their values.
        least: the probability that smaller ones count as in a logit, from above 0 to below 0.5.

    Raises:
        InputError: there is no member, or they are of several families.
    """

    def __init__(
        self, predictors: Sequence[Predictor], meta: Predictor, features: str = "logits",
        least: float = LEAST,
    ) -> None:  # fmt: skip
        if not predictors:
            raise InputError("a stack of predictors needs at least one.")
        families = sorted({one.family.name for one in [*predictors, meta]})
        if len(families) > 1:
            raise InputError(f"predictors of {' and '.join(families)} cannot be stacked.")
        check_features(features)
        if not settings.Range(0.0, 0.5, open_low=True, open_high=True).holds(least):
            raise InputError(f"least is {least!r}; it must lie in (0, 0.5).")
        self.predictors, self.meta, self.features = list(predictors), meta, features
        self.least, self.family = float(least), meta.family

    def members(self) -> list[State]:
        return [state for one in [*self.predictors, self.meta] for state in one.members()]

    def models(self) -> list[Predictor]:
        return [model for one in [*self.predictors, self.meta] for model in one.models()]

    def form(self) -> Any:
        each = [one.form() for one in self.predictors]
        about = {"features": self.features, "least": self.least}
        return {"stacked": each, "by": self.meta.form(), **about}

    def __call__(self, batch: Batch) -> Tensor:
        answers = [one(batch).to(batch.device) for one in self.predictors]
        return self.meta(Batch(features_of(answers, self.family, self.features, self.least)))


def check_features(features: str) -> None:
    """Refuse what is none of `FEATURES`."""
    if features not in FEATURES:
        raise InputError(f"features is {features!r}; it must be one of {', '.join(FEATURES)}.")


def features_of(
    answers_K: Sequence[Tensor], kind: Family, features: str = "logits", least: float = LEAST
) -> Tensor:
    r"""The members' answers as columns, one member's beside another's.

    Of C > 2 classes there is a column each, their probability or $\log p_c$; of two classes one,
    $p_1$ or $\log (p_1 / p_0)$; of labels one each, $p$ or $\log (p / (1 - p))$. A probability
    under `least` counts as that much. Reals stand as they are.

    Args:
        answers_K: of K members, `(N, C)`, or `(N,)` or `(N, D)` reals.
        kind: the family.
        features: `logits` or `probabilities`.
        least: of a probability in a logit.

    >>> from whet.objectives import family
    >>> p = [torch.tensor([[0.25, 0.75]]), torch.tensor([[0.0, 1.0]])]
    >>> features_of(p, family("categorical"), "probabilities")
    tensor([[0.7500, 1.0000]])
    >>> features_of(p, family("categorical"))
    tensor([[1.0986, 4.6052]])
    """
    return torch.cat([_columns(one, kind.name, features, least) for one in answers_K], 1)


def _columns(p: Tensor, family: str, features: str, least: float) -> Tensor:
    if family == "real":
        return p.reshape(len(p), -1)
    two = family == "categorical" and p.shape[1] == 2
    if features == "probabilities":
        return p[:, 1:] if two else p
    log = p.clamp(min=least).log()
    if family == "multi-label":
        return log - (1.0 - p).clamp(min=least).log()
    return log[:, 1:] - log[:, :1] if two else log
