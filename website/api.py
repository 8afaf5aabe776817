"""The API's pages: the public names of whet and of each of its subpackages."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import whet

ALSO = {  # what a user needs beside the names of a package
    "whet": ["whet.patience.EarlyStopping", "whet.recipes.growing_batch",
             "whet.recipes.unfreezing", "whet.recipes.switching"],
    "whet.study": [f"whet.study.statistics{module}" for module in (
        "", ".family", ".flips", ".resampling", ".costs")]
    + ["whet.study.live.look", "whet.study.live.Watcher", "whet.study.view.View",
       "whet.study.pulse.Now"],
}  # fmt: skip


def pages() -> dict[str, str]:
    """A page for whet and one for each subpackage that offers names."""
    packages = [whet, *(importlib.import_module(f"whet.{each.name}")
                        for each in pkgutil.iter_modules(whet.__path__) if each.ispkg)]  # fmt: skip
    found = {package.__name__: names(package) for package in packages}
    return {f"api/{package}.md": page(package, every) for package, every in found.items() if every}


def names(package: ModuleType) -> list[str]:
    """The full paths of a package's public names, each where it is defined."""
    public = getattr(package, "__all__", None) or [
        name for name, each in vars(package).items()
        if not name.startswith("_") and getattr(each, "__module__", None) == package.__name__
    ]  # fmt: skip
    homes = [home(package, name) for name in public if not name.startswith("__")]
    return [*filter(None, homes), *ALSO.get(package.__name__, [])]


def home(package: ModuleType, name: str) -> str | None:
    """Where a name is defined; None for what is no class or function."""
    each = getattr(package, name)
    if not (inspect.isclass(each) or inspect.isfunction(each)):
        return None
    return f"{each.__module__}.{each.__qualname__}"


def page(package: str, every: list[str]) -> str:
    """One package."""
    blocks = [f"::: {path}\n    options: {{heading_level: 2}}" for path in every]
    about = inspect.cleandoc(importlib.import_module(package).__doc__ or "")
    return "\n\n".join([f"# {package}", about, *blocks]) + "\n"
