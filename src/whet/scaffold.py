"""Files to begin with: templates that run as they are, one for each kind of data.

A template is an ordinary Python file under `templates`, which is no package: whet never imports it.
"""

from __future__ import annotations

from pathlib import Path

from whet import places, whole
from whet.errors import InputError, UnknownName

TEMPLATES = Path(__file__).parent / "templates"


def kinds() -> dict[str, str]:
    """The kinds of data that there is a template for, each with its title.

    >>> list(kinds())
    ['huggingface', 'images', 'table', 'text', 'torch']
    """
    return {path.stem: _title(path) for path in sorted(TEMPLATES.glob("*.py"))}


def write(path: str | Path, kind: str, *, force: bool = False) -> Path:
    """Write a kind's template whole; a folder that is not there is made.

    Args:
        path: of the new file; it ends in `.py`.
        kind: one of `kinds()`.
        force: whether a file that is there is replaced.

    Raises:
        UnknownName: there is no such kind.
        InputError: the path is no Python file's, is taken, names a module that others import, or
            cannot be written.
    """
    if kind not in kinds():
        raise UnknownName("kind of task file", kind, kinds())
    path = Path(path)
    places.check_name(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file in it, such as {path / 'task.py'}.")
    if path.exists() and not force:
        raise InputError(f"{path} is there already: name another file, or replace it by --force.")
    try:
        whole.replace(path, (TEMPLATES / f"{kind}.py").read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error
    return path


def _title(template: Path) -> str:
    first, _, _ = template.read_text("utf-8").removeprefix('"""').partition("\n")
    return first.rstrip(".")
