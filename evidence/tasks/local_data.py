"""Where the data sets of the evidence lie: the folder that WHET_DATA names, one folder for each."""

from __future__ import annotations

import os
from pathlib import Path

from whet.errors import InputError


def folder(name: str) -> Path:
    """The folder of a data set; evidence/README.md says where each was taken from.

    Raises:
        InputError: WHET_DATA is not set, or has no such folder.
    """
    root = os.environ.get("WHET_DATA")
    if not root or not (Path(root) / name).is_dir():
        where = f"WHET_DATA is {root}, which has no folder {name}" if root else "it is not set"
        raise InputError(
            f"the data set {name} is looked for in the folder that WHET_DATA names, and {where}. "
            "evidence/README.md says where each data set was taken from and how it was cut."
        )
    return Path(root) / name
