"""A model's folder.

```
model.safetensors   what is judged: written last but one
fit.json            what was trained, with what, and how good it is; its status says whether it is
checkpoints/        where the same command goes on
metrics.csv  run.json       of the run, as `Run` writes them
trace.json  profile.txt     of --profile
members/NAME/       of an ensemble: each one's folder, as this one
training/           of an ensemble: what trained them, and what they printed
```
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whet.errors import InputError
from whet.fit.request import LARGEST
from whet.study import files, redact

FORMAT = 1
ABOUT, MODEL, LOCK, MEMBERS = "fit.json", "model.safetensors", "fit.lock", "members"
TRAINED = ("checkpoints", MODEL, MEMBERS)  # which another training must not go on from, nor replace
TRACES = ("trace.json", "profile.txt")
OURS = (ABOUT, *TRAINED, *TRACES, "metrics.csv", "run.json", "trackers.json", "tensorboard",
        "training")  # fmt: skip
ALONE, ENSEMBLE = "of one training", "of several trainings"
ANEW = "--fresh begins anew there, and --out names another folder."
DIFFERENT = {
    "kind": "{before}, and this is one {now}",
    "seed": "of seed {before}, and this is seed {now}",
    "start": "that began from the weights of start {before}, and this is start {now}",
    "precision": "trained in {before}, and this is {now}",
    "code": "whose task, or whet itself, had other code",
    "data": "trained on other data",
}


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Task(_Shape):
    name: str
    code: str
    data: str | None = None
    file: str | None = None


class About(_Shape):
    """`fit.json`, as far as it is read again."""

    format: Literal[1]
    status: Literal["training", "done"]
    task: _Task
    seed: Annotated[int, Field(ge=0, lt=LARGEST)]
    start: Annotated[int, Field(ge=0, lt=LARGEST)] = 0
    precision: Literal["fp32", "bf16", "fp16"]
    batch_size: Annotated[int, Field(ge=1, lt=1 << 31)] = 256
    command: str = ""
    members: list[dict[str, Any]] | None = None

    def identity(self) -> dict[str, Any]:
        """What may not differ where one training goes on from another's files."""
        kind = ALONE if self.members is None else ENSEMBLE
        own = {"seed": self.seed, "start": self.start, "precision": self.precision}
        task = {"task": self.task.name, "code": self.task.code, "data": self.task.data}
        return {**task, "kind": kind, **own}


class Folder:
    """The files of one model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = path / MODEL

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder against other processes; what a mistake leaves empty is removed."""
        new = [path for path in (self.path, *self.path.parents) if not path.exists()]
        try:
            with files.locked(self.path / LOCK, f"The model in {self.path}"):
                files.sweep(self.path)
                yield
        finally:
            if new and [path.name for path in self.path.glob("*")] == [LOCK]:
                (self.path / LOCK).unlink()
                with suppress(OSError):  # another fit is at work beside
                    for path in new:
                        path.rmdir()

    def trained(self) -> bool:
        """Whether there is something to go on from, or to lose."""
        return any((self.path / name).exists() for name in TRAINED)

    def check_own(self) -> None:
        """Refuse a folder whose files are not a model's: what lies in it would be replaced.

        Raises:
            InputError: it holds such files.
        """
        there = sorted(path.name for path in self.path.iterdir()) if self.read() is None else []
        foreign = [name for name in there if name[0] != "." and name not in (LOCK, *TRACES)]
        if foreign:
            raise InputError(
                f"{self.path} holds other files ({', '.join(foreign[:3])}). Choose an empty or a "
                "new folder with --out."
            )

    def claim(self, identity: Mapping[str, Any]) -> None:
        """Refuse a folder that holds another training; what `identity` lacks is not compared.

        Raises:
            InputError: it does.
        """
        about = self.read()
        if about is None or not self.trained():
            return
        before, now = about.identity(), redact.values(identity)
        if before["task"] != now["task"]:
            raise InputError(
                f"{self.path} holds a model of {before['task']!r}, not of {now['task']!r}. {ANEW}"
            )
        for name, said in DIFFERENT.items():
            if name in now and before[name] not in (None, now[name]):
                told = said.format(before=before[name], now=now[name])
                raise InputError(f"{self.path} holds a model {told}. {ANEW}")

    def clear(self) -> None:
        """Remove what fits wrote, and nothing else."""
        for name in OURS:
            path = self.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    # fit.json --------------------------------------------------------------------------------
    def read(self) -> About | None:
        """What `fit.json` holds; None where there is none.

        Raises:
            InputError: it is damaged, or of another version.
        """
        path = self.path / ABOUT
        values = files.read_json(path)
        if values is None and not path.exists():
            return None
        try:
            return About.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            place = ".".join(map(str, first["loc"])) or "it"
            raise InputError(
                f"{path} is damaged, or of another version of whet ({place}: {first['msg']}). "
                "Remove it and fit into a new folder."
            ) from error

    def finished(self) -> About:
        """What `fit.json` holds of a model whose training has ended.

        Raises:
            InputError: there is none.
        """
        about = self.read()
        if about is None:
            raise InputError(
                f"{self.path} holds no model: there is no {ABOUT} in it. `whet fit TASK --out "
                f"{self.path}` makes one."
            )
        if about.status != "done" or not self.model.exists():
            raise InputError(
                f"the training in {self.path} has not ended: give its command again "
                f"({about.command})."
            )
        return about

    def write(self, about: Mapping[str, Any]) -> None:
        """Write `fit.json` without secrets and names of people or machines."""
        values = redact.values({"format": FORMAT, **about})
        files.write(self.path / ABOUT, files.to_json(values, 2) + "\n")
