"""One member of an ensemble: what a worker trains, on whatever machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

from whet.fit import conduct
from whet.fit.folder import ABOUT, MEMBERS
from whet.fit.request import Request
from whet.study.node import environment
from whet.study.plan import Node, Row
from whet.study.pulse import Pulse

TRAIN = f"{__name__}:train"


def request_of(node: Node, ensemble: Path) -> Request:
    """What `whet fit` would be asked for."""
    told = dict(node.options)
    recipe = told["recipe"]
    return Request(
        node.task, None if node.file is None else Path(node.file),
        None if recipe is None else Path(recipe), told["methods"],
        ensemble / MEMBERS / node.arm, node.seed, told["device"], told["precision"],
        told["updates"], told["epochs"], start=told["start"],
    )  # fmt: skip


def train(node: Node, folder: Path) -> Row:
    """Fit a member into its folder of the ensemble's; goes on where it was cut off."""
    began = time.perf_counter()
    request = request_of(node, folder.parents[2])
    conduct.fit(request, [Pulse(node, folder)])
    told = json.loads((request.folder / ABOUT).read_text("utf-8"))
    return {
        "arm": node.arm, "seed": node.seed, "key": node.key, "status": "done", "reason": None,
        "settings": told["methods"] or [], "metrics": told["metrics"], "curve": [],
        "updates": told["updates"], "seconds_per_update": None, "explain": told["explain"],
        "environment": environment(), "seconds": time.perf_counter() - began,
    }  # fmt: skip
