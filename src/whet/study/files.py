"""A study's files: text and JSON lines that are whole or absent, and the lock on their folder."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whet import parsing, whole
from whet.errors import InputError, WhetError

if sys.platform != "win32":
    import fcntl


WORDS = 400  # bytes of a lock's file that are read


class InUse(InputError):
    """Another process holds the folder."""


def write(path: Path, content: str | bytes) -> None:
    """Replace a file whole; a reader or a crash sees the old one or the new, never a part."""
    try:
        whole.replace(path, content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        raise _unwritable(path, error) from error


def append(path: Path, line: str) -> None:
    """Add one line and flush it to disk; a crash in between leaves a torn last line."""
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise _unwritable(path, error) from error


def to_json(values: object, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinities become null, which every reader understands."""
    return json.dumps(_finite(values), indent=indent, ensure_ascii=False, allow_nan=False)


def read_text(path: Path) -> str | None:
    """What a file holds; None where there is no file or no text in it.

    Raises:
        WhetError: there is one, and it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    except OSError as error:
        raise WhetError(f"{path} cannot be read ({error.strerror}).") from error


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no file or no whole object in it."""
    try:
        values = parsing.values(read_text(path) or "")
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The whole lines of a JSON lines file, and how many lines were torn."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0
    rows, torn = [], 0
    for line in filter(None, lines):
        try:
            row = parsing.values(line)
        except ValueError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            torn += 1
    return rows, torn


def sweep(folder: Path) -> int:
    """Remove what a killed process left half written; says how many files that were."""
    left = [path for path in folder.rglob(f".*{whole.DRAFT}") if path.is_file()]
    for path in left:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return len(left)


@contextmanager
def locked(path: Path, what: str) -> Iterator[int | None]:
    """Hold a folder's lock; yields the process that died holding it, None where none did.

    The lock is the operating system's and ends with its process, however that ends. The number
    in the file only tells a second process whom it is waiting for.
    """
    if sys.platform == "win32":
        raise InputError("A study needs POSIX file locks. Run it under WSL.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        written, _ = _written(os.pread(descriptor, WORDS, 0).decode(errors="replace"))
        _take(descriptor, written, what)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {platform.node()}".encode(), 0)
        try:
            yield int(written) if written else None
        finally:
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def holder(path: Path) -> tuple[int, str] | None:
    """The process and the machine that wrote themselves into a lock's file; it is only read.

    Whether that process is still there is not in the file: only taking the lock would tell.
    """
    try:
        with path.open("rb") as file:
            process, machine = _written(file.read(WORDS).decode(errors="replace"))
    except OSError:
        return None
    return (int(process), machine) if process else None


def _written(text: str) -> tuple[str, str]:
    """Process and machine in a lock's file; empty where there is none."""
    process, _, machine = text.strip().partition(" ")
    return (process, machine) if process.isascii() and process.isdigit() else ("", "")


def _take(descriptor: int, holder: str, what: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUse(
            f"{what} is in use by process {holder or 'unknown'}. "
            "Wait until it ends, stop it, or choose another --out."
        ) from error
    except OSError as error:
        raise InputError(
            f"{what} cannot be locked ({error.strerror}). Choose an --out on a local disk."
        ) from error


def _finite(values: object) -> object:
    if isinstance(values, float):
        return values if math.isfinite(values) else None
    if isinstance(values, dict):
        return {key: _finite(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_finite(value) for value in values]
    return values


def _unwritable(path: Path, error: OSError) -> WhetError:
    return WhetError(
        f"{path} cannot be written ({error.strerror}). Nothing that was finished is lost: make "
        "room or mend the permissions, and give the same command again."
    )
