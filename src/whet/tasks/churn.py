"""Which customers leave a telephone company (a table of 7,043 rows) and a small network.

An AUC of about 0.84 without any method (`whet study churn`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from whet import seeding
from whet.data.columns import Columns
from whet.data.folders import load
from whet.data.parts import Part
from whet.data.splitting import Split, split
from whet.data.tables import read_table
from whet.task import Task
from whet.tasks import About

FOLDER = Path(__file__).parent / "data" / "telco_churn"

# One customer in four leaves, so "nobody leaves" has an accuracy of 0.735. The AUC asks whether
# those who leave are ranked above those who stay, at any threshold and any share of them.
METRICS = ("auc", "average_precision", "log_loss", "balanced_accuracy", "ece")

ABOUT = About(
    title="Customers who leave, a table with two classes",
    updates=300,
    batch_size=128,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule="cosine",
    methods=(
        "ema", "swa", "precise_bn", "r_drop", "fgm", "fast_fgsm", "label_smoothing", "focal",
        "clip_grad_norm", "sam", "lookahead", "snapshot",
    ),
    settings={
        "sphereface": {"decay": 1.0},  # of few updates most should have the margin
        "augment": {"kind": "table", "policy": "strong"},
        "ema": {"decay": 0.98},
        "vat": {"epsilon": 0.5},
    },
    left_out={
        "augment": "a choice of its own, of strengths; ask for it by --methods augment",
        "dropout_schedule": "a choice of its own, of early or late; ask for it by --methods",
        "embedding_noise": "ask for it by --methods embedding_noise, or with scope=inputs",
        "stochastic_depth": "the network has no residual block",
        "freelb": "three passes for every update; ask for it by --methods freelb",
        "pgd": "four passes for every update; ask for it by --methods pgd",
        "pgd_inputs": "eight passes for every update; ask for it by --methods pgd_inputs",
        "random_noise": "the control of fgm; ask for it by --methods random_noise",
        "cutmix": "the inputs are no images",
        "distillation": "the task has no teacher",
        "feature_distillation": "the task has no teacher",
        "negative_correlation": "the model has no members",
        "self_distillation": "for unlabelled rows; ask for it by --methods self_distillation",
        "weight_diversity": "the model has no members",
        "mixup": "categories are numbers that cannot be mixed",
        "manifold_mixup": "categories alone would be mixed; ask for it by --methods manifold_mixup",
        "mixup_or_cutmix": "the inputs are no images",
        "fixmatch": "the task has no unlabelled customers",
        "moco": "the task has no two views of a customer",
        "vat": "three passes for every update; ask for it by --methods vat",
        "adversarial_consistency": "five passes for every update; ask for it by name",
        "free_at": "sees a part of the data only; ask for it by --methods free_at",
        "class_weights": "a ranking has no threshold; ask for it by --methods class_weights",
        "logit_adjustment": "a ranking has no threshold; ask for it by --methods logit_adjustment",
        "arcface": "one of three margin heads; ask for it by --methods arcface",
        "cosface": "one of three margin heads; ask for it by --methods cosface",
        "sphereface": "one of three margin heads; ask for it by --methods sphereface",
        "temperature": "a choice of its own, of rates too; ask for it by --methods temperature",
        "temperature_scaling": "makes no other decisions; ask for it by name",
        "tta": "a customer has no views without chance",
    },
)  # fmt: skip


class TableNet(nn.Module):
    """Embedded categories beside the numbers, two hidden layers, a linear head.

    Args:
        cardinalities: rows of each category's embedding, as `Columns.cardinalities` says.
        numbers: columns of numbers.
        classes: logits.
        width: of the hidden layers.
        size: of each embedding.
        dropout: after each hidden layer.

    >>> net = TableNet([4, 6], numbers=3, classes=2).eval()
    >>> net(torch.tensor([[0, 5]]), torch.zeros(1, 3)).shape
    torch.Size([1, 2])
    """

    offsets: Tensor

    def __init__(
        self, cardinalities: Sequence[int], numbers: int, classes: int, *, width: int = 64,
        size: int = 8, dropout: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__()
        # one table for all columns, in which each begins where the one before it ends
        begins = np.cumsum([0, *cardinalities[:-1]]) if cardinalities else np.zeros(0, np.int64)
        self.register_buffer("offsets", torch.from_numpy(begins.astype(np.int64)))
        # a table that nothing is looked up in would be one that attacks on embeddings move in vain
        self.categories = nn.Embedding(sum(cardinalities), size) if cardinalities else None
        self.layers = nn.Sequential(
            nn.Linear(size * len(cardinalities) + numbers, width, bias=False),
            nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.head = nn.Linear(width, classes)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        """Categories `(N, K)` and numbers `(N, M)` to logits `(N, C)`."""
        x = numbers
        if self.categories is not None:
            x = torch.cat([self.categories(categories + self.offsets).flatten(1), numbers], 1)
        logits: Tensor = self.head(self.layers(x))
        return logits


def task(seed: int) -> Task:
    """The task of one seed: split, encoding and initial weights vary with it."""
    whole, classes, parts, columns = _prepared(seed)

    def rows(chosen: np.ndarray) -> tuple[dict[str, Tensor], Tensor]:
        own = whole.take(chosen)
        return columns.encode(own.inputs), torch.as_tensor(own.targets)

    with seeding.initial(seed):
        model = TableNet(columns.cardinalities, len(columns.number_names), len(classes))
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=METRICS, classes=classes, name="churn",
        # the encoding differs for every seed: a customer is recognised by the row as it was read
        identities=parts.of(whole.inputs),
    )  # fmt: skip


def inputs(path: Path, seed: int) -> dict[str, Tensor]:
    """The customers of a csv file, as the model of a seed takes them."""
    *_, columns = _prepared(seed)
    return columns.encode(read_table(path))


def _prepared(seed: int) -> tuple[Part, Sequence[str], Split, Columns]:
    """All rows, names of the classes, the parts, and the encoder that the first of them fits."""
    data = load(FOLDER, kind="table", objective="categorical")
    assert data.classes is not None
    whole, _ = data.joined()
    parts = split(whole.targets, seed)
    columns = Columns.fit(whole.take(parts.train).inputs, data.types)
    return whole, data.classes, parts, columns
