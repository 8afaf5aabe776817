"""The verdict on an arm in a line: every kind of verdict, in points and in other units."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from whet import metrics
from whet.study import sentences
from whet.study.sentences import line, sentence
from whet.study.statistics import (
    EQUIVALENT,
    HELPS,
    HURTS,
    IDENTICAL,
    NONE,
    SPREADLESS,
    TOO_FEW,
    Comparison,
    Costs,
    Ratio,
)

M = "\N{MINUS SIGN}"


def found(
    verdict: str, gain: float | None = 0.008, low: float | None = 0.003,
    high: float | None = 0.013, time: float | None = 1.02, **given: Any,
) -> Comparison:  # fmt: skip
    cost = None if time is None else Costs(step=Ratio(time, None, None, 5))
    values: dict[str, Any] = {"n": 5, "gains": (), "left_out": (), "diverged": 0, "seeds": 5}
    return Comparison("ema", gain=gain, low=low, high=high, verdict=verdict, cost=cost,
                      **values | given)  # fmt: skip


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (found(HELPS), "ema helps: +0.8 points [0.3, 1.3], +2 % time"),
        (found(HELPS, time=None), "ema helps: +0.8 points [0.3, 1.3]"),
        (found(HELPS, screening=True, n=3),
         "ema helps (screening): +0.8 points [0.3, 1.3], +2 % time"),
        (found(HURTS, -0.01, -0.012, -0.008, 0.5),
         f"ema hurts: {M}1.0 points [{M}1.2, {M}0.8], {M}50 % time"),
        (found(NONE, 0.001, -0.004, 0.006, 1.98, detectable=0.005),
         (f"ema: not shown (+0.1 points [{M}0.4, 0.6]; a gain below 0.5 points could not have been "
         "seen), +98 % time")),
        (found(NONE, 0.001, -0.004, 0.006, None, detectable=None, screening=True),
         f"ema: not shown (+0.1 points [{M}0.4, 0.6])"),
        (found(EQUIVALENT, 0.001, -0.002, 0.003, 4.0, margin=0.005),
         (f"ema: no difference within the margin of 0.5 points (+0.1 points [{M}0.2, 0.3]), "
         "4.0 times the time")),
        (found(EQUIVALENT, 0.001, -0.002, 0.003, 1.0, margin=0.01, screening=True),
         (f"ema: no difference within the margin of 1.0 points (screening) (+0.1 points [{M}0.2, "
         "0.3]), 0 % time")),
        (found(IDENTICAL, 0.0, 0.0, 0.0, 1.01), "ema: identical to the baseline, +1 % time"),
        (found(SPREADLESS, 0.01, None, None, None),
         "ema: no verdict: all differences are equal (+1.0 points)"),
        (found(TOO_FEW, 0.01, None, None, 1.0, n=2),
         "ema: no verdict from 2 seeds (+1.0 points)"),
        (found(TOO_FEW, None, None, None, None, n=0),
         "ema: came to too few results for a verdict"),
        (found("diverged in 2 of 5 seeds", 0.01, -0.02, 0.04, 1.0, n=3, diverged=2),
         f"ema: diverged in 2 of 5 seeds (+1.0 points [{M}2.0, 4.0])"),
        (found("diverged in 5 of 5 seeds", None, None, None, None, n=0, diverged=5),
         "ema: diverged in 5 of 5 seeds"),
        (found("inapplicable", None, None, None, None, n=0), "ema: did not apply"),
        (found("refused", None, None, None, None, n=0), "ema: could not be composed"),
        (found("failed in every seed", None, None, None, None, n=0),
         "ema: failed in every seed"),
    ],
)  # fmt: skip
def test_every_verdict_in_points(comparison: Comparison, said: str) -> None:
    assert sentence(comparison, "macro_f1") == said
    assert sentence(comparison, "macro f1") == said


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (found(HELPS, 0.012, 0.003, 0.021),
         "ema helps: log loss better by 0.012 [0.003, 0.021], +2 % time"),
        (found(HURTS, -0.012, -0.021, -0.003),
         "ema hurts: log loss worse by 0.012 [0.003, 0.021], +2 % time"),
        (found(NONE, -0.12, -0.45, 0.21, None, detectable=0.5124),
         (f"ema: not shown (log loss worse by 0.1 [{M}0.2, 0.5]; a gain below 0.512 could not have "
         "been seen)")),
        (found(NONE, 0.0, -0.3, 0.3, None, detectable=0.5),
         (f"ema: not shown (log loss differs by 0.0 [{M}0.3, 0.3]; a gain below 0.5 could not have "
         "been seen)")),
        (found(EQUIVALENT, 0.001, -0.002, 0.003, None, margin=0.005),
         ("ema: no difference within the margin of 0.005 (log loss better by 0.001 "
         f"[{M}0.002, 0.003])")),
        (found(HELPS, 1234.5, 1000.0, 1469.0, None),
         "ema helps: log loss better by 1234.5 [1000.0, 1469.0]"),
    ],
)  # fmt: skip
def test_other_metrics_keep_their_units(comparison: Comparison, said: str) -> None:
    assert sentence(comparison, "log_loss") == said


def test_no_end_of_a_sure_interval_is_written_as_zero() -> None:
    assert sentence(found(HELPS, 0.0065, 0.0002, 0.0128, None), "accuracy") == (
        "ema helps: +0.65 points [0.02, 1.28]"
    )
    assert "[0.0, 1.3]" in sentence(found(NONE, 0.0065, 0.0002, 0.0128, None), "accuracy")


def test_an_interval_without_zero_is_no_verdict_among_many() -> None:
    several = found(NONE, 0.014, 0.006, 0.022, None, detectable=0.02)
    assert sentence(several, "accuracy") == (
        "ema: not shown (+1.4 points [0.6, 2.2], not enough among this many arms; a gain below 2.0 "
        "points could not have been seen)"
    )
    worse = found(NONE, -0.014, -0.022, -0.006, None, detectable=None)
    assert "among this many arms)" in sentence(worse, "accuracy")


def test_reference_and_share_may_be_said() -> None:
    same = found(IDENTICAL, 0.0, 0.0, 0.0, None)
    assert line(same, "accuracy", against="all").text == "ema: identical to all"
    helps = found(HELPS, time=None)
    assert line(helps, "own", share=True).rest == "+0.8 points [0.3, 1.3]"
    assert line(helps, "accuracy", share=False).rest == "accuracy better by 0.008 [0.003, 0.013]"


def test_gains_beyond_one_are_no_shares() -> None:
    percent = found(HELPS, 1.8, 1.3, 2.3, None, gains=((0, 1.8),))
    assert sentence(percent, "accuracy") == "ema helps: accuracy better by 1.8 [1.3, 2.3]"
    seed = replace(found(HELPS, time=None), gains=((0, 0.008), (1, -2.0)))
    assert "points" not in sentence(seed, "accuracy")


def test_shares_are_the_metrics_that_lie_between_zero_and_one() -> None:
    """The worst probabilities there are, and targets far away, tell a share from other metrics."""
    of = {
        "categorical": (np.eye(2)[[0, 0, 1, 1]], np.array([1, 1, 0, 0])),
        "multi-label": (np.eye(2)[[0, 1]], 1 - np.eye(2, dtype=int)[[0, 1]]),
        "real": (np.array([9.0, -9.0]), np.array([-1.0, 1.0])),
    }
    for metric in metrics.METRICS.values():
        family = next(name for name in of if name in metric.families)
        probabilities, targets = of[family]
        bounded = 0.0 <= metric.compute(probabilities, targets) <= 1.0
        assert (metric.name in sentences.SHARES) is bounded, metric.name


@pytest.mark.parametrize("name", ["MulticlassAccuracy", "BinaryF1Score", "AUROC"])
def test_shares_of_torchmetrics_are_known(name: str) -> None:
    assert sentences.is_share(found(HELPS), name)
    assert not sentences.is_share(found(HELPS), name + "Loss")


def test_a_name_that_no_terminal_may_obey() -> None:
    assert sentence(replace(found(HELPS), arm="e\x1b[31mma\n"), "accuracy").startswith("ema  helps")
