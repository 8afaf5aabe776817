"""MixUp in some batches and CutMix in the others."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.contract.case import Case
from tests.contract.fixture import equal, make_run, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import Clash, InputError, NotApplicable
from whet.method import Method
from whet.methods.cutmix import CutMix
from whet.methods.mixup import MixUp
from whet.methods.mixup_or_cutmix import MixUpOrCutMix
from whet.stack import Stack

CASE = Case(
    MixUpOrCutMix(at="image", mixup_alpha=0.4),
    accumulates="rows are mixed within their own micro-batch",
)

PIXELS = torch.randn(6, 2, 7, 5, generator=seeding.generator(3))
IMAGES = Batch(PIXELS, torch.tensor([0, 1, 2, 0, 1, 2]))


def stack_of(methods: Any, objective: str = "categorical") -> Stack:
    seeding.seed_default(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(70, 3))
    return Stack(model, objective, methods, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def passed(method: Method, window: int = 0, batch: Batch = IMAGES) -> Batch:
    """The batch that reaches the objective in the first micro-batch of a window."""
    run = stack_of([]).run
    run.objective._width, run.window = 3, window
    seen: list[Batch] = []
    method.forward(run, batch, seen.append)
    return seen[0]


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.inputs, other.inputs) and torch.equal(one.targets, other.targets)


# the value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.2, 0.5])
def test_each_batch_is_what_one_of_the_two_alone_makes_of_it(probability: float) -> None:
    count = 0
    for window in range(400):
        found = passed(MixUpOrCutMix(probability=probability, mixup_alpha=1.0), window)
        cut, mixed = passed(CutMix(1.0), window), passed(MixUp(1.0), window)
        assert same(found, cut) or same(found, mixed)
        count += same(found, cut) and not same(cut, mixed)
    assert abs(count / 400 - probability) < 0.08


def test_at_the_ends_it_is_one_of_the_two_to_the_bit() -> None:
    for probability, alone in ((0.0, MixUp(0.4, "image")), (1.0, CutMix(1.0, "image"))):
        method = MixUpOrCutMix(probability, mixup_alpha=0.4, at="image")
        one, other = make_run([method]).fit(), make_run([alone]).fit()
        assert equal(weights(one.module), weights(other.module))


def test_makes_one_pass() -> None:
    stack, calls = stack_of([MixUpOrCutMix()]), []
    stack.run.objective._width = 3
    stack.run.module.register_forward_hook(lambda *args: calls.append(1))
    for _ in range(5):
        stack.step([IMAGES])
    assert len(calls) == 5


# traps ---------------------------------------------------------------------------------------


class Both(MixUpOrCutMix):
    """Mixes, and then cuts and pastes what is mixed: a row is of up to four others."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        cut = CutMix(self.cutmix_alpha, self.at)
        return MixUp(self.mixup_alpha, self.at).forward(
            run, batch, lambda mixed: cut.forward(run, mixed, inner)
        )


@trap(right=MixUpOrCutMix, wrong=Both)
def test_a_row_is_of_two_rows_at_most(kind: type[MixUpOrCutMix]) -> None:
    one_class_each = IMAGES.replace(targets=torch.eye(6))
    for window in range(40):
        targets = passed(kind(mixup_alpha=1.0), window, one_class_each).targets
        assert (targets > 1e-6).sum(1).max() <= 2


class OneDraw(MixUpOrCutMix):
    """Chooses by the number that lambda is drawn from: each kind sees one half of its Betas."""

    def chosen(self, run: Any) -> Method:
        for one in (CutMix(self.cutmix_alpha, self.at), MixUp(self.mixup_alpha, self.at)):
            share = random.Random(run.key(one)).betavariate(1.0, 1.0)
            if share < self.probability:
                return one
        return one


@trap(right=MixUpOrCutMix, wrong=OneDraw)
def test_the_choice_says_nothing_about_lambda(kind: type[MixUpOrCutMix]) -> None:
    run, shares = stack_of([]).run, {"mixup": [], "cutmix": []}
    method = kind(mixup_alpha=1.0, cutmix_alpha=1.0)
    for run.window in range(1500):
        one = method.chosen(run)
        shares[one.name].append(random.Random(run.key(one)).betavariate(1.0, 1.0))
    for drawn in shares.values():
        assert len(drawn) > 400
        assert abs(np.mean(drawn) - 0.5) < 0.05
        assert abs(np.var(drawn) - 1 / 12) < 0.02


class ByTurns(MixUpOrCutMix):
    """Counts its calls: a replay, or a resumed run, mixes otherwise than the first pass did."""

    calls = 0

    def chosen(self, run: Any) -> Method:
        self.calls += 1
        return CutMix(1.0, self.at) if self.calls % 2 else MixUp(1.0, self.at)


@trap(right=MixUpOrCutMix, wrong=ByTurns)
def test_a_replay_mixes_as_the_first_pass(kind: type[MixUpOrCutMix]) -> None:
    method = kind(mixup_alpha=1.0)
    for window in range(10):
        assert same(passed(method, window), passed(method, window))


# refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [MixUp(), CutMix()])
def test_never_beside_one_of_the_two(other: Method) -> None:
    with pytest.raises(Clash, match="both claim the input mixing"):
        stack_of([MixUpOrCutMix(), other])


def test_inputs_that_are_no_images_are_refused() -> None:
    flat = IMAGES.replace(inputs=torch.zeros(6, 4))
    with pytest.raises(InputError, match="a box is cut from images"):
        passed(MixUpOrCutMix(probability=1.0), batch=flat)
    ids = IMAGES.replace(inputs=torch.ones(6, 1, 4, 4, dtype=torch.int64))
    with pytest.raises(InputError, match="manifold_mixup"):
        passed(MixUpOrCutMix(probability=0.0), batch=ids)


def test_does_not_apply_where_targets_have_no_mixture() -> None:
    with pytest.raises(NotApplicable, match=r"mixup_or_cutmix does not apply: .* mixture"):
        stack_of([MixUpOrCutMix()], "tokens")
