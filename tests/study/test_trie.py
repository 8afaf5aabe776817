"""Shared training: what a study costs with it, and that it changes no result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from whet.methods import catalogue
from whet.study import arms, design, node, riders, trie, worker
from whet.study.plan import BASELINE, Arm, Node, Row
from whet.study.store import Store

TEN = [Arm(f"m{n}", ({"name": f"m{n}"},)) for n in range(10)]
CARDS = [{"name": arm.name, "placements": ["anytime"]} for arm in TEN]


def make(arm: Arm, seed: int) -> Node:
    return Node("toy", arm.name, arm.methods, seed, after=arm.after)


def both(*parts: str) -> list[Arm]:
    """Ten methods, each alone, together, and all but one of them."""
    made = [Arm(BASELINE)]
    for part in parts:
        during = {} if design.WHEN[part] is None else {"during": design.WHEN[part]}
        settings = [{**arm.methods[0], **during} for arm in TEN]
        subsets = [*([one] for one in settings), settings]
        subsets += [[s for s in settings if s is not one] for one in settings]
        made += [Arm(f"{part} {n}", tuple(subset)) for n, subset in enumerate(subsets)]
    return made


@pytest.mark.parametrize(
    ("parts", "alone", "shared"),
    [(("end",), 22.0, 6.25), (("whole",), 22.0, 22.0), (("start", "whole", "end"), 64.0, 43.0)],
)
def test_what_ten_methods_cost(parts: tuple[str, ...], alone: float, shared: float) -> None:
    arms = both(*parts)
    assert trie.cost(trie.grown(arms, [0], make, share=False)) == alone
    assert trie.cost(trie.grown(arms, [0], make)) == pytest.approx(shared)
    assert trie.cost(trie.grown(arms, range(3), make)) == pytest.approx(3 * shared)


def test_after_goes_on_from_the_finished_training() -> None:
    arms = [Arm(BASELINE), Arm("x", ({"name": "m0"},)),
            Arm("baseline@after", (), placement="after", after=()),
            Arm("m0@after", (), placement="after", after=({"name": "m0"},))]  # fmt: skip
    nodes = trie.grown(arms, [0], make)
    trunk, *leaves = nodes
    assert (trunk.until, trunk.methods) == (1.0, ())
    assert [leaf.parent == trunk.key for leaf in leaves] == [True, False, True, True]
    assert trie.cost(nodes, after=0.25) == 1.0 + 1.0 + 2 * 0.25


def test_only_what_has_two_ways_on_is_a_trunk() -> None:
    arms = [Arm(BASELINE), Arm("early", ({"name": "a", "during": [0.0, 0.25]},)),
            Arm("late", ({"name": "a", "during": [0.75, 1.0]},))]  # fmt: skip
    trunks = [n for n in trie.grown(arms, [0], make) if n.until is not None]
    assert [(t.until, t.methods) for t in trunks] == [(0.75, ())]


def test_a_trunk_of_a_trunk() -> None:
    arms = [Arm(BASELINE), Arm("middle", ({"name": "a", "during": [0.25, 0.75]},)),
            Arm("rest", ({"name": "a", "during": [0.25, 1.0]},)),
            Arm("end", ({"name": "b", "during": [0.75, 1.0]},))]  # fmt: skip
    nodes = trie.grown(arms, [0], make)
    named = {node.arm: node for node in nodes}
    first = named["trunk of baseline to 0.25"]
    assert named["trunk of a to 0.75"].parent == first.key
    assert named["trunk of a to 0.75"].methods == ({"name": "a", "during": [0.25, 1.0]},)
    assert named["middle"].parent == named["rest"].parent == named["trunk of a to 0.75"].key
    assert named["end"].parent == named[BASELINE].parent == named["trunk of baseline to 0.75"].key
    assert trie.cost(nodes) == pytest.approx(0.25 + 0.5 + 2 * 0.25 + 0.5 + 2 * 0.25)


def test_what_depends_on_the_end_of_its_span_shares_nothing() -> None:
    arms = [Arm("half", ({"name": "swa", "during": [0.0, 0.5]},)), Arm("all", ({"name": "swa"},))]
    assert len(trie.grown(arms, [0], make)) == 3
    assert len(trie.grown(arms, [0], make, ahead={"swa"})) == 2


def late(text: str) -> list[Arm]:
    """An arm at the start, as it is by itself, and at the end."""
    found, _ = design.placed(arms.parse(text, catalogue()), ["start", "whole", "end"], catalogue())
    return [arm for those in found.values() for arm in those]


def test_what_begins_late_by_itself_shares_the_baselines_first_quarter() -> None:
    nodes = trie.grown([Arm(BASELINE), *late("fgm")], [0], make)
    named = {node.arm: node for node in nodes}
    trunk = named["trunk of baseline to 0.25"]
    assert trunk.methods == ()
    assert named["fgm"].parent == named["trunk of baseline to 0.75"].parent == trunk.key
    assert named["fgm@end"].parent == named[BASELINE].parent
    assert named["fgm@start"].parent is None
    assert trie.cost(nodes) == 0.25 + 0.75 + 0.5 + 2 * 0.25 + 1.0


def test_from_the_start_on_is_written_out_for_what_begins_late_by_itself() -> None:
    given = [
        Arm(name, ({"name": "fgm", "during": during},))
        for name, during in (("half", [0, 0.5]), ("all", [0, 1]), ("own", [0.25, 1.0]))
    ]
    nodes = {node.arm: node for node in trie.grown(given, [0], make)}
    assert [name for name in nodes if name.startswith("trunk")] == ["trunk of fgm to 0.5"]
    trunk = nodes["trunk of fgm to 0.5"]
    assert trunk.methods == ({"name": "fgm", "during": [0.0, 1.0]},)
    assert [nodes[name].parent for name in ("half", "all", "own")] == [trunk.key, trunk.key, None]


def test_a_leaf_is_the_same_node_with_and_without_a_trunk() -> None:
    arms = both("end")
    alone = trie.grown(arms, [0], make, share=False)
    shared = trie.judged(trie.grown(arms, [0], make))
    assert [n.key for n in alone] == [n.key for n in shared]
    assert all(n.parent is None for n in alone)
    assert all(Node.from_json(n.to_json()) == n for n in shared)


class TestNeeded:
    nodes = trie.grown(both("end"), [0], make)

    def waiting(self, done: set[str], held: set[str]) -> list[str]:
        found = trie.needed(self.nodes, lambda n: n.arm in done, lambda n: n.arm in held)
        return [node.arm for node in found]

    def test_everything_at_first(self) -> None:
        assert self.waiting(set(), set()) == [node.arm for node in self.nodes]

    def test_a_trunk_that_is_held_is_not_trained_again(self) -> None:
        trunk = self.nodes[0].arm
        assert self.waiting({trunk}, {trunk}) == [node.arm for node in self.nodes[1:]]

    def test_a_trunk_that_was_removed_is_where_something_begins_from_it(self) -> None:
        every = {node.arm for node in self.nodes}
        assert self.waiting(every - {"end 3"}, set()) == [self.nodes[0].arm, "end 3"]
        assert self.waiting(every, set()) == []

    def test_references(self) -> None:
        trunk, *leaves = self.nodes
        references = trie.References(self.nodes, self.nodes)
        assert references.unused() == []
        assert [references.ended(leaf) for leaf in leaves[:-1]] == [None] * (len(leaves) - 1)
        assert references.ended(trunk) is None
        assert references.ended(leaves[-1]) == trunk
        assert trie.References(self.nodes, []).unused() == [trunk]


# the real node on the real digits -----------------------------------------------------------
TOLD = {"updates": 24, "after": 0.25, "threads": 1, "device": "cpu"}


def real(arm: Arm, seed: int) -> Node:
    options = {
        name: value for name, value in TOLD.items() if name != "after" or arm.after is not None
    }
    return Node("digits", arm.name, arm.methods, seed, options, after=arm.after)


def at(name: str, a: float, b: float, **settings: Any) -> Arm:
    span = {} if (a, b) == (0.0, 1.0) else {"during": [a, b]}
    return Arm(f"{name}[{a:g}..{b:g}]", ({"name": name, **settings, **span},))


ARMS = [
    Arm(BASELINE), at("r_drop", 0.0, 0.25), at("r_drop", 0.0, 1.0), at("r_drop", 0.75, 1.0),
    at("sam", 0.0, 0.25), at("sam", 0.0, 1.0), at("sam", 0.75, 1.0),
    at("ema", 0.75, 1.0, decay=0.9), at("lookahead", 0.75, 1.0, k=2), at("swa", 0.75, 1.0),
    at("mixup", 0.75, 1.0),
    Arm("both", ({"name": "mixup", "during": [0.75, 1.0]}, {"name": "ema", "during": [0.5, 1.0]})),
    Arm("baseline@after", (), placement="after", after=()),
    Arm("swa@after", (), placement="after", after=({"name": "swa"},)),
    Arm("sam@after", (), placement="after", after=({"name": "sam"},)),
    *late("fast_fgsm:watch=0"),
]  # fmt: skip
SAME = ("status", "metrics", "curve", "updates", "settings", "explain", "confusion")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """Every node of the trie, each from the files that those before it left."""
    store = Store(tmp_path_factory.mktemp("trie"))
    found = {}
    for job in trie.grown(ARMS, [1], real, {"swa"}):
        folder = store.folder_of(job)
        folder.mkdir(parents=True)
        found[job.arm] = node.train(job, folder)
        store.finish(job, found[job.arm])
    return found


@pytest.mark.parametrize("arm", ARMS, ids=[arm.name for arm in ARMS])
def test_every_branch_equals_the_arm_trained_alone(
    arm: Arm, trained: dict[str, Row], tmp_path: Path
) -> None:
    alone, shared = node.train(real(arm, 1), tmp_path), trained[arm.name]
    assert {name: alone[name] for name in SAME} == {name: shared[name] for name in SAME}
    assert alone["status"] == "done", alone["reason"]
    assert [a for a, *_ in shared["paces"]] == sorted(a for a, *_ in shared["paces"])
    assert shared["paces"][-1][1] == alone["paces"][-1][1] == 1.0 + (arm.after is not None)
    assert sum(b - a for a, b, _ in shared["paces"]) == pytest.approx(shared["paces"][-1][1])


def test_trunks_are_not_judged(trained: dict[str, Row]) -> None:
    trunks = {name: row for name, row in trained.items() if name.startswith("trunk")}
    assert len(trunks) == 6
    assert all(row["metrics"] == {} and row["status"] == "done" for row in trunks.values())


def test_a_branch_that_was_cut_off_needs_its_trunk_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    trunk, base, late = trie.grown([Arm(BASELINE), at("sam", 0.75, 1.0)], [1], real)
    for job in (trunk, base):
        store.folder_of(job).mkdir(parents=True)
        store.finish(job, node.train(job, store.folder_of(job)))
    steps = node.Run._update

    def stop(run: Any, batches: Any) -> bool:
        if run.updates == 21:
            raise KeyboardInterrupt
        return steps(run, batches)

    monkeypatch.setattr(node.Run, "_update", stop)
    with pytest.raises(KeyboardInterrupt):
        node.train(late, store.folder_of(late))
    monkeypatch.undo()
    store.release(trunk)
    wanted = node.train(replace(late, parent=None), tmp_path / "alone")
    assert node.train(late, store.folder_of(late))["metrics"] == wanted["metrics"]


# observers ------------------------------------------------------------------------------------
SLOW = {"decay": 0.9}
WATCHED = [
    Arm(BASELINE), at("ema", 0.0, 1.0, **SLOW), at("ema", 0.75, 1.0, **SLOW),
    at("precise_bn", 0.0, 1.0), at("swa", 0.5, 1.0, lr=None), at("sam", 0.75, 1.0),
    Arm("both", ({"name": "sam", "during": [0.75, 1.0]}, {"name": "ema", **SLOW})),
    Arm("early", ({"name": "mixup", "during": [0.0, 0.5]}, {"name": "ema", **SLOW})),
    Arm("baseline@after", (), placement="after", after=()),
    Arm("ema@after", (), placement="after", after=({"name": "ema", **SLOW},)),
    Arm("snapshot", ({"name": "snapshot"},)),
    Arm("averaged snapshots", ({"name": "snapshot"}, {"name": "ema", **SLOW})),
]  # fmt: skip


def test_who_rides_on_whom() -> None:
    assert trie.hosts(WATCHED, riders.looks_on, riders.takes_along) == {
        "ema[0..1]": BASELINE, "ema[0.75..1]": BASELINE, "precise_bn[0..1]": BASELINE,
        "swa[0.5..1]": BASELINE, "both": "sam[0.75..1]", "ema@after": "baseline@after",
    }  # fmt: skip


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Row]:
    """The trie without the riders' own nodes: their rows come from where they ride."""
    store = Store(tmp_path_factory.mktemp("riders"))
    riding = trie.hosts(WATCHED, riders.looks_on, riders.takes_along)
    nodes = trie.grown(WATCHED, [1], real, {"swa"}, riding)
    assert trie.cost(nodes, 0.25) == pytest.approx(1.0 + 0.25 + 0.25 + 1.0 + 1.0 + 1.0)
    for job in nodes:
        if job.rides is None:
            worker.run(job, store, "whet.study.node:train", 1, quiet=False)
    return {row["arm"]: row for row in store.rows(trie.judged(nodes))}


@pytest.mark.parametrize("arm", WATCHED, ids=[arm.name for arm in WATCHED])
def test_every_rider_equals_the_arm_trained_alone(
    arm: Arm, watched: dict[str, Row], tmp_path: Path
) -> None:
    alone, shared = node.train(real(arm, 1), tmp_path), watched[arm.name]
    assert {name: alone[name] for name in SAME} == {name: shared[name] for name in SAME}
    assert alone["status"] == "done", alone["reason"]
    assert shared["seconds_per_update"] > 0


def test_a_rider_that_came_late_is_trained_by_itself(tmp_path: Path) -> None:
    """The trunk was trained before the arm was asked for, and nobody averaged its weights."""
    store = Store(tmp_path)
    few = [Arm(BASELINE), at("sam", 0.75, 1.0)]
    trunk = trie.grown(few, [1], real)[0]
    worker.run(trunk, store, "whet.study.node:train", 1, quiet=False)
    ema = at("ema", 0.0, 1.0, **SLOW)
    nodes = trie.grown([*few, ema], [1], real, riding={ema.name: BASELINE})
    rider, host = nodes[-1], nodes[1]
    assert (rider.rides, host.riders) == (host.key, (replace(rider, rides=None),))
    worker.run(host, store, "whet.study.node:train", 1, quiet=False)
    assert store.done(host) is not None
    assert store.done(rider) is None
