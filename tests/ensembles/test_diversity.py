"""How members differ: each formula by hand and by another library."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import matthews_corrcoef

from tests.ensembles.tiny import Told, rows
from whet import ensembles
from whet.batch import Batch
from whet.ensembles.diversity import of_answers
from whet.errors import InputError

# right, by rows: a 1 1 1 1 0 0 0 1, b 1 1 0 0 1 0 0 1
SAID = np.array([[0, 0, 0, 0, 1, 1, 1, 0], [0, 0, 1, 2, 0, 2, 1, 0]])
TRUTH = np.zeros(8, dtype=np.int64)


def answers(said: Any, sure: float = 0.8) -> Any:
    p = np.full((*said.shape, 3), (1 - sure) / 2)
    np.put_along_axis(p, said[..., None], sure, -1)
    return p


def test_by_hand() -> None:
    found = of_answers(answers(SAID), TRUTH, "categorical", ["a", "b"])
    [pair] = found.pairs
    assert (pair.first, pair.second) == ("a", "b")
    # N11 = 3, N00 = 2, N10 = 2, N01 = 1
    assert pair.q == pytest.approx((3 * 2 - 2 * 1) / (3 * 2 + 2 * 1))
    assert pair.correlation == pytest.approx((6 - 2) / math.sqrt(5 * 3 * 4 * 4))
    assert pair.double_fault == 2 / 8
    assert pair.disagreement == 4 / 8  # rows 2, 3, 4, and 5, where both are wrong in other ways
    assert found.members == (5 / 8, 4 / 8)
    assert found.mean_member == 4.5 / 8


@pytest.mark.parametrize("seed", range(3))
def test_correlation_is_that_of_right_and_wrong(seed: int) -> None:
    maker = np.random.default_rng(seed)
    p, truth = maker.dirichlet(np.ones(4), (3, 90)), maker.integers(0, 4, 90)
    found = of_answers(p, truth, "categorical", ["a", "b", "c"])
    right = p.argmax(-1) == truth
    for pair in found.pairs:
        a, b = (right["abc".index(name)] for name in (pair.first, pair.second))
        assert pair.correlation == pytest.approx(matthews_corrcoef(a, b))
        assert pair.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
        assert pair.double_fault == pytest.approx(np.mean(~a & ~b))
    assert found.ensemble == pytest.approx((p.mean(0).argmax(-1) == truth).mean())
    assert found.gain == pytest.approx(found.ensemble - right.mean())
    assert found.gain_over_best == pytest.approx(found.ensemble - right.mean(1).max())
    assert len(found.pairs) == 3


def test_the_ends_of_the_scale() -> None:
    half = np.arange(8) % 2
    apart, alike = np.stack([half, 1 - half]), np.stack([half, half])
    [pair] = of_answers(answers(apart), TRUTH, "categorical", "ab").pairs
    assert (pair.q, pair.double_fault, pair.disagreement) == (-1.0, 0.0, 1.0)
    assert pair.correlation == pytest.approx(-1.0)
    [pair] = of_answers(answers(alike), TRUTH, "categorical", "ab").pairs
    assert (pair.q, pair.double_fault, pair.disagreement) == (1.0, 0.5, 0.0)
    perfect = of_answers(answers(np.zeros((2, 8), int)), TRUTH, "categorical", "ab")
    assert math.isnan(perfect.pairs[0].q)
    assert math.isnan(perfect.pairs[0].correlation)
    assert perfect.gain == 0.0


def test_a_gain_of_members_that_err_in_different_rows() -> None:
    said = np.zeros((3, 9), int)
    for member in range(3):
        said[member, 3 * member : 3 * member + 3] = 1
    found = of_answers(answers(said), np.zeros(9, int), "categorical", "abc")
    assert found.ensemble == 1.0
    assert found.gain == pytest.approx(1 / 3)


def test_reals_gain_their_ambiguity() -> None:
    """Krogh & Vedelsby: the mean error less the ensemble's is the members' spread about it."""
    maker = np.random.default_rng(0)
    p, y = maker.normal(size=(4, 50, 2)), maker.normal(size=(50, 2))
    found = of_answers(p, y, "real", "abcd")
    assert found.measure == "mse"
    assert found.gain == pytest.approx(((p - p.mean(0)) ** 2).mean())
    assert found.members == pytest.approx(((p - y) ** 2).mean((1, 2)))
    off = (p - y).reshape(4, -1)
    assert found.pairs[0].correlation == pytest.approx(np.corrcoef(off)[0, 1])
    assert math.isnan(found.pairs[0].q)
    assert found.gain_over_best == pytest.approx(min(found.members) - found.ensemble)


def test_labels_count_one_by_one() -> None:
    p = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.2, 0.1], [0.6, 0.7]]])
    y = np.array([[1, 0], [0, 1]])
    found = of_answers(p, y, "multi-label", "ab")
    assert found.members == (2 / 4, 2 / 4)
    assert found.pairs[0].disagreement == 2 / 4
    assert found.ensemble == 3 / 4


def test_of_predictors_and_of_a_weighted_mean() -> None:
    p = answers(SAID)
    members, held = [Told(one) for one in p], rows(TRUTH)
    plain = ensembles.diversity(members, held)
    assert plain.names == ("0", "1")
    assert plain == of_answers(p, TRUTH, "categorical", ["0", "1"])
    weighted = ensembles.diversity(ensembles.mean(members, [1, 9]), held, ["ema", "plain"])
    assert weighted.names == ("ema", "plain")
    assert weighted.ensemble == plain.members[1]


def test_table_and_values() -> None:
    found = of_answers(answers(SAID), TRUTH, "categorical", ["a", "b"])
    told = json.loads(json.dumps(found.values()))
    assert told["pairs"][0]["q"] == 0.5
    assert told["gain"] == found.gain
    wanted = """\
               accuracy
a              0.6250
b              0.5000
mean member    0.5625
ensemble       0.7500
gain           +0.1875
over the best  +0.1250

      disagreement  double fault  q       correlation
a, b  0.5000        0.2500        0.5000  0.2582"""
    assert found.table() == wanted


def test_what_cannot_be_compared() -> None:
    one, held = Told(answers(SAID)[0]), rows(TRUTH)
    with pytest.raises(InputError, match="1 members and 1 names"):
        ensembles.diversity([one], held)
    with pytest.raises(InputError, match="2 members and 3 names"):
        ensembles.diversity([one, one], held, ["a", "b", "c"])
    with pytest.raises(InputError, match="have no mean in common"):
        ensembles.diversity([one, Told(answers(SAID)[0], "real")], held)
    soft = Batch(torch.arange(8), torch.full((8, 3), 1 / 3))
    with pytest.raises(InputError, match="give rows with hard targets"):
        ensembles.diversity([one, one], soft)
