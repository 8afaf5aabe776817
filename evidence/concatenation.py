"""Encoders concatenated, beside the mean of their predictions, at costs that are stated.

`python -m evidence.concatenation [NAME ...]` trains what is missing of those that are named, or of
all, and writes `results/concatenation_NAME`: `arms.csv` (accuracy of each arm and seed) and
`gains.json` (what each arm costs, and the paired differences with their t intervals), and
`gains.svg`. A seed that is finished is not repeated.

Three encoders of different form are trained as classifiers, cut, and put side by side: all three,
and every two. The head is trained first, over frozen encoders, and then all of it, encoders at a
tenth of the rate. What is trained jointly has had more updates than the classifiers, so that it is
held against the mean of classifiers that were trained for as many.
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evidence import paired
from evidence.paired import plain, read, write
from evidence.resolution import HERE, RESULTS
from whet import Recipe, Run, Stage, Task, ensembles, evaluation, seeding
from whet.code_files import imported
from whet.data.folders import load
from whet.data.images import pixels
from whet.data.splitting import split
from whet.loading import open_loader
from whet.predict import Predictor
from whet.study import figures, files
from whet.study.statistics import Comparison
from whet.tasks import digits

SEEDS = range(8)
FORWARD = 1 / 3  # of what a forward and a backward pass cost together
ENCODERS_RATE = 0.1  # of the head's, in the joint stage
ALONE, MEAN, LONGER = "a classifier alone", "mean of three", "mean of three, trained longer"
FROZEN, JOINT, BARE = "three, frozen", "three, joint", "three, joint, no norms"
PAIRS_FROZEN, PAIRS = "mean of pairs, frozen", "mean of pairs, joint"
CONTRASTS = (
    ("mean of three, beside one alone", MEAN, ALONE),
    ("trained longer, beside not", LONGER, MEAN),
    ("three frozen, beside their mean", FROZEN, MEAN),
    ("pairs frozen, beside the mean of three", PAIRS_FROZEN, MEAN),
    ("three joint, beside the longer mean", JOINT, LONGER),
    ("pairs joint, beside the longer mean", PAIRS, LONGER),
    ("pairs joint, beside three joint", PAIRS, JOINT),
    ("norms, beside none", JOINT, BARE),
)


@dataclass(frozen=True)
class Setting:
    """How long what is trained, at which rate.

    Args:
        updates: of each classifier.
        frozen: of a head over frozen encoders.
        joint: of all of it, afterwards.
        rate: of all, but for encoders in the joint stage.
        train: share of the rows to train on.
    """

    updates: int
    frozen: int
    joint: int
    rate: float
    train: float
    batch_size: int = 64


SETTINGS = {
    "digits": Setting(200, 60, 140, 0.003, 0.2),
    "fashion_mnist": Setting(300, 90, 210, 0.003, 0.1),
}


def networks(name: str) -> list[nn.Module]:
    """Three of different form."""
    if name == "digits":
        return [digits.DigitsNet(width=width) for width in (6, 12, 20)]
    make = imported(HERE / "tasks" / "networks.py", "it is one of the evidence")
    flat = [nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 10)]
    return [make.convolutional(1, 28, 28, 10, size) for size in (6, 12)] + [nn.Sequential(*flat)]


@functools.cache
def rows(name: str) -> tuple[Tensor, Tensor]:
    """All images, in [0, 1], and their classes."""
    if name == "digits":
        task = digits.task(0)  # all but its unlabelled rows
        x, y = (torch.cat(each) for each in zip(task.train, task.select, task.judge, strict=True))
        return x, y
    local = imported(HERE / "tasks" / "local_data.py", "it is one of the evidence")
    whole, _ = load(local.folder(name), kind="images", objective="categorical").joined()
    return pixels(whole.inputs), torch.as_tensor(whole.targets)


class Seed:
    """Data, split and initial weights of one seed."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed, self.about = seed, SETTINGS[name]
        x, y = rows(name)
        share = self.about.train
        parts = split(y.numpy(), seed, shares=(share, 0.8 - share, 0.2))
        self.train = (x[parts.train], y[parts.train])
        self.judge = [*open_loader((x[parts.judge], y[parts.judge]), 256, shuffle=False).epoch(0)]
        with seeding.borrowed(seeding.key(seed, "init")):
            self.models = networks(name)

    def stage(self, updates: int, freeze: tuple[str, ...] = (), **optimizer: Any) -> Stage:
        return Stage(
            updates=updates, batch_size=self.about.batch_size, freeze=freeze,
            optimizer={"name": "adamw", "lr": self.about.rate, **optimizer},
            schedule={"name": "cosine", "warmup": 0.1},
        )  # fmt: skip

    def run(self, model: nn.Module, *stages: Stage) -> Run:
        return Run(Task(model, self.train), Recipe(stages), self.seed, log=None, device="cpu")

    def alone(self, updates: int) -> list[Predictor]:
        """Each classifier, from the seed's initial weights, which stay."""
        return [
            self.run(copy.deepcopy(model), self.stage(updates)).fit().predictor()
            for model in self.models
        ]

    def joined(self, model: nn.Module) -> tuple[Predictor, Predictor]:
        """The head over frozen encoders, and all of it from there, at a schedule of its own."""
        groups = [{"at": "encoders", "lr": self.about.rate * ENCODERS_RATE}, {}]
        first = self.stage(self.about.frozen, freeze=("encoders",))
        run = self.run(model, first, self.stage(self.about.joint, groups=groups))
        frozen = run.fit(until=self.about.frozen).predictor()
        return copy.deepcopy(frozen), run.fit().predictor()

    def accuracy(self, one: Predictor) -> float:
        """On the judge part."""
        return evaluation.evaluate(one, self.judge, ("accuracy",))["accuracy"]


def arms(seed: Seed) -> Iterator[tuple[str, float]]:
    """Accuracy of each arm under a seed."""
    about, x = seed.about, seed.train
    members = seed.alone(about.updates)
    yield ALONE, sum(map(seed.accuracy, members)) / len(members)
    yield MEAN, seed.accuracy(ensembles.mean(members))
    longer = seed.alone(about.updates + about.frozen + about.joint)
    yield LONGER, seed.accuracy(ensembles.mean(longer))
    frozen, joint = seed.joined(ensembles.concatenated(members, x, seed=seed.seed))
    yield FROZEN, seed.accuracy(frozen)
    yield JOINT, seed.accuracy(joint)
    bare = ensembles.concatenated(members, x, norm=False, seed=seed.seed)
    yield BARE, seed.accuracy(seed.joined(bare)[1])
    each = [seed.joined(one) for one in ensembles.pairs(members, x, seed=seed.seed).values()]
    yield PAIRS_FROZEN, seed.accuracy(ensembles.mean([frozen for frozen, _ in each]))
    yield PAIRS, seed.accuracy(ensembles.mean([joint for _, joint in each]))


def costs(about: Setting) -> dict[str, float]:
    """Of training each arm, in updates of one classifier; the head's own are left out."""
    began, frozen = 3.0 * about.updates, FORWARD * about.frozen
    both = frozen + about.joint
    return {
        ALONE: about.updates, MEAN: began, LONGER: began + 3 * (about.frozen + about.joint),
        FROZEN: began + 3 * frozen, JOINT: began + 3 * both, BARE: began + 3 * both,
        PAIRS_FROZEN: began + 6 * frozen, PAIRS: began + 6 * both,
    }  # fmt: skip


def trained(name: str) -> list[dict[str, Any]]:
    """Every arm's accuracy under every seed; a seed is written once it is whole."""
    path = RESULTS / f"concatenation_{name}" / "arms.csv"
    found = read(path)
    for number in SEEDS:
        if not any(row["seed"] == str(number) for row in found):
            values = [*arms(Seed(name, number))]
            found += [{"arm": a, "seed": str(number), "accuracy": f"{v:.4f}"} for a, v in values]
            write(path, found)
            print(name, number, *(row["accuracy"] for row in found[-len(values) :]), flush=True)
    return found


def contrasts(values: dict[tuple[str, int], float]) -> list[Comparison]:
    """What is held against what, as differences of one seed; a family with Holm's levels."""
    return paired.held(CONTRASTS, values, SEEDS)


def kept(name: str, found: list[dict[str, Any]]) -> None:
    """Write means, costs, and differences with intervals, as numbers and as a figure."""
    folder, about = RESULTS / f"concatenation_{name}", SETTINGS[name]
    values = {(row["arm"], int(row["seed"])): float(row["accuracy"]) for row in found}
    table = [
        {"arm": arm, "accuracy": round(sum(values[arm, seed] for seed in SEEDS) / len(SEEDS), 4),
         "updates of a classifier": round(cost)}
        for arm, cost in costs(about).items()
    ]  # fmt: skip
    compared = contrasts(values)
    told = {"setting": asdict(about) | {"seeds": len(SEEDS)}, "arms": table,
            "contrasts": plain(compared)}  # fmt: skip
    files.write(folder / "gains.json", files.to_json(told, indent=2) + "\n")
    files.write(folder / "gains.svg", figures.picture(compared, "accuracy"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for each in sys.argv[1:] or SETTINGS:
        kept(each, trained(each))
