"""Stacking: a model of what several models say of rows that they were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from whet import metrics as measures
from whet.batch import Batch
from whet.ensembles import folds as parts
from whet.ensembles import out_of_fold, stack_rows
from whet.ensembles.diversity import aligned
from whet.ensembles.meta import Meta, default, value
from whet.ensembles.optimism import Optimism, optimism, squared_errors
from whet.ensembles.out_of_fold import Member, Trained
from whet.ensembles.stack_rows import Rows
from whet.errors import InputError
from whet.objectives.families import Family
from whet.predict import Stacked
from whet.predict.stacked import check_features, features_of

Array = NDArray[Any]


@dataclass(frozen=True)
class Scores:
    """What members and what is made of them are worth.

    Args:
        members: each one's measure.
        mean: that of their plain mean.
        stacked: that of the stack.
    """

    members: tuple[float, ...]
    mean: float
    stacked: float


@dataclass(frozen=True, eq=False)
class Stacking:
    """A stack, and how it came about.

    Args:
        predictor: the one that predicts, and is saved.
        names: of the members.
        measure: the metric of the scores.
        out_of_fold: scores on the rows themselves, each predicted by who was trained without it.
            That of the stack comes from models of the answers that were trained without the fold.
        held: scores on held rows, where there are any; those of the stack are the ones to believe.
        optimism: of each member, how much better it looks out of fold than on held rows.
        answers: `(K, N, ...)`, the members' answers out of fold.
        fold: `(N,)`, each row's fold.
        rows: `(N,)`, each row's number in the data: those without a target are left out.
        notes: what makes the numbers other than they look.
    """

    predictor: Stacked
    names: tuple[str, ...]
    measure: str
    out_of_fold: Scores
    held: Scores | None
    optimism: tuple[Optimism, ...]
    answers: Array
    fold: Array
    rows: Array
    notes: tuple[str, ...]

    @property
    def leaks(self) -> tuple[str, ...]:
        """The members that look better out of fold than chance would make them."""
        return tuple(one.name for one in self.optimism if one.leak)

    def table(self) -> str:
        """Members, mean and stack, out of fold and on held rows; then the notes."""
        names = [*self.names, "mean", "stacked"]
        lines = [["", self.measure, "", ""], *([name, "", "", ""] for name in names)]
        for column, scores in ((1, self.out_of_fold), (2, self.held)):
            if scores is not None:
                values = [*scores.members, scores.mean, scores.stacked]
                for line, value in zip(lines[1:], values, strict=True):
                    line[column] = f"{value:.4f}"
        if self.held is not None:
            lines[0][2:] = ["held", "too good by (squared error)"]
        for line, one in zip(lines[1:], self.optimism, strict=False):
            told = f"{one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f})"
            line[3] = f"{told} LEAK" if one.leak else told
        return "\n".join([aligned(lines), *self.notes])


def stack(
    members: Mapping[str, Any] | Sequence[Any], data: Any, *, meta: Any = None, folds: int = 5,
    groups: Any = None, copies: str = "refuse", features: str = "logits", refit: bool = True,
    held: Any = None, held_groups: Any = None, family: str | None = None,
    classes: int | None = None, at: str = "", metrics: Sequence[Any] | None = None,
    seed: int = 0, trusted: Sequence[str] = (),
) -> Stacking:  # fmt: skip
    r"""A model of members' answers to rows that they were not trained on.

    The rows are parted into folds $1, \dots, F$. With $f(i)$ the fold of row i and
    $h_k^{-f}$ member k trained without fold f, the meta-model g is fitted to

    $$\{ ( h_1^{-f(i)}(x_i), \dots, h_K^{-f(i)}(x_i) ), \; y_i \}_{i = 1}^N$$

    and predicts $g(h_1(x), \dots, h_K(x))$ with members trained on all rows. Answers to rows that a
    member was trained on would praise whoever learns by heart. A member is given the rows of its
    folds and nothing else, and is asked without targets; so whatever is fitted (scaling, encoding,
    selection) belongs into the member: into a Pipeline, or into the function.

    Two things are looked at. Rows with equal inputs in several folds are found exactly; copies that
    were changed a little are not, nor are rows of one person, say: that takes `groups`. And with
    `held`, each member's squared error out of fold is compared with its fold models' on rows that
    nobody saw: a member that was helped, by an encoding or a selection that was fitted to all of
    the data before it came here, looks better than it is. Of a hundred stacks without a leak about
    one is accused, if held rows are drawn as the data is; rows of another kind look like a leak, or
    hide one. What helps on held rows as well, such as an input that follows from the target, is not
    seen, nor is what is less than the interval in `table()`.

    Args:
        members: by name, or a list. A scikit-learn estimator or Pipeline, which is cloned; or a
            function `rows -> Predictor`, given a whet.Batch of the rows to train on.
        data: rows in memory, or a Dataset, which is read once; rows without a target are left out.
        meta: a scikit-learn estimator. By default a logistic regression, for each label where there
            are labels; of reals the least squares with weights from 0.
        folds: how many.
        groups: for each row what it belongs to: rows of one group stand in one fold.
        copies: of rows with equal inputs: `refuse` them where they stand in several folds, put them
            `together` in one, or leave them `apart`, for independent observations may be equal.
        features: of the meta-model, `logits` or `probabilities`: `whet.predict.stacked.features_of`
            says what these are.
        refit: train each member once more on all rows; otherwise the mean of its fold models
            predicts.
        held: rows that no member was trained on, drawn as the data is, with targets.
        held_groups: what they belong to, none of the groups of the data; the interval is one of
            groups then.
        family: `categorical`, `multi-label` or `real`. By default whole numbers `(N,)` are classes,
            `(N, L)` of 0 and 1 labels, and all else reals.
        classes: how many there are; by default up to the largest that occurs.
        at: which inputs estimators take, where there are several: a key or position.
        metrics: the first is what is told; the family's default if None.
        seed: of folds, and of members: what draws in a function is seeded, and so are estimators
            whose `random_state` is None.
        trusted: types that estimators may hold beside those that skops trusts. Trees need
            `sklearn.tree._tree.Tree`: a changed file of them can crash the process.

    Cost: F + 1 trainings of each member, and a forward of each to predict; where `refit` is False,
        F trainings and F forwards. With `held`, F + 1 forwards of these rows for each member.

    Raises:
        InputError: an estimator cannot predict for the family, or cannot be saved; rows, groups or
            classes are too few for the folds; copies stand in several folds; or an answer is not
            finite, or of other classes.

    Paper: Wolpert 1992, doi:10.1016/S0893-6080(05)80023-1; of reals Breiman 1996,
        doi:10.1007/BF00117832.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.naive_bayes import GaussianNB
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> done = stack([LogisticRegression(), GaussianNB()], (x, y))
    >>> done.names, done.predictor(Batch(x)).shape
    (('LogisticRegression', 'GaussianNB'), torch.Size([60, 3]))
    """
    whole = stack_rows.opened(data, family, classes)
    judged = None if held is None else stack_rows.held_out(held, whole, apart=copies == "apart")
    kind, metric = whole.kind, _metric(metrics, whole.kind)
    each = out_of_fold.members(members, kind, whole.classes, at, trusted)
    over = default(kind) if meta is None else meta  # a forest has a length, and so no truth
    top = Member("meta", over, kind, whole.classes, "", trusted)
    for one in [*each, top]:
        one.check()
    check_features(features)
    belongs = None if groups is None else parts.codes_of(groups, whole.count)[whole.numbers]
    theirs = _held_groups(held_groups, groups, judged)
    fold = parts.parted(whole.rows, whole.targets, kind.name, folds, belongs, copies, seed)
    found = _trained(each, whole, fold, judged, refit, seed)
    answers = [one.answers for one in found]
    final = Meta(top, features, torch.from_numpy(whole.targets), whole.like, seed)
    predictor = Stacked([one.predictor for one in found], final.fitted(answers), features)
    names = tuple(one.name for one in each)
    suspected = _suspected(names, found, whole, judged, belongs, theirs)
    return Stacking(
        predictor, names, metric.name,
        _scores(metric, answers, final.crossed(answers, fold), whole.targets),
        None if judged is None else _on_held(predictor, each, judged, metric),
        suspected, np.stack([one.numpy() for one in answers]), fold, whole.numbers,
        _notes(whole.rows, fold, suspected),
    )  # fmt: skip


def _metric(metrics: Sequence[Any] | None, kind: Family) -> measures.Metric:
    return measures.resolve(metrics or measures.defaults(kind.name), kind.name)[0]


def _trained(
    each: Sequence[Member], whole: Rows, fold: Array, judged: Rows | None, refit: bool, seed: int
) -> list[Trained]:  # fmt: skip
    """Estimators first: what they cannot do comes to light before a model is trained for hours."""
    held = None if judged is None else judged.rows
    found = {
        number: out_of_fold.trained(each[number], whole.rows, fold, seed, whole.like, held, refit)
        for number in sorted(range(len(each)), key=lambda at: not each[at].is_estimator)
    }
    return [found[number] for number in range(len(each))]


def _scores(metric: Any, answers: Sequence[Tensor], stacked: Tensor, targets: Array) -> Scores:
    alone = tuple(value(metric, one, targets) for one in answers)
    mean = torch.stack(list(answers)).mean(0)
    return Scores(alone, value(metric, mean, targets), value(metric, stacked, targets))


def _on_held(predictor: Stacked, each: Sequence[Member], judged: Rows, metric: Any) -> Scores:
    """As the stack itself asks: the members of all rows."""
    pairs = zip(each, predictor.predictors, strict=True)
    answers = [member.ask(one, judged.rows, judged.like) for member, one in pairs]
    features = Batch(features_of(answers, predictor.family, predictor.features))
    return _scores(metric, answers, predictor.meta(features), judged.targets)


def _held_groups(given: Any, groups: Any, judged: Rows | None) -> Array | None:
    if given is None or judged is None:
        return None
    codes = parts.codes_of(given, judged.count, "held_groups")[judged.numbers]
    known = set() if groups is None else {*np.asarray(groups).tolist()}
    if both := known.intersection(np.asarray(given).tolist()):
        raise InputError(
            f"{len(both)} groups stand in the data and among the held rows, such as "
            f"{min(both, key=str)!r}: hold whole groups out, or name others otherwise."
        )
    return codes


def _suspected(
    names: Sequence[str], found: Sequence[Trained], whole: Rows, judged: Rows | None,
    belongs: Array | None, theirs: Array | None,
) -> tuple[Optimism, ...]:  # fmt: skip
    if judged is None:
        return ()
    kind = whole.kind.name
    ours_KN = [squared_errors(one.answers.numpy(), whole.targets, kind) for one in found]
    by_fold_KFM = [
        [squared_errors(p.numpy(), judged.targets, kind) for p in one.held]
        for one in found if one.held is not None
    ]  # fmt: skip
    held_KM, folds = np.mean(by_fold_KFM, 1), len(by_fold_KFM[0])
    return optimism(names, np.stack(ours_KN), held_KM, folds, belongs, theirs)


def _notes(rows: Batch, fold: Array, suspected: Sequence[Optimism]) -> tuple[str, ...]:
    notes = []
    if copies := len(parts.spread(parts.contents(rows), fold)):
        notes.append(
            f"{copies} of {rows.size} rows have a copy with equal inputs in another fold; if these "
            "are no independent observations, what learns by heart looks better than it is."
        )
    notes += [
        f"{one.name} is better out of fold than on held rows by more than chance: something that "
        "it gets was fitted to all of the data. Fit encodings, selections and scales within the "
        "member (a Pipeline), and give groups= of what belongs together."
        for one in suspected if one.leak
    ]  # fmt: skip
    return tuple(notes)
