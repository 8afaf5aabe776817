"""Learning rates in the course of training, as `study.json` keeps them for the report.

A course is put together of what trains an arm: the task's schedule (`whet.optim.shares`), a stage
that follows, and what a method that owns the learning rate makes of both (`Method.rate_share`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from whet import composition, methods, optim, spans
from whet.method import Method, Resource
from whet.study.plan import Arm
from whet.tasks import About

MOST = 200  # points of a course
UNKNOWN = "rates that it names cannot be seen beside an optimizer that is a function"
EVALUATED = "it goes by evaluations, so that the rate depends on the course of training"


@dataclass(frozen=True)
class Part:
    """A stage of an arm: the methods in it that own the rate, whether it follows, its length."""

    owners: list[Method]
    fine: bool
    updates: int


class Untold(Exception):
    """The rates of a schedule are not known before training, and why."""


def of(
    about: About, arms: Sequence[Arm], updates: int, after: float, rate: float | None
) -> dict[str, Any]:
    """Every course there is in a study as plain values, and in words what cannot be drawn.

    Args:
        about: the task, whose schedule it is.
        arms: the baseline first; those of one course stand together.
        updates: of one training.
        after: how long the stage is that follows, of a training.
        rate: the optimizer's own; None where only a function knows it.
    """
    alike: dict[str, list[Arm]] = {}
    for arm in arms:
        alike.setdefault(repr(_parts(arm, updates, after)), []).append(arm)
    told: dict[str, Any] = {"rate": rate, "courses": [], "untold": []}
    for those in alike.values():
        names, parts = [arm.name for arm in those], _parts(those[0], updates, after)
        try:
            shares = [share for part in parts for share in _shares(about, part, rate)]
        except Untold as why:
            told["untold"].append({"arms": names, "why": str(why)})
            continue
        ends = [sum(part.updates for part in parts[: at + 1]) for at in range(len(parts))]
        told["courses"].append({"arms": names, "ends": ends, "points": thinned(shares)})
    return told


def _parts(arm: Arm, updates: int, after: float) -> list[Part]:
    if arm.after is None:
        return [Part(_owners(arm.methods), False, round(arm.times * updates))]
    length = composition.fine_length(updates, after * arm.times)
    return [Part(_owners(arm.methods), False, updates), Part(_owners(arm.after), True, length)]


def _owners(given: Sequence[Mapping[str, Any]]) -> list[Method]:
    made = [methods.make(each) for each in given]
    return [method for method in made if Resource.LEARNING_RATE in method.owns]


def _shares(about: About, part: Part, rate: float | None) -> list[float]:
    """The share of the optimizer's rate at each update of a stage."""
    spec = composition.schedule_of(about, part.owners, part.fine)
    found = _scheduled(spec, part.updates, rate)
    for method in part.owners:
        enters, leaves = spans.cuts(method, part.updates)
        for update in range(enters, min(leaves, part.updates)):
            own = method.rate_share(update, part.updates)
            found[update] = found[update] if own is None else own
    return found


def _scheduled(spec: Any, updates: int, rate: float | None) -> list[float]:
    """What a schedule makes of the rate.

    Raises:
        Untold: that is known in training alone.
    """
    name = optim.schedule_name(spec)
    try:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate or 1.0, momentum=0.9)
        if hasattr(optim.schedule(spec, optimizer, updates), "evaluated"):
            raise Untold(f"the schedule is {name}: {EVALUATED}")
        if rate is None and not optim.is_relative(spec):
            raise Untold(f"the schedule is {name}: {UNKNOWN}")
        found = optim.shares(spec, updates, rate or 1.0)
    except Untold:
        raise
    except Exception as error:  # of the user's function: what it needs, training alone may have
        raise Untold(f"the schedule is {name}: {type(error).__name__}: {error}") from error
    if not all(math.isfinite(share) and share >= 0 for share in found):
        raise Untold(f"the schedule is {name}: some of its rates are no numbers from 0 on")
    return found


def thinned(shares: Sequence[float], most: int = MOST) -> list[list[float]]:
    """At most so many (update, share) in six digits: of equal stretches the least and the most.

    So heights of cycles and where they end stay; an even grid would miss them.

    >>> thinned([0.0, 1.0, 0.5, 0.5], most=9)
    [[0, 0.0], [1, 1.0], [2, 0.5], [3, 0.5]]
    """
    count, stretches = len(shares), most // 2 - 1
    kept = {*range(count)}
    if count > most:
        edges = [at * count // stretches for at in range(stretches + 1)]
        kept = {0, count - 1}
        for a, b in pairwise(edges):
            kept |= {min(range(a, b), key=shares.__getitem__),
                     max(range(a, b), key=shares.__getitem__)}  # fmt: skip
    return [[at, float(f"{shares[at]:.6g}")] for at in sorted(kept)]
