"""The executor file: TOML that says where batch jobs run; docs/clusters.md shows all of it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whet.errors import InputError

Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """What an executor file may say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["slurm", "local"]
    concurrency: Positive = 16
    timeout_min: Positive = 60
    cpus_per_task: Positive | None = None
    gpus_per_node: Annotated[int, Field(ge=0, le=1)] = 0
    mem_gb: Annotated[float, Field(gt=0)] | None = None
    partition: str | None = None
    account: str | None = None
    setup: tuple[str, ...] = ()
    container: str | None = None
    container_mounts: str | None = None
    python: str | None = None
    sbatch: dict[str, str | int | bool] = {}
    requeue: bool = False
    resubmissions: Annotated[int, Field(ge=0)] = 3
    period_s: Annotated[float, Field(gt=0)] = 5.0
    patience_s: Annotated[float, Field(ge=0)] = 60.0

    @property
    def device(self) -> str:
        """What the jobs train on."""
        return "cuda" if self.gpus_per_node else "cpu"


def read(path: Path) -> Settings:
    """The settings in an executor file.

    Raises:
        InputError: it cannot be read, or says what it may not; with the field and the remedy.
    """
    try:
        return Settings.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(
            f"--executor {path} cannot be read ({error.strerror}). docs/clusters.md shows one."
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}. docs/clusters.md shows one.") from error
    except ValidationError as error:
        raise InputError(f"{path}: {_wrong(error)}") from error


def _wrong(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"there is no setting {field!r}. There are: {', '.join(Settings.model_fields)}"
    if first["type"] == "missing":
        return f'{field} is missing: write kind = "slurm" (or "local", to try it out)'
    return f"{field} = {first['input']!r}: {first['msg'].lower()}"
