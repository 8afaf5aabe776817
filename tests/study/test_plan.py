"""Nodes: what decides a result is in the key, and a study cut short holds whole pairs."""

from dataclasses import replace

import pytest

from whet.errors import InputError
from whet.study.plan import BASELINE, Arm, Node
from whet.study.trie import grown

NODE = Node("toy", "ema", ({"name": "ema", "decay": 0.99},), 3, {"threads": 1}, "code")


def test_key_is_stable_across_processes_and_releases() -> None:
    assert NODE.key == "7511c3c3f3cc7e50"


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"methods": ({"name": "ema", "decay": 0.9},)},
        {"options": {"threads": 2}},
        {"code": "other"},
        {"task": "other"},
    ],
)
def test_key_changes_with_whatever_decides_the_result(change: dict[str, object]) -> None:
    changed = Node.from_json(NODE.to_json() | change)
    assert changed.key != NODE.key


def test_where_the_file_lies_is_no_part_of_the_key() -> None:
    moved = replace(NODE, file="/somewhere/task.py")
    assert moved.key == NODE.key
    assert "file" not in moved.to_json()


def test_json_round_trip() -> None:
    assert Node.from_json(NODE.to_json()) == NODE
    assert Node.from_json(NODE.to_json()).key == NODE.key
    leaf = replace(NODE, parent=NODE.key)
    assert Node.from_json(leaf.to_json()) == leaf


def test_folder_is_readable_and_safe() -> None:
    assert NODE.folder.startswith("ema-s3-")
    odd = Node("toy", "../<x>:a=1/..", (), 0)
    assert odd.folder.startswith("x-a=1-s0-")
    assert "/" not in odd.folder


def test_settings_must_be_plain() -> None:
    for value in (object(), float("nan")):
        with pytest.raises(InputError, match="plain JSON"):
            Node("toy", "x", ({"name": "x", "value": value},), 0).key  # noqa: B018


def test_seeds_outside_and_the_baseline_first() -> None:
    arms = [Arm("b", ({"name": "b"},)), Arm(BASELINE), Arm("a", ({"name": "a"},))]
    planned = grown(arms, range(2), lambda arm, seed: Node("toy", arm.name, arm.methods, seed))
    assert [(n.seed, n.arm) for n in planned] == [
        (0, BASELINE), (0, "b"), (0, "a"), (1, BASELINE), (1, "b"), (1, "a")
    ]  # fmt: skip


def test_a_trunk_is_another_node_and_where_one_begins_is_not() -> None:
    assert replace(NODE, until=0.5).key != NODE.key
    assert replace(NODE, after=()).key != NODE.key
    assert replace(NODE, parent="0123").key == NODE.key
