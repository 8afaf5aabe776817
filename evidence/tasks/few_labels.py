"""Fashion-MNIST with 250 labelled images and 10,000 without labels, and the same small network."""

from __future__ import annotations

import local_data
import networks
import torch
from torch import Tensor
from torch.nn import functional as F

from whet import seeding
from whet.data.folders import load
from whet.data.images import pixels
from whet.data.splitting import split
from whet.task import Task
from whet.tasks import About

LABELLED, UNLABELLED = 250, 10_000
ABOUT = About(
    title="Fashion-MNIST, 250 labels and 10,000 images without",
    updates=400,
    batch_size=32,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    methods=("fixmatch",),
)


def weak(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to two pixels in both directions."""
    side = images.shape[-1]
    padded = F.pad(images, (2, 2, 2, 2))
    moves = torch.randint(0, 5, (len(images), 2), generator=generator)
    rows = moves[:, :1] + torch.arange(side)
    columns = moves[:, 1:] + torch.arange(side)
    each = torch.arange(len(images))[:, None, None]
    return padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Moved, with another contrast, noise, and a square of 10x10 pixels erased."""
    side, hole = images.shape[-1], 10
    contrast = 0.5 + torch.rand(len(images), 1, 1, 1, generator=generator)
    noise = 0.1 * torch.randn(images.shape, generator=generator)
    corners = torch.randint(0, side - hole + 1, (len(images), 2), generator=generator)
    grid = torch.arange(side)
    rows = (grid >= corners[:, :1]) & (grid < corners[:, :1] + hole)
    columns = (grid >= corners[:, 1:]) & (grid < corners[:, 1:] + hole)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None]
    changed = (weak(images, generator) * contrast + noise).clamp(0, 1)
    return changed.masked_fill(erased, 0.0)


def task(seed: int) -> Task:
    """The task of one seed: which images have labels and the initial weights vary with it."""
    found = load(local_data.folder("fashion_mnist"), kind="images", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed, shares=(0.6, 0.1, 0.3))
    images, labels = pixels(whole.inputs), torch.as_tensor(whole.targets)
    order = torch.randperm(len(parts.train), generator=seeding.generator(seed, "labelled"))
    drawn = torch.as_tensor(parts.train)[order]
    labelled, without = drawn[:LABELLED], drawn[LABELLED : LABELLED + UNLABELLED]
    with seeding.initial(seed):
        model = networks.convolutional(1, 28, 28, 10)
    return Task(
        model=model,
        train=(images[labelled], labels[labelled]),
        select=(images[parts.select], labels[parts.select]),
        judge=(images[parts.judge], labels[parts.judge]),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name="few_labels",
        resources={"unlabelled": images[without], "weak": weak, "strong": strong},
    )  # fmt: skip
