"""Images in classes, and a small convolutional network.

The line above is the study's title. Edit the settings and the network, then

    whet study FILE --fast      two updates of every method: finds mistakes early
    whet study FILE             the study; stop it at any time, the same command continues

where FILE is this file. It is code: whet runs it, and calls `task(seed)` for every training. As it
stands its data is a tiny sample, scikit-learn's handwritten digits.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import whet
from whet import data

# ---- settings to edit --------------------------------------------------------------------------
# Your data: a folder with train.npz, which holds uint8 images x, (N, H, W) or (N, H, W, 3), and
# classes y, (N,), or with a zip of <part>/<class>/<image>. Relative to this file; None: the sample.
FOLDER = None
SIZE = None  # (height, width) that the images of a zip are resized to
KEEP_TEST = True  # a test part of the folder is what every seed is judged on; False: split it too

BATCH_SIZE = 64
UPDATES = 60  # steps of one training. Few, for the sample; None: ten passes, 300 steps at least
LEARNING_RATE = 0.003
METHODS = ("ema", "mixup", "label_smoothing", "r_drop", "sam")  # None: all that apply
METRICS = ("accuracy", "macro_f1", "log_loss")  # the first one decides; functions may stand here

# ---- the network -------------------------------------------------------------------------------


class Network(nn.Module):
    """Two convolutions, a linear head. Yours may be any module that gives logits (N, classes)."""

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, channels, H, W) of any size to logits (N, classes)."""
        return self.head(self.dropout(self.layers(images).mean((2, 3))))


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
    images, labels, names, _ = rows()
    parts, mean, std = prepared(seed)

    def part(chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return (images[chosen] - mean) / std, torch.from_numpy(labels[chosen])

    return whet.Task(
        Network(images.shape[1], len(names)),  # fresh weights, which vary with the seed as well
        train=part(parts.train),
        select=part(parts.select),
        judge=part(parts.judge),
        metrics=METRICS,
        classes=names,
        # What an image is known by for every seed, as its numbers differ; see --hold-out.
        identities=parts.of(images),
    )


def prepared(seed: int) -> tuple[data.Split, torch.Tensor, torch.Tensor]:
    """The rows of each part, and the mean and deviation of the first one's colours."""
    images, labels, _, test = rows()
    # Three parts: train is trained on, select is what stopping and choosing may look at, judge is
    # what the verdict is about. They vary with the seed, so that a verdict does not hang on one
    # lucky split. Images of one patient or place belong together: groups=<one value per image>.
    parts = data.split(labels, seed, judge=test)
    # What is fitted sees the training part alone, or the judged images would leak into training.
    mean = images[parts.train].mean((0, 2, 3), keepdim=True)
    std = images[parts.train].std((0, 2, 3), keepdim=True) + 1e-6
    return parts, mean, std


def inputs(path: Path, seed: int) -> torch.Tensor:
    """The x of an npz, as `whet predict` gives its images to the model of a seed."""
    _, mean, std = prepared(seed)
    with np.load(path) as arrays:
        return (data.pixels(arrays["x"]) - mean) / std


@cache  # read once, however many seeds this process trains
def rows() -> tuple[torch.Tensor, np.ndarray, Sequence[str], np.ndarray | None]:
    """Images (N, channels, H, W) in [0, 1], classes (N,), their names, and given test rows.

    All of them in memory; for more than fits there, begin with `whet new --kind torch`.
    """
    if FOLDER is None:
        digits = load_digits()
        images = data.pixels((digits.images * 255 / 16).astype(np.uint8))
        return images, digits.target, [str(name) for name in digits.target_names], None
    place = Path(__file__).parent / FOLDER
    found = data.load(place, size=SIZE, kind="images", objective="categorical")
    whole, test = found.joined()
    return data.pixels(whole.inputs), whole.targets, found.classes, test if KEEP_TEST else None
