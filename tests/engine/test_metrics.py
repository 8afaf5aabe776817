"""Every metric against another implementation, by hand, and in its traps; metrics from outside."""

from __future__ import annotations

import functools
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.metrics as oracle

from whet.errors import InputError, UnknownName
from whet.metrics import FAMILIES, METRICS, Metric, defaults, evaluate, resolve

NAN = float("nan")


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def data(family: str, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy predictions with some skill, so that no metric sits at its end of range."""
    draw = np.random.default_rng(seed)
    if family == "real":
        targets = draw.normal(size=(200, 3))
        return targets + draw.normal(size=targets.shape), targets
    if family == "multi-label":
        targets = draw.integers(0, 2, size=(200, classes))
        return 1 / (1 + np.exp(-draw.normal(size=targets.shape) - 2 * targets + 1)), targets
    targets = draw.integers(0, classes, size=200)
    return softmax(draw.normal(size=(200, classes)) + 1.5 * np.eye(classes)[targets]), targets


def value(name: str, probabilities: object, targets: object) -> float:
    return METRICS[name].compute(np.array(probabilities), np.array(targets))


def by_definition_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    pairs = scores[truth == 1][:, None] - scores[truth == 0][None]
    return float(((pairs > 0) + 0.5 * (pairs == 0)).mean())


def by_definition_ece(confidence: np.ndarray, right: np.ndarray) -> float:
    error = 0.0
    for b in range(15):
        inside = (confidence > b / 15) & (confidence <= (b + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


# Formulas against another implementation


ORACLES: dict[tuple[str, str], Callable[[np.ndarray, np.ndarray], float]] = {
    ("accuracy", "categorical"): lambda p, y: oracle.accuracy_score(y, p.argmax(1)),
    ("balanced_accuracy", "categorical"): lambda p, y: oracle.balanced_accuracy_score(
        y, p.argmax(1)
    ),
    ("macro_f1", "categorical"): lambda p, y: oracle.f1_score(y, p.argmax(1), average="macro"),
    ("macro_f1", "multi-label"): lambda p, y: oracle.f1_score(y, p > 0.5, average="macro"),
    ("micro_f1", "multi-label"): lambda p, y: oracle.f1_score(y, p > 0.5, average="micro"),
    ("exact_match", "multi-label"): lambda p, y: oracle.accuracy_score(y, p > 0.5),
    ("log_loss", "categorical"): lambda p, y: oracle.log_loss(y, p, labels=range(p.shape[1])),
    ("log_loss", "multi-label"): lambda p, y: np.mean(
        [oracle.log_loss(y[:, c], p[:, c], labels=[0, 1]) for c in range(y.shape[1])]
    ),
    ("auc", "categorical"): lambda p, y: np.mean(
        [by_definition_auc(p[:, c], y == c) for c in range(p.shape[1])]
    ),
    ("auc", "multi-label"): lambda p, y: oracle.roc_auc_score(y, p, average="macro"),
    ("average_precision", "categorical"): lambda p, y: oracle.average_precision_score(y, p),
    ("average_precision", "multi-label"): lambda p, y: oracle.average_precision_score(y, p),
    ("ece", "categorical"): lambda p, y: by_definition_ece(p.max(1), p.argmax(1) == y),
    ("ece", "multi-label"): lambda p, y: by_definition_ece(p.ravel(), y.ravel()),
    ("mse", "real"): lambda p, y: oracle.mean_squared_error(y, p),
    ("mae", "real"): lambda p, y: oracle.mean_absolute_error(y, p),
    ("r2", "real"): lambda p, y: oracle.r2_score(y, p),
}


@pytest.mark.parametrize(("name", "family"), ORACLES)
def test_equals_its_oracle(name: str, family: str) -> None:
    probabilities, targets = data(family)
    expected = ORACLES[name, family](probabilities, targets)
    assert METRICS[name].compute(probabilities, targets) == pytest.approx(expected, rel=1e-12)


def test_every_metric_has_an_oracle_for_every_family() -> None:
    shaped_alike = {"tokens": "categorical"}
    wanted = {(m.name, shaped_alike.get(f, f)) for m in METRICS.values() for f in m.families}
    assert wanted == set(ORACLES)


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_of_two_classes_column_one_is_the_positive_one(name: str) -> None:
    probabilities, targets = data("categorical", classes=2)
    score = {"auc": oracle.roc_auc_score, "average_precision": oracle.average_precision_score}[name]
    assert value(name, probabilities, targets) == score(targets, probabilities[:, 1])


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if "real" not in m.families])
def test_half_precision_is_judged_as_what_it_holds(name: str) -> None:
    family = "categorical" if "categorical" in METRICS[name].families else "multi-label"
    probabilities, targets = data(family)
    rounded = probabilities.astype(np.float16)
    expected = value(name, rounded.astype(np.float64), targets)
    assert value(name, rounded, targets.astype(np.int8)) == pytest.approx(expected, rel=1e-12)


# Formulas by hand


TWO = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]]
LABELS = [[0.9, 0.4], [0.8, 0.6], [0.1, 0.3]], [[1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize(
    ("name", "probabilities", "targets", "expected"),
    [
        ("accuracy", TWO, [0, 1, 1, 0], 2 / 4),
        ("balanced_accuracy", TWO, [0, 1, 1, 1], (1 + 2 / 3) / 2),
        ("macro_f1", TWO, [0, 1, 1, 1], (2 / 3 + 4 / 5) / 2),
        ("macro_f1", *LABELS, (1 + 2 / 3) / 2),
        ("micro_f1", *LABELS, 6 / 7),
        ("exact_match", *LABELS, 2 / 3),
        ("log_loss", TWO, [0, 1, 1, 0], -math.log(0.9 * 0.4 * 0.7 * 0.2) / 4),
        ("log_loss", [[0.9, 0.4]], [[1, 0]], -math.log(0.9 * 0.6) / 2),
        ("auc", TWO, [0, 1, 0, 1], 3 / 4),
        ("auc", [[0.5, 0.5]] * 3, [0, 1, 1], 1 / 2),
        ("average_precision", TWO, [0, 1, 0, 1], (1 + 2 / 3) / 2),
        ("ece", TWO, [0, 1, 1, 0], (0.1 + 0.6 + 0.3 + 0.8) / 4),
        ("ece", [[0.3, 0.9]], [[1, 1]], (0.7 + 0.1) / 2),
        ("mse", [1, 2, 3], [1, 2, 5], 4 / 3),
        ("mae", [1, 2, 3], [1, 2, 5], 2 / 3),
        ("r2", [1, 2, 3], [1, 2, 6], 1 - 9 / 14),
        ("r2", [[1, 0], [2, 1], [3, 2]], [[1, 0], [2, 1], [6, 2]], (5 / 14 + 1) / 2),
    ],
)
def test_by_hand(name: str, probabilities: object, targets: object, expected: float) -> None:
    assert value(name, probabilities, targets) == pytest.approx(expected, rel=1e-12)


# Classes that are absent


def absent() -> tuple[np.ndarray, np.ndarray]:
    """Four classes, of which the targets hold 0 and 2 and the decisions 0, 1 and 2."""
    p = [[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.2, 0.6, 0.1]]
    return np.array(p), np.array([0, 0, 2, 2])


def test_balanced_accuracy_averages_the_classes_present() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = oracle.balanced_accuracy_score(absent()[1], absent()[0].argmax(1))
    assert value("balanced_accuracy", *absent()) == expected == (1 / 2 + 1) / 2


def test_macro_f1_averages_classes_in_targets_or_decisions() -> None:
    expected = oracle.f1_score(absent()[1], absent()[0].argmax(1), average="macro")
    assert value("macro_f1", *absent()) == pytest.approx(expected) == (2 / 3 + 0 + 1) / 3


def test_macro_f1_leaves_out_labels_without_a_positive() -> None:
    p, y = np.array([[0.9, 0.2], [0.8, 0.1]]), np.array([[1, 0], [0, 0]])
    expected = oracle.f1_score(y, p > 0.5, average="macro", zero_division=np.nan)
    assert value("macro_f1", p, y) == pytest.approx(expected) == 2 / 3


def test_log_loss_takes_targets_that_lack_classes() -> None:
    expected = -math.log(0.7 * 0.1 * 0.7 * 0.6) / 4
    assert value("log_loss", *absent()) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_ranking_averages_the_classes_present(name: str) -> None:
    p, y = absent()
    score = {"auc": oracle.roc_auc_score, "average_precision": oracle.average_precision_score}[name]
    expected = (score(y == 0, p[:, 0]) + score(y == 2, p[:, 2])) / 2
    assert value(name, p, y) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_ranking_leaves_out_labels_with_one_value(name: str) -> None:
    p, y = data("multi-label", classes=3)
    y[:, 0], y[:, 2] = 0, 1
    assert value(name, p, y) == value(name, p[:, 1:2], y[:, 1:2])


# Undefined is nan, never a made-up number


@pytest.mark.parametrize(
    ("name", "probabilities", "targets"),
    [
        ("auc", TWO, [1, 1, 1, 1]),
        ("auc", TWO, [0, 0, 0, 0]),
        ("auc", np.full((3, 3), 1 / 3), [2, 2, 2]),
        ("auc", [[0.2, 0.7], [0.3, 0.6]], [[0, 1], [0, 1]]),
        ("average_precision", TWO, [0, 0, 0, 0]),
        ("average_precision", TWO, [1, 1, 1, 1]),
        ("macro_f1", [[0.2, 0.3]], [[0, 0]]),
        ("micro_f1", [[0.2, 0.3]], [[0, 0]]),
        ("r2", [1.0, 2.0], [3.0, 3.0]),
        ("r2", [1.0], [3.0]),
        ("r2", [0.5] * 3, [0.1] * 3),  # whose rounded mean is not 0.1
    ],
)
def test_undefined_is_nan(name: str, probabilities: object, targets: object) -> None:
    assert math.isnan(value(name, probabilities, targets))


def test_r2_leaves_out_constant_outputs() -> None:
    p, y = data("real")
    y[:, 1] = 0.1
    assert value("r2", p, y) == pytest.approx(oracle.r2_score(y[:, [0, 2]], p[:, [0, 2]]))


# Edges of the formulas


def test_log_loss_clips_at_eps() -> None:
    eps = np.finfo(np.float64).eps
    assert value("log_loss", [[1.0, 0.0]], [1]) == -math.log(eps)
    assert value("log_loss", [[1.0, 0.0]], [[0, 0]]) == pytest.approx(-math.log(eps) / 2)
    assert 0 < value("log_loss", [[1.0, 0.0]], [0]) < 1e-15  # as scikit-learn; never -0.0


@pytest.mark.parametrize("b", range(1, 15))
def test_a_confidence_on_an_edge_falls_into_the_bin_below(b: int) -> None:
    edge = b / 15
    # In one bin the two errors cancel; in two they add up.
    for other, together in [(edge - 0.01, True), (np.nextafter(edge, 1), False)]:
        p, y = np.array([[edge], [other]]), np.array([[1], [0]])
        apart = (abs(1 - edge) + other) / 2
        assert value("ece", p, y) == pytest.approx(abs(1 - edge - other) / 2 if together else apart)


def test_ece_takes_confidences_of_0_and_1() -> None:
    assert value("ece", [[0.0, 1.0]], [[0, 1]]) == 0
    assert value("ece", [[0.0, 1.0]], [[1, 0]]) == 1


def test_equal_probabilities_decide_for_the_first_class_and_against_a_label() -> None:
    assert value("accuracy", [[0.5, 0.5]], [0]) == 1
    assert value("exact_match", [[0.5]], [[0]]) == 1
    assert value("micro_f1", [[0.5, 0.9]], [[0, 1]]) == 1


def test_a_large_vocabulary_needs_no_confusion_matrix() -> None:
    p = np.full((4, 50_000), 0.5 / 49_999)
    p[range(4), [7, 8, 9, 9]] = 0.5
    names = ["accuracy", "balanced_accuracy", "macro_f1"]
    values = evaluate(resolve(names, "tokens"), p, np.array([7, 8, 9, 40_000]))
    assert list(values.values()) == pytest.approx([3 / 4, 3 / 4, (1 + 1 + 2 / 3) / 4])


def test_diverged_predictions_have_a_value() -> None:
    p, y = np.array([1.0, np.inf]), np.array([1.0, 2.0])
    values = evaluate(resolve(defaults("real"), "real"), p, y)
    assert values == {"mse": np.inf, "mae": np.inf, "r2": -np.inf}


# Arrays that are refused


@pytest.mark.parametrize(
    ("name", "probabilities", "targets", "message"),
    [
        ("accuracy", [[NAN, 0.5], [0.5, 0.5], [NAN, NAN]], [0, 1, 1], "NaN in 2 of 3 rows"),
        ("mse", [[NAN, 1], [2, 3]], [[0, 1], [2, 3]], "NaN in 1 of 2 rows"),
        ("mse", [1.0, 2.0], [NAN, 1.0], "targets are NaN or infinite"),
        ("accuracy", np.zeros((0, 2)), np.zeros(0, int), "nothing to evaluate"),
        ("mse", [], [], "nothing to evaluate"),
        ("accuracy", [[2.5, -1.0]], [0], "from -1 to 2.5: are these logits"),
        ("exact_match", [[2.5, -1.0]], [[0, 1]], "are these logits"),
        ("accuracy", [[0.5, 0.6], [0.5, 0.5]], [0, 1], "do not sum to 1 in 1 of 2 rows"),
        ("accuracy", [[0.5, 0.5]] * 2, [0, -100], "from -100 to 0, outside 0..1"),
        ("accuracy", [[0.5, 0.5]], [2], "outside 0..1"),
        ("accuracy", [[0.5, 0.5]], [0.0], "integers, not float64"),
        ("accuracy", [[0.5, 0.5]], [[0, 1]], "do not suit categorical, tokens"),
        ("accuracy", [0.5, 0.5], [0, 1], "do not suit"),
        ("accuracy", [[0.5, 0.5]], [0, 1], "as many rows"),
        ("accuracy", np.full((1, 2, 2), 0.5), [[0, 1]], "one or two axes"),
        ("mse", 1.0, 1.0, "one or two axes"),
        ("exact_match", [[0.5, 0.5]], [1], "do not suit multi-label"),
        ("exact_match", [0.5, 0.5], [0, 1], "0 and 1"),
        ("exact_match", [[0.5, 0.5]], [[0.9, 0]], "0 and 1"),
        ("mse", [[1.0], [2.0]], [1.0, 2.0], r"\(2, 1\) against targets of \(2,\)"),
    ],
)
def test_refuses(name: str, probabilities: object, targets: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        value(name, probabilities, targets)


def test_float_targets_of_labels_are_taken() -> None:
    assert value("exact_match", [[0.9, 0.1]], np.array([[1.0, 0.0]], np.float32)) == 1


def test_arrays_are_left_as_they_were() -> None:
    for family in ("categorical", "multi-label", "real"):
        arrays = data(family)
        copies = [array.copy() for array in arrays]
        for array in arrays:
            array.flags.writeable = False
        evaluate(resolve(defaults(family), family), *arrays)
        assert all((a == b).all() for a, b in zip(arrays, copies, strict=True))


# Names, families, users' functions


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_defaults_suit_their_family_and_are_defined(family: str) -> None:
    values = evaluate(resolve(defaults(family), family), *data(family))
    assert tuple(values) == defaults(family)
    assert not any(math.isnan(number) for number in values.values())


def test_direction_of_every_metric() -> None:
    """A perfect prediction is never worse than a noisy one, in the declared direction."""
    for metric in METRICS.values():
        family = min(metric.families)
        noisy, targets = data(family)
        perfect = np.eye(4)[targets] if family == "categorical" else targets.astype(float)
        gain = metric.compute(perfect, targets) - metric.compute(noisy, targets)
        assert gain > 0 if metric.higher_is_better else gain < 0, metric.name


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="did you mean 'accuracy'") as raised:
        resolve(["acuracy"], "categorical")
    assert "mse" not in raised.value.candidates
    with pytest.raises(UnknownName, match="unknown family 'multilabel'; did you mean 'multi-label"):
        resolve([], "multilabel")
    with pytest.raises(UnknownName, match="unknown family"):
        defaults("labels")


def test_a_metric_of_another_family_is_refused() -> None:
    with pytest.raises(InputError, match=r"'mse' suits real .*, not tokens; .* are: accuracy,"):
        resolve(["mse"], "tokens")
    with pytest.raises(InputError, match="no family suits all of mse, accuracy"):
        evaluate([METRICS["mse"], METRICS["accuracy"]], *data("real"))


def test_one_bare_name_is_not_taken_letter_by_letter() -> None:
    assert resolve("mse", "real") == [METRICS["mse"]]


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="2 metrics are named 'mse'"):
        resolve(["mse", METRICS["mse"]], "real")


def test_a_users_function() -> None:
    def cost(probabilities: np.ndarray, targets: np.ndarray) -> float:
        assert probabilities.dtype == np.float64
        return float((probabilities[:, 0] * targets).sum())

    (metric,) = resolve([cost], "categorical")
    assert (metric.name, metric.higher_is_better, metric.families) == (
        "cost",
        True,
        {"categorical"},
    )
    assert metric.compute(np.array([[0.25, 0.75]]), np.array([1])) == 0.25
    cost.higher_is_better = False  # type: ignore[attr-defined]
    assert not resolve([cost], "categorical")[0].higher_is_better
    with pytest.raises(InputError, match="NaN in 1"):
        metric.compute(np.array([[NAN, 0.75]]), np.array([1]))


def test_a_users_metric_of_several_families() -> None:
    rows = Metric("rows", "Rows", True, FAMILIES, lambda p, _: len(p))
    for family in FAMILIES:
        assert (
            evaluate(
                resolve(["log_loss" if family != "real" else "mse", rows], family), *data(family)
            )["rows"]
            == 200
        )
        assert rows.compute(*data(family)) == 200


@pytest.mark.parametrize("score", [oracle.f1_score, functools.partial(oracle.f1_score, beta=2)])
def test_scikit_learns_order_of_arguments_is_refused(score: Callable[..., float]) -> None:
    with pytest.raises(InputError, match=r"f1_score takes \(y_true, y_pred\)"):
        resolve([score], "categorical")


@pytest.mark.parametrize("item", [3, None, Metric])
def test_what_cannot_be_a_metric_is_refused(item: Any) -> None:
    with pytest.raises(InputError, match="is no metric"):
        resolve([item], "real")


def test_a_metric_must_give_one_number() -> None:
    def parts(probabilities: np.ndarray, targets: np.ndarray) -> Any:
        return probabilities - targets

    with pytest.raises(InputError, match=r"'parts' gave ndarray\(200, 3\), not one number"):
        evaluate(resolve([parts], "real"), *data("real"))


def test_metrics_travel_to_other_processes() -> None:
    metrics = list(METRICS.values())
    assert pickle.loads(pickle.dumps(metrics)) == metrics  # noqa: S301


def test_imports_neither_torch_nor_scikit_learn() -> None:
    code = (
        "import sys, whet; before = set(sys.modules); import whet.metrics; "
        "print({'torch', 'sklearn'} & (set(sys.modules) - before))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


# torchmetrics


def torchmetric(name: str, **settings: Any) -> Any:
    import torchmetrics

    return getattr(torchmetrics, name)(**settings)


CLASSES: dict[str, Any] = {"task": "multiclass", "num_classes": 4}
MANY: dict[str, Any] = {"task": "multilabel", "num_labels": 4}


@pytest.mark.parametrize(
    ("ours", "family", "name", "settings"),
    [
        ("accuracy", "categorical", "Accuracy", CLASSES | {"average": "micro"}),
        ("balanced_accuracy", "categorical", "Accuracy", CLASSES | {"average": "macro"}),
        ("macro_f1", "categorical", "F1Score", CLASSES | {"average": "macro"}),
        ("auc", "categorical", "AUROC", CLASSES),
        ("average_precision", "categorical", "AveragePrecision", CLASSES),
        ("ece", "categorical", "CalibrationError", CLASSES),
        ("macro_f1", "multi-label", "F1Score", MANY | {"average": "macro"}),
        ("micro_f1", "multi-label", "F1Score", MANY | {"average": "micro"}),
        ("exact_match", "multi-label", "ExactMatch", MANY),
        ("auc", "multi-label", "AUROC", MANY),
        ("mse", "real", "MeanSquaredError", {}),
        ("mae", "real", "MeanAbsoluteError", {}),
        ("r2", "real", "R2Score", {}),
    ],
)
def test_agrees_with_torchmetrics(ours: str, family: str, name: str, settings: Any) -> None:
    (metric,) = resolve([torchmetric(name, **settings)], family)
    expected = METRICS[ours].compute(*data(family))
    assert metric.compute(*data(family)) == pytest.approx(expected, abs=1e-5)
    assert metric.higher_is_better == METRICS[ours].higher_is_better


def test_a_torchmetrics_object_is_left_as_it_was() -> None:
    import torch

    item = torchmetric("MeanSquaredError")
    item.update(torch.tensor([1.0]), torch.tensor([3.0]))
    (metric,) = resolve([item], "real")
    assert metric.name == "MeanSquaredError"
    assert metric.compute(np.array([1.0]), np.array([2.0])) == 1
    assert metric.compute(np.array([1.0]), np.array([2.0])) == 1
    assert float(item.compute()) == 4


def test_rounding_above_one_is_not_taken_for_logits() -> None:
    p, y = np.array([[1 + 1e-7, 0.0], [0.25, 0.75]]), np.array([0, 0])
    item = torchmetric("CalibrationError", task="multiclass", num_classes=2, n_bins=15)
    assert resolve([item], "categorical")[0].compute(p, y) == pytest.approx(0.75 / 2)


def test_torchmetrics_waits_for_no_other_process() -> None:
    def gather(*_: Any, **__: Any) -> Any:
        raise AssertionError("waits for the other processes")

    item = torchmetric(
        "MeanSquaredError", distributed_available_fn=lambda: True, dist_sync_fn=gather
    )
    (metric,) = resolve([item], "real")
    assert metric.compute(np.array([1.0]), np.array([2.0])) == 1


def test_torchmetrics_without_a_direction_or_with_many_values_is_refused() -> None:
    import torchmetrics

    collection = torchmetrics.MetricCollection([torchmetric("MeanSquaredError")])
    for item in (torchmetric("MeanMetric"), collection):
        with pytest.raises(InputError, match="does not say whether higher is better"):
            resolve([item], "real")
    per_class = torchmetric("Accuracy", **CLASSES, average="none")
    with pytest.raises(InputError, match="not one number"):
        evaluate(resolve([per_class], "categorical"), *data("categorical"))
