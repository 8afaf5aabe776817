"""Evaluation metrics on numpy arrays: ready ones by name, a user's own, and torchmetrics'.

A metric is a function of two arrays, `probabilities` and `targets`:

| family      | probabilities                              | targets                        |
|-------------|--------------------------------------------|--------------------------------|
| categorical | `(N, C)` in [0, 1], rows sum to 1          | `(N,)` integers in 0..C-1      |
| multi-label | `(N, L)` in [0, 1], each column on its own | `(N, L)` of 0 and 1            |
| real        | predictions `(N,)` or `(N, D)`             | finite, of the same shape      |
| tokens      | `(M, V)`, ignored tokens already taken out | `(M,)` integers in 0..V-1      |

- nan means "undefined on this part": an AUC with one class, an R2 with constant targets. No 0.5 or
  0 stands in for it, so it cannot slip into an average unseen.
- A mean over classes, labels or outputs leaves out those on which the score is undefined.
- A decision is the most probable class, the first of equals; for a label, p > 0.5.
- Arrays are checked before: logits given as probabilities, NaN, a target of -100, or `(N, 1)`
  against `(N,)` raise `InputError` instead of giving a number.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.errors import InputError, UnknownName

Array = NDArray[Any]
Function = Callable[[Array, Array], float]

_DEFAULTS = {
    "categorical": ("accuracy", "balanced_accuracy", "macro_f1", "log_loss", "ece"),
    "multi-label": ("macro_f1", "micro_f1", "average_precision", "log_loss", "exact_match"),
    "real": ("mse", "mae", "r2"),
    "tokens": ("log_loss", "accuracy"),
}
FAMILIES = frozenset(_DEFAULTS)
# Half precision sums to 1 within 2**-8; logits miss by far more.
_TOLERANCE = 0.01
_BINS = 15


@dataclass(frozen=True)
class Metric:
    """A named score of probabilities against targets.

    Args:
        name: the key of its value in `evaluate`.
        title: the words for a report.
        higher_is_better: the direction in which it improves.
        families: the families it suits, of `FAMILIES`.
        function: `(probabilities, targets) -> float`, called with checked arrays.
    """

    name: str
    title: str
    higher_is_better: bool
    families: frozenset[str]
    function: Function

    def compute(self, probabilities: Array, targets: Array) -> float:
        """Its value, or nan where it is undefined on this part.

        Errors: `InputError` for empty, NaN or ill-shaped arrays, by the module's table.

        >>> METRICS["accuracy"].compute(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
        0.5
        """
        return evaluate([self], probabilities, targets)[self.name]


METRICS: dict[str, Metric] = {}


def evaluate(metrics: Sequence[Metric], probabilities: Array, targets: Array) -> dict[str, float]:
    """The value of every metric, by name, in the order given.

    Args:
        metrics: as `resolve` gives them; one family must suit them all.
        probabilities: or predictions, in the shape and range of the module's table.
        targets: likewise.

    Errors: `InputError` for empty, NaN or ill-shaped arrays, or a metric that gives no number.

    >>> p, y = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1])
    >>> evaluate(resolve(["accuracy", "ece", "auc"], "categorical"), p, y)
    {'accuracy': 0.5, 'ece': 0.375, 'auc': 1.0}
    """
    families = FAMILIES.intersection(*(metric.families for metric in metrics))
    if not families:
        raise InputError(f"no family suits all of {', '.join(metric.name for metric in metrics)}")
    arrays = _checked(probabilities, targets, families)
    return {metric.name: _number(metric.name, metric.function(*arrays)) for metric in metrics}


def defaults(family: str) -> tuple[str, ...]:
    """The names of the metrics reported where a task names none.

    >>> defaults("real")
    ('mse', 'mae', 'r2')
    """
    if family not in _DEFAULTS:
        raise UnknownName("family", family, FAMILIES)
    return _DEFAULTS[family]


def resolve(metrics: Iterable[str | Metric | Function], family: str) -> list[Metric]:
    """Metrics for a family, from whatever a user names them by.

    Args:
        metrics: each a name in `METRICS`; a `Metric`; a torchmetrics instance, which is copied and
            never changed; or a function `(probabilities, targets) -> float`, named by its
            `__name__`, where higher is better unless its attribute `higher_is_better` is False.
        family: one of `FAMILIES`.

    Errors: `UnknownName` for a name without a metric; `InputError` for a metric that does not suit
    the family, two of one name, or what cannot be a metric.

    >>> def spread(probabilities, targets):
    ...     return float(probabilities.std())
    >>> [metric.name for metric in resolve(["mse", spread], "real")]
    ['mse', 'spread']
    """
    defaults(family)  # refuses an unknown family
    found = [_metric(item, family) for item in ([metrics] if isinstance(metrics, str) else metrics)]
    for name, count in Counter(metric.name for metric in found).items():
        if count > 1:
            raise InputError(
                f"{count} metrics are named {name!r}; rename all but one with "
                f"dataclasses.replace(metric, name=...) on what resolve gives for each"
            )
    return found


def _metric(item: object, family: str) -> Metric:
    suited = [name for name, metric in METRICS.items() if family in metric.families]
    if isinstance(item, str) and item not in METRICS:
        raise UnknownName(f"metric for {family} targets", item, suited)
    metric = METRICS[item] if isinstance(item, str) else item
    if not isinstance(metric, Metric):
        return _adopted(metric, family)
    if family not in metric.families:
        raise InputError(
            f"metric {metric.name!r} suits {', '.join(sorted(metric.families))} targets, not "
            f"{family}; for {family} there are: {', '.join(sorted(suited))}"
        )
    return metric


def _adopted(item: object, family: str) -> Metric:
    """A `Metric` of a user's function or torchmetrics object."""
    if isinstance(item, type) or not callable(item):
        raise InputError(f"{item!r} is no metric; give a name, a function or an instance")
    inner = getattr(item, "func", item)  # of functools.partial
    name = str(getattr(inner, "__name__", type(inner).__name__))
    if str(getattr(inner, "__module__", "")).startswith("sklearn.metrics"):
        # It would run on swapped arguments and mislead.
        raise InputError(f"{name} takes (y_true, y_pred), not (probabilities, targets): wrap it")
    stateful = all(hasattr(item, part) for part in ("update", "compute", "reset"))
    higher = getattr(item, "higher_is_better", None if stateful else True)
    if higher is None:
        raise InputError(
            f"{name} does not say whether higher is better; wrap it in whet.metrics.Metric, and "
            f"give the members of a collection one by one"
        )
    function = functools.partial(_from_torchmetrics, item) if stateful else item
    return Metric(name, name, bool(higher), frozenset({family}), function)


def _from_torchmetrics(metric: Any, probabilities: Array, targets: Array) -> Any:
    import torch

    metric = copy.deepcopy(metric)
    metric.reset()
    parts: Iterable[Any] = metric.modules() if isinstance(metric, torch.nn.Module) else ()
    for part in parts:
        # The arrays are the whole part already, and other processes may not be evaluating at all.
        part.distributed_available_fn = lambda: False
        part.to("cpu")
    metric.update(torch.tensor(probabilities), torch.tensor(targets))
    return metric.compute()


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = getattr(value, "shape", "")
        raise InputError(
            f"metric {name!r} gave {type(value).__name__}{tuple(shape)}, not one number"
        ) from error


def _checked(
    predictions: Array, targets: Array, families: frozenset[str]
) -> tuple[NDArray[np.float64], Array]:
    predictions, targets = np.asarray(predictions, np.float64), np.asarray(targets)
    shapes = f"predictions of shape {predictions.shape} against targets of {targets.shape}"
    if predictions.size == 0:
        raise InputError(f"nothing to evaluate: {shapes}")
    if {predictions.ndim, targets.ndim} - {1, 2} or len(predictions) != len(targets):
        raise InputError(f"{shapes}: need one or two axes and as many rows")
    missing = int(np.isnan(predictions).reshape(len(predictions), -1).any(axis=1).sum())
    if missing:
        raise InputError(f"predictions are NaN in {missing} of {len(predictions)} rows")
    if predictions.ndim > targets.ndim and families & {"categorical", "tokens"}:
        return _within_one(predictions, of_rows=True), _checked_classes(targets, predictions)
    # Broadcasting (N, 1) against (N,) would compare every row with every other.
    if predictions.shape != targets.shape or not families & {"real", "multi-label"}:
        raise InputError(f"{shapes} do not suit {', '.join(sorted(families))} metrics")
    if "real" in families:
        if not np.isfinite(targets).all():
            raise InputError("some targets are NaN or infinite")
        return predictions, targets.astype(np.float64)
    if targets.ndim == 1 or not np.isin(targets, (0, 1)).all():
        raise InputError("multi-label targets are (N, L) of 0 and 1")
    return _within_one(predictions), targets.astype(np.int64)


def _within_one(values: NDArray[np.float64], of_rows: bool = False) -> NDArray[np.float64]:
    low, high = float(values.min()), float(values.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise InputError(f"probabilities reach from {low:.4g} to {high:.4g}: are these logits?")
    off = int((abs(values.sum(axis=1) - 1) > _TOLERANCE).sum()) if of_rows else 0
    if off:
        raise InputError(f"probabilities do not sum to 1 in {off} of {len(values)} rows")
    # A rounding error above 1 would make torchmetrics take the whole array for logits.
    return values if low >= 0 and high <= 1 else values.clip(0, 1)


def _checked_classes(targets: Array, predictions: Array) -> Array:
    if targets.dtype.kind not in "iub":
        raise InputError(f"class targets are integers, not {targets.dtype}")
    low, high, classes = int(targets.min()), int(targets.max()), predictions.shape[1]
    if low < 0 or high >= classes:
        raise InputError(
            f"targets reach from {low} to {high}, outside 0..{classes - 1}; take rows without a "
            f"target out before"
        )
    return targets.astype(np.int64)


def _register(
    title: str, *families: str, higher_is_better: bool = True
) -> Callable[[Function], Function]:
    def register(function: Function) -> Function:
        name = function.__name__.removeprefix("_")
        METRICS[name] = Metric(name, title, higher_is_better, frozenset(families), function)
        return function

    return register


@_register("Accuracy", "categorical", "tokens")
def _accuracy(probabilities: Array, targets: Array) -> float:
    """Share of right decisions: mean_i [argmax_c p_ic = y_i]. Range 0..1."""
    return float((probabilities.argmax(axis=1) == targets).mean())


@_register("Exact match", "multi-label")
def _exact_match(probabilities: Array, targets: Array) -> float:
    """Share of rows with every label right: mean_i prod_l [(p_il > 0.5) = y_il]. Range 0..1."""
    return float(((probabilities > 0.5) == targets).all(axis=1).mean())


@_register("Balanced accuracy", "categorical", "tokens")
def _balanced_accuracy(probabilities: Array, targets: Array) -> float:
    """Mean recall TP_c / N_c over the classes present in the targets. Range 0..1."""
    hits, actual, _ = _counts(probabilities, targets)
    return _mean(hits[actual > 0] / actual[actual > 0])


@_register("Macro F1", "categorical", "multi-label", "tokens")
def _macro_f1(probabilities: Array, targets: Array) -> float:
    """Mean of F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c). Range 0..1.

    Over the classes or labels present in targets or decisions, nan where there is none. For
    classes scikit-learn's `f1_score` does the same; for labels, with its `zero_division=nan`.
    """
    hits, actual, decided = _counts(probabilities, targets)
    either = actual + decided
    return _mean(2 * hits[either > 0] / either[either > 0])


@_register("Micro F1", "multi-label")
def _micro_f1(probabilities: Array, targets: Array) -> float:
    """F1 of all decisions together: 2 TP / (2 TP + FP + FN). Range 0..1; nan without a positive."""
    hits, actual, decided = (counts.sum() for counts in _counts(probabilities, targets))
    return float(2 * hits / (actual + decided)) if actual + decided else float("nan")


@_register("Log loss", "categorical", "multi-label", "tokens", higher_is_better=False)
def _log_loss(probabilities: Array, targets: Array) -> float:
    """Mean of -ln(probability of what is true), over rows or (row, label) pairs. Range 0..36.04.

    Probabilities are clipped to eps..1-eps, eps = 2.2e-16, so that one sure mistake is not inf.
    """
    if targets.ndim == 1:
        of_truth = probabilities[np.arange(len(targets)), targets]
    else:
        of_truth = np.where(targets == 1, probabilities, 1 - probabilities)
    eps = np.finfo(np.float64).eps
    return float(-np.log(of_truth.clip(eps, 1 - eps)).mean())


@_register("AUC", "categorical", "multi-label")
def _auc(probabilities: Array, targets: Array) -> float:
    """P(p_i > p_j) + P(p_i = p_j) / 2 for a positive i and a negative j. Range 0..1.

    Two classes: of column 1. More: mean of one against the rest, over the classes present. Labels:
    mean over the columns that hold both values. nan where no column does.
    """
    from sklearn.metrics import roc_auc_score

    return _over_columns(roc_auc_score, probabilities, targets)


@_register("Average precision", "categorical", "multi-label")
def _average_precision(probabilities: Array, targets: Array) -> float:
    """Area under precision P over recall R, in steps: sum_k (R_k - R_{k-1}) P_k. Range 0..1.

    Columns as for AUC; of two classes, 1 is the positive one.
    """
    from sklearn.metrics import average_precision_score

    return _over_columns(average_precision_score, probabilities, targets)


@_register("Calibration error", "categorical", "multi-label", "tokens", higher_is_better=False)
def _ece(probabilities: Array, targets: Array) -> float:
    """Expected calibration error: sum_b n_b / n |share right_b - mean confidence_b|. Range 0..1.

    Over 15 bins (b/15, (b+1)/15], the first with 0: of the top class's probability, or, for labels,
    of every p against its label. Guo et al. 2017, https://arxiv.org/abs/1706.04599.
    """
    if targets.ndim == 1:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    else:
        confidence, right = probabilities.ravel(), targets.ravel()
    bins = np.searchsorted(np.arange(1, _BINS) / _BINS, confidence, side="left")
    return float(abs(np.bincount(bins, weights=right - confidence)).sum() / len(bins))


@_register("Mean squared error", "real", higher_is_better=False)
def _mse(predictions: Array, targets: Array) -> float:
    """Mean (f - y)^2 over rows and outputs. Range 0..inf, in the target's unit squared."""
    return float(np.square(predictions - targets).mean())


@_register("Mean absolute error", "real", higher_is_better=False)
def _mae(predictions: Array, targets: Array) -> float:
    """Mean |f - y| over rows and outputs. Range 0..inf, in the target's unit."""
    return float(abs(predictions - targets).mean())


@_register("R2", "real")
def _r2(predictions: Array, targets: Array) -> float:
    """1 - sum (f - y)^2 / sum (y - mean y)^2, mean over the outputs whose y varies. Range -inf..1.

    nan where none varies.
    """
    predictions, targets = (a.reshape(len(a), -1) for a in (predictions, targets))
    # Not by a sum of squares of 0: the rounded mean of equal values may lie beside them.
    varies = np.ptp(targets, axis=0) > 0
    residual = np.square(predictions - targets).sum(axis=0)[varies]
    total = np.square(targets - targets.mean(axis=0)).sum(axis=0)[varies]
    return _mean(1 - residual / total)


def _counts(probabilities: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Of each class or label: decided rightly, actual, decided.

    Counting is O(N + C); a confusion matrix is O(C^2), too much for a vocabulary.
    """
    if targets.ndim == 2:
        above = probabilities > 0.5
        return (above & (targets == 1)).sum(axis=0), targets.sum(axis=0), above.sum(axis=0)
    top = probabilities.argmax(axis=1)
    count = functools.partial(np.bincount, minlength=probabilities.shape[1])
    return count(targets[top == targets]), count(targets), count(top)


def _over_columns(score: Callable[[Array, Array], float], scores: Array, targets: Array) -> float:
    if targets.ndim == 1:
        classes = np.array([1]) if scores.shape[1] == 2 else np.unique(targets)
        scores, targets = scores[:, classes], targets[:, None] == classes
    pairs = zip(targets.T, scores.T, strict=True)
    return _mean(np.array([score(y, p) for y, p in pairs if y.any() and not y.all()]))


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")
