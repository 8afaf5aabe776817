"""Members of a stack: trained on some rows, and asked about others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.families import Family
from whet.predict import EstimatorPredictor, MeanPredictor, Predictor, estimators, skops_bytes
from whet.rows import kept_generators, seed_all

Array = NDArray[Any]
Fit = Callable[[Batch], Predictor]
ROWS = 256  # that are asked about together


@dataclass(frozen=True)
class Member:
    """One that is trained once for each fold.

    Args:
        name: of it.
        given: a scikit-learn estimator, which is cloned, or a function from rows to a predictor.
        kind: the family.
        classes: how many classes or labels there are.
        at: which inputs an estimator takes.
        trusted: types that an estimator may hold.
    """

    name: str
    given: Any
    kind: Family
    classes: int
    at: str
    trusted: Sequence[str]

    @property
    def is_estimator(self) -> bool:
        """Whether whet trains it, or the function does."""
        return is_estimator(self.given)

    def check(self) -> None:
        """Refuse, before training, an estimator that cannot predict or be saved."""
        if self.is_estimator:
            estimators.check(self.given, self.kind)
            skops_bytes.check(_seeded(self.given, 0), self.trusted)

    def fitted(self, rows: Batch, place: str, seed: int) -> Predictor:
        """Trained on these rows, and on no others.

        Raises:
            InputError: the estimator cannot be fitted or saved, or the function gave no predictor.
        """
        key = seeding.key(seed, "stack", self.name, place)
        with kept_generators():
            seed_all(key)
            if not self.is_estimator:
                return self._checked(self.given(rows), place)
            made = _seeded(self.given, key)
            try:
                made.fit(estimators.table(rows, self.at), _targets(rows, self.kind))
            except Exception as error:  # what a library's estimator says of rows it cannot take
                raise InputError(
                    f"member {self.name!r} cannot be fitted ({place}): {error}"
                ) from error
        skops_bytes.check(made, self.trusted)  # fitted it may hold more than before
        return EstimatorPredictor(made, self.kind, self.classes, self.at)

    def _checked(self, made: Any, place: str) -> Predictor:
        if not isinstance(made, Predictor):
            remedy = " Give its predictor()." if callable(getattr(made, "predictor", None)) else ""
            raise InputError(
                f"member {self.name!r} gave a {type(made).__name__} ({place}); a function from "
                f"rows gives a whet.Predictor.{remedy}"
            )
        if made.family.name != self.kind.name:
            raise InputError(
                f"member {self.name!r} predicts family '{made.family.name}' ({place}), and these "
                f"targets are of '{self.kind.name}': say family= if they are not."
            )
        return made

    def ask(self, predictor: Predictor, rows: Batch, like: Any) -> Tensor:
        """What it says of rows, which it is given without their targets.

        Args:
            predictor: who is asked.
            rows: about which.
            like: the shape of an answer for one row.

        Raises:
            InputError: an answer has another shape, or is not finite.
        """
        asked = [Batch(part.inputs) for part in rows.split(ROWS)]
        found = torch.cat([predictor(part).detach().cpu().float() for part in asked])
        if found.shape != (rows.size, *like):
            raise InputError(
                f"member {self.name!r} answers in the shape {tuple(found.shape)}, and the targets "
                f"ask for {(rows.size, *like)}. If some class has no row, say classes=."
            )
        odd = (~found.isfinite()).reshape(len(found), -1).any(1)
        if odd.any():
            raise InputError(
                f"member {self.name!r} answers with NaN or infinite numbers in {int(odd.sum())} of "
                f"{rows.size} rows: look at its training, and at these rows' inputs."
            )
        return found


@dataclass(frozen=True, eq=False)
class Trained:
    """A member after its trainings.

    Args:
        predictor: trained on all rows, or the mean of those of the folds.
        answers: `(N, ...)`, of each row by the model that was trained without its fold.
        held: `(F, M, ...)`, of held rows by each fold's model.
    """

    predictor: Predictor
    answers: Tensor
    held: Tensor | None


def trained(
    member: Member, rows: Batch, fold: Array, seed: int, like: Any, held: Batch | None, refit: bool
) -> Trained:  # fmt: skip
    """Train a member once for each fold, and once more on all rows where it is to be."""
    answers, kept, seen = torch.zeros(rows.size, *like), [], []
    for number in range(int(fold.max()) + 1):
        inside, outside = (torch.from_numpy(np.flatnonzero(fold == number)),
                           torch.from_numpy(np.flatnonzero(fold != number)))  # fmt: skip
        made = member.fitted(rows.take(outside), f"fold {number}", seed)
        answers[inside] = member.ask(made, rows.take(inside), like)
        if held is not None:
            seen.append(member.ask(made, held, like))
        kept += [] if refit else [made]
    final = member.fitted(rows.map(torch.clone), "all rows", seed) if refit else MeanPredictor(kept)
    return Trained(final, answers, torch.stack(seen) if seen else None)


def is_estimator(given: Any) -> bool:
    """Whether something is scikit-learn's kind of estimator."""
    return hasattr(given, "fit") and hasattr(given, "get_params")


def members(
    given: Mapping[str, Any] | Sequence[Any], kind: Family, classes: int, at: str,
    trusted: Sequence[str],
) -> list[Member]:  # fmt: skip
    """Members with names of their own: those given, or their classes' and functions' names.

    Raises:
        InputError: there is none, or one is neither an estimator nor a function.
    """
    pairs = [*given.items()] if isinstance(given, Mapping) else _named(given)
    if not pairs:
        raise InputError("a stack needs at least one member.")
    for name, one in pairs:
        if isinstance(one, type) or not (is_estimator(one) or callable(one)):
            raise InputError(
                f"member {name!r} is {one!r}; give a scikit-learn estimator, or a function from "
                "rows to a whet.Predictor."
            )
    return [Member(str(name), one, kind, classes, at, trusted) for name, one in pairs]


def _named(given: Sequence[Any]) -> list[tuple[str, Any]]:
    plain = [getattr(one, "__name__", type(one).__name__) for one in given]
    found = []
    for number, (name, one) in enumerate(zip(plain, given, strict=True)):
        again = plain.count(name) > 1
        found.append((f"{name} {plain[:number].count(name) + 1}" if again else name, one))
    return found


def _seeded(estimator: Any, key: int) -> Any:
    """A clone that draws by its place, where its user did not say how it draws."""
    from sklearn.base import clone

    made = clone(estimator)
    free = [
        name for name, value in made.get_params().items()
        if value is None and name.rpartition("__")[2] == "random_state"
    ]  # fmt: skip
    return made.set_params(**dict.fromkeys(free, key % (1 << 31)))


def _targets(rows: Batch, kind: Family) -> Array:
    assert rows.targets is not None
    targets = rows.targets.cpu()
    if kind.name == "real":
        return targets.double().numpy()
    single = kind.name == "multi-label" and targets.shape[1] == 1
    return (targets[:, 0] if single else targets).long().numpy()
