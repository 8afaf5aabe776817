"""A user's Python file: imported and run, and its errors with the lines that they come from.

It is imported with its folder in front of the import path, as `python file.py` would.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
import traceback
from pathlib import Path
from types import ModuleType

from whet import places
from whet.errors import InputError


def imported(path: Path, remedy: str) -> ModuleType:
    """The module of a file; the same one again until the file is edited.

    Args:
        path: of the file.
        remedy: what is said where there is no such file.

    Raises:
        InputError: there is none, it is called as a module that others import, or its code raised.
    """
    if not path.is_file():
        raise InputError(f"there is no file {path}. {remedy}")
    places.check_name(path)
    path = path.resolve()
    written = hashlib.sha256(str(path).encode() + path.read_bytes())
    name = f"whet_task_{written.hexdigest()[:12]}"  # an edited file is another module
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None  # of a name that ends in .py
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(told("importing it", path, error)) from error
    return module


def told(what: str, file: Path | None, error: Exception) -> str:
    """The error of a user's code with the lines it came from; what called them is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [n for n, frame in enumerate(frames) if file and frame.filename == str(file.resolve())]
    kept = frames[own[0] :] if own else frames[-3:]
    lines = "".join(traceback.format_list(kept)).rstrip()
    where = f"{file}: " if file else ""
    return f"{where}{what} raised\n{lines}\n{type(error).__name__}: {error}"


def functions(module: ModuleType) -> str:
    """The functions of a file, for a message about the one that it lacks."""
    found = [n for n, value in vars(module).items() if inspect.isfunction(value) and n[0] != "_"]
    return ", ".join(found) or "none"
