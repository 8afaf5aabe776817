"""Label smoothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.record_libraries import numbers, recorded
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.moco import MoCo
from whet.objectives.families import family
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(LabelSmoothing(epsilon=0.1))

BATCHES = Batch.of(data()).split(6)


def stack_of(model: nn.Module, objective: str, epsilon: float = 0.1) -> Stack:
    return Stack(
        model, objective, [LabelSmoothing(epsilon)],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025]])
    assert torch.allclose(smooth(torch.tensor([1]), 0.1, 4), expected)
    soft = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    expected = torch.tensor([[0.475, 0.475, 0.025, 0.025]])
    assert torch.allclose(smooth(soft, 0.1, 4), expected)


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 0.5, 0.99])
def test_equals_torch(epsilon: float) -> None:
    maker = seeding.generator(0)
    logits = torch.randn(8, 5, generator=maker).double().requires_grad_()
    labels = torch.randint(0, 5, (8,), generator=maker)
    theirs = F.cross_entropy(logits, labels, label_smoothing=epsilon)
    ours = F.cross_entropy(logits, smooth(labels, epsilon, 5).double())
    assert torch.allclose(ours, theirs, atol=1e-6)
    for a, b in zip(*(torch.autograd.grad(x, logits) for x in (ours, theirs)), strict=True):
        assert torch.allclose(a, b, atol=1e-7)


def test_equals_timm() -> None:
    """LabelSmoothingCrossEntropy and SoftTargetCrossEntropy, as they were recorded."""
    z, labels = 3 * numbers(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    found = F.cross_entropy(z, smooth(labels, 0.1, 4).double()).item()
    assert found == pytest.approx(recorded("timm")["label_smoothing"], abs=1e-6)
    losses = family("categorical").losses(z, numbers(6, 4, offset=1).softmax(1))
    assert losses.mean().item() == pytest.approx(recorded("timm")["soft_targets"], abs=1e-6)


def test_the_stack_trains_on_torchs_loss() -> None:
    stack = make_stack([LabelSmoothing(0.1)], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    model = make_model(coupled=False)
    output = call(model, BATCHES[0].inputs)
    F.cross_entropy(output, BATCHES[0].targets, label_smoothing=0.1).backward()
    for a, b in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-7)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([LabelSmoothing(0.1)]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number, batch in enumerate(BATCHES):
        stack.step(batch)
        seeding.seed_default(position(number))
        optimizer.zero_grad()
        F.cross_entropy(call(model, batch.inputs), smooth(batch.targets, 0.1, 3)).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def position(window: int) -> int:
    run = make_stack().run
    run.window = window
    return run.position()


def test_without_epsilon_the_batch_goes_through_as_it_is() -> None:
    seen: list[Batch] = []
    method = LabelSmoothing(epsilon=0.0)
    method.forward(make_stack().run, BATCHES[0], seen.append)
    assert seen[0] is BATCHES[0]


# traps ---------------------------------------------------------------------------------------


def among_the_others(targets: Tensor, epsilon: float, classes: int) -> Tensor:
    """1 - ε for the true class and ε/(K-1) for each other: fairseq, OpenNMT and many snippets."""
    soft = torch.full((len(targets), classes), epsilon / (classes - 1))
    return soft.scatter_(1, targets[:, None], 1 - epsilon)


@trap(right=smooth, wrong=among_the_others)
def test_spreads_over_all_classes(smoothed: Any) -> None:
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    ours = F.cross_entropy(logits, smoothed(labels, 0.2, 2))
    assert ours.item() == pytest.approx(F.cross_entropy(logits, labels, label_smoothing=0.2).item())


def weighed_by_torch(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, weight=weight, label_smoothing=0.1)


def weighed_by_row(logits: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    losses = F.cross_entropy(logits, smooth(labels, 0.1, 3), reduction="none")
    return (weight[labels] * losses).sum() / weight[labels].sum()


@trap(right=weighed_by_row, wrong=weighed_by_torch)
def test_class_weights_do_not_move_the_optimum(loss: Any) -> None:
    """At p = the smoothed target the gradient is zero, whatever a row weighs (pytorch#104776).

    With weights 1, 1, 10 torch's optimum for a row of class 0 gives class 2 0.256, not 0.033.
    """
    labels, weight = torch.tensor([0]), torch.tensor([1.0, 1.0, 10.0])
    logits = smooth(labels, 0.1, 3).log().requires_grad_()
    [gradient] = torch.autograd.grad(loss(logits, labels, weight), logits)
    assert gradient.abs().max() < 1e-6


def test_torchs_optimum_under_class_weights() -> None:
    mass = 0.9 * torch.tensor([1.0, 0.0, 0.0]) + 0.1 / 3 * torch.tensor([1.0, 1.0, 10.0])
    optimum = mass / mass.sum()
    logits = optimum.log().requires_grad_()
    loss = weighed_by_torch(logits[None], torch.tensor([0]), torch.tensor([1.0, 1.0, 10.0]))
    assert torch.autograd.grad(loss, logits)[0].abs().max() < 1e-6
    assert optimum[2].item() == pytest.approx(0.2564, abs=1e-4)


# what else holds -----------------------------------------------------------------------------


def test_rows_without_a_target_may_hold_anything() -> None:
    inputs = BATCHES[0].inputs
    targets = torch.tensor([0, -100, 2, 99, 1, -1])
    mask = torch.tensor([True, False, True, False, True, False])
    stack = make_stack([LabelSmoothing(0.1)], coupled=False)
    stack.gradients(stack.window(Batch(inputs, targets, mask)))
    model = make_model(coupled=False)
    output = call(model, inputs)[mask]
    F.cross_entropy(output, targets[mask], label_smoothing=0.1).backward()
    for a, b in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-7)


def test_tokens_to_ignore_stay_ignored() -> None:
    model = nn.Embedding(5, 4)
    tokens, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, 3]])
    stack = stack_of(model, "masked_tokens")
    stack.gradients(stack.window((tokens, labels)))
    twin = nn.Embedding(5, 4)
    twin.load_state_dict(model.state_dict())
    F.cross_entropy(twin(tokens)[0], labels[0], label_smoothing=0.1).backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)


def test_masked_tokens_still_notice_that_nothing_was_masked() -> None:
    stack = stack_of(nn.Embedding(5, 4), "masked_tokens")
    with pytest.raises(InputError, match="masked nothing"):
        stack.step((torch.tensor([[1, 2]]), torch.tensor([[0, 3]])))


def test_labels_go_towards_one_half() -> None:
    labels = torch.tensor([[1, 0, 1]])
    assert torch.allclose(family("multi-label").smooth(labels, 0.2, 3), labels * 0.8 + 0.1)
    stack = stack_of(nn.Linear(2, 3), "multi-label")
    assert stack.step((torch.ones(1, 2), labels))


@pytest.mark.parametrize("objective", ["real", "contrastive"])
def test_does_not_apply_without_classes(objective: str) -> None:
    contrastive = objective == "contrastive"
    methods = [MoCo(dim=2), LabelSmoothing()] if contrastive else [LabelSmoothing()]
    with pytest.raises(NotApplicable, match="no classes to spread a probability over"):
        Stack(
            nn.Linear(2, 2), objective, methods, data=torch.ones(4, 2),
            resources={"view": lambda x, g: x},
        )  # fmt: skip


@pytest.mark.parametrize("bad", [-1, 3])
def test_a_class_out_of_range_is_named(bad: int) -> None:
    targets = torch.tensor([0, 1, bad, 2])
    with pytest.raises(InputError, match=rf"targets out of range.*found {bad} in rows .* 2\."):
        stack_of(nn.Linear(2, 3), "categorical").step((torch.ones(4, 2), targets))
