"""A task and methods that come to their results at once, in place of training.

`python -m tests.study.fakes study toy ...` is the command line with these in place of the real
ones, in the workers too: a spawned process imports its parent's main module.
"""

import errno
import hashlib
import os
import signal
import sys
import time
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from whet.errors import InputError, UnknownName
from whet.study.plan import Arm, Node, Row

EFFECTS = {"good": 0.02, "bad": -0.03, "noise": 0.0, "slow": 0.001, "<script>": 0.005, "same": None}
ROUGH = ("raises", "mistake", "killed", "exits", "diverges", "inapplicable", "garbage",
         "fragile", "full")  # fmt: skip
METRICS = ["accuracy", "log_loss"]


def describe(name: str, file: str | None = None, device: str = "auto") -> dict[str, Any]:
    if name not in names():
        raise UnknownName("task", name, names())
    return {
        "device": "cpu", "name": name, "title": f"The {name} task", "metric": "accuracy",
        "higher_is_better": True,
        "metrics": METRICS, "seeds": 3, "methods": ["good", "noise"], "updates": 40,
        "stage": {"batch_size": 16, "accumulate": 1, "rate": 0.001, "schedule": "cosine",
                  "optimizer": {"name": "adamw", "lr": 0.001}},
        "settings": {"tuned": {"weight": 3}}, "left_out": {"bad": "known to be <bad>"},
    }  # fmt: skip


def rates(
    name: str, file: str | None, arms: Sequence[Arm], updates: int, after: float,
    lr: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    course = {"arms": [arm.name for arm in arms], "ends": [updates],
              "points": [[at, 1 - at / updates] for at in range(updates)]}  # fmt: skip
    return {"rate": lr or 0.001, "courses": [course], "untold": []}


def names() -> list[str]:
    return ["toy", "other"]


def catalogue() -> list[dict[str, Any]]:
    setting = {"name": "weight", "default": 1.0, "range": "[0, inf)"}
    facts = {"paper": "A. Author (2020)", "owns": ["backward"], "needs": [], "phase": "training",
             "placements": ["anytime"], "companions": [], "looks_ahead": False,
             "during": [0.0, 1.0],
             "cost": "1 pass", "tier": 1, "data": "any",
             "avoid_when": "never", "status": "stable", "layer": "objective"}  # fmt: skip
    return [
        {"name": name, "title": f"Title of {name}", "settings": [setting], "doc": "A docstring."}
        | facts
        for name in (*EFFECTS, *ROUGH)
    ]


def make(settings: dict[str, Any]) -> None:
    if settings.get("weight", 1) < 0:
        raise InputError(f"{settings['name']}: weight is {settings['weight']}; must be [0, inf).")


def noise(*key: object) -> float:
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 - 0.5


def train(node: Node, folder: Path) -> Row:
    method = node.methods[0] if node.methods else {"name": "baseline"}
    name = method["name"]
    with (folder / "attempts").open("a") as file:
        file.write(f"{os.getpid()} {node.options['threads']}\n")
    if name in ROUGH and (name, node.seed > 0) != ("killed", True):
        return rough(name, node, folder)
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
    effect = EFFECTS.get(name, 0.0)
    weight = method.get("weight", 1.0)
    base = 0.9 + 0.02 * noise(node.seed)
    own = 0.0 if effect is None or name == "baseline" else 0.008 * noise(node.seed, name)
    return result(node, base + (effect or 0.0) * weight + own, 2.0 if name == "slow" else 1.0)


def rough(name: str, node: Node, folder: Path) -> Row:
    if name == "raises":
        raise RuntimeError("something <broke>")
    if name == "mistake":
        raise InputError("the data is missing")
    if name == "killed":
        os.write(1, b"last words\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "fragile":
        return fragile(node, folder)
    if name == "full":
        return full(node)
    if name == "exits":
        sys.exit(3)
    if name == "garbage":
        return {"status": "finished"}
    diverged = name == "diverges" and node.seed == 1
    if name == "diverges" and not diverged:
        return result(node, 0.9 + 0.01 * noise(node.seed), 1.0)
    status = "diverged" if diverged else "inapplicable"
    reason = f"{name} at seed {node.seed}"
    return result(node, None, 1.0) | {"status": status, "reason": reason, "metrics": {}}


def fragile(node: Node, folder: Path) -> Row:
    """Its first worker is killed."""
    if len((folder / "attempts").read_text().splitlines()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return result(node, 0.9 + 0.01 * noise(node.seed), 1.0)


def full(node: Node) -> Row:
    """Its worker's disk is full when the result is written, and has room afterwards."""
    whole = sys.modules["whet.whole"]
    before = vars(whole)["write_synced"]

    def refused(path: Path, data: bytes) -> None:
        vars(whole)["write_synced"] = before
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    vars(whole)["write_synced"] = refused
    return result(node, 0.9, 1.0)


def result(node: Node, value: float | None, cost: float) -> Row:
    metrics = {"accuracy": value, "log_loss": None if value is None else 1 - value}
    points = [(update, (value or 0.5) * (1 - 0.8**update)) for update in range(5, 41, 5)]
    return {
        "arm": node.arm, "seed": node.seed, "status": "done", "reason": None,
        "metrics": {"judge": metrics, "select": metrics},
        "curve": [{"update": u, "metrics": {"accuracy": v}} for u, v in points],
        "updates": 40, "seconds": 0.5 * cost, "seconds_per_update": 0.0125 * cost,
        "explain": f"{node.arm}\n  supervised(<categorical>)", "settings": list(node.methods),
        "key": node.key, "environment": {"torch": "fake", "device": "cpu"},
    }  # fmt: skip


def modules() -> dict[str, types.ModuleType]:
    """What stands in for the modules that know tasks and methods."""
    node = types.ModuleType("whet.study.node")
    vars(node).update(train=train, describe=describe, rates=rates)
    tasks = types.ModuleType("whet.tasks")
    vars(tasks).update(names=names)
    methods = types.ModuleType("whet.methods")
    vars(methods).update(catalogue=catalogue, make=make)
    riders = types.ModuleType("whet.study.riders")
    vars(riders).update(looks_on=lambda _: False, takes_along=lambda _: True)
    return {"whet.study.node": node, "whet.methods": methods, "whet.tasks": tasks,
            "whet.study.riders": riders}  # fmt: skip


if __name__ in ("__main__", "__mp_main__"):
    sys.modules.update(modules())

if __name__ == "__main__":
    from whet.cli import main
    from whet.study import curves, figures
    from whet.study.report import page

    # two seconds that these tests do not need
    figures.forest = figures.picture = page.tradeoff = lambda *_: ""
    curves.panels = lambda *_: []
    main()
