"""Studies of the toy task in this process, whose runs are a function given here."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from whet.study import curves, figures
from whet.study.conduct import conduct
from whet.study.evidence import Evidence
from whet.study.plan import Node, Row
from whet.study.report import page, plots
from whet.study.request import Request

DRAWN = ((figures, "forest"), (figures, "picture"), (page, "tradeoff"), (curves, "_panel"),
         (plots, "rates"), (plots, "_by_data"))  # fmt: skip
Train = Callable[[Node, Path], Row]


def study(patch: pytest.MonkeyPatch, train: Train, **asked: Any) -> tuple[Evidence, str]:
    """What the study came to, and what it said; the fixture `faked` must be in use."""
    patch.setattr(sys.modules["whet.study.node"], "train", train)
    for module, name in DRAWN:  # seconds that these tests do not need
        patch.setattr(module, name, lambda *_: "")
    said = io.StringIO()
    found = conduct(Request("toy", code="here", **asked), Console(file=said, width=200))
    assert isinstance(found, Evidence)
    return found, said.getvalue()
