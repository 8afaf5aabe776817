"""Studies: arms times seeds, trained, kept as files, compared in pairs and reported.

Only `node` trains. What keeps, computes and shows imports no torch, and no task's code.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from whet.study.arms import Grid as Grid

if TYPE_CHECKING:
    from whet.study.statistics import compare as compare

__all__ = ["Grid", "compare"]


def __getattr__(name: str) -> Any:
    if name != "compare":  # which loads scipy
        raise AttributeError(f"module 'whet.study' has no attribute {name!r}")
    return getattr(importlib.import_module("whet.study.statistics"), name)
