"""PGD on inputs, and FGSM as one step of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods import pictures as pictured
from tests.methods import record_torchattacks
from tests.methods.pictures import IMAGES, drawn, given_to, learned, pictures
from tests.methods.traps import trap
from whet import seeding
from whet.attack import attack_pass
from whet.ball import Ball, noise
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import Distillation
from whet.methods.fast_fgsm import FastFGSM
from whet.methods.moco import MoCo
from whet.methods.pgd_inputs import PGDInputs, pgd_inputs
from whet.methods.r_drop import RDrop
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    PGDInputs(epsilon=0.3, at="floats", steps=3, step_size=0.5).during(0, 1),
    accumulates="the random start is drawn for each micro-batch anew",
    processes=PGDInputs(epsilon=0.3, at="floats", steps=3, step_size=0.5, init=0.0).during(0, 1),
    cost=Cost(forwards=4, backwards=4),
)

PARTS = Batch.of(data()).split(6)
RECORDED = json.loads(record_torchattacks.VALUES.read_text(encoding="utf-8"))


def small(**changes: Any) -> PGDInputs:
    given = {"epsilon": 0.3, "at": "floats", "steps": 3, "step_size": 0.5}
    return PGDInputs(**(given | changes)).during(0, 1)


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("given", RECORDED["attacks"], ids=lambda given: given["name"])
def test_oracle_is_torchattacks(given: dict[str, Any]) -> None:
    """In float64; its l2 adds 1e-10 to the norm that it divides by."""
    assert (RECORDED["library"], RECORDED["version"]) == ("torchattacks", "3.5.1")
    model, (x, y) = record_torchattacks.Small(), record_torchattacks.images()
    expected = torch.tensor(given["moved"], dtype=torch.float64).view(x.shape)
    size, steps = given.get("alpha", given["eps"]) / given["eps"], given.get("steps", 1)
    norm = "l2" if given["name"] == "PGDL2" else "linf"
    found = pgd_inputs(
        lambda x: F.cross_entropy(model(x), y), x, given["eps"], size, steps, norm=norm, low=0.0,
        high=1.0, init=0.0,
    )  # fmt: skip
    assert (found - expected).abs().max() < (1e-8 if norm == "l2" else 1e-15)
    assert (found - x).abs().max() > 0.05


def by_hand(model: nn.Module, x: Tensor, y: Tensor, pgd: PGDInputs, start: Tensor) -> Tensor:
    """The papers' loop for images in [0, 1], each image on its own."""
    alpha, moved = pgd.step_size * pgd.epsilon, []
    for image, label, first in zip(x, y, start, strict=True):
        point = (image + first).clamp(0, 1)
        for _ in range(pgd.steps):
            leaf = point.clone().requires_grad_()
            [g] = torch.autograd.grad(F.cross_entropy(model(leaf[None]), label[None]), leaf)
            delta = point + alpha * (g.sign() if pgd.norm == "linf" else g / g.norm()) - image
            if pgd.norm == "linf":
                delta = delta.clamp(-pgd.epsilon, pgd.epsilon)
            elif delta.norm() > pgd.epsilon:
                delta = delta * pgd.epsilon / delta.norm()
            point = (image + delta).clamp(0, 1)
        moved.append(point)
    return torch.stack(moved)


@pytest.mark.parametrize(
    "pgd",
    [
        PGDInputs(0.1, steps=1).during(0, 1),
        PGDInputs(0.1).during(0, 1),
        PGDInputs(0.3, 0.1, 4, init=0.5).during(0, 1),
        PGDInputs(1.0, norm="l2").during(0, 1),
        PGDInputs(0.4, 0.5, 4, norm="l2", init=0.5).during(0, 1),
    ],
    ids=repr,
)
def test_the_method_learns_what_the_hand_loop_learns(pgd: PGDInputs) -> None:
    x, y = IMAGES.inputs, IMAGES.targets
    stack, model = pictures([pgd], valid_range=(0.0, 1.0)), pictures([]).run.module
    start = noise(x, seeding.generator(stack.run.key(pgd), ""), pgd.norm)
    expected = by_hand(model, x, y, pgd, pgd.init * pgd.epsilon * start)
    assert torch.allclose(learned(stack, IMAGES, "0"), expected, atol=1e-6)
    F.cross_entropy(model(expected), y).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_one_step_without_a_random_start_is_fgsm() -> None:
    x = PARTS[0].inputs["floats"]
    moved = learned(make_stack([small(steps=1, step_size=1.0, init=0.0)], coupled=False), PARTS[0])
    floats = x.clone().requires_grad_()
    output = call(make_model(coupled=False), PARTS[0].inputs | {"floats": floats})
    [g] = torch.autograd.grad(F.cross_entropy(output, PARTS[0].targets), floats)
    assert torch.allclose(moved, x + 0.3 * g.sign(), atol=1e-6)


@pytest.mark.parametrize("coupled", [False, True])
def test_one_step_from_a_random_start_is_fast_fgsm(coupled: bool) -> None:
    """To the bit, where both have the same draws."""
    fast = FastFGSM(0.3, 1.25, at="floats", watch=0).during(0, 1)
    ours, theirs = (
        make_stack([m], coupled=coupled) for m in (small(steps=1, step_size=1.25), fast)
    )
    ours.run.key = lambda *about: theirs.run.key(theirs.methods[0])  # type: ignore[method-assign]
    assert torch.equal(learned(ours, PARTS[0]), learned(theirs, PARTS[0]))


def test_random_starts() -> None:
    like = torch.zeros(4000, 3)
    cube, ball, rim = (
        noise(like, seeding.generator(0), norm, rim=rim)
        for norm, rim in (("linf", False), ("l2", False), ("l2", True))
    )
    assert cube.abs().max() <= 1
    assert cube.var() == pytest.approx(1 / 3, rel=0.05)
    lengths = ball.norm(dim=1)
    assert lengths.max() <= 1 + 1e-6
    assert lengths.mean() == pytest.approx(0.5, abs=0.02)
    assert torch.allclose(rim.norm(dim=1), torch.ones(4000))
    assert rim.mean(0).abs().max() < 0.05


# the ball ------------------------------------------------------------------------------------
@pytest.mark.parametrize("std", [None, 0.25, (0.2, 0.5, 1.0)])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_stay_within_epsilon_in_pixels(norm: str, std: Any) -> None:
    """Steps and distances are of the images as they were before they were divided."""
    width = torch.tensor(1.0 if std is None else std).view(1, -1, 1, 1)
    batch = IMAGES.replace(inputs=(IMAGES.inputs - 0.5) / width)
    pgd = PGDInputs(0.3, 0.6, 4, norm=norm, std=std, init=0.0).during(0, 1)
    delta = (learned(pictures([pgd]), batch, "0") - batch.inputs) * width
    far = delta.flatten(1).norm(dim=1) if norm == "l2" else delta.flatten(1).abs().amax(1)
    assert far.tolist() == pytest.approx([0.3] * 6, rel=1e-4)


def test_a_step_in_l2_is_the_pixels_steepest() -> None:
    """The gradient by pixels is the one by inputs over std; the step is of that direction."""
    std = (0.2, 0.5, 1.0)
    width = torch.tensor(std).view(1, 3, 1, 1)
    pixels = IMAGES.inputs.clone().requires_grad_()
    loss = F.cross_entropy(pictures([]).run.module(pixels / width), IMAGES.targets)
    [g] = torch.autograd.grad(loss, pixels)
    expected = 0.3 * g / g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    pgd = PGDInputs(0.6, 0.5, 1, norm="l2", std=std, init=0.0).during(0, 1)
    batch = IMAGES.replace(inputs=IMAGES.inputs / width)
    delta = (learned(pictures([pgd]), batch, "0") - batch.inputs) * width
    assert torch.allclose(delta, expected, atol=1e-6)


def test_a_row_whose_gradient_is_no_number_stays() -> None:
    ball = Ball(torch.zeros(4, 2), torch.tensor(0.5), norm="l2")
    slope = torch.tensor([[3.0, 4.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0]])
    moved = ball.climbed(ball.centre, slope, 1.0)
    assert torch.allclose(moved, torch.tensor([[0.3, 0.4], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    numbers = Ball(torch.zeros(3), torch.tensor(0.5), norm="l2")  # a row of one number
    assert numbers.climbed(numbers.centre, torch.tensor([7.0, -7.0, 0.0]), 1.0).tolist() == [
        0.5, -0.5, 0.0
    ]  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_rows_without_a_target_stay_as_they_are(norm: str) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    moved = learned(make_stack([small(norm=norm)]), PARTS[0].replace(mask=mask))
    x = PARTS[0].inputs["floats"]
    assert torch.equal(moved[~mask], x[~mask])
    assert (moved[mask] != x[mask]).any(1).all()
    stack = make_stack([small(norm=norm)], coupled=False)
    assert torch.equal(learned(stack, Batch(PARTS[0].inputs)), x)


# the passes ----------------------------------------------------------------------------------
def test_the_passes_are_those_of_the_card() -> None:
    for clean, passes in ((0.0, 4), (0.3, 5), (1.0, 1)):
        seen = given_to(make_stack([small(clean_weight=clean)]), PARTS[0])
        assert len(seen) == passes


def test_a_blend_is_the_sum_of_both() -> None:
    found = {}
    for clean in (0.0, 0.7):
        stack = make_stack([small(clean_weight=clean)], coupled=False)
        stack.gradients(stack.window(PARTS[0]))
        found[clean] = [p.grad.clone() for p in stack.parameters()]
    model = make_model(coupled=False)
    F.cross_entropy(call(model, PARTS[0].inputs), PARTS[0].targets).backward()
    for clean, worse, both in zip(model.parameters(), found[0.0], found[0.7], strict=True):
        assert torch.allclose(both, 0.7 * clean.grad + 0.3 * worse, atol=1e-6)


@pytest.mark.parametrize("coupled", [False, True])
def test_core_in_a_plain_loop_equals_the_stack(coupled: bool) -> None:
    stack, model = make_stack([small()], coupled=coupled), make_model(coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in PARTS:
        seeding.seed_default(stack.run.position())

        def loss(floats: Tensor, batch: Batch = batch) -> Tensor:
            output = call(model, batch.inputs | {"floats": floats})
            return F.cross_entropy(output, batch.targets)

        with attack_pass(model):
            maker = seeding.generator(stack.run.key(stack.methods[0]), "floats")
            floats = pgd_inputs(loss, batch.inputs["floats"], 0.3, 0.5, 3, generator=maker)
        optimizer.zero_grad()
        loss(floats).backward()
        optimizer.step()
        stack.step(batch)
        assert close(weights(model), weights(stack.run.module), atol=1e-6)


def test_composes_with_what_stands_inside() -> None:
    """R-Drop's two passes move batch statistics once, and a teacher is asked once."""
    asked: list[int] = []
    given = {"teacher": lambda batch: asked.append(1) or torch.zeros(batch.size, 3)}
    stack = make_stack([small(), RDrop(), Distillation()], resources=given)
    stack.gradients(stack.window(PARTS[0]))
    assert stack.run.module.norm.num_batches_tracked == 1
    assert len(asked) == 2  # for R-Drop's two passes, none for the attack


def test_reals_and_labels_are_attacked() -> None:
    for kind, targets in (("real", torch.rand(6, 3)), ("multi-label", torch.ones(6, 3))):
        moved = learned(
            pictures([PGDInputs(0.1).during(0, 1)], kind), IMAGES.replace(targets=targets), "0"
        )
        assert (moved != IMAGES.inputs).any()


def test_a_model_may_change_its_inputs_in_place_and_checkpoint() -> None:
    class Hasty(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(super().forward, x.sub_(0.5), use_reentrant=False)

    stack = Stack(Hasty(4, 3), "categorical", [PGDInputs(0.1).during(0, 1)],
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    assert stack.step((torch.rand(4, 4), torch.tensor([0, 1, 2, 0])))


def test_mistakes_are_named() -> None:
    with pytest.raises(NotApplicable, match="scope='embeddings'"):
        make_stack([small(at="tokens")]).step(PARTS[0])
    with pytest.raises(InputError, match=r"no input matches at='pixels'; there are: tokens"):
        make_stack([small(at="pixels")]).step(PARTS[0])
    with pytest.raises(InputError, match="norm is 'l1'"):
        make_stack([small(norm="l1")])
    with pytest.raises(NotApplicable, match="no loss of its own"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), PGDInputs().during(0, 1)],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip
    said = "no resource valid_range: x + delta is not clipped"
    assert pictures([PGDInputs().during(0, 1)]).methods[0].notes == [said]
    assert pictures([PGDInputs().during(0, 1)], valid_range=(0.0, 1.0)).methods[0].notes == []


# traps ---------------------------------------------------------------------------------------
class ByBackward(pictured.ByBackward, PGDInputs):
    """The gradient by backward()."""


@trap(right=PGDInputs, wrong=ByBackward)
def test_the_attack_pollutes_no_gradient(kind: Any) -> None:
    pictured.pollutes_no_gradient(kind(0.3, at="floats").during(0, 1))


class Counted(pictured.Counted, PGDInputs):
    """Statistics move with the attack."""


@trap(right=PGDInputs, wrong=Counted)
def test_batch_statistics_are_those_of_the_inputs_that_are_learned(kind: Any) -> None:
    pictured.statistics_are_of_what_is_learned(kind(0.3, at="floats").during(0, 1))


class InPixels(pictured.InPixels, PGDInputs):
    """std is not asked for."""


@trap(right=PGDInputs, wrong=InPixels)
def test_epsilon_is_in_pixels_where_inputs_are_normalised(kind: Any) -> None:
    pictured.moves_by_pixels(kind(8 / 255, std=0.25).during(0, 1))


class Unchecked(pictured.Unchecked, PGDInputs):
    """The range is not looked at."""


@trap(right=PGDInputs, wrong=Unchecked)
def test_a_range_of_other_units_is_an_error(kind: Any) -> None:
    pictured.names_a_range_of_other_units(kind(0.1).during(0, 1))


class OnceBorrowed(PGDInputs):
    """Dropout's generator put back after the attack, and not after each of its steps."""

    def _attacked(self, run: Any, batch: Batch) -> Batch:
        def loss(floats: Tensor) -> Tensor:
            output = call(run.module, batch.inputs | {"floats": floats})
            return F.cross_entropy(output, batch.targets)

        point, x = batch.inputs["floats"], batch.inputs["floats"]
        with attack_pass(run.module):
            for _ in range(self.steps):
                leaf = point.detach().requires_grad_()
                [g] = torch.autograd.grad(loss(leaf), leaf)
                point = Ball(x, torch.tensor(self.epsilon)).climbed(point, g, self.step_size)
        return batch.replace(inputs=batch.inputs | {"floats": point})


@trap(right=PGDInputs, wrong=OnceBorrowed)
def test_every_step_climbs_the_network_that_learns(kind: Any) -> None:
    plain, attacked = make_stack(), make_stack([kind(0.3, 0.5, 3, at="floats").during(0, 1)])
    masks: dict[Stack, list[Tensor]] = {plain: [], attacked: []}
    for stack, seen in masks.items():
        stack.run.module.dropout.register_forward_hook(
            lambda m, a, out, seen=seen: seen.append(out == 0)
        )
        stack.gradients(stack.window(PARTS[0]))
    assert attacked.run.module.norm.num_batches_tracked == 1
    assert len(masks[attacked]) == 4
    assert all(torch.equal(mask, masks[plain][0]) for mask in masks[attacked])


def in_l2(x: Tensor, slope: Tensor, epsilon: float, alpha: float) -> Tensor:
    ball = Ball(x, torch.tensor(epsilon), norm="l2")
    return ball.climbed(ball.climbed(x, slope, alpha / epsilon), slope, alpha / epsilon)


def by_batch(x: Tensor, slope: Tensor, epsilon: float, alpha: float) -> Tensor:
    """`grad / grad.norm()` of a batch: the rows share what each is to have."""
    delta = 2 * alpha * slope / slope.norm()
    return x + delta * (epsilon / delta.norm()).clamp(max=1.0)


def by_sign(x: Tensor, slope: Tensor, epsilon: float, alpha: float) -> Tensor:
    """The sign's step, whose length is sqrt(d) times alpha, pulled back into the other ball."""
    delta = 2 * alpha * slope.sign()
    return x + delta * (epsilon / delta.flatten(1).norm(dim=1, keepdim=True)).clamp(max=1.0)


def stays_in_its_ball(climb: Callable[..., Tensor]) -> None:
    slope = torch.tensor([[3.0, 4.0], [0.003, 0.004]])
    moved = climb(torch.zeros(2, 2), slope, 1.0, 0.3)
    assert torch.allclose(moved, torch.tensor([[0.36, 0.48], [0.36, 0.48]]))


test_each_row_has_a_norm_of_its_own = trap(right=in_l2, wrong=by_batch)(stays_in_its_ball)
test_l2_steps_go_up_the_gradient = trap(right=in_l2, wrong=by_sign)(stays_in_its_ball)


class Unbounded(PGDInputs):
    """K steps of FGSM: nothing keeps the sum of the steps within ε."""

    def _attacked(self, run: Any, batch: Batch) -> Batch:
        x, [y] = batch.inputs, [batch.targets]
        for _ in range(self.steps):
            leaf = x.detach().requires_grad_()
            [g] = torch.autograd.grad(F.cross_entropy(run.module(leaf), y), leaf)
            x = (x + self.step_size * self.epsilon * g.sign()).clamp(0, 1).detach()
        return batch.replace(inputs=x)


@trap(right=PGDInputs, wrong=Unbounded)
def test_the_sum_of_the_steps_stays_within_epsilon(kind: Any) -> None:
    stack = pictures([kind(0.05, 0.5, 6).during(0, 1)], valid_range=(0.0, 1.0))
    moved = learned(stack, IMAGES, "0")
    assert (moved - IMAGES.inputs).abs().max() <= 0.05 + 1e-6


def test_a_start_is_what_the_generator_of_the_position_draws() -> None:
    stack = pictures([PGDInputs(0.1, step_size=0.0).during(0, 1)])
    start = drawn(stack, IMAGES.inputs, "")
    assert torch.allclose(learned(stack, IMAGES, "0"), IMAGES.inputs + 0.1 * start, atol=1e-6)
    assert equal(weights(stack.run.module), weights(pictures([]).run.module))
