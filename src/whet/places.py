"""By what a task is named: a built-in name, or a user's file and what it may be called."""

from __future__ import annotations

import re
import sys
import sysconfig
from importlib.machinery import PathFinder
from pathlib import Path

from whet.errors import InputError


def file_of(text: str) -> Path | None:
    """The file that a task is named by on the command line; None for a built-in name.

    >>> file_of("digits"), str(file_of("my/task.py"))
    (None, 'my/task.py')
    """
    path = Path(text)
    return path if path.suffix == ".py" or len(path.parts) > 1 else None


def name_of(file: Path) -> str:
    """What a study of a file is called: the file's name, or its folder's where that is `task`.

    >>> name_of(Path("churn/task.py")), name_of(Path("churn/deep.py"))
    ('churn', 'deep')
    """
    file = file.resolve()
    stem = file.parent.name if file.stem == "task" and file.parent.name else file.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "task"


def check_name(path: Path) -> None:
    """Refuse the name of a file that is no Python file's, or that of a module others import.

    The folder of a task's file comes first on the import path, so that a torch.py in it would be
    imported for torch.

    Raises:
        InputError: the name is refused; it says what to call the file.
    """
    if path.suffix != ".py":
        raise InputError(
            f"{path} is no Python file: let it end in .py, as {path.name or 'task'}.py."
        )
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    taken = path.stem in {"whet", *sys.stdlib_module_names}
    if taken or PathFinder.find_spec(path.stem, installed):
        raise InputError(
            f"{path.name} would be imported wherever {path.stem!r} is meant, as its folder comes "
            f"first: call it my_{path.name}, for example."
        )
