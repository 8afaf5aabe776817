"""Which code and which versions made a result, so that a change reruns what it touches.

The code of an arm is the syntax tree, without comments and docstrings, of every whet module that
its training can reach by imports. It is read from the files: nothing is imported for it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path

from whet.study.plan import Arm, canonical

PACKAGE = Path(__file__).parents[1]
TRAINING = "whet.study.node"
DECIDING = ("torch", "numpy", "scikit-learn")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(task: str, arm: Arm) -> str:
    """A hash of the modules that an arm's training reaches and of the packages it stands on."""
    starts = [TRAINING, f"whet.tasks.{task}"]
    starts += [f"whet.methods.{settings['name']}" for settings in arm.methods]
    modules = {name: _digest(path) for name, path in sorted(reached(starts).items())}
    deciding = {name: text for name, text in versions().items() if name in ("python", *DECIDING)}
    return hashlib.sha256(canonical([modules, deciding]).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions of the interpreter and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in ("whet", *DECIDING, "scipy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def reached(starts: Iterable[str]) -> dict[str, Path]:
    """The modules of the package that the given ones import, themselves included."""
    found: dict[str, Path] = {}
    waiting = list(starts)
    while waiting:
        name = waiting.pop()
        path = None if name in found or _apart(name) else _file(name)
        if path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imports(name, path)]
    return found


def _apart(name: str) -> bool:
    """Planning, keeping and showing do not change what is trained."""
    first, second, *_ = *name.split("."), ""
    return first != "whet" or name == "whet.cli" or (second == "study" and name != TRAINING)


def _file(name: str) -> Path | None:
    stem = PACKAGE.joinpath(*name.split(".")[1:])
    places = (stem.with_name(stem.name + ".py"), stem / "__init__.py")
    return next((path for path in places if path.is_file()), None)


@functools.cache
def _tree(path: Path) -> ast.Module:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(ast.dump(_tree(path)).encode()).hexdigest()[:16]


@functools.cache
def _imports(name: str, path: Path) -> frozenset[str]:
    return frozenset(_asked(name, path))


def _asked(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in _running(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _running(node)
