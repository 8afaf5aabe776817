"""How rows are parted: classes in their shares, groups and copies in one fold, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.ensembles.folds import contents, parted, spread
from whet.errors import InputError

X = torch.randn(60, 2, generator=seeding.generator(0))
Y = np.arange(60) % 3
ROWS = Batch(X)


def crossing(fold: Any, groups: Any) -> int:
    """How many groups stand in several folds."""
    return sum(len(set(fold[groups == one])) > 1 for one in np.unique(groups))


def test_every_class_in_its_share() -> None:
    fold = parted(ROWS, Y, "categorical", 5)
    for number in range(5):
        assert np.bincount(Y[fold == number]).tolist() == [4, 4, 4]
    assert not np.array_equal(fold, parted(ROWS, Y, "categorical", 5, seed=1))
    assert np.array_equal(fold, parted(ROWS, Y, "categorical", 5))


@pytest.mark.parametrize("family", ["real", "multi-label"])
def test_all_folds_have_their_share_of_rows(family: str) -> None:
    targets = np.arange(60.0) if family == "real" else np.stack([Y == 0, Y == 1], 1)
    assert np.bincount(parted(ROWS, targets, family, 4)).tolist() == [15] * 4


@trap(
    right=lambda groups: parted(ROWS, Y, "categorical", 4, groups),
    wrong=lambda groups: parted(ROWS, Y, "categorical", 4),
)
def test_groups_stay_together(made: Any) -> None:
    groups = np.arange(60) // 5
    assert crossing(made(groups), groups) == 0


@pytest.mark.parametrize(
    "kind", [str, float, object, torch.tensor], ids=["text", "real", "object", "tensor"]
)
def test_groups_of_any_kind(kind: Any) -> None:
    numbers = np.arange(60) // 5
    groups = kind(numbers) if kind is torch.tensor else numbers.astype(kind)
    fold = parted(ROWS, np.arange(60.0), "real", 4, groups)
    assert crossing(fold, numbers) == 0


def test_as_many_groups_as_folds() -> None:
    """One group left out at a time."""
    groups = np.arange(60) % 4
    fold = parted(ROWS, np.arange(60.0), "real", 4, groups)
    assert crossing(fold, groups) == 0
    assert len(set(fold)) == 4


# copies --------------------------------------------------------------------------------------
COPIED = Batch({"a": torch.cat([X[:50], X[:10]]), "b": torch.zeros(60, 1)})


def test_copies_are_found_by_content() -> None:
    content = contents(COPIED)
    assert len(np.unique(content)) == 50
    assert content[:10].tolist() == content[50:].tolist()
    fold = np.zeros(60, int)
    fold[[3, 51, 4, 54]] = 1  # 3 and 51 have their copies elsewhere, 4 and 54 have not
    assert spread(content, fold).tolist() == [1, 3, 51, 53]
    assert spread(content, np.zeros(60, int)).tolist() == []


def test_copies_are_refused_or_put_together() -> None:
    with pytest.raises(InputError, match=r"have a copy .* copies='together', or give groups="):
        parted(COPIED, Y, "categorical", 5)
    content = contents(COPIED)
    together = parted(COPIED, Y, "categorical", 5, copies="together")
    assert crossing(together, content) == 0
    apart = parted(COPIED, Y, "categorical", 5, copies="apart")
    assert len(spread(content, apart)) > 0
    grouped = parted(COPIED, Y, "categorical", 5, groups=content)
    assert crossing(grouped, content) == 0


def test_copies_join_the_groups_that_they_stand_in() -> None:
    groups = np.arange(60) // 2  # 50 is in group 25 and a copy of 0, in group 0
    with pytest.raises(InputError, match="have a copy"):
        parted(COPIED, Y, "categorical", 3, groups)
    fold = parted(COPIED, Y, "categorical", 3, groups, copies="together")
    assert crossing(fold, groups) == 0
    assert crossing(fold, contents(COPIED)) == 0


# refusals ------------------------------------------------------------------------------------
REFUSED: list[tuple[Any, str, dict[str, Any], str]] = [
    (np.r_[Y[:57], [3, 3, 3]], "categorical", {}, "class 3 has 3 rows for 5 folds"),
    (Y, "categorical", {"groups": np.arange(60) % 4}, "4 groups for 5 folds"),
    (Y, "categorical", {"groups": np.arange(59)}, r"shape \(59,\), and there are 60 rows"),
    (Y, "categorical", {"groups": [None, *range(59)]}, "says nothing of row 0 "),
    (Y * 1.0, "real", {"groups": [*range(59), float("nan")]}, "says nothing of row 59 "),
    (Y, "categorical", {"groups": np.arange(60) // 20 * 20 + Y, "folds": 9, "copies": "no"},
     "copies is 'no'"),
    (Y, "categorical", {"groups": np.r_[np.zeros(20), np.arange(1, 41)][np.argsort(
        np.argsort(Y, kind="stable"), kind="stable")]}, "would be trained without class 0"),
    (np.stack([Y == 0, Y == 7], 1), "multi-label", {}, "both values of label 1"),
    (np.arange(60.0), "real", {"folds": 61}, "60 rows for 61 folds"),
    (Y, "categorical", {"folds": True}, "folds is True"),
]  # fmt: skip


@pytest.mark.parametrize(("targets", "family", "given", "told"), REFUSED)
def test_refusals(targets: Any, family: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        parted(ROWS, targets, family, **{"folds": 5, **given})
