"""Where contenders write: a folder that goes when the benchmarks end; TMPDIR says on which disk."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path


@cache
def _home() -> Path:
    home = Path(tempfile.mkdtemp(prefix="whet-benchmarks-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def place(name: str) -> Path:
    """A folder for one contender."""
    folder = _home() / name
    folder.mkdir(exist_ok=True)
    return folder
