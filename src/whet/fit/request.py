"""What `whet fit` is asked for, and what of it contradicts itself."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import InputError

LARGEST = 1 << 53  # seeds below are whole numbers in every reader of JSON


@dataclass(frozen=True)
class Request:
    """What the user asked for; None stands for the task's own choice.

    Args:
        task: the task's name.
        file: the file of a user's task.
        recipe: a file that defines `recipe`.
        methods: as on the command line, in place of a recipe.
        out: the model's folder.
        seed: of the task and the run.
        device: `auto`, `cpu` or `cuda`.
        precision: `fp32`, `bf16` or `fp16`.
        updates: length in updates; or `epochs`.
        epochs: length in passes over the training data.
        log: names of logs beside the usual ones; or what else `Run` takes for one.
        overfit: train on so many fixed batches and keep nothing.
        profile: trace so many updates and keep nothing else.
        anomaly: look for the first NaN and keep nothing.
        fresh: forget what was trained in the folder.
        start: 0 for the task's own initial weights, another number for others on the same split.
    """

    task: str
    file: Path | None = None
    recipe: Path | None = None
    methods: str | None = None
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "fp32"
    updates: int | None = None
    epochs: float | None = None
    log: Sequence[Any] = ()
    overfit: int | None = None
    profile: int | None = None
    anomaly: bool = False
    fresh: bool = False
    start: int = 0

    @property
    def folder(self) -> Path:
        """Where the model goes."""
        return self.out or Path("whet-models") / self.task

    @property
    def diagnoses(self) -> bool:
        """Whether it looks for what is wrong or slow, and makes no model."""
        return self.anomaly or self.overfit is not None or self.profile is not None

    @property
    def command(self) -> str:
        """The command line that asks for this model; it continues rather than begins anew."""
        words = ["whet", "fit", near(self.file) or self.task]
        usual = {"seed": 0, "start": 0, "device": "auto", "precision": "fp32"}
        given = {name: getattr(self, name) for name in usual}
        given = {name: value for name, value in given.items() if value != usual[name]}
        given |= {"recipe": near(self.recipe), "methods": self.methods, "out": near(self.out)}
        named = ",".join(name for name in self.log if isinstance(name, str))
        given |= {"updates": self.updates, "epochs": self.epochs, "log": named or None}
        for name, value in given.items():
            words += [] if value is None else [f"--{name}", str(value)]
        return shlex.join(words)

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InputError: naming the options.
        """
        if self.recipe is not None and self.methods is not None:
            raise InputError(
                "--recipe and --methods both say what to train with: write the methods into the "
                "recipe, or leave --recipe out."
            )
        if self.updates is not None and self.epochs is not None:
            raise InputError("--updates and --epochs both say how long to train: give one.")
        length = "--updates" if self.updates is not None else "--epochs"
        if self.recipe is not None and (self.updates or self.epochs) is not None:
            raise InputError(
                f"the stages of a recipe say themselves how long they are: leave {length} out, or "
                "change it in the recipe."
            )
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise InputError(f"--epochs is {self.epochs}; it must be above 0.")
        if not 0 <= self.seed < LARGEST:
            raise InputError(f"--seed is {self.seed}; it must lie in [0, {LARGEST}).")
        if not 0 <= self.start < LARGEST:
            raise InputError(f"--start is {self.start}; it must lie in [0, {LARGEST}).")
        if self.diagnoses and (self.log or self.fresh):
            option = "--log" if self.log else "--fresh"
            raise InputError(
                f"--overfit, --profile and --anomaly train for themselves and keep no model: leave "
                f"{option} out."
            )


def near(path: Path | None) -> str | None:
    """A path as others may see it: from here on, where it lies below."""
    if path is None:
        return None
    whole, here = path.absolute(), Path.cwd()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(path)
