"""Train neural networks with methods that compose, and measure which of them help.

Names are loaded when first used, so that the torch-free parts stay torch-free.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whet import recipes as recipes
    from whet.batch import Batch as Batch
    from whet.errors import WhetError as WhetError
    from whet.forward import Forward as Forward
    from whet.hub import from_pretrained as from_pretrained
    from whet.hub import push_to_hub as push_to_hub
    from whet.hub import save_pretrained as save_pretrained
    from whet.members import Members as Members
    from whet.method import Layer as Layer
    from whet.method import Method as Method
    from whet.method import Resource as Resource
    from whet.objectives import Objective as Objective
    from whet.optim import parameter_groups as parameter_groups
    from whet.predict import Predictor as Predictor
    from whet.preparing import channels_last as channels_last
    from whet.preparing import initialise as initialise
    from whet.preparing import reinitialise_top as reinitialise_top
    from whet.preparing import zero_init_residual as zero_init_residual
    from whet.rate_finder import find_lr as find_lr
    from whet.robustness import robust_accuracy as robust_accuracy
    from whet.run import Run as Run
    from whet.stack import Stack as Stack
    from whet.stage import Recipe as Recipe
    from whet.stage import Stage as Stage
    from whet.study.resolution import resolution_sweep as resolution_sweep
    from whet.study.study import Study as Study
    from whet.task import Task as Task
    from whet.tasks import About as About

    __version__: str

_HOMES = {
    "About": "tasks", "Batch": "batch", "Forward": "forward", "Layer": "method",
    "Members": "members", "Method": "method", "Objective": "objectives", "Predictor": "predict",
    "Recipe": "stage", "Resource": "method", "Run": "run", "Stack": "stack", "Stage": "stage",
    "Study": "study.study", "Task": "task", "WhetError": "errors",
    "channels_last": "preparing", "find_lr": "rate_finder", "from_pretrained": "hub",
    "initialise": "preparing", "parameter_groups": "optim", "push_to_hub": "hub",
    "reinitialise_top": "preparing", "resolution_sweep": "study.resolution",
    "robust_accuracy": "robustness", "save_pretrained": "hub", "zero_init_residual": "preparing",
}  # fmt: skip

_MODULES = {"recipes"}

__all__ = ["__version__", *sorted({*_HOMES, *_MODULES})]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("whet")
    if name in _MODULES:
        return importlib.import_module(f"whet.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'whet' has no attribute {name!r}")
    return getattr(importlib.import_module(f"whet.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
