"""A model that was fitted, on the hub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from whet import exported, hub
from whet.fit.folder import ABOUT, Folder

TOLD = ("task", "seed", "precision", "methods", "recipe", "classes", "metrics", "versions")


def save_pretrained(fitted: Path, folder: Path, name: str = "") -> Path:
    """Write the model of a `whet fit` folder as a hub holds it.

    What `fit.json` tells of the training comes along; checkpoints, logs and the command stay.

    Raises:
        InputError, CheckpointError: the folder holds no finished model, or a damaged one.
    """
    place = Folder(fitted)
    place.finished()
    told = json.loads((fitted / ABOUT).read_text("utf-8"))
    header, members = exported.read(place.model)
    its = {"family": header["family"], "members": len(members)}
    hub.describe(folder, {**its, **{key: told[key] for key in TOLD if key in told}}, name=name)
    shutil.copyfile(place.model, folder / hub.WEIGHTS)
    return folder


def push(
    fitted: Path, repository: str, *, private: bool | None = None, revision: str | None = None,
    message: str = "Upload a model fitted by whet", create_pr: bool = False,
) -> str:  # fmt: skip
    """Upload the model of a `whet fit` folder; gives the commit's address."""
    with TemporaryDirectory() as place:
        save_pretrained(fitted, Path(place), repository)
        return hub.push_to_hub(
            place, repository, private=private, revision=revision, create_pr=create_pr,
            message=message,
        )  # fmt: skip
