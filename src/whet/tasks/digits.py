"""Handwritten digits (scikit-learn's bundled 8x8 images) and a small convolutional network."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whet import seeding
from whet.task import Task
from whet.tasks import About

TRAIN, UNLABELLED, SELECT = 800, 250, 250  # of 1,797; the rest judges

METRICS = ("accuracy", "log_loss", "macro_f1", "ece")

ABOUT = About(
    title="Handwritten digits, 8x8 grey, 10 classes",
    updates=300,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule="cosine",
    methods=(
        "ema", "swa", "precise_bn", "r_drop", "mixup", "cutmix", "label_smoothing", "focal",
        "fast_fgsm", "clip_grad_norm", "sam", "lookahead", "snapshot",
    ),
    settings={
        "sphereface": {"decay": 1.0},  # of few updates most should have the margin
        "augment": {"flip": False},
        "ema": {"decay": 0.98}, "fixmatch": {"mu": 2},
        "moco": {"queue": 512, "at": "head"},
        "random_noise": {"scope": "inputs", "epsilon": 8 / 255},
        "vat": {"epsilon": 0.5},
        "tta": {"views": ["shift"]},  # a mirrored digit is none
    },
    left_out={
        "fgm": "the model has no embedding to attack",
        "augment": "a choice of its own, of strengths; ask for it by --methods augment",
        "dropout_schedule": "a choice of its own, of early or late; ask for it by --methods",
        "embedding_noise": "the model has no embedding; ask for scope=inputs by --methods",
        "manifold_mixup": "mixup beside it; ask for it by --methods manifold_mixup:at=norm1",
        "stochastic_depth": "the network has no residual block",
        "freelb": "the model has no embedding to attack",
        "pgd": "the model has no embedding to attack",
        "pgd_inputs": "eight passes for every update; ask for it by --methods pgd_inputs",
        "random_noise": "the control of fast_fgsm; ask for it by --methods random_noise",
        "distillation": "the task has no teacher",
        "feature_distillation": "the task has no teacher",
        "negative_correlation": "the model has no members",
        "self_distillation": "for unlabelled rows; ask for it by --methods self_distillation",
        "weight_diversity": "the model has no members",
        "fixmatch": "about 5 times the cost; ask for it by --methods fixmatch",
        "moco": "a pre-training method; ask for it by --methods moco",
        "vat": "three passes for every update, six with unlabelled rows; ask by --methods vat",
        "adversarial_consistency": "five passes for every update; ask for it by name",
        "free_at": "sees a part of the data only; ask for it by --methods free_at",
        "mixup_or_cutmix": "by turns what mixup and cutmix are alone; ask for it by --methods",
        "class_weights": "the classes are equally frequent",
        "logit_adjustment": "the classes are equally frequent",
        "arcface": "one of three margin heads; ask for it by --methods arcface",
        "cosface": "one of three margin heads; ask for it by --methods cosface",
        "sphereface": "one of three margin heads; ask for it by --methods sphereface",
        "temperature": "a choice of its own, of rates too; ask for it by --methods temperature",
        "temperature_scaling": "makes no other decisions; ask for it by name",
        "tta": "five forwards in prediction; ask for it by --methods tta",
    },
)  # fmt: skip


class DigitsNet(nn.Module):
    """Two convolutions with batch normalisation, dropout, and a linear head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * width)
        self.hidden = nn.Linear(2 * width * 4, 64)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images `(N, 1, 8, 8)` in [0, 1] to logits `(N, 10)`."""
        x = F.max_pool2d(self.norm1(self.conv1(images)).relu(), 2)
        x = F.max_pool2d(self.norm2(self.conv2(x)).relu(), 2)
        logits: Tensor = self.head(self.dropout(self.hidden(x.flatten(1)).relu()))
        return logits


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to one pixel in both directions."""
    padded = F.pad(images, (1, 1, 1, 1))
    moves = torch.randint(0, 3, (len(images), 2), generator=generator)
    rows = (moves[:, :1] + torch.arange(8)).to(images.device)
    columns = (moves[:, 1:] + torch.arange(8)).to(images.device)
    each = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[each, 0, rows[:, :, None], columns[:, None, :]][:, None]


def strong(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted, with noise and a square of 3x3 pixels erased."""
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    corners = torch.randint(0, 6, (len(images), 2), generator=generator).to(images.device)
    grid = torch.arange(8, device=images.device)
    rows = (grid >= corners[:, :1]) & (grid < corners[:, :1] + 3)
    columns = (grid >= corners[:, 1:]) & (grid < corners[:, 1:] + 3)
    erased = (rows[:, :, None] & columns[:, None, :])[:, None]
    noisy = (shift(images, generator) + 0.1 * noise).clamp(0, 1)
    return noisy.masked_fill(erased, 0.0)


def task(seed: int) -> Task:
    """The task of one seed: split, resources and initial weights vary with it."""
    from sklearn.datasets import load_digits

    bundle: Any = load_digits()
    images = torch.tensor(bundle.images[:, None] / 16.0, dtype=torch.float32)
    labels = torch.tensor(bundle.target.astype(np.int64))
    order = torch.randperm(len(images), generator=seeding.generator(seed, "split"))
    ends = (TRAIN, TRAIN + UNLABELLED, TRAIN + UNLABELLED + SELECT)
    train, unlabelled, select, judge = order.tensor_split(ends)
    with seeding.initial(seed):
        model = DigitsNet()
    return Task(
        model=model,
        train=(images[train], labels[train]),
        select=(images[select], labels[select]),
        judge=(images[judge], labels[judge]),
        metrics=METRICS,
        resources={
            "unlabelled": images[unlabelled], "weak": shift, "strong": strong, "view": strong,
            "valid_range": (0.0, 1.0),
        },
        name="digits",
    )  # fmt: skip
