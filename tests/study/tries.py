"""Invented studies as tries: per seed a trunk in segments, branches at its cuts, whole runs."""

import random

from whet.study.plan import Node

SEGMENTS = (0.25, 0.5, 0.25)  # of one training


def trie(size: int, seeds: int, draw: random.Random) -> tuple[list[Node], dict[str, float]]:
    """About `size` nodes in the order of a plan, and what each costs.

    A branch leaves the trunk at a cut, takes a segment with its method and then the rest without.
    """
    nodes, costs = [], {}
    factors = [draw.choice((1.0, 1.05, 1.3, 2.0, 3.0)) for _ in range(size)]
    for seed in range(seeds):
        trunk: str | None = None
        mine: list[tuple[Node, float]] = []
        ends: list[str | None] = [None]
        for number, share in enumerate(SEGMENTS):
            node = Node("toy", f"trunk{number}", (), seed, parent=trunk)
            trunk = node.key
            mine.append((node, 100 * share))
            ends.append(trunk)
        arm = 0
        while len(mine) < size // seeds:
            cut = draw.randrange(4)
            if cut == 3:
                mine.append((Node("toy", f"whole{arm}", (), seed), 100 * factors[arm]))
            else:
                branch = Node("toy", f"branch{arm}", (), seed, parent=ends[cut])
                mine.append((branch, 100 * SEGMENTS[cut] * factors[arm]))
                if cut < 2:
                    rest = Node("toy", f"rest{arm}", (), seed, parent=branch.key)
                    mine.append((rest, 100 * sum(SEGMENTS[cut + 1 :])))
            arm += 1
        nodes += [node for node, _ in mine]
        costs |= {node.key: cost * draw.uniform(0.9, 1.1) for node, cost in mine}
    return nodes, costs


def critical(nodes: list[Node], costs: dict[str, float]) -> float:
    """The longest chain of nodes that begin from each other; parents come first in the list."""
    ends: dict[str, float] = {}
    for node in nodes:
        ends[node.key] = costs[node.key] + (ends[node.parent] if node.parent else 0.0)
    return max(ends.values())
