"""Writes what torchattacks makes of a few images, for `test_pgd_inputs.py`.

The library asks for torchvision, which does not import beside every build of torch, and so is no
dependency of the tests; without it these three attacks run all the same:

    pip install --no-deps --target FOLDER torchattacks==3.5.1
    PYTHONPATH=FOLDER python -m tests.methods.record_torchattacks
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VALUES = Path(__file__).with_name("torchattacks.json")

ATTACKS: list[dict[str, Any]] = [
    {"name": "FGSM", "eps": 0.1},
    {"name": "PGD", "eps": 0.1, "alpha": 0.03, "steps": 6},
    {"name": "PGD", "eps": 0.3, "alpha": 0.05, "steps": 4},
    {"name": "PGDL2", "eps": 0.5, "alpha": 0.2, "steps": 6},
    {"name": "PGDL2", "eps": 3.0, "alpha": 0.7, "steps": 5},
]


class Small(nn.Module):
    """A convolution, a bend and a head whose weights are a formula: no generator is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3).double(), nn.Linear(16, 3).double()
        with torch.no_grad():
            for number, p in enumerate(self.parameters()):
                p.copy_((torch.arange(p.numel()) * 1.7 + number).sin().view(p.shape))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).tanh().flatten(1))


def images() -> tuple[Tensor, Tensor]:
    """Six images in [0, 1], float64, and their classes."""
    pixels = (torch.arange(6 * 3 * 4 * 4) * 37 % 101).double() / 100
    return pixels.view(6, 3, 4, 4), torch.tensor([0, 1, 2, 0, 1, 2])


def main() -> None:
    import torchattacks

    x, y = images()
    found = []
    for given in ATTACKS:
        settings = {name: value for name, value in given.items() if name != "name"}
        if given["name"] != "FGSM":
            settings["random_start"] = False
        moved = getattr(torchattacks, given["name"])(Small(), **settings)(x, y)
        found.append({**given, "moved": moved.flatten().tolist()})
    about = {"library": "torchattacks", "version": torchattacks.__version__, "attacks": found}
    VALUES.write_text(json.dumps(about, indent=None) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
