"""What a study trains: arms times seeds, as nodes that can be handed to a worker process."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from whet.errors import InputError

Row = dict[str, Any]
Settings = dict[str, Any]

BASELINE = "baseline"
STATUSES = ("done", "failed", "inapplicable", "refused", "diverged")


@dataclass(frozen=True)
class Arm:
    """A variant of the recipe: its name, the settings of its methods, and what it is held against.

    `reference` names the arm that it is compared with: the baseline, or the arm that it lacks one
    method of.
    """

    name: str
    methods: tuple[Settings, ...] = ()
    reference: str = BASELINE


@dataclass(frozen=True)
class Node:
    """One arm under one seed. Everything that decides its result is in its key."""

    task: str
    arm: str
    methods: tuple[Settings, ...]
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    file: str | None = None  # of a user's task; where it lies is no part of what it gives
    parent: str | None = None  # key of the node whose checkpoint it begins from; None begins anew

    @property
    def key(self) -> str:
        """A short hash of settings, seed, options and code identity, stable across processes."""
        return hashlib.sha256(canonical(self.to_json()).encode()).hexdigest()[:16]

    @property
    def folder(self) -> str:
        """The name of the node's folder: readable first, unique by the hash."""
        readable = re.sub(r"[^A-Za-z0-9._=-]+", "-", self.arm)[:60].strip("-.")
        return f"{readable or 'arm'}-s{self.seed}-{self.key[:8]}"

    def to_json(self) -> dict[str, Any]:
        """Plain values from which `from_json` makes an equal node."""
        values = asdict(self) | {"options": dict(self.options), "methods": list(self.methods)}
        del values["file"]
        if self.parent is None:
            del values["parent"]
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Node:
        """The node that `to_json` described."""
        return cls(**{**values, "methods": tuple(values["methods"])})


def canonical(values: object) -> str:
    """The one JSON text of plain values; what JSON cannot carry is refused."""
    try:
        return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"settings must be plain JSON values: {error}") from error


def nodes(
    task: str,
    arms: Sequence[Arm],
    seeds: Iterable[int],
    options: Mapping[str, Any],
    code: Callable[[Arm], str],
    file: str | None = None,
) -> list[Node]:
    """Seeds outside and the baseline first, so that a study cut short holds whole pairs."""
    ordered = sorted(arms, key=lambda arm: arm.name != BASELINE)
    identity = {arm.name: code(arm) for arm in ordered}
    return [
        Node(task, arm.name, arm.methods, seed, options, identity[arm.name], file)
        for seed in seeds
        for arm in ordered
    ]
