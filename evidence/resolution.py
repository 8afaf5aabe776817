"""Test sizes, FixRes and its control on photographs; small result files are kept beside it.

`python -m evidence.resolution [NAME ...]` trains what is missing of those that are named, or of
all, and writes `results/resolution_NAME`: `arms.csv` (accuracy of each arm and seed), `sweep.csv`
and `sweep.svg` (training size by test size, each trained for the same number of updates), and the
paired differences with their t intervals, `gains.json` and `gains.svg`. A training that is
finished is not repeated.

Trained on random crops stretched to s, with mirror images; tested on the centre of the resized
image (crop / 0.875). Tried before, on the select part of CIFAR-10's seed 100, which is in no
result: crops of at least a quarter of the image, in place of the paper's 8 %, and five ways to
tune, which came within half a point of one another.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evidence import paired
from evidence.paired import plain, read, write
from whet import Recipe, Run, Stage, Task, evaluation, seeding
from whet.augmenting.sizes import centred, random_crops
from whet.code_files import imported
from whet.data.folders import load
from whet.data.images import pixels
from whet.data.splitting import split
from whet.fixres import control, fixres
from whet.loading import open_loader
from whet.study import compare, figures, files
from whet.study.resolution import Resolutions, resolution_sweep
from whet.study.statistics import Comparison

HERE = Path(__file__).parent
RESULTS = HERE / "results"
SEEDS = range(5)
SHARE = 0.25  # of the updates, for tuning
TUNING = {"name": "adamw", "lr": 1e-3}
BASE, LARGER = "train {s}, test {s}", "train {s}, test {r}"
UP = {"cifar10": {20: 28, 24: 32, 28: 36}, "trashnet": {48: 64, 64: 80, 80: 96}}  # larger tests
FIXED, CONTROL = "FixRes {s} to {r}", "train {r}, equal work"
CONTRASTS = (
    ("test at r instead of s", LARGER, BASE),
    ("FixRes beside testing at r", FIXED, LARGER),
    ("FixRes beside testing at s", FIXED, BASE),
    ("FixRes beside training at r", FIXED, CONTROL),
)


@dataclass(frozen=True)
class Setting:
    """What is trained on a data set, and at which sizes, in pixels."""

    small: int
    large: int
    train: tuple[int, ...]
    test: tuple[int, ...]
    updates: int
    network: dict[str, int]
    loaded: tuple[int, int] | None = None  # height and width that photographs are read at
    area: tuple[float, float] = (0.08, 1.0)  # of the random crops: the paper's
    batch_size: int = 64
    rate: float = 0.01


SETTINGS = {
    "cifar10": Setting(24, 32, (20, 24, 28), (16, 20, 24, 28, 32, 36), 400,
                       {"classes": 10, "size": 12}),
    "trashnet": Setting(64, 80, (48, 64, 80), (48, 64, 80, 96), 300,
                        {"classes": 6, "size": 8, "blocks": 4, "stride": 2},
                        loaded=(120, 90), batch_size=32),
}  # fmt: skip


@functools.cache
def images(name: str) -> tuple[Tensor, Tensor]:
    """All images of a data set, in [0, 1], and their classes."""
    local = imported(HERE / "tasks" / "local_data.py", "it is one of the evidence")
    size: dict[str, Any] = {} if SETTINGS[name].loaded is None else {"size": SETTINGS[name].loaded}
    found = load(local.folder(name), kind="images", objective="categorical", **size)
    whole, _ = found.joined()
    return pixels(whole.inputs), torch.as_tensor(whole.targets)


class Seed:
    """Data, split and initial weights of one seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed, self.about = name, seed, SETTINGS[name]
        self.x, self.y = images(name)
        self.parts = split(self.y.numpy(), seed, shares=(0.7, 0.1, 0.2))
        self.judged = self.parts.judge

    def task(self, size: int) -> Task:
        """To be trained on random crops of a size, and judged on whole images."""
        networks = imported(HERE / "tasks" / "networks.py", "it is one of the evidence")
        with seeding.borrowed(seeding.key(self.seed, "init")):
            model = networks.residual(**self.about.network)
        crops = random_crops(size, self.about.area)
        rows = [(self.x[part], self.y[part]) for part in (self.parts.train, self.judged)]
        return Task(model, rows[0], judge=rows[1], metrics=("accuracy",),
                    resources={"crops": crops}, name=self.name)  # fmt: skip

    @property
    def stage(self) -> Stage:
        """The training, at whatever size the task crops to."""
        return Stage(
            updates=self.about.updates, batch_size=self.about.batch_size,
            methods=[{"name": "augment", "kind": "view", "view": "crops"}],
            optimizer={"name": "adamw", "lr": self.about.rate, "weight_decay": 0.01},
            schedule={"name": "cosine", "warmup": 0.1},
        )  # fmt: skip

    def run(self, size: int, recipe: Recipe | Stage | None = None) -> Run:
        """The training at a size; the order of the rows is the seed's."""
        return Run(self.task(size), recipe or self.stage, self.seed, log=None, device="cpu")

    def accuracy(self, run: Run, size: int) -> float:
        """On the judge part, centres of a size."""
        rows = (centred(self.x[self.judged], size), self.y[self.judged])
        batches = open_loader(rows, 256, shuffle=False).epoch(0)
        return evaluation.evaluate(run.predictor(), batches, ("accuracy",))["accuracy"]


def arms(seed: Seed) -> Iterator[tuple[str, float]]:
    """Accuracy of each arm under a seed."""
    s, r, train = seed.about.small, seed.about.large, seed.parts.train
    views = (seed.x[train], seed.y[train]), (centred(seed.x[train], r), seed.y[train])
    task = seed.task(s)
    recipe = fixres(task.model, seed.stage, *views, share=SHARE, optimizer=TUNING)
    run = Run(task, recipe, seed.seed, log=None, device="cpu").fit(until=seed.about.updates)
    yield BASE.format(s=s, r=r), seed.accuracy(run, s)
    yield LARGER.format(s=s, r=r), seed.accuracy(run, r)
    yield FIXED.format(s=s, r=r), seed.accuracy(run.fit(), r)
    stage = control(seed.stage, views[0], sizes=(s, r), share=SHARE)
    yield CONTROL.format(s=s, r=r), seed.accuracy(seed.run(r, stage).fit(), r)


def trained(name: str) -> list[dict[str, Any]]:
    """Every arm's accuracy under every seed; a seed is written once it is whole."""
    path = RESULTS / f"resolution_{name}" / "arms.csv"
    found = read(path)
    for number in SEEDS:
        if not any(row["seed"] == str(number) for row in found):
            values = arms(Seed(name, number))
            found += [{"arm": a, "seed": str(number), "accuracy": f"{v:.4f}"} for a, v in values]
            write(path, found)
            print(name, number, *(row["accuracy"] for row in found[-4:]), flush=True)
    return found


def contrasts(name: str, rows: list[dict[str, Any]]) -> list[Comparison]:
    """What is held against what, as differences of one seed; a family with Holm's levels."""
    about = SETTINGS[name]
    sizes = {"s": about.small, "r": about.large}
    value = {(row["arm"], int(row["seed"])): float(row["accuracy"]) for row in rows}
    named = [(title, arm.format(**sizes), held.format(**sizes)) for title, arm, held in CONTRASTS]
    return paired.held(named, value, SEEDS)


def by_size(name: str, found: Resolutions) -> list[Comparison]:
    """Gains of a larger test for each training size, and how much they shrink; one family."""
    gains = {
        train: [b - a for a, b in zip(found.values(train, train), found.values(train, up),
                                      strict=True)]
        for train, up in UP[name].items()
    }  # fmt: skip
    told = {f"trained at {train}: test {UP[name][train]}": each for train, each in gains.items()}
    least, most = min(gains), max(gains)
    told[f"the gain at {least} less that at {most}"] = [
        a - b for a, b in zip(gains[least], gains[most], strict=True)
    ]
    rows = [("none", seed, 0.0) for seed in SEEDS]
    rows += [(title, seed, each[seed]) for title, each in told.items() for seed in SEEDS]
    return compare(rows, baseline="none", placements={title: title for title in [*told, "none"]})


def kept(name: str, rows: list[dict[str, Any]], sweep: Resolutions) -> None:
    """Write what arms and sweep say: differences with intervals, as numbers and as figures."""
    folder, found = RESULTS / f"resolution_{name}", contrasts(name, rows)
    about = asdict(SETTINGS[name]) | {"share": SHARE, "tuning": TUNING, "seeds": len(SEEDS)}
    told = {"setting": about, "contrasts": plain(found), "by_size": plain(by_size(name, sweep))}
    files.write(folder / "gains.json", files.to_json(told, indent=2) + "\n")
    files.write(folder / "gains.svg", figures.picture(found, "accuracy"))
    files.write(folder / "sweep.csv", sweep.csv())
    sweep.plot(folder / "sweep.svg")


def swept(name: str) -> Resolutions:
    """Training size by test size, each training of the same number of updates."""
    about, folder = SETTINGS[name], HERE.parent / "whet-studies" / f"resolution_{name}"

    def make(size: int, seed: int) -> Run:
        return Seed(name, seed).run(size)

    return resolution_sweep(make, about.train, about.test, seeds=SEEDS, view=centred,
                            folder=folder)  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for each in sys.argv[1:] or SETTINGS:
        kept(each, trained(each), swept(each))
