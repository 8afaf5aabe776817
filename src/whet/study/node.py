"""Training one node of a study: the only part of it that needs torch."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whet import methods, tasks
from whet.errors import Clash, NonFiniteLoss, NotApplicable
from whet.metrics import METRICS
from whet.run import Run
from whet.stage import Stage
from whet.study.plan import Node, Row
from whet.tasks import About


def describe(name: str) -> dict[str, Any]:
    """What a study needs to know of a task before it trains."""
    module = tasks.load(name)
    about: About = module.ABOUT
    return {
        "name": name, "title": about.title, "metric": about.metric,
        "higher_is_better": METRICS[about.metric].higher_is_better,
        "metrics": list(module.METRICS), "seeds": about.seeds, "updates": about.updates,
        "methods": list(about.methods), "left_out": dict(about.left_out),
        "settings": {name: dict(given) for name, given in about.settings.items()},
    }  # fmt: skip


def train(node: Node, folder: Path) -> Row:
    """Train a node and judge it; what cannot be trained comes back with status and reason.

    A node that was cut off continues from its own checkpoint in `folder`.
    """
    began = time.perf_counter()
    row: Row = {
        "arm": node.arm, "seed": node.seed, "key": node.key, "status": "done", "reason": None,
        "settings": [dict(given) for given in node.methods], "metrics": {}, "curve": [],
        "updates": 0, "seconds_per_update": None, "explain": "", "environment": environment(),
    }  # fmt: skip
    try:
        row |= _train(node, folder)
    except NotApplicable as error:
        row |= {"status": "inapplicable", "reason": error.reason}
    except Clash as error:
        row |= {"status": "refused", "reason": str(error)}
    except NonFiniteLoss as error:
        row |= {"status": "diverged", "reason": str(error)}
    return row | {"seconds": time.perf_counter() - began}


def _train(node: Node, folder: Path) -> dict[str, Any]:
    module = tasks.load(node.task)
    about: About = module.ABOUT
    updates = int(node.options.get("updates", about.updates))
    every = max(1, updates // 6)
    stage = Stage(
        updates=updates, batch_size=about.batch_size, optimizer=about.optimizer,
        schedule=_schedule(about, node.methods), methods=list(node.methods),
    )  # fmt: skip
    clock = _Clock()
    run = Run(
        module.task(node.seed), stage, node.seed, folder=folder, device="cpu",
        evaluate_every=every, checkpoint_every=every, keep=1, on_update=clock.tick,
    )  # fmt: skip
    run.fit()
    return {
        "metrics": {"judge": run.evaluate("judge"), "select": run.evaluate("select")},
        "curve": [{"update": row["update"], "metrics": row["metrics"]} for row in run.history],
        "updates": run.updates, "seconds_per_update": clock.median(),
        "explain": run.stack.explain(),
    }  # fmt: skip


def _schedule(about: About, given: tuple[Mapping[str, Any], ...]) -> Any:
    # a method that owns the learning rate brings its own schedule; that is part of its arm
    kinds = [methods.registry()[str(one["name"])] for one in given]
    owned = any(methods.Resource.LEARNING_RATE in kind.owns for kind in kinds)
    return None if owned else about.schedule


class _Clock:
    """Seconds per update, without evaluation and checkpoints: the median of all gaps."""

    def __init__(self) -> None:
        self.last, self.gaps = time.perf_counter(), [0.0]

    def tick(self, run: Run) -> None:
        """An update happened."""
        now = time.perf_counter()
        self.gaps.append(now - self.last)
        self.last = now

    def median(self) -> float:
        """The median gap."""
        return sorted(self.gaps)[len(self.gaps) // 2]


def environment() -> dict[str, Any]:
    """What the numbers depend on, without names of hosts or people."""
    return {
        "torch": torch.__version__, "python": platform.python_version(),
        "machine": platform.machine(), "system": platform.system(),
        "cores": os.cpu_count(), "threads": torch.get_num_threads(), "device": "cpu",
    }  # fmt: skip
