"""Files that are whole or absent: written beside their place, flushed to disk, renamed into it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

DRAFT = ".writing"  # how the name of what is being written ends


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_synced(path: Path, data: bytes) -> None:
    """Write bytes and wait until the disk has them."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, data: bytes) -> None:
    """Replace a file whole; a reader or a crash sees the old bytes or the new, never a part.

    Raises:
        OSError: the disk refused (full, read-only); the old file is as it was.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(draft, data)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
