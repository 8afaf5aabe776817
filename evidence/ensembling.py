"""Ensembles at equal cost: of initialisations, snapshots, augmentations; and one long training.

`python -m evidence.ensembling [NAME ...]` trains what is missing of those that are named, or of
all, and writes `results/ensembles_NAME`: `arms.csv` (accuracy and log loss of each arm and seed on
the judge part), and the paired differences with their t intervals, `gains.json` and `gains.svg`. A
seed that is finished is not repeated.

An ensemble has four members. Each arm but the single model costs as many updates as four
trainings; all arms of a seed share split and, where they have one, the first member.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evidence import paired
from evidence.paired import plain, read, write
from whet import composition, ensembles, evaluation, sources
from whet.loading import in_order
from whet.methods import catalogue
from whet.predict import Predictor
from whet.sources import Source
from whet.study import arms, figures, files
from whet.study.statistics import Comparison

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SEEDS = range(5)
MEMBERS = 4
# what each member of the last arm is trained with
VARIANTS = {
    "cifar10": ("", "augment:policy=weak", "augment:policy=strong", "mixup"),
    "fsdd": ("", "augment:flip=false", "mixup", "cutmix"),
    "intents": ("", "embedding_noise", "manifold_mixup:at=embedding", "r_drop"),
}
SINGLE, LONG = "one model", "one model, four times as long"
STARTS, SNAPSHOTS = "four initialisations", "four snapshots of one training"
VARIED, ALIKE = "four augmentations", "one augmentation, four initialisations"
CONTRASTS = (
    ("four initialisations beside four snapshots", STARTS, SNAPSHOTS),
    ("four initialisations beside one long training", STARTS, LONG),
    ("four snapshots beside one long training", SNAPSHOTS, LONG),
    ("four augmentations beside four initialisations", VARIED, STARTS),
    ("four augmentations beside the best one of them, four initialisations", VARIED, ALIKE),
)


def load(name: str) -> Source:
    return sources.load(name, HERE / "tasks" / f"{name}.py")


def fitted(source: Source, seed: int, methods: str = "", start: int = 0, times: int = 1) -> Any:
    """A run of the task's own length, or of several of it."""
    found = arms.parse(methods, catalogue(), source.about.settings) if methods else []
    given = [settings for arm in found for settings in arm.methods]
    assert source.about.updates is not None
    _, run = composition.compose(
        source, given, seed, start=start, updates=times * source.about.updates, log=None,
        device="cpu",
    )  # fmt: skip
    return run.fit()


def predictors(name: str, seed: int) -> Iterator[tuple[str, Predictor]]:
    """Each arm's predictor under a seed."""
    source = load(name)
    starts = [fitted(source, seed, start=start) for start in range(MEMBERS)]
    plainly = [run.predictor() for run in starts]
    yield SINGLE, plainly[0]
    yield STARTS, ensembles.mean(plainly)
    yield LONG, fitted(source, seed, times=MEMBERS).predictor()
    cycles = f"snapshot:cycles={MEMBERS}"
    yield SNAPSHOTS, fitted(source, seed, cycles, times=MEMBERS).predictor()
    varied = [
        fitted(source, seed, methods, start) if methods else starts[start]
        for start, methods in enumerate(VARIANTS[name])
    ]
    yield VARIED, ensembles.mean([run.predictor() for run in varied])
    scores = [run.evaluate("select")["accuracy"] for run in varied]
    best = scores.index(max(scores))  # on the select part: what one would have chosen
    alike = [
        varied[start] if start == best else fitted(source, seed, VARIANTS[name][best], start)
        for start in range(MEMBERS)
    ]
    yield ALIKE, ensembles.mean([run.predictor() for run in alike])


def trained(name: str) -> list[dict[str, Any]]:
    """Every arm under every seed; a seed is written once it is whole."""
    path = RESULTS / f"ensembles_{name}" / "arms.csv"
    found = read(path)
    for seed in SEEDS:
        if any(row["seed"] == str(seed) for row in found):
            continue
        judge = load(name).task(seed).judge
        for arm, predictor in predictors(name, seed):
            told = evaluation.evaluate(predictor, in_order(judge), ("accuracy", "log_loss"))
            values = {metric: f"{value:.4f}" for metric, value in told.items()}
            found.append({"arm": arm, "seed": str(seed), **values})
            print(name, *found[-1].values(), flush=True)
        write(path, found)
    return found


def contrasts(rows: list[dict[str, Any]], metric: str) -> list[Comparison]:
    """What is held against what, as differences of one seed; a family with Holm's levels."""
    value = {(row["arm"], int(row["seed"])): float(row[metric]) for row in rows}
    sign = -1.0 if metric == "log_loss" else 1.0
    return paired.held(CONTRASTS, value, SEEDS, sign)


def kept(name: str, rows: list[dict[str, Any]]) -> None:
    """Write what was found: differences with intervals, as numbers and as a figure."""
    folder = RESULTS / f"ensembles_{name}"
    found = {metric: contrasts(rows, metric) for metric in ("accuracy", "log_loss")}
    about = {"members": MEMBERS, "variants": list(VARIANTS[name]), "seeds": len(SEEDS),
             "updates": load(name).about.updates}  # fmt: skip
    told = {"setting": about, **{metric: plain(each) for metric, each in found.items()}}
    files.write(folder / "gains.json", files.to_json(told, indent=2) + "\n")
    files.write(folder / "gains.svg", figures.picture(found["accuracy"], "accuracy"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for each in sys.argv[1:] or VARIANTS:
        kept(each, trained(each))
