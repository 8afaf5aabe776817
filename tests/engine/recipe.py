"""A three-stage recipe that is trained, killed and continued; also run as a script."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.contract.fixture import make_task
from whet import methods
from whet.run import Run
from whet.stage import Recipe, Stage

UPDATES = (5, 4, 6)


def recipe() -> Recipe:
    """Other optimizer, batch size, methods and frozen parts in each stage; EMA through all."""
    known = set(methods.registry())

    def some(*wanted: dict[str, Any]) -> list[dict[str, Any]]:
        return [one for one in wanted if one["name"] in known]

    return Recipe(
        [
            Stage(
                updates=UPDATES[0], batch_size=6, accumulate=2, schedule="cosine",
                methods=some({"name": "mixup", "alpha": 1.0, "at": "floats"},
                             {"name": "moco", "queue": 16, "dim": 4, "at": "head"},
                             {"name": "lookahead", "k": 2}),
            ),
            Stage(
                updates=UPDATES[1], batch_size=8, optimizer={"name": "sgd", "lr": 0.1},
                freeze=["embed"], starts_from="evaluation",
                methods=some({"name": "r_drop"}, {"name": "sam"},
                             {"name": "fixmatch", "mu": 1, "threshold": 0.4}),
            ),
            Stage(
                updates=UPDATES[2], batch_size=6, accumulate=3,
                optimizer={"name": "sgd", "lr": 0.05, "momentum": 0.9},
                schedule={"name": "linear", "warmup": 0.2},
                methods=some({"name": "fgm", "during": [0.5, 1.0]},
                             {"name": "label_smoothing", "during": [0.0, 0.5]},
                             {"name": "clip_grad_norm"}),
            ),
        ],
        methods=some({"name": "ema", "decay": 0.9}, {"name": "precise_bn"}),
    )  # fmt: skip


def make(folder: Path | None = None, **changes: Any) -> Run:
    return Run(
        make_task(), recipe(), seed=3, folder=folder, device="cpu", checkpoint_every=1,
        evaluate_every=3, **changes,
    )  # fmt: skip


def main(folder: str, fatal: int) -> None:
    """Train and kill this process, as hard as it goes, in the update numbered `fatal`."""

    def kill(run: Run) -> None:
        if run.updates == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    make(Path(folder), callbacks=[kill]).fit()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
