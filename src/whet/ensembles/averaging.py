"""Means of predictors, plain and weighted, over models and over views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet import evaluation
from whet.errors import InputError
from whet.loading import in_order
from whet.methods.temperature_scaling import calibrated
from whet.predict import Calibrated, MeanPredictor, Predictor, Viewed, Views

Array = NDArray[Any]
Function = Callable[..., Any]
_LEAST = 1e-12  # a probability of what is true: so that one sure mistake decides not everything


def tta(
    predictor: Predictor, views: Sequence[str | Function] = ("flip",), *, at: str = "*",
    batched: bool = True,
) -> Viewed:  # fmt: skip
    """The mean of a predictor's probabilities for rows as they are and for views of them.

    Args:
        predictor: any, an ensemble too.
        views: names with amounts, as the method `tta` has them; and functions
            `(inputs, generator) -> inputs`, which are saved by their name.
        at: which inputs the named views change.
        batched: all views in one forward, in K + 1 times its memory; or one after another.

    Cost: K + 1 forwards.

    Raises:
        InputError: a view is none, stands twice, or is a function without a name.

    >>> import torch, whet
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    >>> x, y = torch.rand(30, 1, 4, 4), torch.arange(30) % 3
    >>> run = whet.Run(whet.Task(model, (x, y)), whet.Stage(updates=2, batch_size=10)).fit()
    >>> tta(run.predictor(), ["flip", "shift=0.25"])(whet.Batch(x)).shape
    torch.Size([30, 3])
    """
    functions: dict[str, Function] = {}
    names = []
    for view in views:
        name = view if isinstance(view, str) else getattr(view, "__name__", "")
        if not isinstance(view, str):
            if not name.isidentifier() or functions.get(name, view) is not view:
                raise InputError(
                    f"the view {view!r} has no name of its own. Define it by def: by its name it "
                    "is found again when the predictor is loaded."
                )
            functions[name] = view
        names.append(name)
    return Viewed(predictor, Views(tuple(names), functions, at), batched=batched)


def mean(predictors: Sequence[Predictor], weights: Sequence[float] | None = None) -> MeanPredictor:
    r"""The mean of the predictors' probabilities.

    $$p(y | x) = \sum_k w_k \, p_k(y | x), \quad w_k \ge 0, \; \sum_k w_k = 1$$

    Args:
        predictors: of one family and the same classes; of any architecture.
        weights: a number from 0 for each, divided by their sum; None for a plain mean.

    Cost: a forward for each predictor.

    Raises:
        InputError: they are of several families, or weights do not fit.

    >>> import torch, whet
    >>> data = torch.rand(30, 4), torch.arange(30) % 3
    >>> tasks = [whet.Task(torch.nn.Linear(4, 3), data) for _ in range(3)]
    >>> runs = [whet.Run(task, whet.Stage(updates=2, batch_size=10)).fit() for task in tasks]
    >>> mean([run.predictor() for run in runs], weights=[2, 1, 1]).weights
    [0.5, 0.25, 0.25]
    """
    return MeanPredictor(predictors, weights)


def fit_weights(predictors: Sequence[Predictor], held: Any) -> list[float]:
    r"""The weights of the mean under which held-out rows are likeliest.

    $$w = \arg\min_{w \ge 0, \, \sum_k w_k = 1} -\frac1n \sum_i \log \sum_k w_k p_k(y_i | x_i)$$

    which is convex: the weights on the simplex are found by sequential quadratic programming. For
    labels the loss is the binary one, for reals the squared error. A member that adds nothing gets
    a weight of 0.

    Args:
        predictors: as for `mean`.
        held: rows that no member was trained on: `run.batches("select")`, data, or batches.

    Cost: a forward of those rows for each predictor.

    Raises:
        InputError: no row has a target, or a member's answers are not finite or of other classes.

    >>> import torch, whet
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> stage = whet.Stage(updates=2, batch_size=20)
    >>> def fitted(seed):
    ...     return whet.Run(whet.Task(torch.nn.Linear(4, 3), (x, y)), stage, seed).fit().predictor()
    >>> round(sum(fit_weights([fitted(0), fitted(1)], held=(x, y))), 6)
    1.0
    """
    if not predictors:
        raise InputError("a mean of predictors needs at least one.")
    batches = list(in_order(held))
    found = [evaluation.predict(one, batches) for one in predictors]
    targets = found[0][1]
    if len({answers.shape for answers, _ in found}) > 1:
        raise InputError(
            f"the members answer in the shapes {', '.join(str(a.shape) for a, _ in found)}: they "
            "have no mean."
        )
    return best_weights(np.stack([a for a, _ in found]), targets, predictors[0].family.name)


def best_weights(p_KN: Array, targets: Array, family: str = "categorical") -> list[float]:
    """The core of `fit_weights`, of arrays.

    Args:
        p_KN: `(K, N, ...)`, probabilities, or predictions for reals.
        targets: as the family has them.
        family: its name.

    >>> p = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.5, 0.5]]])
    >>> best_weights(p, np.array([0, 1]))
    [1.0, 0.0]
    """
    from scipy.optimize import minimize

    if not np.isfinite(p_KN).all():
        raise InputError("a member's answers are not finite, so that no weights fit.")
    count, loss = len(p_KN), _loss(p_KN.astype(np.float64), targets, family)
    if count == 1:
        return [1.0]
    simplex = {"type": "eq", "fun": lambda w: w.sum() - 1.0, "jac": lambda w: np.ones(count)}
    done = minimize(
        loss, np.full(count, 1.0 / count), jac=True, method="SLSQP", bounds=[(0.0, 1.0)] * count,
        constraints=[simplex], options={"ftol": 1e-14, "maxiter": 1000},
    )  # fmt: skip
    # rounding leaves the least of weights where there should be none
    kept = np.where(done.x < 1e-9, 0.0, done.x)
    return [float(one) for one in kept / kept.sum()]


def _loss(p_KN: Array, targets: Array, family: str) -> Callable[[Array], tuple[float, Array]]:
    """Mean loss of the weighted mean, and its gradient."""
    if family in ("real", "embedding"):
        flat, truth = p_KN.reshape(len(p_KN), -1), np.asarray(targets, np.float64).reshape(-1)

        def squared(w: Array) -> tuple[float, Array]:
            off = w @ flat - truth
            return float((off**2).mean()), 2.0 * flat @ off / len(truth)

        return squared
    likely, share = _of_the_truth(p_KN, targets, family)

    def logarithmic(w: Array) -> tuple[float, Array]:
        mixed = np.maximum(w @ likely, _LEAST)
        return float(-(share * np.log(mixed)).sum()), -(likely @ (share / mixed))

    return logarithmic


def _of_the_truth(p_KN: Array, targets: Array, family: str) -> tuple[Array, Array]:
    """Probabilities `(K, M)` of what is true, and the share of the loss that each has."""
    if family == "multi-label":
        p, y = p_KN.reshape(len(p_KN), -1), np.asarray(targets, np.float64).reshape(-1)
        return np.concatenate([p, 1.0 - p], 1), np.concatenate([y, 1.0 - y]) / len(y)
    if targets.ndim > 1:  # probabilities of the classes
        p, y = p_KN.reshape(len(p_KN), -1), np.asarray(targets, np.float64).reshape(-1)
        return p, y / len(targets)
    return p_KN[:, np.arange(len(targets)), targets], np.full(len(targets), 1.0 / len(targets))


def calibrate(predictor: Predictor, held: Any, limit: float = 100.0) -> Calibrated:
    """A predictor at the temperature under which held-out rows are likeliest.

    As the method `temperature_scaling` does while a model is judged; an ensemble is calibrated as
    a whole.

    Args:
        predictor: any with probabilities.
        held: rows that it was not trained on, as for `fit_weights`.
        limit: the largest temperature, and one over the smallest.

    Cost: a forward of those rows.

    Raises:
        InputError: it predicts reals or embeddings, or no row has a target.

    Paper: Guo et al. 2017, arXiv:1706.04599.

    >>> import torch, whet
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> stage = whet.Stage(updates=2, batch_size=20)
    >>> def fitted(seed):
    ...     return whet.Run(whet.Task(torch.nn.Linear(4, 3), (x, y)), stage, seed).fit().predictor()
    >>> calibrate(fitted(0), held=(x, y)).temperature > 0.0
    True
    """
    if predictor.family.name in ("real", "embedding"):
        raise InputError(
            f"a predictor of family '{predictor.family.name}' has no probabilities to calibrate."
        )
    return calibrated(predictor, in_order(held), limit)[0]
