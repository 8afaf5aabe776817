"""The formulas of the metrics, as functions of two arrays that `whet.metrics` has checked."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
# Bins of a calibration error.
_BINS = 15


def accuracy(probabilities: Array, targets: Array) -> float:
    """Share of right decisions: mean_i [argmax_c p_ic = y_i]. Range 0..1."""
    return float((probabilities.argmax(axis=1) == targets).mean())


def exact_match(probabilities: Array, targets: Array) -> float:
    """Share of rows with every label right: mean_i prod_l [(p_il > 0.5) = y_il]. Range 0..1."""
    return float(((probabilities > 0.5) == targets).all(axis=1).mean())


def balanced_accuracy(probabilities: Array, targets: Array) -> float:
    """Mean recall TP_c / N_c over the classes present in the targets. Range 0..1."""
    hits, actual, _ = _counts(probabilities, targets)
    return _mean(hits[actual > 0] / actual[actual > 0])


def macro_f1(probabilities: Array, targets: Array) -> float:
    """Mean of F1_c = 2 TP_c / (2 TP_c + FP_c + FN_c). Range 0..1.

    Over the classes or labels present in targets or decisions, nan where there is none. For
    classes scikit-learn's `f1_score` does the same; for labels, with its `zero_division=nan`.
    """
    hits, actual, decided = _counts(probabilities, targets)
    either = actual + decided
    return _mean(2 * hits[either > 0] / either[either > 0])


def micro_f1(probabilities: Array, targets: Array) -> float:
    """F1 of all decisions together: 2 TP / (2 TP + FP + FN). Range 0..1; nan without a positive."""
    hits, actual, decided = (counts.sum() for counts in _counts(probabilities, targets))
    return float(2 * hits / (actual + decided)) if actual + decided else float("nan")


def log_loss(probabilities: Array, targets: Array) -> float:
    """Mean of -ln(probability of what is true), over rows or (row, label) pairs. Range 0..36.04.

    Probabilities are clipped to eps..1-eps, eps = 2.2e-16, so that one sure mistake is not inf.
    """
    if targets.ndim == 1:
        of_truth = probabilities[np.arange(len(targets)), targets]
    else:
        of_truth = np.where(targets == 1, probabilities, 1 - probabilities)
    eps = np.finfo(np.float64).eps
    return float(-np.log(of_truth.clip(eps, 1 - eps)).mean())


def auc(probabilities: Array, targets: Array) -> float:
    """P(p_i > p_j) + P(p_i = p_j) / 2 for a positive i and a negative j. Range 0..1.

    Two classes: of column 1. More: mean of one against the rest, over the classes present. Labels:
    mean over the columns that hold both values. nan where no column does.
    """
    from sklearn.metrics import roc_auc_score

    return _over_columns(roc_auc_score, probabilities, targets)


def average_precision(probabilities: Array, targets: Array) -> float:
    """Area under precision P over recall R, in steps: sum_k (R_k - R_{k-1}) P_k. Range 0..1.

    Columns as for AUC; of two classes, 1 is the positive one.
    """
    from sklearn.metrics import average_precision_score

    return _over_columns(average_precision_score, probabilities, targets)


def ece(probabilities: Array, targets: Array) -> float:
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


def mse(predictions: Array, targets: Array) -> float:
    """Mean (f - y)^2 over rows and outputs. Range 0..inf, in the target's unit squared."""
    return float(np.square(predictions - targets).mean())


def mae(predictions: Array, targets: Array) -> float:
    """Mean |f - y| over rows and outputs. Range 0..inf, in the target's unit."""
    return float(abs(predictions - targets).mean())


def r2(predictions: Array, targets: Array) -> float:
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
