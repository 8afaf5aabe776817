"""Which code and which versions made a result, so that a change reruns what it touches.

The code of an arm is the syntax tree, without comments and docstrings, of every whet module that
its training can reach by imports. It is read from the files: nothing is imported for it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import inspect
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from whet.study.plan import canonical

PACKAGE = Path(__file__).parents[1]
TRAINING = "whet.study.node"
DECIDE = (
    TRAINING,
    "whet.study.conditions",
    "whet.study.riders",
)  # of a study's modules, on results
DECIDING = ("torch", "numpy", "scikit-learn")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_of(methods: Iterable[str], task: str = "", file: Path | None = None) -> str:
    """A hash of the modules that an arm's training reaches and of the packages it stands on.

    Args:
        methods: names of the methods that take part.
        task: a built-in task's name.
        file: a user's file; what it imports from its own folder counts as its code.
    """
    starts = [TRAINING, *(f"whet.methods.{name}" for name in methods)]
    starts += [f"whet.tasks.{task}"] if task else []
    found = reached(starts)
    deciding = {name: text for name, text in versions().items() if name in ("python", *DECIDING)}
    if file is not None:
        own, others = _around(file.resolve())
        found |= {"": file.resolve()} | own | reached(others)
        deciding |= _installed(others)
    modules = {name: _digest(path) for name, path in sorted(found.items())}
    return hashlib.sha256(canonical([modules, deciding]).encode()).hexdigest()[:16]


def code_of_function(make: FunctionType) -> str:
    """A hash of a notebook's function, with the functions, classes and values that it names."""
    found: dict[str, Any] = {}
    waiting: list[tuple[str, object]] = [("", make)]
    while waiting:
        name, value = waiting.pop()
        if name in found:
            continue
        codes = [code for each in _functions(value, make) for code in _nested(each.__code__)]
        found[name] = [_compiled(code) for code in codes] or _plain(value)
        named = {each for code in codes for each in code.co_names} & make.__globals__.keys()
        waiting += [(each, make.__globals__[each]) for each in sorted(named)]
        cells = value.__closure__ or () if isinstance(value, FunctionType) else ()
        waiting += [(f"{name}.{n}", cell.cell_contents) for n, cell in enumerate(cells)]
    return hashlib.sha256(canonical(found).encode()).hexdigest()[:16]


def _functions(value: object, make: FunctionType) -> list[FunctionType]:
    """The functions that a function or class written beside `make` consists of."""
    if getattr(value, "__module__", None) != make.__module__:
        return []
    if inspect.isclass(value):
        parts = [getattr(part, "__func__", part) for part in vars(value).values()]
        return [part for part in parts if isinstance(part, FunctionType)]
    return [value] if isinstance(value, FunctionType) else []


def _nested(code: CodeType) -> list[CodeType]:
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return [code, *(each for part in inner for each in _nested(part))]


def _compiled(code: CodeType) -> list[str]:
    constants = [part for part in code.co_consts if not isinstance(part, CodeType)]
    return [code.co_code.hex(), repr(code.co_names), repr(constants)]


def _plain(value: object) -> str:
    plain = isinstance(value, str | int | float | bool | tuple | list | dict | None)
    return repr(value) if plain else type(value).__qualname__


def _around(file: Path) -> tuple[dict[str, Path], list[str]]:
    """The modules of its folder that a file imports, and the names of all others."""
    found: dict[str, Path] = {}
    others: list[str] = []
    waiting = [("", file)]
    while waiting:
        name, path = waiting.pop()
        for asked in _imports(name, path):
            own = _there(file.parent.joinpath(*asked.split(".")))
            if own is None:
                others.append(asked)
            elif asked not in found and own != file:
                found[asked] = own
                waiting.append((asked, own))
    return found, others


def _installed(modules: Iterable[str]) -> dict[str, str]:
    """Versions of the packages that modules belong to; the standard library's is Python's."""
    tops = (
        {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names) - {"whet", ""}
    )
    packages = _packages() if tops else {}
    names = {package for top in tops for package in packages.get(top, [])}
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@functools.cache  # it reads the list of files of everything that is installed
def _packages() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


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
    return first != "whet" or second == "cli" or (second == "study" and name not in DECIDE)


def _file(name: str) -> Path | None:
    return _there(PACKAGE.joinpath(*name.split(".")[1:]))


def _there(stem: Path) -> Path | None:
    places = (stem.with_name(stem.name + ".py"), stem / "__init__.py")
    return next((path for path in places if path.is_file()), None)


def _tree(path: Path) -> ast.Module:
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: Path, changed: int) -> ast.Module:
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _digest(path: Path) -> str:
    return _digested_once(path, path.stat().st_mtime_ns)


@functools.cache
def _digested_once(path: Path, changed: int) -> str:
    return hashlib.sha256(ast.dump(_parsed(path, changed)).encode()).hexdigest()[:16]


def _imports(name: str, path: Path) -> frozenset[str]:
    return _asked_once(name, path, path.stat().st_mtime_ns)


@functools.cache
def _asked_once(name: str, path: Path, changed: int) -> frozenset[str]:
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
