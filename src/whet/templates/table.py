"""A table in classes, and a network with a vector for every category.

The line above is the study's title. Edit the settings and the network, then

    whet study FILE --fast      two updates of every method: finds mistakes early
    whet study FILE             the study; stop it at any time, the same command continues

where FILE is this file. It is code: whet runs it, and calls `task(seed)` for every training. As it
stands its data is a tiny sample, visits of customers that it makes itself.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

import whet
from whet import data

# ---- settings to edit --------------------------------------------------------------------------
# Your data: a folder with train.csv or train.csv.gz, where the first line names the columns and an
# empty field is a missing value. Relative to this file; None: the sample.
FOLDER = None
TARGET = "returned"  # the column to predict: classes, or a number
GROUP = "customer"  # a column: the rows of one value stay in one part; None: every row by itself
TYPES = {}  # {"postcode": "category", "id": "drop"}, where the type that is inferred is wrong
KEEP_TEST = True  # a test part of the folder is what every seed is judged on; False: split it too

BATCH_SIZE = 64
UPDATES = 60  # steps of one training. Few, for the sample; None: ten passes, 300 steps at least
LEARNING_RATE = 0.003
METHODS = ("ema", "fgm", "r_drop", "lookahead", "sam")  # None: all that apply


def cost(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """A metric of your own: the mean cost of a mistake, five times for missing the last class."""
    wrong = probabilities.argmax(1) != targets
    return float((wrong * np.where(targets == probabilities.shape[1] - 1, 5, 1)).mean())


cost.higher_is_better = False  # without this line higher is taken to be better
METRICS = ("auc", "log_loss", cost)  # of classes; the first one decides

# ---- the network -------------------------------------------------------------------------------


class Network(nn.Module):
    """Vectors of the categories beside the numbers, and two hidden layers. Yours may be any."""

    def __init__(self, cardinalities: list[int], numbers: int, outputs: int) -> None:
        super().__init__()
        self.categories = nn.ModuleList(nn.Embedding(known, 8) for known in cardinalities)
        self.layers = nn.Sequential(
            nn.Linear(8 * len(cardinalities) + numbers, 64), nn.ReLU(), nn.Dropout(0.2),
            nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2),
        )  # fmt: skip
        self.head = nn.Linear(64, outputs)

    def forward(self, categories: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Categories (N, K) and numbers (N, M), by their names in a batch's inputs, to (N, C)."""
        vectors = [embed(categories[:, k]) for k, embed in enumerate(self.categories)]
        return self.head(self.layers(torch.cat([*vectors, numbers], 1)))


# ---- the task ----------------------------------------------------------------------------------

ABOUT = whet.About(
    updates=UPDATES,
    batch_size=BATCH_SIZE,
    optimizer={"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.01},
    methods=METHODS,
    settings={"ema": {"decay": 0.98}},  # the default, 0.999, averages over a thousand updates
)


def task(seed: int) -> whet.Task:
    """Everything of one seed, by which whet has seeded torch, numpy and random before."""
    whole, names, _, _ = rows()
    parts, columns = prepared(seed)
    targets = whole.targets
    if names is None:  # a number to predict; its metrics are then in standard deviations
        targets = (targets - targets[parts.train].mean()) / targets[parts.train].std()

    def part(chosen: np.ndarray) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        return columns.encode(whole.take(chosen).inputs), torch.as_tensor(targets[chosen])

    return whet.Task(
        Network(columns.cardinalities, len(columns.number_names), len(names or "1")),
        train=part(parts.train),
        select=part(parts.select),
        judge=part(parts.judge),
        objective="categorical" if names else "real",
        metrics=METRICS if names else ("mae", "r2"),
        classes=names,
        identities=parts.of(whole.column(GROUP) if GROUP else whole.inputs),  # see --hold-out
    )


def prepared(seed: int) -> tuple[data.Split, data.Columns]:
    """The rows of each part, and the encoder that the first one fits."""
    whole, _, types, test = rows()
    # Three parts: train is trained on, select is what stopping and choosing may look at, judge is
    # what the verdict is about. They vary with the seed, so that a verdict does not hang on one
    # lucky split. Groups keep a customer's rows together: known customers are too easy a test.
    groups = whole.column(GROUP) if GROUP else None
    parts = data.split(whole.targets, seed, groups=groups, judge=test)
    # What is fitted sees the training part alone. A category that it does not have becomes number
    # 0, a missing one 1; a missing number becomes the training median, and a column says where.
    types = types | ({GROUP: "drop"} if GROUP else {}) | TYPES
    return parts, data.Columns.fit(whole.take(parts.train).inputs, types)


def inputs(path: Path, seed: int) -> dict[str, torch.Tensor]:
    """The rows of a csv file, as `whet predict` gives them to the model of a seed."""
    _, columns = prepared(seed)
    return columns.encode(data.read_table(path))


@cache  # read once, however many seeds this process trains
def rows() -> tuple[data.Part, Sequence[str] | None, dict, np.ndarray | None]:
    """Columns and targets, names of the classes (None: a number), types, and given test rows."""
    if FOLDER is None:
        return *sample(), {}, None
    found = data.load(Path(__file__).parent / FOLDER, target=TARGET, kind="table")
    whole, test = found.joined()
    return whole, found.classes, dict(found.types), test if KEEP_TEST else None


def sample() -> tuple[data.Part, Sequence[str]]:
    """Five visits of each of 60 customers, some of them with gaps; the same for every seed."""
    random = np.random.default_rng(0)
    customer = np.repeat(np.arange(60), 5)
    plan, age = random.integers(0, 3, 60)[customer], random.integers(18, 80, 60)[customer]
    spent, missing = random.gamma(2.0, 20.0, 300), random.random((2, 300)) < 0.1
    returned = spent / 40 + (plan == 2) + random.normal(0, 0.5, 300) > 1.4
    table = {
        "customer": [f"c{number}" for number in customer],
        "plan": np.where(missing[0], "", np.array(["free", "basic", "full"])[plan]).tolist(),
        "age": age.tolist(),
        "spent": np.where(missing[1], np.nan, spent).tolist(),
    }
    return data.Part(table, returned.astype(np.int64)), ("no", "yes")
