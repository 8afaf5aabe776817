"""Screening designs against their published tables and their algebra; what they recover."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from whet.errors import InputError
from whet.methods import catalogue
from whet.study import arms, contrasts, design, screening
from whet.study.plan import Arm

# Plackett and Burman (1946), p. 323 f.: the first rows, shifted cyclically, then a row of minus.
PUBLISHED = {
    8: "+++-+--",
    12: "++-+++---+-",
    20: "++--++++-+-+----++-",
    24: "+++++-+-++--++--+-+----",
}

EIGHT = "ema,sam,mixup,r_drop,clip_grad_norm,label_smoothing,lookahead,snapshot"


def signs(table: screening.Runs) -> np.ndarray:
    return np.where(np.array(table), 1, -1)


def placed(text: str, part: str = "whole") -> dict[str, list[Arm]]:
    return design.placed(arms.parse(text, catalogue()), [part], catalogue())[0]


@pytest.mark.parametrize("runs", [12, 20, 24])
def test_the_published_tables(runs: int) -> None:
    first = [sign == "+" for sign in PUBLISHED[runs]]
    turned = {tuple(first[-turn:] + first[:-turn]) for turn in range(runs - 1)}
    table = {tuple(run) for run in screening.plackett_burman(runs - 1)}
    assert table == turned | {(False,) * (runs - 1)}


@pytest.mark.parametrize("make", [screening.plackett_burman, screening.mirrored])
@pytest.mark.parametrize("methods", range(2, screening.MOST + 1))
def test_half_of_the_runs_hold_a_method_and_a_quarter_two(make: object, methods: int) -> None:
    table = signs(make(methods))  # type: ignore[operator]
    assert table.shape[1] == methods
    assert (table.sum(0) == 0).all()
    assert (table.T @ table == len(table) * np.eye(methods, dtype=int)).all()
    assert len({tuple(run) for run in table.tolist()}) == len(table), "no run is trained twice"
    assert (table[0] == -1).all(), "the first run is the baseline"


@pytest.mark.parametrize(
    ("methods", "runs"),
    [(2, 4), (3, 4), (4, 8), (7, 8), (8, 12), (11, 12), (12, 16), (15, 16), (16, 20), (23, 24)],
)
def test_how_many_runs_a_screening_takes(methods: int, runs: int) -> None:
    assert len(screening.plackett_burman(methods)) == runs


@pytest.mark.parametrize(
    ("methods", "runs"),
    [(2, 4), (3, 8), (4, 8), (5, 16), (8, 16), (9, 24), (12, 24), (16, 32), (20, 40), (23, 48)],
)
def test_the_mirror_image_has_resolution_four(methods: int, runs: int) -> None:
    table = screening.mirrored(methods)
    assert len(table) == runs
    assert screening.aliases(table) == {}


def test_aliases_are_what_the_algebra_says() -> None:
    table = screening.plackett_burman(11)
    found, sign = screening.aliases(table), signs(table)
    assert [abs(share) for share in found.values()] == pytest.approx([1 / 3] * len(found))
    assert len(found) == 11 * 45, "every main effect carries something of every interaction"
    for main, (one, other) in itertools.product(range(11), itertools.combinations(range(11), 2)):
        if main not in (one, other):
            share = (sign[:, main] * sign[:, one] * sign[:, other]).mean()
            assert found[main, one, other] == pytest.approx(share)
    assert screening.aliases(screening.plackett_burman(4)) == {}  # 4 in 8 runs: resolution IV


def results(made: design.Design, effects: dict[str, float], seeds: int, noise: float) -> list:
    draws = np.random.default_rng(0)
    rows = []
    for seed in range(seeds):
        level = draws.normal(0.8, 0.05)
        for arm in made.arms:
            value = level + sum(effects[each["name"]] for each in arm.methods)
            metrics = {"judge": {"accuracy": value + draws.normal(0, noise)}}
            rows.append({"arm": arm.name, "seed": seed, "status": "done", "metrics": metrics})
    return rows


def test_effects_that_add_up_are_recovered() -> None:
    names = EIGHT.split(",")
    made = design.designed("screening", placed(EIGHT))
    assert len(made.arms) == 12
    effects = dict(zip(names, np.linspace(-0.02, 0.02, 8), strict=True))
    exact = contrasts.compared(
        results(made, effects, 3, 0.0), made.contrasts["effects"], "accuracy", True
    )
    assert [each.arm for each in exact] == names
    assert [each.gain for each in exact] == pytest.approx(list(effects.values()))
    # no run is wasted: the variance of a main effect is 4/n of one run's, of one pair's it is 2
    noisy = contrasts.compared(
        results(made, dict.fromkeys(names, 0.0), 400, 0.01), made.contrasts["effects"],
        "accuracy", True,
    )  # fmt: skip
    spreads = [each.standard_deviation for each in noisy]
    assert np.mean(np.square(spreads)) == pytest.approx(4 / 12 * 1e-4, rel=0.06)


def test_the_runs_of_a_study() -> None:
    made = design.designed("screening", placed("ema,sam,mixup"))
    assert [arm.name for arm in made.arms] == ["baseline", "ema+mixup", "sam+mixup", "ema+sam"]
    assert [arm.reference for arm in made.arms] == ["baseline"] * 4
    assert made.contrasts["effects"]["ema"] == {
        "ema+mixup": 0.5, "ema+sam": 0.5, "baseline": -0.5, "sam+mixup": -0.5,
    }  # fmt: skip
    assert "Plackett-Burman design of 4 runs, the baseline one of them" in made.notes[0]
    assert "ema with sam × mixup" in made.notes[1]
    assert "--design fractional" in made.notes[1]


def test_the_notes_say_what_is_confounded() -> None:
    notes = design.designed("screening", placed(EIGHT)).notes
    assert "each carries up to 0.33 of as many as 21 of them" in notes[1]
    notes = design.designed("fractional", placed(EIGHT)).notes
    assert "two-level design of resolution IV of 16 runs" in notes[0]
    assert "No main effect is confounded with an interaction of two methods" in notes[1]
    assert "interactions of three" in notes[1]
    assert "every combination" in design.designed("screening", placed("ema,sam")).notes[1]


def test_after_a_training_the_control_is_the_first_run() -> None:
    made = design.designed("screening", placed("ema,sam", "after"))
    assert [arm.name for arm in made.arms] == [
        "baseline", "baseline@after", "ema@after", "sam@after", "ema@after+sam@after"
    ]  # fmt: skip
    assert made.arms[-1].after == ({"name": "ema"}, {"name": "sam"})
    assert made.arms[-1].reference == "baseline@after"
    assert made.contrasts["effects"]["sam@after"]["baseline@after"] == -0.5


@pytest.mark.parametrize("kind", ["screening", "fractional"])
def test_methods_that_clash_are_refused_with_the_remedy(kind: str) -> None:
    with pytest.raises(InputError) as refused:
        design.designed(kind, placed("ema,fgm,freelb,sam"))
    said = str(refused.value)
    assert "fgm and freelb (fgm and freelb both claim the second gradient" in said
    assert "Leave one of each out of --methods, or take --design pairs" in said
    assert "ema" not in said


def test_too_many_methods_are_refused() -> None:
    many = {"whole": [Arm(f"m{n}", ({"name": f"m{n}"},)) for n in range(24)]}
    with pytest.raises(InputError, match=r"takes up to 23 methods, not 24.*--methods"):
        design.designed("screening", many)


def test_one_method_is_no_screening() -> None:
    made = design.designed("screening", placed("ema"))
    assert [arm.name for arm in made.arms] == ["baseline", "ema"]
    assert made.notes == ["There is no screening of fewer than two methods."]
    assert made.contrasts == {}


def test_a_run_that_cannot_be_trained_is_named() -> None:
    screening.check_runs("screening", {})
    with pytest.raises(InputError, match=r"needs all of its runs, and ema\+sam cannot.*no data"):
        screening.check_runs("screening", {"ema+sam": "there is no data."})


def test_contrasts_go_with_the_arms_that_are_dropped() -> None:
    made = design.designed("pairs", placed("ema,sam,mixup"))
    kept = made.kept(made.arms[:-1])
    assert list(kept.contrasts["interactions"]) == ["ema × sam", "ema × mixup"]
    assert list(made.contrasts["interactions"])[2:] == ["sam × mixup"]
