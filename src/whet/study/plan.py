"""What a study trains: arms times seeds, as nodes that can be handed to a worker process."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from whet.errors import InputError

Row = dict[str, Any]
Settings = dict[str, Any]

BASELINE = "baseline"
HOW = ("parent", "rides", "riders")  # how a node is trained, which changes nothing in its result
STATUSES = ("done", "failed", "inapplicable", "refused", "diverged")


@dataclass(frozen=True)
class Arm:
    """A variant of the recipe: its name, the settings of its methods, and what it is held against.

    Args:
        name: what the study calls it.
        methods: settings of the methods that take part.
        reference: the arm that it is compared with: the baseline, the arm that it lacks one method
            of, the rung below it, or the baseline trained as much longer or on as little data.
        placement: the part of training that its methods take.
        after: methods of a fine-tuning stage that follows; with none it is their control.
        data: the fraction of the training part that it sees.
        times: how much longer its training is, or that stage of fine-tuning where it has one.
    """

    name: str
    methods: tuple[Settings, ...] = ()
    reference: str = BASELINE
    placement: str = "whole"
    after: tuple[Settings, ...] | None = None
    data: float = 1.0
    times: float = 1.0


@dataclass(frozen=True)
class Node:
    """One arm under one seed, or the trunk of several. All that decides its result is in its key.

    Args:
        task: the task's name.
        arm: the arm's name, or words for a trunk.
        methods: settings of the methods that take part.
        seed: decides everything random.
        options: threads, device, length and what else a training is told.
        code: identity of the code that trains it.
        file: of a user's task; where it lies is no part of what it gives.
        after: methods of a fine-tuning stage that follows.
        until: the fraction of training at which a trunk ends, unjudged.
        parent: key of the trunk that it begins from: to the bit the same as training it alone.
        rides: key of the node whose training takes it along, where that is still to be trained.
        riders: the nodes that it takes along.
    """

    task: str
    arm: str
    methods: tuple[Settings, ...]
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    file: str | None = None
    after: tuple[Settings, ...] | None = None
    until: float | None = None
    parent: str | None = None
    rides: str | None = None
    riders: tuple[Node, ...] = ()

    @property
    def key(self) -> str:
        """A short hash of settings, seed, options and code identity, stable across processes."""
        values = self.to_json()
        for name in HOW:
            values.pop(name, None)
        return hashlib.sha256(canonical(values).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The name of the node's folder: readable first, unique by the hash."""
        readable = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.arm)[:60].strip("-.")
        return f"{readable or 'arm'}-s{self.seed}-{self.key[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal node."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        after = None if self.after is None else list(self.after)
        values |= {"options": dict(self.options), "methods": list(self.methods), "after": after}
        values["riders"] = [rider.to_json() for rider in self.riders]
        del values["file"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Node:
        """The node that `to_json` described."""
        after = values.get("after")
        given = {
            "methods": tuple(values["methods"]),
            "after": None if after is None else tuple(after),
            "riders": tuple(map(cls.from_json, values.get("riders", ()))),
        }
        return cls(**{**values, **given})


def canonical(values: object) -> str:
    """The one JSON text of plain values; what JSON cannot carry is refused."""
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings must be plain JSON values: {error}") from error
