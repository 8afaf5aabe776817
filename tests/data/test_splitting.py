"""Splits: shares, strata, groups, given parts, and what is said where they cannot be had."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas
import pytest

from whet.data import Split, split
from whet.errors import InputError


def sizes(parts: Split) -> tuple[int, int, int]:
    return len(parts.train), len(parts.select), len(parts.judge)


def everything(parts: Split) -> list[int]:
    return sorted(np.concatenate([parts.train, parts.select, parts.judge]).tolist())


@pytest.mark.parametrize("rows", [3, 10, 101])
def test_each_row_stands_in_one_part(rows: int) -> None:
    parts = split(rows, seed=0)
    assert everything(parts) == list(range(rows))
    assert min(sizes(parts)) >= 1
    assert all(part.dtype == np.int64 for part in (parts.train, parts.select, parts.judge))


def test_shares_are_met_to_the_row() -> None:
    assert sizes(split(1000, 0, shares=(0.5, 0.3, 0.2))) == (500, 300, 200)
    assert sizes(split(1000, 0, shares=(0.8, 0.2, 0))) == (800, 200, 0)


def test_it_varies_with_the_seed_and_with_nothing_else() -> None:
    first, again, other = split(500, 3), split(500, 3), split(500, 4)
    assert np.array_equal(first.judge, again.judge)
    assert np.array_equal(first.train, again.train)
    # two independent sets of 75 of 500 share about 11 rows
    assert len(set(first.judge) & set(other.judge)) < 30


def test_every_class_has_its_share_in_every_part() -> None:
    labels = np.array([0] * 800 + [1] * 100 + [2] * 100)
    parts = split(labels, 0)
    assert Counter(labels[parts.judge].tolist()) == {0: 120, 1: 15, 2: 15}
    assert Counter(labels[parts.select].tolist()) == {0: 120, 1: 15, 2: 15}
    assert parts.notes == ()


@pytest.mark.parametrize(
    "labels", [["no", "yes"] * 50, [False, True] * 50, np.array(["a", "b"] * 50, object)]
)
def test_labels_are_words_or_truths_too(labels: Any) -> None:
    parts = split(labels, 0, shares=(0.6, 0.2, 0.2))
    assert Counter(np.asarray(labels)[parts.judge].tolist()).most_common()[0][1] == 10


def test_real_targets_and_rows_are_not_stratified() -> None:
    real = np.linspace(0, 1, 100)
    texts = [f"text {row}" for row in range(100)]  # all differ: rows, not classes
    pairs = [[row, row] for row in range(100)]
    plain = split(100, 0)
    for rows in (real, texts, pairs, {"a": list(range(100))}):
        assert np.array_equal(split(rows, 0).judge, plain.judge)


def test_stratify_false_leaves_labels_alone() -> None:
    labels = [0] * 90 + [1] * 10
    assert np.array_equal(split(labels, 0, stratify=False).judge, split(100, 0).judge)


def test_stratify_by_other_labels() -> None:
    kinds = np.array([0, 1] * 50)
    parts = split(np.zeros((100, 5)), 0, stratify=kinds, shares=(0.6, 0.2, 0.2))
    assert kinds[parts.judge].sum() == 10


def test_a_rare_class_is_said_and_is_no_error() -> None:
    labels = ["a"] * 50 + ["b"] * 50 + ["c"]
    with pytest.warns(UserWarning, match="single row") as caught:
        parts = split(labels, 0)
    assert everything(parts) == list(range(101))
    assert any("1 classes have a single row" in note for note in parts.notes)
    assert any("absent from" in note for note in parts.notes)
    assert len(caught) == 1


def test_rare_classes_together() -> None:
    labels = [0] * 100 + [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    with pytest.warns(UserWarning, match="10 classes have a single row"):
        parts = split(labels, 0, shares=(0.6, 0.2, 0.2))
    # the ten singletons are distributed as one class: a fifth of them to judge
    assert sum(row >= 100 for row in parts.judge) == 2


def test_a_part_smaller_than_the_classes_is_drawn_at_random() -> None:
    labels = list(range(10)) * 3
    with pytest.warns(UserWarning, match="judge is not stratified: 4 of 30 rows for 10 classes"):
        parts = split(labels, 0, shares=(0.7, 0.16, 0.14))
    assert sizes(parts) == (21, 5, 4)


class TestGroups:
    groups = np.repeat(np.arange(40), np.arange(1, 41))  # 820 rows, from 1 to 40 in a group

    def test_whole_groups_on_one_side(self) -> None:
        parts = split(820, 0, groups=self.groups)
        held = [set(self.groups[part]) for part in (parts.train, parts.select, parts.judge)]
        assert not held[0] & held[1]
        assert not held[0] & held[2]
        assert not held[1] & held[2]
        assert everything(parts) == list(range(820))

    @pytest.mark.parametrize("seed", range(5))
    def test_shares_are_near(self, seed: int) -> None:
        found = np.array(sizes(split(820, seed, groups=self.groups))) / 820
        assert abs(found - (0.7, 0.15, 0.15)).max() < 0.06

    def test_the_seed_draws_the_groups(self) -> None:
        first, again, other = (split(820, seed, groups=self.groups) for seed in (0, 0, 1))
        assert np.array_equal(first.judge, again.judge)
        assert set(self.groups[first.judge]) != set(self.groups[other.judge])

    def test_three_groups_are_one_each(self) -> None:
        parts = split(30, 0, groups=["a"] * 10 + ["b"] * 10 + ["c"] * 10)
        assert sizes(parts) == (10, 10, 10)

    def test_an_absent_class_is_said(self) -> None:
        labels = [0] * 60 + [1] * 20 + [2] * 20
        groups = [row // 20 for row in range(100)]
        with pytest.warns(UserWarning, match="absent"):
            parts = split(labels, 0, groups=groups)
        assert parts.notes

    def test_too_few(self) -> None:
        with pytest.raises(InputError, match="2 groups are left for train and select and judge"):
            split(4, 0, groups=[0, 0, 1, 1])

    def test_a_row_without_a_group(self) -> None:
        with pytest.raises(InputError, match="groups: row 1 has none"):
            split(4, 0, groups=["a", None, "b", "c"])
        with pytest.raises(InputError, match="groups: row 1 has none"):
            split(4, 0, groups=pandas.Series([1, pandas.NA, 2, 3], dtype="Int64"))

    def test_a_group_in_a_given_part_and_outside(self) -> None:
        with pytest.raises(InputError, match=r"1 groups are both in a given part.*'b'"):
            split(5, 0, groups=["a", "b", "b", "c", "d"], judge=[2])

    def test_given_whole_groups(self) -> None:
        parts = split(5, 0, groups=["a", "b", "b", "c", "d"], judge=[1, 2])
        assert parts.judge.tolist() == [1, 2]


class TestGiven:
    def test_a_given_part_stays(self) -> None:
        judge = [99, 3, 50]
        parts = split([0, 1] * 50, 0, judge=judge)
        assert parts.judge.tolist() == [3, 50, 99]
        assert everything(parts) == list(range(100))
        assert sizes(parts) == (80, 17, 3)  # 97 rows by 0.7 and 0.15

    def test_a_mask(self) -> None:
        mask = np.arange(100) >= 80
        assert split(100, 0, judge=mask).judge.tolist() == list(range(80, 100))

    def test_two_given_parts_leave_the_rest(self) -> None:
        parts = split(10, 0, select=[0, 1], judge=[2, 3])
        assert parts.train.tolist() == [4, 5, 6, 7, 8, 9]

    def test_three_given_parts(self) -> None:
        parts = split(10, 0, train=[0, 1], select=[2], judge=[3])
        assert sizes(parts) == (2, 1, 1)

    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"judge": [0, 100]}, "judge= names row 100; rows are numbered 0..99"),
            ({"judge": [-1]}, "rows are numbered"),
            ({"judge": [1, 1]}, "judge= names rows twice"),
            ({"select": [1], "judge": [1]}, "judge= names rows twice, or rows of another"),
            ({"judge": [0.5]}, "neither row numbers nor a mask"),
            ({"judge": np.zeros(99, bool)}, "neither row numbers nor a mask"),
        ],
    )
    def test_what_cannot_be(self, given: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            split(100, 0, **given)


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        (2, {}, "2 rows are left for train and select and judge"),
        (0, {}, "0 rows to split"),
        (100, {"shares": (0.7, 0.2)}, "give three"),
        (100, {"shares": (0.7, 0.2, 0.2)}, "sum to 1"),
        (100, {"shares": (1.2, -0.1, -0.1)}, "sum to 1"),
        (100, {"shares": (0, 0.5, 0.5)}, "nothing is left to train on"),
        (100, {"stratify": [0, 1]}, "stratify: 2 values for 100 rows"),
        ([0, 1, None], {"stratify": [0, 1, None]}, "stratify: row 2 has none"),
        (iter("ab"), {}, "give the number of rows"),
    ],
)
def test_mistakes(rows: Any, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        split(rows, 0, **arguments)


def test_a_dataframe_and_a_series() -> None:
    frame = pandas.DataFrame({"x": range(100), "y": ["a", "b"] * 50})
    assert np.array_equal(split(frame, 0).judge, split(100, 0).judge)
    stratified = split(frame["y"], 0, shares=(0.6, 0.2, 0.2))
    assert Counter(frame["y"].iloc[stratified.judge]) == {"a": 10, "b": 10}
