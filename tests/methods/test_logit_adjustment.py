"""Logit adjustment."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.class_weights import ClassWeights
from whet.methods.distillation import Distillation
from whet.methods.focal import Focal, focal_losses
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.logit_adjustment import LogitAdjustment, log_prior
from whet.methods.mixup import MixUp
from whet.methods.temperature import Temperature
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(LogitAdjustment())

BATCHES = Batch.of(data()).split(6)
COUNTS = torch.bincount(data()["labels"], minlength=3).double()
PRIOR = (COUNTS / COUNTS.sum()).log().float()


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def learned(*methods: Any, batch: Any = BATCHES[0]) -> list[Tensor]:
    stack = make_stack(methods, coupled=False)
    stack.gradients(stack.window(batch))
    return gradients(stack.run.module)


def by_hand(loss: Any) -> list[Tensor]:
    model = make_model(coupled=False)
    loss(call(model, BATCHES[0].inputs), BATCHES[0].targets).backward()
    return gradients(model)


def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_formula_in_training(tau: float) -> None:
    """The paper's equation 10: a pairwise margin of log (pi_c / pi_y) to the power tau."""

    def theirs(z: Tensor, y: Tensor) -> Tensor:
        own = z.gather(1, y[:, None])
        odds = (COUNTS[None] / COUNTS[y][:, None]).float() ** tau
        return (1 + (odds * (z - own).exp() * (1 - F.one_hot(y, 3))).sum(1)).log().mean()

    assert agree(learned(LogitAdjustment(tau)), by_hand(theirs))


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([LogitAdjustment()], coupled=False), make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    prior = log_prior(COUNTS).float()
    for batch in BATCHES:
        stack.step(batch)
        optimizer.zero_grad()
        F.cross_entropy(call(model, batch.inputs) + prior, batch.targets).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module))


def test_tau_zero_changes_nothing_to_the_bit() -> None:
    plain, flat = make_stack(), make_stack([LogitAdjustment(tau=0.0)], data=None)
    for batch in BATCHES:
        plain.step(batch)
        flat.step(batch)
    assert equal(weights(plain.run.module), weights(flat.run.module))


def test_a_constant_model_learns_nothing_but_the_prior() -> None:
    """Where inputs say nothing, balanced classes are equally likely: the optimum is z = 0."""
    labels = torch.tensor([0] * 9 + [1])
    z = torch.zeros(10, 2, requires_grad=True)
    prior = log_prior(torch.tensor([9.0, 1.0]))
    [gradient] = torch.autograd.grad(F.cross_entropy(z + prior, labels), z)
    assert gradient.sum(0).abs().max() < 1e-6
    [plain] = torch.autograd.grad(F.cross_entropy(z, labels), z)
    assert plain.sum(0).abs().max() > 0.1


# with others ---------------------------------------------------------------------------------
def test_the_nesting_does_not_depend_on_the_users_order() -> None:
    methods = [Temperature(2.0), LogitAdjustment(), Focal(2.0), LabelSmoothing(0.1)]

    def theirs(z: Tensor, y: Tensor) -> Tensor:
        return focal_losses(z / 2.0 + PRIOR, smooth(y, 0.1, 3), 2.0).mean()

    for order in (methods, methods[::-1]):
        assert agree(learned(*order), by_hand(theirs))


def test_with_class_weights_and_mixup() -> None:
    table = torch.tensor([0.5, 1.0, 4.0])

    def theirs(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z + PRIOR, y, weight=table)

    ours = learned(LogitAdjustment(), ClassWeights(weights=(0.5, 1.0, 4.0)))
    assert agree(ours, by_hand(theirs))
    soft = torch.softmax(torch.randn(6, 3, generator=seeding.generator(0)), 1)
    mixed = learned(LogitAdjustment(), batch=Batch(BATCHES[0].inputs, soft))
    assert agree(mixed, by_hand(lambda z, y: F.cross_entropy(z + PRIOR, soft)))
    text = make_stack([LogitAdjustment(), MixUp(at="floats")]).explain()
    assert "mixup > logit_adjustment > supervised" in text


def test_a_teacher_meets_the_plain_output() -> None:
    found = []
    for methods in ([Distillation()], [LogitAdjustment(), Distillation()]):
        stack = make_stack(methods, coupled=False)
        stack.gradients(stack.window(BATCHES[0]))
        found.append(stack.terms["distillation"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def seen_at_test(adjusts: bool) -> Tensor:
    """What is judged after training; the wrong variant puts the prior into the model."""
    stack = make_stack([LogitAdjustment()], coupled=False)
    for batch in BATCHES:
        stack.step(batch)
    output = call(stack.run.module.eval(), BATCHES[0].inputs).detach()
    judged = stack.predictor()(BATCHES[0])
    return (output + PRIOR * adjusts).softmax(1) - judged


@trap(right=lambda: seen_at_test(False), wrong=lambda: seen_at_test(True))
def test_what_is_judged_is_plain(difference: Any) -> None:
    assert difference().abs().max() < 1e-6


# labels and tokens ---------------------------------------------------------------------------
X = torch.randn(8, 2, generator=seeding.generator(1))
LABELS = torch.tensor([[1, 0], [0, 0], [1, 0], [1, 1], [0, 0], [1, 0], [1, 0], [1, 0]])


def stack_on(objective: str, given: Any, model: nn.Module | None = None, **settings: Any) -> Stack:
    return Stack(model or nn.Linear(2, 2), objective, [LogitAdjustment(**settings)], data=given,
                 optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip


@pytest.mark.parametrize("counts", [None, (6.0, 1.0, 8.0)])
def test_labels_get_their_log_odds(counts: Any) -> None:
    model, twin = nn.Linear(2, 2), nn.Linear(2, 2)
    twin.load_state_dict(model.state_dict())
    given = (X, LABELS) if counts is None else None
    stack = stack_on("multi-label", given, model, counts=counts)
    stack.gradients(stack.window((X, LABELS)))
    odds = torch.tensor([math.log(6 / 2), math.log(1 / 7)])
    F.binary_cross_entropy_with_logits(twin(X) + odds, LABELS.float()).backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)


def test_tokens_are_counted_without_those_to_ignore() -> None:
    model, twin = nn.Embedding(5, 2), nn.Embedding(5, 2)
    twin.load_state_dict(model.state_dict())
    tokens = torch.tensor([[1, 2, 3, 4]])
    labels = torch.tensor([[0, -100, 0, 1]])
    stack = stack_on("tokens", ({"input": tokens}, labels), model)
    stack.gradients(stack.window(({"input": tokens}, labels)))
    prior = torch.tensor([math.log(2 / 3), math.log(1 / 3)])
    F.cross_entropy(twin(tokens)[0] + prior, labels[0]).backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)


# errors --------------------------------------------------------------------------------------
def test_a_class_that_never_or_always_occurs_is_named() -> None:
    labels = torch.zeros(8, dtype=torch.long)
    with pytest.raises(InputError, match=r"class 1 never occurs.*counts="):
        stack_on("categorical", (X, labels)).step((X, labels))
    with pytest.raises(InputError, match="class 0 never occurs"):
        stack_on("categorical", (X, labels + 1))
    every = torch.ones(8, 2, dtype=torch.long)
    with pytest.raises(InputError, match="class 0, 1 always occurs"):
        stack_on("multi-label", (X, every)).step((X, every))
    assert stack_on("categorical", None, counts=(7.0, 1.0)).step((X, labels))


@pytest.mark.parametrize("objective", ["real", "contrastive"])
def test_does_not_apply_without_classes(objective: str) -> None:
    from whet.methods.moco import MoCo

    methods = [MoCo(dim=2), LogitAdjustment()] if objective == "contrastive" else [
        LogitAdjustment()]  # fmt: skip
    with pytest.raises(NotApplicable, match="no prior of them"):
        Stack(
            nn.Linear(2, 2), objective, methods, data=torch.ones(4, 2),
            resources={"view": lambda x, g: x},
        )  # fmt: skip
