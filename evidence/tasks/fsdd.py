"""Free Spoken Digit Dataset, 1,500 recordings of 10 digits, and convolutions over a spectrogram."""

from __future__ import annotations

import math

import images
import local_data
import networks
import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.data.folders import load
from whet.data.splitting import split
from whet.task import Task
from whet.tasks import About

REFERENCE = "random forest of 200 trees on the spectrogram"
RATE, SAMPLES = 8_000, 5_120  # of a recording; what is longer is cut
BANDS, WINDOW, HOP = 32, 256, 128
ABOUT = About(
    title="Spoken digits, 450 recordings to train on, 10 classes",
    updates=300,
    batch_size=32,
    optimizer={"name": "adamw", "lr": 0.003, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    settings={
        "ema": {"decay": 0.98}, "fast_fgsm": {"epsilon": 0.03},
        "pgd_inputs": {"epsilon": 0.03},
        "random_noise": {"scope": "inputs", "epsilon": 0.03},
    },
)  # fmt: skip


def mel_bands() -> Tensor:
    """Triangles evenly spaced on the mel scale, `(BANDS, WINDOW // 2 + 1)`."""
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, BANDS + 2) / 2595) - 1)
    bins = np.linspace(0, RATE / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    return torch.tensor(np.clip(np.minimum(rising, falling), 0, None), dtype=torch.float32)


def spectrograms(waves: list[np.ndarray]) -> Tensor:
    """Log energies by band and time, `(N, 1, BANDS, T)`, of mean 0 and deviation 1 by recording."""
    cut = torch.zeros(len(waves), SAMPLES)
    for row, wave in enumerate(waves):
        cut[row, : len(wave)] = torch.from_numpy(wave[:SAMPLES].astype(np.float32)) / 2**15
    window = torch.hann_window(WINDOW)
    power = torch.stft(cut, WINDOW, HOP, window=window, return_complex=True).abs().square()
    logs_NBT = (mel_bands() @ power + 1e-6).log()
    mean, deviation = logs_NBT.mean((1, 2), keepdim=True), logs_NBT.std((1, 2), keepdim=True)
    return ((logs_NBT - mean) / deviation)[:, None]


def task(seed: int) -> Task:
    """The task of one seed: split and initial weights vary with it."""
    found = load(local_data.folder("fsdd"), kind="audio", objective="categorical")
    whole, _ = found.joined()
    parts = split(whole.targets, seed, shares=(0.3, 0.2, 0.5))
    inputs, labels = spectrograms(list(whole.inputs)), torch.as_tensor(whole.targets)

    def rows(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        return inputs[chosen], labels[chosen]

    with seeding.initial(seed):
        model = networks.convolutional(1, BANDS, inputs.shape[3], 10)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=("accuracy", "log_loss", "ece"), classes=found.classes, name="fsdd",
    )  # fmt: skip


def reference(seed: int) -> float:
    """What the reference reaches on the judge part of the same seed."""
    return images.forest(task(seed), seed)
