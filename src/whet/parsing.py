"""Files that may come from other people: JSON that is harmless, archives that are no bombs.

What is wrong is a ValueError here; each reader says it with the file's name and the remedy.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any

DEEPEST = 64  # levels of JSON; what whet writes has ten, and Python's stack ends near a thousand
ALWAYS = 1 << 30  # bytes that an archive may always unpack to
RATIO = 100  # times its own size that a larger one may; zeros are packed a thousand times smaller


def values(written: str | bytes, constants: bool = True) -> Any:
    """JSON as plain values; without `constants` NaN and Infinity are none.

    Raises:
        ValueError: it is no JSON, is nested too deeply to be worked with, or holds half a
            character, which no file could take again.

    >>> values('{"a": [1, 2]}')
    {'a': [1, 2]}
    """
    try:
        found = json.loads(written, parse_constant=float if constants else _refuse)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep") from None
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        level = [part for each in level for part in _parts(each)]
    if "\\u" in (written if isinstance(written, str) else written.decode("utf-8", "replace")):
        json.dumps(found, ensure_ascii=False).encode()  # of a lone surrogate a UnicodeEncodeError
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _parts(value: object) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def check_unpacked(packed: int, unpacked: int) -> None:
    """Refuse what unpacks to far more than it takes on disk, before memory is given to it.

    Raises:
        ValueError: it unpacks to more than 1 GiB and more than a hundred times its size.
    """
    if unpacked > max(ALWAYS, RATIO * packed):
        raise ValueError(
            f"its {packed} bytes unpack to {unpacked} or more; if that is meant, store it unpacked"
        )


def check_archive(archive: zipfile.ZipFile, packed: int) -> None:
    """`check_unpacked` for all members of a zip, by what its directory says of them.

    Python reads no more of a member than the directory says.
    """
    check_unpacked(packed, sum(item.file_size for item in archive.infolist()))
