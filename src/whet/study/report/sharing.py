"""Which trainings were shared: the trie of a study's arms, and what it saved.

Costs are in whole trainings without methods, as `whet.study.trie.cost` counts them: a method's own
time is not in them, and what rides along with another arm's training costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.study import wording
from whet.study.plan import Node

MANY = 24  # arms: with more, the drawing is folded


@dataclass
class Branch:
    """A stretch of training, and what goes on from its end.

    Args:
        name: of an arm, or of a trunk in words.
        begins, ends: in lengths of a training; a stage that follows begins at 1.
        rides: the arm whose training takes it along.
        children: what begins where it ends.
    """

    name: str
    begins: float
    ends: float
    trunk: bool
    rides: str = ""
    children: list[Branch] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """In whole trainings."""
        return 0.0 if self.rides else self.ends - self.begins

    def walked(self) -> list[tuple[int, Branch]]:
        """This branch and all that goes on from it, each with how deep it stands."""
        found, waiting = [], [(0, self)]
        while waiting:
            depth, branch = waiting.pop()
            found.append((depth, branch))
            waiting += [(depth + 1, child) for child in reversed(branch.children)]
        return found


@dataclass(frozen=True)
class Sharing:
    """The trie of one seed and its cost beside that of every arm by itself."""

    branches: list[Branch]
    arms: int
    longest: float
    shared: float
    alone: float

    def part(self, length: float) -> float:
        """A stretch in hundredths of the longest training."""
        return round(max(0.0, min(100.0, 100 * length / (self.longest or 1.0))), 2)

    @property
    def said(self) -> str:
        """What it saved, in a sentence."""
        arms, rest = wording.counted(self.arms, "arm"), "trainings a seed"
        if self.shared >= self.alone:
            return f"{arms}, each trained by itself: {self.alone:g} {rest}."
        return (
            f"{arms} cost {self.shared:g} {rest} in place of {self.alone:g}: what arms have in "
            "common is trained once."
        )


def sharing(study: Mapping[str, Any]) -> Sharing | None:
    """The trie of a study's first seed; None where there are no runs."""
    every = [Node.from_json(values) for values in study["nodes"]]
    nodes = [node for node in every if node.seed == every[0].seed]
    if all(node.until is not None for node in nodes):
        return None
    times = {arm["name"]: float(arm.get("times") or 1.0) for arm in study["arms"]}
    branches, top = _grown(nodes, times)
    arms = [branches[node.key] for node in nodes if node.until is None]
    return Sharing(
        top, len(arms), max(each.ends for each in branches.values()),
        sum(each.cost for each in branches.values()), sum(each.ends for each in arms),
    )  # fmt: skip


def _grown(
    nodes: Sequence[Node], times: Mapping[str, float]
) -> tuple[dict[str, Branch], list[Branch]]:
    """Every branch by its node's key, and those at the root."""
    names = {node.key: node.arm for node in nodes}
    made: dict[str, Branch] = {}
    top: list[Branch] = []
    for node in nodes:  # trunks stand before what begins from them
        parent = made.get(node.parent or "")
        ends = _length(node, times.get(node.arm, 1.0)) if node.until is None else node.until
        host = names.get(node.rides or "", "")
        begins = 0.0 if parent is None or host else parent.ends
        made[node.key] = Branch(node.arm, begins, ends, node.until is not None, host)
        (top if parent is None or host else parent.children).append(made[node.key])
    return made, top


def _length(node: Node, times: float) -> float:
    """Of an arm's whole training, with the stage that follows."""
    if node.after is None:
        return times
    after = node.options.get("after")
    return 1.0 + (after if isinstance(after, float) else 0.0)
