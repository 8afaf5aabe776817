"""A task's file that trains in no time, and what tests ask of fits of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from whet import sources
from whet.callback import Callback
from whet.fit.request import Request
from whet.run import Run

TASK = '''"""Tiny rows."""
from pathlib import Path
import torch
import whet

ABOUT = whet.About(updates=12, batch_size=8, optimizer={"name": "adamw", "lr": 0.05},
                   settings={"ema": {"decay": 0.9}})
SHIFT = Path(__file__).with_name("shift.txt")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(4, 8)
        self.dropout = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.dropout(torch.relu(self.first(x))))


def task(seed):
    x = torch.randn(60, 4) + (float(SHIFT.read_text()) if SHIFT.exists() else 0.0)
    y = (x[:, 0] > x[:, 1]).long()
    return whet.Task(Net(), (x[:40], y[:40]), (x[40:50], y[40:50]), (x[50:], y[50:]),
                     metrics=["accuracy", "log_loss"], classes=("no", "yes"))


def inputs(path, seed):
    lines = path.read_text().splitlines()
    return torch.tensor([[float(field) for field in line.split(",")] for line in lines])
'''


def write(folder: Path, text: str = TASK, name: str = "rows.py") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def asked(folder: Path, **changes: Any) -> Request:
    """A request for a model of the task that `write` wrote there."""
    given: dict[str, Any] = {"methods": "ema", "out": folder / "model", "device": "cpu"}
    return Request("rows", folder / "rows.py", **(given | changes))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return some.keys() == others.keys() and all(
        torch.equal(some[name], others[name]) for name in some
    )


def made(folder: Path, seed: int = 0) -> Any:
    return sources.load("rows", folder / "rows.py").task(seed)


class Watch(Callback):
    """Counts the updates that it sees, and sends signals to this process in one of them."""

    def __init__(self, at: int | None = None, number: int = signal.SIGINT, times: int = 1) -> None:
        self.at, self.number, self.times = at, number, times
        self.seen: list[int] = []

    def updated(self, run: Run) -> None:
        self.seen.append(run.updates)
        if run.updates == self.at:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)
