"""By what a task is named: a built-in name, or the place of a user's file."""

from __future__ import annotations

import re
from pathlib import Path


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
