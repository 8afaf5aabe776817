"""Arms that are trained alike at first share that training: they go on from one trunk's checkpoint.

Every arm is a path through the cuts of training, the updates at which some method of some arm
begins or ends. Two arms are trained alike up to a cut if the same methods, with the same settings,
have acted by then; whether one ends there does not matter yet. Paths make a trie, each of whose
edges is trained once, and an edge with one way on is joined with what follows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from whet.study.plan import BASELINE, Arm, Node, Settings, canonical

Span = tuple[float, float]
MakeNode = Callable[[Arm, int], Node]


@dataclass(frozen=True)
class Trunk:
    """What several arms have in common: these methods, up to a fraction of training.

    `data` is the fraction of the training part that they see.
    """

    until: float
    methods: tuple[Settings, ...]
    data: float = 1.0

    @property
    def name(self) -> str:
        """In words, for logs and folders."""
        named = "+".join(str(each["name"]) for each in self.methods) or BASELINE
        less = "" if self.data == 1.0 else f" on {self.data:g} of the data"
        return f"trunk of {named} to {self.until:g}{less}"


def span(settings: Mapping[str, Any]) -> Span:
    """The part of training that a method takes; an arm's settings say where that is not all."""
    a, b = settings.get("during") or (0.0, 1.0)
    return float(a), float(b)


def cuts(arms: Iterable[Arm]) -> list[float]:
    """Where some method of some arm begins or ends, or a stage follows that some arms add."""
    every = list(arms)
    found = {cut for arm in every for settings in arm.methods for cut in span(settings)}
    inner = {cut for cut in found if 0.0 < cut < 1.0}
    return sorted(inner | ({1.0} if any(arm.after is not None for arm in every) else set()))


def so_far(methods: Iterable[Settings], cut: float, ahead: Collection[str] = ()) -> Trunk:
    """What has acted up to a cut; methods named in `ahead` depend on where their span ends.

    Spans are written out, whatever a method's own is: so what is alike is equal.
    """
    acted = []
    for settings in methods:
        a, b = span(settings)
        if a < cut:
            end = b if b < cut or settings["name"] in ahead else 1.0
            acted.append({**settings, "during": [a, end]})
    return Trunk(cut, tuple(acted))


def paths(arms: Sequence[Arm], ahead: Collection[str] = ()) -> dict[str, list[Trunk]]:
    """For each arm, the trunks that it shares with others, in order."""
    every = cuts(arms)
    whole = {
        arm.name: [replace(so_far(arm.methods, cut, ahead), data=arm.data) for cut in every]
        for arm in arms
    }
    on: dict[str, set[str]] = {}
    for name, trunks in whole.items():
        steps = [_key(trunk) for trunk in trunks]
        for step, following in pairwise([*steps, name]):
            on.setdefault(step, set()).add(following)
    return {
        name: [trunk for trunk in trunks if len(on[_key(trunk)]) > 1]
        for name, trunks in whole.items()
    }


def _key(trunk: Trunk) -> str:
    return canonical([trunk.until, list(trunk.methods), trunk.data])


def hosts(
    arms: Sequence[Arm], looks_on: Callable[[Settings], bool],
    takes_along: Callable[[Sequence[Settings]], bool],
) -> dict[str, str]:  # fmt: skip
    """For each arm that differs from another by observers alone, the arm whose training it is."""
    plain = {_core(arm, looks_on): arm.name for arm in arms
             if not any(map(looks_on, (*arm.methods, *(arm.after or ()))))}  # fmt: skip
    found = {}
    for arm in arms:
        host = plain.get(_core(arm, looks_on))
        core = [s for s in (*arm.methods, *(arm.after or ())) if not looks_on(s)]
        if host not in (None, arm.name) and takes_along(core):
            found[arm.name] = host
    return found


def _core(arm: Arm, looks_on: Callable[[Settings], bool]) -> str:
    stages = [arm.methods] if arm.after is None else [arm.methods, arm.after]
    core = [[s for s in stage if not looks_on(s)] for stage in stages]
    return canonical([core, arm.data, arm.times])


def grown(
    arms: Sequence[Arm], seeds: Iterable[int], make: MakeNode, ahead: Collection[str] = (),
    riding: Mapping[str, str] | None = None, *, share: bool = True,
) -> list[Node]:  # fmt: skip
    """Every node of a study, trunks before what begins from them.

    Seeds are outside and the baseline is first, so that a study cut short holds whole pairs.

    Args:
        arms: of the study.
        seeds: of each arm.
        make: the node of an arm by itself.
        ahead: names of methods that depend on where their span ends.
        riding: from arms to those whose training takes them along.
        share: whether to share anything.
    """
    on = (riding or {}) if share else {}
    # a stretched schedule is another one from the first update on
    walking = [arm for arm in arms if arm.name not in on
               and share and (arm.times == 1.0 or arm.after is not None)]  # fmt: skip
    shared: dict[str, list[Trunk]] = {arm.name: [] for arm in arms} | paths(walking, ahead)
    there = {_key(trunk) for trunks in shared.values() for trunk in trunks}
    for arm in (arm for arm in arms if arm.name in on):  # should it have to walk after all
        way = [so_far(arm.methods, cut, ahead) for cut in cuts(walking)]
        way = [replace(trunk, data=arm.data) for trunk in way]
        shared[arm.name] = [trunk for trunk in way if _key(trunk) in there]
    ordered = sorted(arms, key=lambda arm: arm.name != BASELINE)
    found: dict[str, Node] = {}
    for seed in seeds:
        leaves = {arm.name: make(arm, seed) for arm in ordered}
        for arm in ordered:
            parent: str | None = None
            taken = tuple(leaves[name] for name, host in on.items() if host == arm.name)
            for trunk in shared[arm.name]:
                made = make(Arm(trunk.name, trunk.methods, data=trunk.data), seed)
                node = replace(made, until=trunk.until, parent=parent)
                parent = node.key
                known = found.setdefault(node.key, node)
                found[node.key] = replace(known, riders=known.riders + taken)
            host = leaves[on[arm.name]].key if arm.name in on else None
            leaf = replace(leaves[arm.name], parent=parent, rides=host, riders=taken)
            found.setdefault(leaf.key, leaf)
    return list(found.values())


def cost(
    nodes: Sequence[Node], after: float = 0.0, updates: int | None = None,
    of: Sequence[Node] | None = None,
) -> float:  # fmt: skip
    """What nodes cost together, in units of one whole training without methods.

    Args:
        nodes: with the trunks that they begin from.
        after: how long the stage that follows is, where a node does not say so itself.
        updates: of that whole training, for nodes that are told a length of their own.
        of: those of the nodes that are trained, where not all are; an arm that would ride on one
            that is not is trained by itself.
    """
    ends = {node.key: node.until for node in nodes if node.until is not None}
    total = 0.0
    for node in trained(nodes if of is None else of):
        begins = 0.0 if node.parent is None else ends[node.parent] or 0.0
        length = node.options.get("updates", updates) / updates if updates else 1.0
        more = 0.0 if node.after is None else float(node.options.get("after", after))
        total += (length + more if node.until is None else node.until) - begins
    return total


def needed(nodes: Sequence[Node], done: Callable[[Node], bool], held: Callable[[Node], bool]
           ) -> list[Node]:  # fmt: skip
    """The nodes that are still to be trained, in their order.

    A trunk is, where something that begins from it is and its checkpoint is not there.
    """
    wanted: set[str] = set()
    waiting = []
    for node in reversed(nodes):  # trunks stand before what begins from them
        trunk = node.until is not None
        if (node.key in wanted and not (done(node) and held(node))) if trunk else not done(node):
            waiting.append(node)
            wanted |= {node.parent} if node.parent else set()
    return waiting[::-1]


def trained(nodes: Sequence[Node]) -> list[Node]:
    """The nodes that none of the others takes along."""
    keys = {node.key for node in nodes}
    return [node for node in nodes if node.rides not in keys]


def judged(nodes: Iterable[Node]) -> list[Node]:
    """The nodes that are arms; trunks are judged by nobody."""
    return [node for node in nodes if node.until is None]


class References:
    """Counts who still begins from each trunk, and tells when nobody does."""

    def __init__(self, nodes: Iterable[Node], waiting: Iterable[Node]) -> None:
        self._trunks = {node.key: node for node in nodes if node.until is not None}
        self._left = Counter(node.parent for node in waiting if node.parent is not None)

    def unused(self) -> list[Node]:
        """The trunks that nothing begins from any more."""
        return [trunk for key, trunk in self._trunks.items() if not self._left[key]]

    def ended(self, node: Node) -> Node | None:
        """The trunk that nothing begins from any more, now that a node has ended."""
        if node.parent is None:
            return None
        self._left[node.parent] -= 1
        return self._trunks[node.parent] if self._left[node.parent] == 0 else None
