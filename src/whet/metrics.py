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
- One that carries an `Attack` is of a model and not of arrays: `whet.evaluation` attacks what it is
  given and judges the worst. `robust_accuracy` is accuracy there.
- Arrays are checked before: logits given as probabilities, NaN, a target of -100, or `(N, 1)`
  against `(N,)` raise `InputError` instead of giving a number.
"""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet import scores
from whet.adversary import Attack
from whet.errors import InputError, UnknownName
from whet.scores import Array

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


@dataclass(frozen=True)
class Metric:
    """A named score of probabilities against targets.

    Args:
        name: the key of its value in `evaluate`.
        title: the words for a report.
        higher_is_better: the direction in which it improves.
        families: the families it suits, of `FAMILIES`.
        function: `(probabilities, targets) -> float`, called with checked arrays.
        attack: what the inputs go through first; None for inputs as they are.
    """

    name: str
    title: str
    higher_is_better: bool
    families: frozenset[str]
    function: Function
    attack: Attack | None = None

    def compute(self, probabilities: Array, targets: Array) -> float:
        """Its value, or nan where it is undefined on this part.

        Errors: `InputError` for empty, NaN or ill-shaped arrays, by the module's table.

        >>> METRICS["accuracy"].compute(np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([0, 1]))
        0.5
        """
        return evaluate([self], probabilities, targets)[self.name]


_TABLE: tuple[tuple[Any, ...], ...] = (
    ("Accuracy", "higher", scores.accuracy, "categorical", "tokens"),
    ("Exact match", "higher", scores.exact_match, "multi-label"),
    ("Balanced accuracy", "higher", scores.balanced_accuracy, "categorical", "tokens"),
    ("Macro F1", "higher", scores.macro_f1, "categorical", "multi-label", "tokens"),
    ("Micro F1", "higher", scores.micro_f1, "multi-label"),
    ("Log loss", "lower", scores.log_loss, "categorical", "multi-label", "tokens"),
    ("AUC", "higher", scores.auc, "categorical", "multi-label"),
    ("Average precision", "higher", scores.average_precision, "categorical", "multi-label"),
    ("Calibration error", "lower", scores.ece, "categorical", "multi-label", "tokens"),
    ("Mean squared error", "lower", scores.mse, "real"),
    ("Mean absolute error", "lower", scores.mae, "real"),
    ("R2", "higher", scores.r2, "real"),
)
METRICS: dict[str, Metric] = {
    score.__name__: Metric(score.__name__, title, better == "higher", frozenset(families), score)
    for title, better, score, *families in _TABLE
}
# of a model, not of arrays
ATTACKED: dict[str, Metric] = {
    "robust_accuracy": Metric(
        "robust_accuracy", "Accuracy under attack", True, frozenset({"categorical"}),
        scores.accuracy, Attack(),
    ),
}  # fmt: skip


def robust_accuracy(name: str = "robust_accuracy", **settings: Any) -> Metric:
    """Accuracy under an `Attack` with these settings, as a metric of a task.

    >>> robust_accuracy("fgsm", kind="fgsm", epsilon=0.1, valid_range=(0, 1)).attack.sizes
    (1.0,)
    """
    plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return replace(ATTACKED["robust_accuracy"], name=name, attack=Attack(**plain))


def evaluate(metrics: Sequence[Metric], probabilities: Array, targets: Array) -> dict[str, float]:
    """The value of every metric, by name, in the order given.

    Args:
        metrics: as `resolve` gives them; one family must suit them all.
        probabilities: or predictions, in the shape and range of the module's table.
        targets: likewise.

    Errors: `InputError` for empty, NaN or ill-shaped arrays, a metric that gives no number, or one
    that attacks the model, which arrays are not.

    >>> p, y = np.array([[0.75, 0.25], [0.5, 0.5]]), np.array([0, 1])
    >>> evaluate(resolve(["accuracy", "ece", "auc"], "categorical"), p, y)
    {'accuracy': 0.5, 'ece': 0.375, 'auc': 1.0}
    """
    if attacked := [metric.name for metric in metrics if metric.attack is not None]:
        raise InputError(
            f"{', '.join(attacked)}: predictions are not enough, for the inputs are attacked "
            "first. Use Run.evaluate, a study, or whet.robust_accuracy(model, loader)."
        )
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
    known = METRICS | ATTACKED
    suited = [name for name, metric in known.items() if family in metric.families]
    if isinstance(item, str) and item not in known:
        raise UnknownName(f"metric for {family} targets", item, suited)
    metric = known[item] if isinstance(item, str) else item
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
