"""Results of single classes: by hand, against scikit-learn, and whatever rows lack left out."""

import pytest

from tests.study import invented
from whet.study import perclass
from whet.study.plan import BASELINE

TWO = {"classes": ["a", "b"]}


def row(arm: str, seed: int, matrix: list[list[int]] | None, **given: object) -> dict[str, object]:
    return {"arm": arm, "seed": seed, "status": "done", "confusion": matrix, **TWO, **given}


def test_scores_by_hand() -> None:
    assert perclass.scores([[3, 1], [2, 4]]) == [(3 / 4, 3 / 5, 6 / 9), (4 / 6, 4 / 5, 8 / 11)]


def test_scores_are_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    matrix = invented.confusion(5, 30, "oracle")
    pairs = [(t, p) for t, line in enumerate(matrix) for p, n in enumerate(line) for _ in range(n)]
    precision, recall, f1, _ = precision_recall_fscore_support(*zip(*pairs, strict=True))
    expected = zip(recall, precision, f1, strict=True)
    assert perclass.scores(matrix) == [pytest.approx(each) for each in expected]


def test_a_class_without_rows_or_predictions_has_no_such_score() -> None:
    assert perclass.scores([[0, 0], [0, 5]])[0] == (None, None, None)
    assert perclass.scores([[0, 1], [0, 5]])[0] == (0.0, None, 0.0)
    assert perclass.scores([[0, 0], [1, 5]])[0] == (None, 0.0, 0.0)


def test_differences_are_paired_by_seed() -> None:
    rows = [
        row(BASELINE, 0, [[4, 0], [0, 4]]), row(BASELINE, 1, [[2, 2], [0, 4]]),
        row("ema", 1, [[3, 1], [0, 4]]), row("ema", 2, [[0, 4], [4, 0]]),
    ]  # fmt: skip
    baseline, ema = perclass.sheets(rows)
    assert (baseline.seeds, ema.seeds) == (2, 1)
    assert baseline.classes[0].scores[0] == pytest.approx(0.75)
    assert set(baseline.classes[0].gains) == {0.0}
    assert ema.classes[0].scores[0] == pytest.approx(0.75)
    assert ema.classes[0].gains[0] == pytest.approx(0.25)  # seed 1 alone is in both
    assert ema.classes[0].rows == 4


def test_matrices_are_summed_over_seeds() -> None:
    rows = [row(BASELINE, 0, [[4, 1], [0, 4]]), row(BASELINE, 1, [[2, 2], [0, 4]])]
    (sheet,) = perclass.sheets(rows)
    counts = [[count for count, _ in cells] for _, cells in sheet.matrix]
    assert counts == [[6, 3], [0, 8]]
    shades = [[shade for _, shade in cells] for _, cells in sheet.matrix]
    assert shades == [["hit4", "miss5"], ["", "hit5"]]


def test_many_classes_list_the_most_confused_pairs() -> None:
    names = [f"c{i}" for i in range(perclass.SMALL + 1)]
    baseline, ema = perclass.sheets(invented.rows([BASELINE, "ema"], names))
    assert baseline.matrix == ema.matrix == []
    counts = [pair.count for pair in ema.pairs]
    assert len(counts) == perclass.PAIRS
    assert counts == sorted(counts, reverse=True)
    assert all(pair.before == pair.count for pair in baseline.pairs)
    changes = [abs(each.gains[2] or 0) for each in ema.classes]
    assert changes == sorted(changes, reverse=True)


@pytest.mark.parametrize(
    "odd",
    [
        row("ema", 0, None), row("ema", 0, []), row("ema", 0, [[1]]),
        row("ema", 0, [[1, 2], [3]]), row("ema", 0, [[1, 0], [0, 1]], classes=["a", "z"]),
        row("ema", 0, [[1, 0], [0, 1]], status="diverged"),
        {"arm": "ema", "seed": 0, "status": "done"}, row("ema", 7, [[1, 0], [0, 1]]),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_left_out(odd: dict[str, object]) -> None:
    sheets = perclass.sheets([row(BASELINE, 0, [[4, 0], [0, 4]]), odd])
    assert [sheet.arm for sheet in sheets] == [BASELINE]


def test_classes_without_names_are_numbered() -> None:
    (sheet,) = perclass.sheets([row(BASELINE, 0, [[4, 0], [0, 4]], classes=None)])
    assert [each.name for each in sheet.classes] == ["0", "1"]


def test_nothing_without_a_baseline() -> None:
    assert perclass.sheets([row("ema", 0, [[4, 0], [0, 4]])]) == []
