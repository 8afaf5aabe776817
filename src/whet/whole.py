"""Files that are whole or absent: written beside their place, flushed to disk, renamed into it."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

DRAFT = ".writing"  # how the name of what is being written ends
PIECE = 1 << 18  # bytes that are summed up while they are still in the processor's cache


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


class Summed:
    """A file to write to that counts and sums up what passes: nothing need be read again.

    A CRC-32 finds every single flipped bit, every burst of up to 32 bits, and any other damage but
    one in four billion. It takes a third of the time of SHA-256; neither says who wrote a file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size = self.crc32 = 0

    def write(self, data: bytes | memoryview) -> int:
        """Pass bytes on."""
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)
        return self.file.write(data)

    def flush(self) -> None:
        """Hand what is held back to the system."""
        self.file.flush()


def crc32(path: Path) -> int:
    """The CRC-32 of a file, read in pieces."""
    found, piece = 0, bytearray(PIECE)
    with path.open("rb", 0) as file:
        while count := file.readinto(piece):
            found = zlib.crc32(memoryview(piece)[:count], found)
    return found


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
