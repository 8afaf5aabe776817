"""Signals of different lengths: a Dataset, a collate function and DataLoaders of one's own.

The line above is the study's title. Edit the settings, the Dataset and the network below, then

    whet study FILE --fast      two updates of every method: finds mistakes early
    whet study FILE             the study; stop it at any time, the same command continues

where FILE is this file. It is code: whet runs it, and calls `task(seed)` for every training. As it
stands its data is a tiny sample, noisy tones of eight speakers that it makes itself.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import GroupShuffleSplit
from torch import nn
from torch.utils.data import DataLoader, Dataset

import whet
from whet import data

# ---- settings to edit --------------------------------------------------------------------------
# Your data: a folder with train.npz, which holds int16 recordings one after another (wave), where
# each begins (offset), and classes (y). Relative to this file; None: the sample. To read anything
# else, rewrite `recordings` and `Signals` at the end.
FOLDER = None
GROUP = "speaker"  # an array beside y: one speaker stays in one part; None: each row by itself

BATCH_SIZE = 16
UPDATES = 60  # steps of one training. Few, for the sample; None: ten passes, 300 steps at least
LEARNING_RATE = 0.003
METHODS = ("ema", "label_smoothing", "r_drop", "lookahead", "sam")  # None: all that apply
METRICS = ("accuracy", "macro_f1", "log_loss")  # the first one decides; functions may stand here

# ---- the network -------------------------------------------------------------------------------


class Network(nn.Module):
    """Two convolutions, the mean over each signal's true length, a linear head."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, width, 16, stride=4)
        self.second = nn.Conv1d(width, width, 8, stride=4)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(width, classes)

    def forward(self, waves: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """What `collate` gives, by name, but for the labels: to logits (N, classes)."""
        x = self.second(self.first(waves[:, None]).relu()).relu()
        kept = true[:, None, 43::16]  # a place of x has seen 44 samples, the next 16 further on
        return self.head(self.dropout((x * kept).sum(2) / kept.sum(2)))


# ---- the task ----------------------------------------------------------------------------------

ABOUT = whet.About(
    updates=UPDATES,
    optimizer={"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.01},
    methods=METHODS,
    settings={"ema": {"decay": 0.98}},  # the default, 0.999, averages over a thousand updates
)


def task(seed: int) -> whet.Task:
    """Everything of one seed, by which whet has seeded torch, numpy and random before."""
    whole, names = recordings()
    groups = np.asarray(whole.column(GROUP)) if GROUP else np.arange(len(whole))
    train, select, judge = three(groups, seed)

    def loader(chosen: np.ndarray, shuffle: bool = False) -> DataLoader:
        # Its order and what its Dataset draws follow from the seed, so every method sees the same.
        # Batches need no DataLoader: with train=Signals(...) and Task(collate=collate) whet makes
        # them, by ABOUT's batch_size, and a training that was stopped goes on to the bit.
        signals = Signals(whole.take(chosen), noise=shuffle)
        return DataLoader(signals, BATCH_SIZE, shuffle=shuffle, collate_fn=collate)

    return whet.Task(
        Network(len(names)),  # fresh weights, which vary with the seed as well
        train=loader(train, shuffle=True),
        select=loader(select),
        judge=loader(judge),
        metrics=METRICS,
        classes=names,
        # What --hold-out knows a row by: the noise makes it another each time. A group stays whole.
        identities={"train": groups[train], "select": groups[select], "judge": groups[judge]},
    )


def three(groups: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, select and judge rows; no group is in two of them."""
    # Train is trained on, select is what stopping and choosing may look at, judge is what nothing
    # fitted may see. They vary with the seed, so that no verdict hangs on one lucky split.
    # `data.split(labels, seed, groups=groups)` does so too; its judge= keeps a given test set.
    quarter = GroupShuffleSplit(1, test_size=0.25, random_state=seed)
    rest, judge = next(quarter.split(groups, groups=groups))
    train, select = next(quarter.split(rest, groups=groups[rest]))
    return rest[train], rest[select], judge


class Signals(Dataset):
    """One recording and its class for each number; the training part gets fresh noise."""

    def __init__(self, part: data.Part, noise: bool) -> None:
        self.part, self.noise = part, noise

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        wave = torch.from_numpy(self.part.inputs[row].astype(np.float32)) / 2**15
        if self.noise:
            wave = wave + 0.01 * torch.randn(len(wave))
        return wave, int(self.part.targets[row])


def collate(samples: list[tuple[torch.Tensor, int]]) -> dict[str, torch.Tensor]:
    """A batch: what stands under "labels" is the target, the rest are arguments of forward."""
    waves, labels = zip(*samples, strict=True)
    padded = nn.utils.rnn.pad_sequence(waves, batch_first=True)
    true = torch.arange(padded.shape[1]) < torch.tensor([[len(wave)] for wave in waves])
    return {"waves": padded, "true": true, "labels": torch.tensor(labels)}


@cache  # read once, however many seeds this process trains
def recordings() -> tuple[data.Part, Sequence[str]]:
    """Waves with their classes and further arrays, such as speakers; names of the classes."""
    if FOLDER is None:
        return sample()
    found = data.load(Path(__file__).parent / FOLDER, kind="audio", objective="categorical")
    return found.joined()[0], found.classes


def sample() -> tuple[data.Part, Sequence[str]]:
    """A low, a middle and a high tone, five times by each speaker; the same for every seed."""
    random = np.random.default_rng(0)
    labels, speakers = np.tile(np.arange(3), 40), np.repeat(np.arange(8), 15)
    pitch = (0.05 * 2.0**labels) * (1 + speakers / 40)
    waves = [np.sin(each * np.arange(random.integers(300, 600))) for each in pitch]
    noisy = [6000 * wave + random.normal(0, 3000, len(wave)) for wave in waves]
    whole = data.Part([wave.astype(np.int16) for wave in noisy], labels, {"speaker": speakers})
    return whole, ["low", "middle", "high"]
