"""Focal loss."""

from __future__ import annotations

import functools
import math
from typing import Any

import kornia.losses
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.record_libraries import numbers, recorded
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.fixmatch import FixMatch
from whet.methods.focal import Focal, focal_losses
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.mixup import MixUp
from whet.methods.r_drop import RDrop
from whet.objectives.families import family
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(Focal(gamma=2.0, alpha=(0.5, 1.0, 2.0)))

BATCHES = Batch.of(data()).split(6)
LABELS, TOKENS = family("multi-label"), family("tokens")


def logits(rows: int = 8, classes: int = 5, seed: int = 0) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=seeding.generator(seed)).double()


def classes(rows: int = 8, count: int = 5) -> Tensor:
    return torch.randint(0, count, (rows,), generator=seeding.generator(1))


def stack_of(model: nn.Module, objective: str, *methods: Any) -> Stack:
    return Stack(
        model, objective, methods, optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )  # fmt: skip


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [None, (0.1, 0.2, 0.3, 4.0, 0.0)])
def test_formula_of_hard_and_soft_classes(gamma: float, alpha: Any) -> None:
    z, y = logits(), classes()
    p = torch.tensor([[math.exp(v) for v in row] for row in z.tolist()]).double()
    p = p / p.sum(1, keepdim=True)
    weight = torch.ones(5).double() if alpha is None else torch.tensor(alpha).double()
    each = -weight * (1 - p) ** gamma * p.log()
    assert torch.allclose(focal_losses(z, y, gamma, alpha), each[range(8), y], atol=1e-7)
    soft = torch.softmax(logits(seed=2), 1)
    assert torch.allclose(focal_losses(z, soft, gamma, alpha), (soft * each).sum(1), atol=1e-7)
    hot = F.one_hot(y, 5).double()
    assert torch.allclose(focal_losses(z, hot, gamma, alpha), focal_losses(z, y, gamma, alpha))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_formula_of_labels(gamma: float) -> None:
    z, t = logits(), torch.rand(8, 5, generator=seeding.generator(3)).double()
    p, share = 1 / (1 + (-z).exp()), torch.tensor([0.25, 0.5, 0.1, 0.9, 1.0]).double()
    yes, no = -((1 - p) ** gamma) * p.log(), -(p**gamma) * (1 - p).log()
    plain = (t * yes + (1 - t) * no).mean(1)
    assert torch.allclose(focal_losses(z, t, gamma, kind=LABELS), plain)
    weighed = (t * share * yes + (1 - t) * (1 - share) * no).mean(1)
    alpha = tuple(share.tolist())
    assert torch.allclose(focal_losses(z, t, gamma, alpha, LABELS), weighed)
    one = focal_losses(z, t, gamma, 0.25, LABELS)
    assert torch.allclose(one, (t * 0.25 * yes + (1 - t) * 0.75 * no).mean(1))


def test_oracle_of_classes() -> None:
    z, y = logits(), classes()
    for gamma in (0.5, 1.0, 2.0, 3.0):
        theirs = kornia.losses.focal_loss(z, y, alpha=None, gamma=gamma).sum(1)
        assert torch.allclose(focal_losses(z, y, gamma), theirs)
    background = kornia.losses.focal_loss(z, y, alpha=0.3, gamma=2.0).sum(1)
    assert torch.allclose(focal_losses(z, y, 2.0, (0.7, 0.3, 0.3, 0.3, 0.3)), background)
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0]).double()
    theirs = kornia.losses.focal_loss(z, y, alpha=None, gamma=2.0, weight=weight).sum(1)
    assert torch.allclose(focal_losses(z, y, 2.0, tuple(weight.tolist())), theirs)


def test_oracle_of_labels_and_of_one_logit() -> None:
    z, t = logits(), torch.rand(8, 5, generator=seeding.generator(3)).double()
    for alpha in (None, 0.25):
        each = kornia.losses.binary_focal_loss_with_logits(z, t, alpha=alpha, gamma=1.5)
        assert torch.allclose(focal_losses(z, t, 1.5, alpha, LABELS), each.mean(1))
    one, hard = z[:, :1], (t[:, :1] > 0.5).double()
    two = torch.cat([torch.zeros_like(one), one], 1)  # one logit is two, of which one is zero
    for alpha in (None, 0.3):
        binary = focal_losses(one, hard, 2.0, alpha, LABELS)
        assert torch.allclose(binary, focal_losses(two, hard[:, 0].long(), 2.0, alpha))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_oracle_of_labels_is_fvcore(gamma: float, alpha: float | None) -> None:
    """sigmoid_focal_loss, as it was recorded; alpha -1 is its word for none."""
    z, t = 3 * numbers(6, 4).float(), (numbers(6, 4, offset=1) > 0).float()
    each = recorded("fvcore")["focal"][f"{-1 if alpha is None else alpha} {gamma}"]
    expected = torch.tensor(each).view(6, 4).mean(1)
    assert torch.allclose(focal_losses(z, t, gamma, alpha, LABELS), expected, atol=1e-6)


def test_gradient_is_the_formulas() -> None:
    """dℓ/dz_t = p_t (γ (1-p_t)^γ log p_t) - (1-p_t)^(γ+1), for two classes by hand."""
    z = logits(6, 2).requires_grad_()
    y, gamma = classes(6, 2), 1.7
    [found] = torch.autograd.grad(focal_losses(z, y, gamma).sum(), z)
    p = z.detach().softmax(1)[range(6), y]
    slope = gamma * (1 - p) ** gamma * p * p.log() - (1 - p) ** (gamma + 1)
    assert torch.allclose(found[range(6), y], slope)
    assert torch.allclose(found.sum(1), torch.zeros(6).double(), atol=1e-12)


def test_gamma_zero_is_cross_entropy_to_the_bit() -> None:
    z, y = logits().float(), classes()
    assert torch.equal(focal_losses(z, y, 0.0), F.cross_entropy(z, y, reduction="none"))
    soft = smooth(y, 0.1, 5)
    assert torch.equal(focal_losses(z, soft, 0.0), F.cross_entropy(z, soft, reduction="none"))
    assert torch.equal(focal_losses(z, soft, 0.0, kind=LABELS), LABELS.losses(z, soft))
    for kind, targets in ((None, y), (None, soft), (LABELS, soft)):  # and through the formula
        ones = (1.0,) * 5 if kind is None else 0.5
        scale = 1.0 if kind is None else 2.0
        found = scale * focal_losses(z, targets, 0.0, ones, kind)
        assert torch.allclose(found, focal_losses(z, targets, 0.0, kind=kind), atol=1e-6)


# the method ----------------------------------------------------------------------------------
@pytest.mark.parametrize("coupled", [False, True])
def test_core_in_a_hand_loop_equals_the_stack(coupled: bool) -> None:
    stack = make_stack([Focal(1.5, (1.0, 1.0, 3.0))], coupled=coupled)
    model = make_model(coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        seeding.seed_default(stack.run.position())
        optimizer.zero_grad()
        output = call(model, batch.inputs)
        losses = focal_losses(output, batch.targets, 1.5, (1.0, 1.0, 3.0))
        losses.dot(losses.new_full(losses.shape, 1.0 / batch.size)).backward()
        optimizer.step()
        stack.step(batch)
    assert equal(weights(model), weights(stack.run.module))


def test_a_mixture_costs_the_mixture_of_the_costs() -> None:
    z, a, b = logits(), classes(), classes().flip(0)
    mixed = family("categorical").mix(a, b, 0.3, 5)
    wanted = 0.3 * focal_losses(z, a, 2.0) + 0.7 * focal_losses(z, b, 2.0)
    assert torch.allclose(focal_losses(z, mixed, 2.0), wanted)


def test_sees_the_targets_that_others_set() -> None:
    stack = make_stack([Focal(2.0), LabelSmoothing(0.1)], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    model = make_model(coupled=False)
    output = call(model, BATCHES[0].inputs)
    focal_losses(output, smooth(BATCHES[0].targets, 0.1, 3), 2.0).mean().backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)
    text = make_stack([Focal(), RDrop(), MixUp(at="floats"), LabelSmoothing()]).explain()
    assert "mixup > label_smoothing > r_drop > focal > supervised" in text


def test_terms_that_others_add_stay_what_they_are() -> None:
    found = []
    for methods in ([FixMatch(threshold=0.0, mu=1)], [FixMatch(threshold=0.0, mu=1), Focal(2.0)]):
        stack = make_stack(methods, coupled=False)
        stack.gradients(stack.window(BATCHES[0]))
        found.append(stack.loss)
    output = call(make_model(coupled=False), BATCHES[0].inputs)
    hard = F.cross_entropy(output, BATCHES[0].targets)
    easy = focal_losses(output, BATCHES[0].targets, 2.0).mean()
    assert found[0] - found[1] == pytest.approx((hard - easy).item(), abs=1e-6)


def test_rows_without_a_target_and_batches_without() -> None:
    targets = torch.tensor([0, -100, 2, 99, 1, -1])
    mask = torch.tensor([True, False, True, False, True, False])
    stack = make_stack([Focal(0.5)], coupled=False)
    stack.gradients(stack.window(Batch(BATCHES[0].inputs, targets, mask)))
    model = make_model(coupled=False)
    output = call(model, BATCHES[0].inputs)[mask]
    focal_losses(output, targets[mask], 0.5).mean().backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)
    before = weights(stack.run.module)
    stack.step(Batch(BATCHES[0].inputs))
    assert equal(before, weights(stack.run.module))


def test_tokens_to_ignore_stay_ignored() -> None:
    model, twin = nn.Embedding(5, 4), nn.Embedding(5, 4)
    twin.load_state_dict(model.state_dict())
    tokens, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, 3]])
    stack = stack_of(model, "tokens", Focal(2.0, (1.0, 1.0, 1.0, 2.0)))
    stack.gradients(stack.window((tokens, labels)))
    kept = labels[0] >= 0
    focal_losses(twin(tokens)[0][kept], labels[0][kept], 2.0, (1, 1, 1, 2)).mean().backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)
    soft = TOKENS.soften(labels, 4)
    losses = focal_losses(twin(tokens), soft, 2.0, kind=TOKENS)
    assert losses[0, 1] == 0
    assert torch.allclose(losses, focal_losses(twin(tokens), labels, 2.0, kind=TOKENS))


def test_half_precision_keeps_its_digits() -> None:
    z, y = logits().half(), classes()
    found = focal_losses(z, y, 2.0)
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), focal_losses(z.double(), y, 2.0), rtol=1e-5)


# errors --------------------------------------------------------------------------------------
def test_one_number_is_for_two_classes() -> None:
    with pytest.raises(InputError, match=r"3 outputs.*alpha=\(1, 1, 1\)"):
        stack_of(nn.Linear(2, 3), "categorical", Focal(alpha=0.25)).step(
            (torch.ones(2, 2), torch.tensor([0, 1]))
        )
    assert stack_of(nn.Linear(2, 2), "categorical", Focal(alpha=0.25)).step(
        (torch.ones(2, 2), torch.tensor([0, 1]))
    )


@pytest.mark.parametrize("objective", ["categorical", "multi-label"])
def test_as_many_weights_as_outputs(objective: str) -> None:
    targets = torch.tensor([0, 1]) if objective == "categorical" else torch.zeros(2, 3)
    with pytest.raises(InputError, match="alpha has 2 weights and the model 3 outputs"):
        stack_of(nn.Linear(2, 3), objective, Focal(alpha=(1.0, 0.5))).step(
            (torch.ones(2, 2), targets)
        )


def test_a_share_lies_below_one() -> None:
    for objective, alpha in (("categorical", 1.5), ("multi-label", 1.5), ("multi-label", (2.0,))):
        with pytest.raises(InputError, match=r"weight of a positive lies in \[0, 1\]"):
            stack_of(nn.Linear(2, 1), objective, Focal(alpha=alpha))
    assert stack_of(nn.Linear(2, 2), "categorical", Focal(alpha=(1.0, 20.0)))


@pytest.mark.parametrize("objective", ["real", "contrastive"])
def test_does_not_apply_without_classes(objective: str) -> None:
    from whet.methods.moco import MoCo

    methods = [MoCo(dim=2), Focal()] if objective == "contrastive" else [Focal()]
    with pytest.raises(NotApplicable, match="no classes"):
        Stack(
            nn.Linear(2, 2), objective, methods, data=torch.ones(4, 2),
            resources={"view": lambda x, g: x},
        )  # fmt: skip


# traps ---------------------------------------------------------------------------------------
def weighed_probability(z: Tensor, y: Tensor, gamma: float, alpha: Tensor) -> Tensor:
    """fastai's: p_t = exp(-CE), of a cross-entropy that is weighted already."""
    weighted = F.cross_entropy(z, y, weight=z.new_tensor(alpha), reduction="none")
    return (1 - torch.exp(-weighted)) ** gamma * weighted


@trap(right=focal_losses, wrong=weighed_probability)
def test_a_weight_scales_the_loss_and_leaves_p_alone(loss: Any) -> None:
    z, y = torch.zeros(1, 2), torch.tensor([0])
    assert loss(z, y, 2.0, (10.0, 1.0)).item() == pytest.approx(10 * 0.25 * math.log(2))


def test_fastais_loss_under_a_weight() -> None:
    """As it was recorded: 6.92, and not 1.73."""
    z, y = torch.zeros(1, 2), torch.tensor([0])
    theirs = recorded("fastai")["weighted"]
    assert theirs == pytest.approx(weighed_probability(z, y, 2.0, (10.0, 1.0)).item())
    assert theirs / focal_losses(z, y, 2.0, (10.0, 1.0)).item() == pytest.approx(4.0, abs=0.01)


def by_difference(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    ce = F.cross_entropy(z, y, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


@trap(right=focal_losses, wrong=by_difference)
def test_a_sure_row_has_a_finite_gradient_below_gamma_one(loss: Any) -> None:
    z = torch.tensor([[60.0, 0.0], [0.0, 200.0], [1.0, 0.0]], requires_grad=True)
    [gradient] = torch.autograd.grad(loss(z, torch.tensor([0, 1, 0]), 0.5).sum(), z)
    assert gradient.isfinite().all()
    assert gradient[2].any()


@pytest.mark.parametrize("gamma", [0.01, 0.5, 0.99, 1.0, 2.0])
def test_gradients_are_finite_everywhere(gamma: float) -> None:
    for kind in (family("categorical"), LABELS):
        ends = torch.tensor([-300.0, -100.0, -90.0, -20.0, 0.0, 20.0, 90.0, 100.0, 300.0])
        z = torch.stack([ends, torch.zeros(9)], 1).requires_grad_()
        for targets in (torch.tensor([[1.0, 0.0]] * 9), torch.tensor([[0.9, 0.1]] * 9)):
            losses = focal_losses(z, targets, gamma, kind=kind)
            [gradient] = torch.autograd.grad(losses.sum(), z)
            assert losses.isfinite().all()
            assert gradient.isfinite().all()


@trap(
    right=functools.partial(focal_losses, kind=LABELS),
    wrong=lambda z, t, gamma: kornia.losses.binary_focal_loss_with_logits(z, t, gamma=gamma),
)
def test_nothing_is_weighed_unless_asked(loss: Any) -> None:
    """torchvision and kornia weigh positives by 0.25 by default, fvcore does not."""
    z, t = logits(), (logits(seed=4) > 0).double()
    plain = F.binary_cross_entropy_with_logits(z, t)
    assert loss(z, t, gamma=0.0).mean().item() == pytest.approx(plain.item())


def indexed(z: Tensor, y: Tensor, gamma: float, alpha: float) -> Tensor:
    """`self.alpha = torch.tensor([alpha, 1 - alpha])`, taken by the row's class."""
    weight = torch.tensor([alpha, 1.0 - alpha]).double()
    return weight[y] * kornia.losses.focal_loss(z, y, alpha=None, gamma=gamma).sum(1)


@trap(right=focal_losses, wrong=indexed)
def test_alpha_is_the_weight_of_the_positive(loss: Any) -> None:
    """Of the second of two classes, as it is with one logit and in the paper."""
    z, y = logits(8, 2), classes(8, 2)
    one = kornia.losses.binary_focal_loss_with_logits(
        z[:, 1:] - z[:, :1], y[:, None].double(), alpha=0.9, gamma=2.0
    )
    assert torch.allclose(loss(z, y, 2.0, 0.9), one[:, 0])


def over_all_entries(z: Tensor, y: Tensor, gamma: float) -> Tensor:
    return kornia.losses.focal_loss(z, y, alpha=None, gamma=gamma, reduction="mean")


@trap(right=lambda z, y, gamma: focal_losses(z, y, gamma).mean(), wrong=over_all_entries)
def test_the_mean_is_over_items_and_not_over_classes(loss: Any) -> None:
    """More classes of no probability change nothing."""
    z, y = logits(), classes()
    wide = torch.cat([z, torch.full((8, 15), -1e4).double()], 1)
    assert loss(wide, y, 2.0).item() == pytest.approx(loss(z, y, 2.0).item())


def around_the_loss(z: Tensor, soft: Tensor, gamma: float) -> Tensor:
    """exp(-CE) of a soft target, which is no probability of anything."""
    ce = F.cross_entropy(z, soft, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


@trap(right=focal_losses, wrong=around_the_loss)
def test_works_on_targets_and_not_around_the_loss(loss: Any) -> None:
    z, y = logits(), classes()
    a, b = F.one_hot(y, 5).double(), F.one_hot(y.flip(0), 5).double()
    mixed = loss(z, 0.4 * a + 0.6 * b, 2.0)
    assert torch.allclose(mixed, 0.4 * loss(z, a, 2.0) + 0.6 * loss(z, b, 2.0))


def test_neutral_form_and_effect_on_the_hard_rows() -> None:
    z = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    plain = F.cross_entropy(z, torch.tensor([0, 0]), reduction="none")
    faded = focal_losses(z, torch.tensor([0, 0]), 2.0) / plain
    assert faded[0] < 0.001
    assert faded[1] > 0.5
    stacks = [make_stack([]), make_stack([Focal(0.0)])]
    for stack in stacks:
        stack.step(BATCHES[0])
    assert equal(*(weights(stack.run.module) for stack in stacks))
    assert not close(weights(stacks[0].run.module), weights(make_model()))
