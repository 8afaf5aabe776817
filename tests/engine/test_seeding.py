"""Randomness is a function of position, in this process and in every other."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from tests.contract.fixture import data, make_model, make_stack
from whet import seeding
from whet.batch import Batch
from whet.stack import Stack
from whet.world import World


def test_keys_are_64_bits_and_differ() -> None:
    keys = {seeding.key(*position) for position in product(range(20), ("order", "draw"), range(20))}
    assert len(keys) == 800
    assert all(0 <= key < 1 << 64 for key in keys)
    assert max(keys) > 1 << 63  # the upper half is used


def test_order_of_the_parts_counts() -> None:
    assert seeding.key(1, 2) != seeding.key(2, 1)
    assert seeding.key("a", "b") != seeding.key("b", "a")
    assert seeding.key(0) != seeding.key(0, 0)
    assert seeding.key("1") != seeding.key(1)


def test_neighbouring_positions_share_no_bits() -> None:
    """Half of the bits change where the position changes by one."""
    flips = [(seeding.key(5, at) ^ seeding.key(5, at + 1)).bit_count() for at in range(500)]
    assert 30 < sum(flips) / len(flips) < 34


def test_numpys_numbers_are_numbers() -> None:
    assert seeding.key(np.int64(3), np.int32(4)) == seeding.key(3, 4)
    assert 0 <= seeding.key(-1) < 1 << 64


def test_keys_are_what_they_were() -> None:
    """Pinned: another value would change every study. The first is splitmix64's own of seed 0."""
    assert seeding.key(0) == 16294208416658607535
    assert seeding.word("order") == 4908470338496592349
    assert seeding.key(3, "order", 1) == 7777231884907373246


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_other_processes_make_the_same_keys(hash_seed: str) -> None:
    program = (
        "from whet import seeding; import torch;"
        "print(seeding.key(3, 'order', 1), torch.randperm(5, generator=seeding.generator(1, 'a')))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    here = torch.randperm(5, generator=seeding.generator(1, "a"))
    assert ended.stdout.strip() == f"{seeding.key(3, 'order', 1)} {here}"


class TestBorrowed:
    def test_generators_come_back(self) -> None:
        seeding.seed_default(11)
        random.seed(11)
        expected = (torch.rand(2).tolist(), random.random())
        seeding.seed_default(11)
        random.seed(11)
        with seeding.borrowed(5):
            torch.rand(100)
            random.random()
        assert (torch.rand(2).tolist(), random.random()) == expected

    def test_they_come_back_from_an_error(self) -> None:
        seeding.seed_default(11)
        before = torch.default_generator.get_state()
        with pytest.raises(RuntimeError), seeding.borrowed(5):
            torch.rand(3) @ torch.rand(4)
        assert torch.equal(before, torch.default_generator.get_state())

    def test_a_seed_decides_and_none_continues(self) -> None:
        with seeding.borrowed(5):
            first = torch.rand(3)
        with seeding.borrowed(5):
            assert torch.equal(first, torch.rand(3))
        seeding.seed_default(7)
        with seeding.borrowed():
            inside = torch.rand(3)
        assert torch.equal(inside, torch.rand(3))


class TestPosition:
    def test_every_micro_batch_has_its_own(self) -> None:
        """Seed, stage, rank, window and micro-batch each matter."""
        from whet.objectives import make
        from whet.training import Training

        found = set()
        for seed, stage, rank, window, micro in product(range(3), repeat=5):
            run = Training(
                nn.Linear(1, 1), make("categorical"), seed=seed, stage=stage, world=World(rank, 2)
            )
            run.window, run.micro = window, micro
            found.add(run.position())
        assert len(found) == 3**5

    def test_what_was_drawn_before_does_not_matter(self) -> None:
        stacks = [make_stack(), make_stack()]
        batch = Batch.of(data())
        for at in range(3):
            torch.rand(at * 7 + 1)  # somebody else draws
            stacks[0].step(batch)
        torch.manual_seed(99)
        for _ in range(3):
            stacks[1].step(batch)
        for a, b in zip(*(stack.parameters() for stack in stacks), strict=True):
            assert torch.equal(a, b)

    def test_dropout_differs_between_windows_and_micro_batches(self) -> None:
        masks = []
        model = nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 2))
        model[0].register_forward_hook(lambda *args: masks.append(args[2] > 0))
        stack = Stack(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
        batch = Batch(torch.ones(2, 64), torch.tensor([0, 1]))
        for _ in range(2):
            stack.step([batch, batch])
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4

    def test_a_methods_own_generator_depends_on_its_key(self) -> None:
        from whet import methods

        stack = make_stack()
        a, b = methods.make("mixup"), methods.make("mixup").labelled("other")
        assert stack.run.key(a) != stack.run.key(b)
        assert stack.run.key(a) != stack.run.key(a, "again")
        draws = [torch.rand(3, generator=stack.run.generator(a)) for _ in range(2)]
        assert torch.equal(*draws)


def test_initialisation_under_a_borrowed_seed() -> None:
    torch.manual_seed(3)
    first = make_model(5)
    torch.manual_seed(4)
    second = make_model(5)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
