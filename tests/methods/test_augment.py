"""Training on augmented rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.case import Case
from tests.contract.fixture import (
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    resources,
    weights,
)
from tests.methods.traps import trap
from whet import augmenting, methods, seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.method import Layer
from whet.methods.augment import Augment
from whet.methods.fixmatch import FixMatch
from whet.methods.moco import MoCo
from whet.objectives.objective import call
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.study import arms

CASE = Case(
    Augment(kind="table", at="floats", policy="strong"),
    accumulates="each micro-batch draws for its own rows",
)

BATCH = Batch.of(data()).take(slice(0, 6))
PIXELS = Batch(torch.rand(6, 3, 8, 8, generator=seeding.generator(1)), torch.arange(6) % 3)


def pictures(given: Any, **more: Any) -> Stack:
    with seeding.borrowed(0):
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    return Stack(
        model, "categorical", given, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **more
    )


def passed(method: Any, batch: Batch = PIXELS, window: int = 0, **more: Any) -> Batch:
    """The batch that the method hands on."""
    stack, seen = pictures([method], **more), []
    stack.run.window = window
    stack.methods[0].forward(stack.run, batch, seen.append)
    return seen[0]


def gradients(stack: Stack, batch: Batch) -> list[Tensor]:
    stack.gradients(stack.window(batch))
    return [p.grad.clone() for p in stack.parameters()]


# the value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["weak", "strong"])
def test_trains_on_the_view_that_augmenting_makes(policy: str) -> None:
    stack = pictures([Augment(policy=policy, strength=0.7)])
    found = passed(Augment(policy=policy, strength=0.7))
    view = augmenting.images(policy, 0.7)
    assert torch.equal(
        found.inputs, view(PIXELS.inputs, stack.run.generator(stack.methods[0]))
    )  # fmt: skip
    assert torch.equal(found.targets, PIXELS.targets)
    assert not torch.equal(
        found.inputs, passed(Augment(policy=policy, strength=0.7), window=1).inputs
    )


def test_a_view_of_the_tasks_own_is_the_named_one() -> None:
    named = Augment(policy="strong", strength=0.7)
    given = Augment(kind="view", view="mine")
    found = passed(given, resources={"mine": augmenting.images("strong", 0.7)})
    assert torch.equal(found.inputs, passed(named).inputs)
    assert given.needs == {"mine"}
    assert Augment.needs == named.needs == frozenset()


def test_is_the_control_arm_of_fixmatch() -> None:
    """What FixMatch's control adds to labelled rows is strong augmentation alone, to rounding."""

    def strong(inputs: Any, generator: torch.Generator) -> Any:
        view = augmenting.table("strong", 1.0, at="floats")
        return view(inputs, seeding.generator(7))  # the same draws in both

    given = resources() | {"strong": strong}
    arms = ([], [FixMatch(mu=1, control=True)], [Augment(kind="view", view="strong")])
    parts = [gradients(make_stack(m, coupled=False, resources=given), BATCH) for m in arms]
    for plain, control, augmented in zip(*parts, strict=True):
        assert torch.allclose(control - plain, augmented, atol=1e-6)
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(parts[0], parts[2], strict=True))


def test_views_serve_fixmatch_and_moco(tmp_path: Any) -> None:
    """As resources of a task; and what was begun with them goes on to the bit."""
    views = {name: augmenting.table(policy, at="floats") for name, policy in
             (("weak", "weak"), ("strong", "strong"), ("view", "strong"))}  # fmt: skip
    given = [FixMatch(mu=1, threshold=0.4), MoCo(queue=16, dim=4, at="head")]

    def run(**more: Any) -> Run:
        task = replace(make_task(), resources=resources() | views)
        stage = Stage(updates=4, batch_size=6, methods=[m.clone() for m in given])
        return Run(task, stage, device="cpu", **more)

    through = run().fit()
    run(folder=tmp_path).fit(until=2)
    assert equal(weights(through.module), weights(run(folder=tmp_path).fit().module))


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([CASE.method]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run, view = make_stack().run, augmenting.table("strong", at="floats")
    for run.window, batch in enumerate(Batch.of(data()).split(6)):
        stack.step(batch)
        inputs = view(batch.inputs, run.generator(CASE.method))
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        nn.functional.cross_entropy(call(model, inputs), batch.targets).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_makes_one_pass() -> None:
    stack, calls = pictures([Augment(policy="strong")]), []
    stack.run.module.register_forward_hook(lambda *args: calls.append(1))
    stack.step(PIXELS)
    assert calls == [1]


def test_a_study_grids_its_strength() -> None:
    found = arms.parse("augment:strength=0.3|0.6:policy=strong", methods.catalogue())
    given = [methods.make(arm.methods[0]) for arm in found if arm.methods]
    assert [one.strength for one in given] == [0.3, 0.6]
    assert passed(Augment(strength=0.0)) is PIXELS


@pytest.mark.parametrize("kind", ["spectrograms", "waveforms", "tokens"])
def test_every_kind_is_reached(kind: str) -> None:
    shape = {"spectrograms": (6, 8, 9), "waveforms": (6, 50), "tokens": (6, 9)}[kind]
    inputs = torch.randint(1, 50, shape) if kind == "tokens" else torch.rand(shape)
    found = passed(
        Augment(kind=kind, policy="strong", special=(1, 2)), PIXELS.replace(inputs=inputs)
    )
    assert found.inputs.shape == shape
    assert not torch.equal(found.inputs, inputs)


def test_special_words_survive_settings() -> None:
    made = methods.make({"name": "augment", "kind": "tokens", "special": [101, 102]})
    assert made.special == (101, 102)
    with pytest.raises(InputError, match="special"):
        methods.make({"name": "augment", "special": ["[CLS]"]})


# traps ---------------------------------------------------------------------------------------


class FromTheDefault(Augment):
    """Draws from torch's generator: other draws change the views, and views other draws."""

    def made(self, run: Any) -> Any:
        view = super().made(run)
        return lambda inputs, generator: view(inputs, None)


@trap(right=Augment, wrong=FromTheDefault)
def test_views_are_a_function_of_position(kind: type[Augment]) -> None:
    torch.manual_seed(0)
    before = torch.default_generator.get_state()
    one = passed(kind(policy="strong"), window=3).inputs
    assert torch.equal(torch.default_generator.get_state(), before)
    torch.rand(5)
    assert torch.equal(one, passed(kind(policy="strong"), window=3).inputs)


class Everywhere(Augment):
    """A part of the model: what is judged is augmented, too."""

    def build(self, run: Any) -> None:
        super().build(run)
        run.module.register_forward_pre_hook(
            lambda m, args: (self.made(run)(args[0], run.generator(self)),)
        )


@trap(right=Augment, wrong=Everywhere)
def test_what_is_judged_is_as_it_is(kind: type[Augment]) -> None:
    stack = pictures([kind(policy="strong")])
    plain = pictures([]).predictor()(PIXELS)
    assert torch.equal(stack.predictor()(PIXELS), plain)


class Inside(Augment):
    """Stands inside of FixMatch: weak views and strong ones are augmented once more."""

    outside = ()
    layer = Layer.INPUT_MIXING


@trap(right=Augment, wrong=Inside)
def test_fixmatchs_own_views_are_left_alone(kind: type[Augment]) -> None:
    seen: list[int] = []

    def view(inputs: Any, generator: torch.Generator) -> Any:
        seen.append(len(inputs["floats"]))
        return inputs

    for order in (1, -1):
        both = [FixMatch(mu=2), kind(kind="view", view="mine")][::order]
        make_stack(both, resources=resources() | {"mine": view}).step(BATCH)
    assert seen == [6, 6]


class Shuffled(Augment):
    """Gives rows back in another order, and targets stay where they are."""

    def made(self, run: Any) -> Any:
        view = super().made(run)
        return lambda inputs, generator: view(inputs, generator).flip(0)


@trap(right=Augment, wrong=Shuffled)
def test_each_row_keeps_its_target(kind: type[Augment]) -> None:
    grey = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 3, 8, 8)
    found = passed(kind(policy="strong"), PIXELS.replace(inputs=grey, targets=torch.arange(6)))
    centre = found.inputs[:, :, 3:5, 3:5].mean((1, 2, 3))
    assert torch.allclose(centre, found.targets.float(), atol=0.3)


class AlwaysMirrored(Augment):
    """Mirrors whatever it is given: a 2 is then none, and learned as one."""

    def made(self, run: Any) -> Any:
        return augmenting.images(self.policy, self.strength)


@trap(right=Augment, wrong=AlwaysMirrored)
def test_where_mirrors_change_the_class_there_are_none(kind: type[Augment]) -> None:
    ramp = torch.arange(8.0).expand(40, 1, 8, 8)
    batch = Batch(ramp, torch.zeros(40, dtype=torch.long))
    found = passed(kind(flip=False, strength=0.2), batch).inputs
    assert (found[..., -2] > found[..., 1]).all()


# refusals ------------------------------------------------------------------------------------


def test_a_view_that_is_none_or_loses_rows_is_told() -> None:
    view = Augment(kind="view", view="mine")
    with pytest.raises(InputError, match=r"unknown resource .*'mine'"):
        pictures([view])
    with pytest.raises(InputError, match="is no function"):
        pictures([view], resources={"mine": 3})
    with pytest.raises(InputError, match="made 4 rows of 6"):
        passed(view, resources={"mine": lambda x, g: x[:4]})


def test_words_with_targets_of_their_own_are_refused() -> None:
    with pytest.raises(NotApplicable, match=r"augment does not apply: .* each word"):
        Stack(nn.Linear(4, 3), "tokens", [Augment(kind="tokens")])


def test_valid_range_is_that_of_the_task() -> None:
    found = passed(Augment(policy="strong", strength=1.0), resources={"valid_range": (0.0, 0.6)})
    assert found.inputs.max() <= 0.6


def test_a_run_resumes_in_the_middle(tmp_path: Any) -> None:
    method = Augment(kind="tokens", at="tokens", policy="strong", strength=1.0)
    through = make_run([method]).fit()
    make_run([method], folder=tmp_path).fit(until=3)
    resumed = make_run([method], folder=tmp_path).fit()
    assert equal(weights(through.module), weights(resumed.module))
