"""From times to results.json and a table."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.entries import Condition, Entry, Group
from benchmarks.timing import Times, interleave, interval, spread, threads

Results = dict[str, dict[str, Any]]


def environment() -> dict[str, Any]:
    """What the numbers depend on, and nothing that names a machine."""
    packages = ("torch", "lightning", "lightning-fabric", "accelerate", "transformers")
    return {
        **{name: version(name) for name in packages},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": 1,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def measure(group: Group, repeats: int | None) -> Results:
    """The numbers of a group."""
    with threads(group.threads):
        times = interleave(group.contenders, repeats or group.repeats, group.each, group.warmup)
    return {entry.name: _result(entry, group, times) for entry in group.entries}


def _result(entry: Entry, group: Group, times: Times) -> dict[str, Any]:
    """One entry; `interval` is that of what the target is about: the ratio, or the microseconds."""
    own, against = times[entry.contender], times[entry.against]
    if entry.less is not None:
        own = [a - b for a, b in zip(own, times[entry.less], strict=True)]
    ratios = _divided(own, against)
    added = [(a - b) / group.units * 1e6 for a, b in zip(own, against, strict=True)]
    is_added, per = entry.added is not None, group.scale
    shown = added if is_added else [value * per for value in own]
    others = {name: statistics.median(_divided(times[name], against)) for name in entry.below}
    return {
        "ratio": round(statistics.median(ratios), 4),
        "median": round(statistics.median(shown), 4),
        "spread": round(spread(ratios), 4),
        "interval": [round(end, 4) for end in interval(added if is_added else ratios)],
        "unit": f"{'us added' if is_added else group.measure} per {group.unit}",
        "target": entry.target,
        "met": entry.met(statistics.median(ratios), statistics.median(added), others)
        if entry.where is None or _holds(entry.where, times)
        else None,
        "repeats": len(ratios),
        "against": f"{entry.against}, {statistics.median(against) * per:.3f} {group.measure}",
        "threads": group.threads,
        "command": f"python -m benchmarks {entry.name}",
        "note": entry.note,
    }


def _holds(where: Condition, times: Times) -> bool:
    ratios = _divided(times[where.contender], times[where.against])
    return statistics.median(ratios) <= where.most


def _divided(times: list[float], others: list[float]) -> list[float]:
    return [a / b for a, b in zip(times, others, strict=True)]


def write(path: Path, measured: Results) -> None:
    """Write, beside what the file holds of the same environment already."""
    here = environment()
    before: dict[str, Any] = {}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
    kept = before if before.get("environment") == here else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {**kept, **measured, "environment": here}
    path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def show(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print a table."""
    columns = ("name", "ratio", "spread", "median", "against", "target", "met")
    table = Table(*columns, title=f"torch {torch.__version__}, {_cpu()}, {os.cpu_count()} cores")
    for name, row in measured.items():
        met = {True: "[green]yes", False: "[red]no", None: ""}[row["met"]]
        numbers = (f"{row['ratio']:.3f}", f"{row['spread']:.3f}", f"{row['median']:.3f}")
        table.add_row(name, *numbers, row["against"], row["target"] or "", met)
    Console(width=max(Console().width, 120)).print(table)
