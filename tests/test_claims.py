"""docs/claims.md says what the committed studies say, of every claim."""

from __future__ import annotations

import json
from itertools import product

import pytest

from evidence import concatenation, ensembling
from evidence.claimed import CLAIMED
from evidence.claims import (
    HERE,
    JOINED,
    PAGE,
    SIZED,
    baselines,
    ensembles,
    page,
    resolutions,
    rows,
)
from evidence.resolution import SEEDS, SETTINGS, by_size, contrasts, plain, read
from evidence.studies import COMMANDS, KEPT
from whet.study.resolution import Resolutions

TESTED = [claim for claim in CLAIMED if not claim.missing]


def test_the_page_is_that_of_the_studies() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(CLAIMED), "run python -m evidence.claims"


@pytest.mark.parametrize("claim", TESTED, ids=lambda claim: claim.said)
def test_a_claim_has_all_that_it_takes(claim: object) -> None:
    assert claim in TESTED
    for part in ("hypothesis", "control", "conclusion"):
        assert getattr(claim, part)
    if claim.sizes:  # type: ignore[attr-defined]
        assert len(list(resolutions(claim))) > 8  # type: ignore[arg-type]
        assert claim.quoted.endswith(".")  # type: ignore[attr-defined]
        return
    if claim.joined:  # type: ignore[attr-defined]
        assert len(list(ensembles(claim))) > 6  # type: ignore[arg-type]
        return
    studies = claim.arms  # type: ignore[attr-defined]
    assert set(studies) <= set(COMMANDS)
    assert any(list(rows(study, arms)) for study, arms in studies.items())


def test_what_cannot_be_tested_says_why() -> None:
    assert all(claim.missing.endswith(".") and claim.arms is None
               for claim in CLAIMED if claim not in TESTED)  # fmt: skip


@pytest.mark.parametrize("study", sorted(COMMANDS))
def test_a_study_is_whole(study: str) -> None:
    verdicts = json.loads((HERE / "results" / study / "verdicts.json").read_text())
    assert verdicts["tuning"]["rate"] > 0
    assert all(each["n"] >= 5 for each in verdicts["comparisons"])
    for name in KEPT:
        assert 0 < (HERE / "results" / study / name).stat().st_size < 1_000_000
    page = (HERE / "results" / study / "report.html").read_text(encoding="utf-8")
    assert "whet study evidence/tasks/" in page


@pytest.mark.parametrize("name", SIZED)
def test_a_sweep_is_whole(name: str) -> None:
    about, folder = SETTINGS[name], HERE / "results" / f"resolution_{name}"
    arms = read(folder / "arms.csv")
    assert len({row["arm"] for row in arms}) == 4
    assert len(arms) == 4 * len(SEEDS) >= 20
    cells = {(int(row["train"]), int(row["test"]), int(row["seed"]))
             for row in read(folder / "sweep.csv")}  # fmt: skip
    assert cells == set(product(about.train, about.test, SEEDS))
    for picture in ("gains.svg", "sweep.svg"):
        assert 0 < (folder / picture).stat().st_size < 100_000
    sweep = [{k: (float if k == "value" else int)(v) for k, v in row.items()}
             for row in read(folder / "sweep.csv")]  # fmt: skip
    told = json.loads((folder / "gains.json").read_text())
    found = Resolutions("accuracy", True, tuple(sweep))
    for key, made in (("contrasts", contrasts(name, arms)), ("by_size", by_size(name, found))):
        for each, again in zip(told[key], plain(made), strict=True):
            assert again == pytest.approx(each)


@pytest.mark.parametrize("name", concatenation.SETTINGS)
def test_concatenations_are_whole(name: str) -> None:
    folder = HERE / "results" / f"concatenation_{name}"
    arms, told = read(folder / "arms.csv"), json.loads((folder / "gains.json").read_text())
    values = {(row["arm"], int(row["seed"])): float(row["accuracy"]) for row in arms}
    cost = concatenation.costs(concatenation.SETTINGS[name])
    assert {*values} == set(product(cost, concatenation.SEEDS))
    assert {row["arm"]: row["updates of a classifier"] for row in told["arms"]} == cost
    for each, again in zip(
        told["contrasts"], plain(concatenation.contrasts(values)), strict=True
    ):  # fmt: skip
        assert again == pytest.approx(each)


def test_every_baseline_beats_its_reference() -> None:
    lines = list(baselines())[2:]
    assert len(lines) == 8
    for line in lines:
        least, mean = line.split("|")[5].split(",")
        assert float(least) > 0 < float(mean)


@pytest.mark.parametrize("name", JOINED)
def test_ensembles_are_whole(name: str) -> None:
    folder = HERE / "results" / f"ensembles_{name}"
    arms = read(folder / "arms.csv")
    assert len({row["arm"] for row in arms}) == 6
    assert len(arms) == 6 * len(ensembling.SEEDS) >= 30
    told = json.loads((folder / "gains.json").read_text())
    for metric in ("accuracy", "log_loss"):
        assert told[metric] == plain(ensembling.contrasts(arms, metric))
        assert all(each["n"] >= 5 for each in told[metric])
