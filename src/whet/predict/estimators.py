"""A scikit-learn estimator as a predictor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whet import mixing, settings
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.families import Family
from whet.predict import skops_bytes
from whet.predict.predictor import Predictor, State

Array = NDArray[Any]
BYTES = "skops"  # the one tensor of an estimator's state
KINDS = ("categorical", "multi-label", "real")
MOST = 1 << 16  # classes: a file that says more is no reason to fill the memory


class EstimatorPredictor(Predictor):
    """A fitted scikit-learn estimator, or Pipeline, as a predictor.

    It is asked for `predict_proba`, of reals for `predict`. An estimator gives a column for each
    class that it has seen, and they come to stand under the classes' own numbers: one that it has
    not seen has the probability 0. Inputs are flattened to a table, a row for each row.

    Args:
        estimator: fitted to classes 0, 1, ..., to a 0/1 column for each label, or to reals.
        kind: the family.
        classes: how many classes or labels there are; of no meaning for reals.
        at: which inputs it takes, where there are several: a key or position, as in `image` or `0`.

    Cost: no gradients; computed on the CPU by one process.

    Raises:
        InputError: the family is none that it can have, or it gives no probabilities.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from whet.objectives import family
    >>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 2, 2])
    >>> one = EstimatorPredictor(LogisticRegression().fit(x, y), family("categorical"), classes=3)
    >>> one(Batch(torch.tensor([[1.5]])))
    tensor([[0.5000, 0.0000, 0.5000]])
    """

    def __init__(self, estimator: Any, kind: Family, classes: int = 0, at: str = "") -> None:
        check(estimator, kind)
        if kind.name != "real" and not settings.Range(1, MOST, whole=True).holds(classes):
            raise InputError(f"classes is {classes!r}; it must be a whole number in [1, {MOST}].")
        if not isinstance(at, str):
            raise InputError(f"at is {at!r}; it must be the name of an input.")
        self.estimator, self.family, self.classes, self.at = estimator, kind, int(classes), at

    @classmethod
    def read(cls, state: State, form: Any, kind: Family, trusted: Sequence[str]) -> Self:
        """From what `members` and `form` gave.

        Raises:
            CheckpointError: it holds a type that is not trusted.
            ValueError, LookupError: it is none.
        """
        data = state[BYTES]
        if [*state] != [BYTES] or data.dtype != torch.uint8 or data.ndim != 1:
            raise ValueError("an estimator in it is none")
        estimator = skops_bytes.loaded(data.numpy().tobytes(), trusted)
        return cls(estimator, kind, form["classes"], form["at"])

    def members(self) -> list[State]:
        data = skops_bytes.dumped(self.estimator)
        return [{BYTES: torch.frombuffer(bytearray(data), dtype=torch.uint8)}]

    def form(self) -> Any:
        return {"estimator": BYTES, "classes": self.classes, "at": self.at}

    def __call__(self, batch: Batch) -> Tensor:
        rows = table(batch, self.at)
        try:
            found = self._asked(rows)
        except InputError:
            raise
        except Exception as error:  # what a library's estimator says of rows of another kind
            raise InputError(
                f"the {type(self.estimator).__name__} cannot predict for these rows of "
                f"{rows.shape[1]} numbers: {error}"
            ) from error
        return torch.from_numpy(np.array(found, np.float32)).to(batch.device)

    def _asked(self, rows: Array) -> Array:
        if self.family.name == "real":
            return np.asarray(self.estimator.predict(rows))
        found, seen = self.estimator.predict_proba(rows), self.estimator.classes_
        if self.family.name == "categorical":
            return _placed(found, seen, self.classes)
        if isinstance(found, list):  # a table for each label
            each = zip(found, seen, strict=True)
            found = np.stack([_placed(p, values, 2)[:, 1] for p, values in each], 1)
        elif self.classes == 1 and found.shape[1:] != (1,):  # one label, fitted as two classes
            found = _placed(found, seen, 2)[:, 1:]
        if found.shape[1:] != (self.classes,):
            raise InputError(
                f"the {type(self.estimator).__name__} gives probabilities of the shape "
                f"{found.shape} for {self.classes} labels."
            )
        return np.asarray(found)


def check(estimator: Any, kind: Family) -> None:
    """Refuse what cannot predict for a family.

    Raises:
        InputError: naming what it lacks.
    """
    name = type(estimator).__name__
    if kind.name not in KINDS:
        raise InputError(
            f"a scikit-learn estimator predicts {', '.join(KINDS)}, and no '{kind.name}'."
        )
    wanted = "predict" if kind.name == "real" else "predict_proba"
    if not callable(getattr(estimator, wanted, None)):
        raise InputError(
            f"the {name} has no {wanted}, by which family '{kind.name}' is predicted. "
            + ("Give a regressor." if wanted == "predict" else
               "Give a classifier that has, or wrap it in sklearn.calibration."
               "CalibratedClassifierCV.")
        )  # fmt: skip


def table(batch: Batch, at: str = "") -> Array:
    """A batch's inputs as rows of numbers `(N, D)`: float64, or int64 of whole numbers.

    Raises:
        InputError: there are several inputs and `at` says not which, or names none.
    """
    found = dict(mixing.named(batch.inputs))
    if at not in found and (at or len(found) > 1):
        raise InputError(
            f"the inputs are {', '.join(map(repr, found))}, and at={at!r} is none of them: an "
            "estimator takes one table. Say which by at=."
        )
    chosen = found[at] if at in found else next(iter(found.values()))
    if chosen.layout is not torch.strided:
        raise InputError("an estimator takes rows of numbers, and these are sparse: densify them.")
    rows = chosen.detach().cpu()
    rows = rows.double() if rows.is_floating_point() else rows.long()
    return rows.reshape(len(rows), -1).numpy()


def _placed(p: Array, seen: Any, classes: int) -> Array:
    """Columns under the numbers of their classes."""
    numbers = np.asarray(seen)
    whole = numbers.ndim == 1 and numbers.dtype.kind in "iub"
    if not whole or p.shape[1:] != numbers.shape or not 0 <= numbers.min() <= numbers.max() < (
        classes
    ):  # fmt: skip
        raise InputError(
            f"an estimator was fitted to the classes {numbers.tolist()!r}; they must be whole "
            f"numbers from 0 to {classes - 1}."
        )
    found = np.zeros((len(p), classes))
    found[:, numbers.astype(np.int64)] = p
    return found
