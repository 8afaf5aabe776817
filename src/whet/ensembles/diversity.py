"""How much the members of an ensemble differ, and what that is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet import evaluation
from whet.errors import InputError
from whet.loading import in_order
from whet.predict import MeanPredictor, Predictor

Array = NDArray[Any]
NAN = float("nan")


@dataclass(frozen=True)
class Pair:
    """Two members. What is not defined (of reals, or where neither ever errs) is nan.

    Args:
        first: a member's name.
        second: another's.
        disagreement: share of rows for which they decide for different classes.
        double_fault: share of rows in which both are wrong.
        q: Yule's Q of their errors, from -1 (never in the same rows) over 0 (independent) to 1.
        correlation: of their errors: of right and wrong, or of the residuals of reals.
    """

    first: str
    second: str
    disagreement: float
    double_fault: float
    q: float
    correlation: float


@dataclass(frozen=True)
class Diversity:
    """What members are worth alone and together.

    Args:
        measure: `accuracy`, or for reals `mse`, of which less is better.
        names: the members.
        members: each one's measure.
        ensemble: that of their mean.
        pairs: every two of them.
    """

    measure: str
    names: tuple[str, ...]
    members: tuple[float, ...]
    ensemble: float
    pairs: tuple[Pair, ...]

    @property
    def mean_member(self) -> float:
        """The members' mean."""
        return float(np.mean(self.members))

    @property
    def gain(self) -> float:
        """How much better the ensemble is than its members on average; of reals their ambiguity."""
        return (self.ensemble - self.mean_member) * (-1 if self.measure == "mse" else 1)

    @property
    def gain_over_best(self) -> float:
        """How much better the ensemble is than the best of them."""
        if self.measure == "mse":
            return min(self.members) - self.ensemble
        return self.ensemble - max(self.members)

    def values(self) -> dict[str, Any]:
        """All of it in plain values."""
        told = {"mean_member": self.mean_member, "gain": self.gain}
        return {**asdict(self), **told, "gain_over_best": self.gain_over_best}

    def table(self) -> str:
        """Members, ensemble and gain; then the pairs."""
        lines = [("", self.measure)]
        lines += [(name, f"{one:.4f}") for name, one in zip(self.names, self.members, strict=True)]
        lines += [("mean member", f"{self.mean_member:.4f}"), ("ensemble", f"{self.ensemble:.4f}")]
        lines += [("gain", f"{self.gain:+.4f}"), ("over the best", f"{self.gain_over_best:+.4f}")]
        facts = ("disagreement", "double_fault", "q", "correlation")
        pairs = [("", *(fact.replace("_", " ") for fact in facts))]
        for pair in self.pairs:
            shown = (f"{getattr(pair, fact):.4f}" for fact in facts)
            pairs.append((f"{pair.first}, {pair.second}", *shown))
        return f"{aligned(lines)}\n\n{aligned(pairs)}"


def diversity(
    predictors: MeanPredictor | Sequence[Predictor], held: Any, names: Sequence[str] | None = None
) -> Diversity:
    r"""How much members differ on held-out rows, and what their mean is worth.

    With $N^{ab}$ the number of rows in which the first member is right (a = 1) or wrong (0) and
    the second likewise,

    $$Q = \frac{N^{11} N^{00} - N^{01} N^{10}}{N^{11} N^{00} + N^{01} N^{10}}, \qquad
    \rho = \frac{N^{11} N^{00} - N^{01} N^{10}}
    {\sqrt{(N^{11} + N^{10}) (N^{01} + N^{00}) (N^{11} + N^{01}) (N^{10} + N^{00})}}$$

    and the double fault is $N^{00} / N$. Members that are good and err in different rows are what
    an ensemble lives of. Labels count one by one.

    Args:
        predictors: the members of a plain mean; or a mean with its weights.
        held: rows that they were not trained on, as for `fit_weights`.
        names: of the members; numbers if None.

    Cost: a forward of those rows for each member.

    Raises:
        InputError: there are fewer than two members, or no row has a class, label or number.

    Paper: Kuncheva & Whitaker 2003, doi:10.1023/A:1022859003006.

    >>> import torch, whet
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> stage = whet.Stage(updates=2, batch_size=20)
    >>> def fitted(seed):
    ...     return whet.Run(whet.Task(torch.nn.Linear(4, 3), (x, y)), stage, seed).fit().predictor()
    >>> found = diversity([fitted(0), fitted(1)], held=(x, y))
    >>> found.measure, len(found.pairs)
    ('accuracy', 1)
    """
    weights = predictors.weights if isinstance(predictors, MeanPredictor) else None
    members = predictors.predictors if isinstance(predictors, MeanPredictor) else [*predictors]
    called = [str(n) for n in (names if names is not None else range(len(members)))]
    if len(members) < 2 or len(called) != len(members):
        raise InputError(
            f"{len(members)} members and {len(called)} names are given; it takes two members at "
            "least, and a name for each."
        )
    batches = list(in_order(held))
    MeanPredictor(members)  # refuses several families
    found = [evaluation.predict(one, batches) for one in members]
    p_KN, targets = np.stack([answers for answers, _ in found]), found[0][1]
    return of_answers(p_KN, targets, members[0].family.name, called, weights)


def of_answers(
    p_KN: Array, targets: Array, family: str, names: Sequence[str],
    weights: Sequence[float] | None = None,
) -> Diversity:  # fmt: skip
    """The core of `diversity`, of arrays `(K, N, ...)` and targets."""
    mixed = np.average(p_KN, axis=0, weights=weights)
    if family == "real":
        off_KN = (p_KN - targets).reshape(len(p_KN), -1)
        members, whole = (off_KN**2).mean(1), ((mixed - targets) ** 2).mean()
        pairs = [
            Pair(names[a], names[b], NAN, NAN, NAN, _correlation(off_KN[a], off_KN[b]))
            for a, b in combinations(range(len(names)), 2)
        ]
        measure = "mse"
    else:
        said_KN, truth = _decided(p_KN, family), _classes(targets, family)
        right_KN, measure = said_KN == truth, "accuracy"
        members, whole = right_KN.mean(1), (_decided(mixed[None], family)[0] == truth).mean()
        pairs = [
            _pair(names[a], names[b], said_KN[[a, b]], right_KN[[a, b]])
            for a, b in combinations(range(len(names)), 2)
        ]
    alone = tuple(float(one) for one in members)
    return Diversity(measure, tuple(names), alone, float(whole), tuple(pairs))


def _pair(first: str, second: str, said: Array, right: Array) -> Pair:
    a, b = right
    both, neither = float((a & b).sum()), float((~a & ~b).sum())
    one, other = float((a & ~b).sum()), float((~a & b).sum())
    differ, alike = one * other, both * neither
    q = (alike - differ) / (alike + differ) if alike + differ else NAN
    return Pair(
        first, second, float((said[0] != said[1]).mean()), neither / len(a), q,
        _correlation(a.astype(float), b.astype(float)),
    )  # fmt: skip


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / size if size else NAN


def _decided(p: Array, family: str) -> Array:
    return (p > 0.5).reshape(len(p), -1) if family == "multi-label" else p.argmax(-1)


def _classes(targets: Array, family: str) -> Array:
    if family == "embedding" or targets.dtype.kind not in "iub":
        raise InputError(
            "who is right is asked of classes, labels or numbers, and the targets of these rows "
            "are none: give rows with hard targets."
        )
    return targets.reshape(-1)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Cells as lines of text, each column as wide as its widest."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
