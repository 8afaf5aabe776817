"""Arms of observers, taken along by the training of the arm that does without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from whet import methods
from whet.composition import companions
from whet.method import Placement
from whet.predict import Predictor
from whet.riding import Rider, carries
from whet.run import Run
from whet.study import paces
from whet.study.plan import Node, Row, Settings

Judge = Callable[[Run, Predictor], dict[str, Any]]


def looks_on(settings: Settings) -> bool:
    """Whether a method with these settings is an observer."""
    return methods.make(settings).placements is Placement.OBSERVER


def takes_along(given: Sequence[Settings]) -> bool:
    """Whether a training with these methods can be ridden on."""
    return carries([methods.make(settings) for settings in given])


def made(node: Node) -> list[Rider]:
    """The riders of a node, with the companions that their methods must not stand without."""
    return [_rider(each) for each in node.riders]


def _settings(node: Node) -> list[Settings]:
    own = node.methods if node.after is None else node.after
    return [*own, *companions(own)]


def _rider(node: Node) -> Rider:
    every = _settings(node)
    own = [methods.make(settings) for settings in every if looks_on(settings)]
    beside = {str(each["name"]) for each in companions(node.methods or node.after or ())}
    return Rider(node.key, own, 0 if node.after is None else 1, beside)


def rows(node: Node, run: Run, row: Row, after: float, judge: Judge) -> dict[str, Row]:
    """What the riders of a trained node came to, by the keys of their own nodes.

    Each takes the host's time and its own, the mean over the updates that it saw. Those that had to
    miss a part of the training have none: they are trained by themselves.
    """
    riders = {each.key: each for each in run.callbacks if isinstance(each, Rider)}
    found = {}
    for each in node.riders:
        rider = riders[each.key]
        if not rider.rides or rider.missed:
            continue
        present = {method.key for method in rider.methods}
        settings = [s for s in _settings(each)
                    if not looks_on(s) or _key(s) in present]  # fmt: skip
        own = fmean(rider.seconds or [0.0])
        parts = [[a, b, pace + own * (b > rider.stage)] for a, b, pace in row["paces"]]
        about = {
            "arm": each.arm, "seed": each.seed, "key": each.key, "status": "done", "reason": None,
            "settings": settings, "curve": rider.history, "explain": rider.explain(run),
            "seconds": sum(rider.seconds), "paces": parts,
            "seconds_per_update": paces.mean(parts, after),
            "peak_memory": None, "rode_on": node.arm,
        }  # fmt: skip
        found[each.key] = row | about | judge(run, rider.predictor(run))
    return found


def _key(settings: Settings) -> str:
    return methods.make(settings).key
