"""Planted leaks are found, and what is none is accused no oftener than is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import TargetEncoder

from tests.methods.traps import trap
from whet import ensembles, seeding
from whet.ensembles.optimism import optimism, squared_errors, variance
from whet.errors import InputError

Array = NDArray[Any]
TRUSTED = ["sklearn.feature_selection._univariate_selection.f_classif"]
SEEDS = range(4)


class Encoded(TransformerMixin, BaseEstimator):
    """Categories by the mean target of their rows, those that are encoded among them."""

    def fit(self, x: Array, y: Array) -> Any:
        sums = np.bincount(x[:, 0].astype(int), y, minlength=200)
        counts = np.bincount(x[:, 0].astype(int), minlength=200)
        self.means_ = np.where(counts, sums / np.maximum(counts, 1), y.mean())
        return self

    def transform(self, x: Array) -> Array:
        return self.means_[x[:, 0].astype(int)][:, None]


def selection() -> Any:
    return SelectKBest(f_classif, k=20)


def numbers(seed: int) -> tuple[Array, Array]:
    """Five hundred columns that know nothing of the classes."""
    maker = np.random.default_rng(seed)
    return maker.normal(size=(600, 500)), maker.integers(0, 2, 600)


def categories(seed: int) -> tuple[Array, Array]:
    """A hundred and fifty categories that know nothing of the classes."""
    maker = np.random.default_rng(seed)
    return maker.integers(0, 150, (600, 1)).astype(float), maker.integers(0, 2, 600)


def leaks(kind: str, seed: int, inside: bool) -> tuple[str, ...]:
    return stacked(kind, seed, inside).leaks


def stacked(kind: str, seed: int, inside: bool) -> ensembles.Stacking:
    (x, y), first = (numbers if kind == "selection" else categories)(seed), slice(0, 300)
    made = selection() if kind == "selection" else Encoded()
    if inside and kind == "encoding":
        made = TargetEncoder(target_type="binary")
    member = make_pipeline(made, LogisticRegression()) if inside else LogisticRegression()
    if not inside:
        x = made.fit(x[first], y[first]).transform(x)
    rest = slice(300, None)
    return ensembles.stack(
        {"it": member}, (x[first], y[first]), held=(x[rest], y[rest]), seed=seed, refit=False,
        copies="apart", trusted=TRUSTED, folds=4,
    )  # fmt: skip


@trap(
    right=lambda kind, seed: leaks(kind, seed, inside=True),
    wrong=lambda kind, seed: leaks(kind, seed, inside=False),
)
def test_what_is_fitted_inside_the_fold_is_no_leak(found: Any) -> None:
    """Of columns and categories by chance, in each of four draws."""
    each = [bool(found(kind, seed)) for kind in ("selection", "encoding") for seed in SEEDS]
    assert sum(each) <= 1


@pytest.mark.parametrize("kind", ["selection", "encoding"])
def test_what_is_fitted_before_the_folds_is_found(kind: str) -> None:
    assert sum(leaks(kind, seed, inside=False) == ("it",) for seed in SEEDS) >= 3


def test_a_leak_is_told() -> None:
    done, clean = (stacked("encoding", 0, inside) for inside in (False, True))
    assert done.table().splitlines()[1].endswith("LEAK")
    assert "LEAK" not in clean.table()
    assert [note[:30] for note in done.notes if "fitted to all" in note] == [
        "it is better out of fold than "
    ]
    assert not any("fitted to all" in note for note in clean.notes)
    assert any("have a copy with equal inputs in another fold" in note for note in clean.notes)


# the rate ------------------------------------------------------------------------------------
def crossed(seed: int, inside: bool, columns: int, chosen: int, many: int = 100) -> bool:
    """Least squares on the columns that go with the target best; whether that is accused."""
    maker = np.random.default_rng(seed)
    x, y = maker.normal(size=(2 * many, columns)), maker.normal(size=2 * many)
    train, fold = np.arange(many), np.arange(many) % 5

    def best(rows: Array) -> Array:
        return np.argsort(-np.abs((x[rows] - x[rows].mean(0)).T @ (y[rows] - y[rows].mean())))

    errors, held = np.zeros(many), np.zeros((5, many))
    for number in range(5):
        rest = train[fold != number]
        kept = best(rest if inside else train)[:chosen]
        weights = np.linalg.lstsq(x[rest][:, kept], y[rest], rcond=None)[0]
        off = (x[:, kept] @ weights - y) ** 2
        errors[fold == number], held[number] = off[train[fold == number]], off[many:]
    [found] = optimism(["it"], errors[None], held.mean(0)[None], 5)
    return found.leak


@pytest.mark.parametrize(("columns", "chosen"), [(200, 5), (30, 30)])
def test_few_are_accused_that_do_not_leak(columns: int, chosen: int) -> None:
    """One in a hundred is said: of six hundred at most thirteen, but once in a hundred tests."""
    assert sum(crossed(seed, True, columns, chosen) for seed in range(600)) <= 13


def test_most_are_accused_that_leak() -> None:
    assert sum(crossed(seed, False, 200, 20) for seed in range(100)) >= 40


# formulas ------------------------------------------------------------------------------------
def test_variance_by_hand() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    assert variance(values) == pytest.approx(values.var(ddof=1) / 4)
    pairs = np.array([0, 0, 1, 1])
    assert variance(values, pairs) == pytest.approx(((3 - 8) ** 2 + (13 - 8) ** 2) / 16 * 2)
    assert variance(values, np.arange(4) * 2) == pytest.approx(variance(values))
    assert variance(values, np.zeros(4, int)) == np.inf


@trap(right=variance, wrong=lambda values, groups: variance(values))
def test_rows_of_one_group_are_no_news(made: Any) -> None:
    """Each value ten times over says no more than once."""
    values = np.random.default_rng(0).normal(size=50)
    groups = np.repeat(np.arange(50), 10)
    assert made(np.repeat(values, 10), groups) == pytest.approx(variance(values))


def test_interval_by_hand() -> None:
    ours, theirs = np.array([[0.0, 1.0, 2.0, 3.0]] * 2), np.array([[4.0, 6.0]] * 2)
    one, two = optimism("ab", ours, theirs, 5, level=0.1)
    assert one.difference == 3.5
    width = 1.6448536 * np.sqrt(2.25 * np.var(ours[0], ddof=1) / 4 + 2.0 / 2)
    assert (one.low, one.high) == pytest.approx((3.5 - width, 3.5 + width))
    assert (one.leak, two.name) == (bool(width < 3.5), "b")


def test_squared_errors_by_hand() -> None:
    p = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    found = squared_errors(p, np.array([2, 0]), "categorical")
    assert found == pytest.approx([0.04 + 0.09 + 0.25, 0.0])
    labels = squared_errors(p[:, :2], np.array([[0, 1], [1, 0]]), "multi-label")
    assert labels == pytest.approx([(0.04 + 0.49) / 2, 0.0])
    assert squared_errors(np.array([1.0, 2.0]), np.array([3.0, 2.0]), "real").tolist() == [4, 0]


# held rows -----------------------------------------------------------------------------------
def test_held_rows_that_are_none() -> None:
    x, y = torch.randn(40, 3), torch.arange(40) % 2
    members = [LogisticRegression()]
    with pytest.raises(InputError, match="3 of 3 held rows have the inputs of rows"):
        ensembles.stack(members, (x, y), held=(x[:3], y[:3]))
    with pytest.raises(InputError, match="no row of held has a target"):
        ensembles.stack(members, (x, y), held=(torch.randn(3, 3), None))
    with pytest.raises(InputError, match=r"held_groups has the shape \(2,\)"):
        ensembles.stack(members, (x, y), held=(torch.randn(3, 3), y[:3]), held_groups=[1, 2])
    with pytest.raises(InputError, match="classes from 0 to 4, and classes=2"):
        ensembles.stack(members, (x, y), held=(torch.randn(3, 3), torch.tensor([0, 1, 4])))


def test_groups_widen_the_interval() -> None:
    """A repeated measurement is no second one."""
    maker, people = seeding.generator(6), np.repeat(np.arange(60), 5)
    x = torch.randn(60, 3, generator=maker)[people] + 0.01 * torch.randn(300, 3, generator=maker)
    y = torch.randint(2, (60,), generator=maker)[people]
    data, held = (x[:200], y[:200]), (x[200:], y[200:])
    given: dict[str, Any] = {"groups": people[:200], "held": held, "folds": 3}
    members = [LogisticRegression()]
    [plain] = ensembles.stack(members, data, **given).optimism
    [wide] = ensembles.stack(members, data, held_groups=people[200:], **given).optimism
    assert wide.high - wide.low > 1.2 * (plain.high - plain.low)
    assert wide.difference == pytest.approx(plain.difference)
    with pytest.raises(InputError, match=r"1 groups stand in the data and among the held .* 39"):
        ensembles.stack(members, data, held_groups=people[199:299], **given)
