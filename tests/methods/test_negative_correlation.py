"""Negative correlation learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.logs.log import readings
from whet.members import Members
from whet.methods.label_smoothing import LabelSmoothing
from whet.methods.mixup import MixUp
from whet.methods.moco import MoCo
from whet.methods.negative_correlation import NegativeCorrelation, negative_correlation_losses
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(NegativeCorrelation(penalty=0.5))

BATCHES = Batch.of(data()).split(6)


def outputs(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=seeding.generator(seed)).double()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def stack_of(kind: str = "categorical", width: int = 3, **given: Any) -> Stack:
    model = Members(lambda: nn.Linear(4, width), 3, kind=kind, mean=given.pop("mean", "outputs"))
    return Stack(model, kind, [NegativeCorrelation(**given)], optimizer=sgd)


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("penalty", [0.0, 0.3, 0.9, 1.0])
def test_squared_errors_are_twice_the_known_form(penalty: float) -> None:
    f, y = outputs(4, 6, 2), outputs(6, 2, seed=1)
    mean = f.mean(0)
    known = 0.5 * (f - y).square() - penalty * 0.5 * (f - mean).square()
    found = negative_correlation_losses(f, y, penalty, "real")
    assert torch.allclose(found, 2 * known.mean(0).mean(-1))


def test_ambiguity_identity() -> None:
    """Krogh & Vedelsby 1995: mean (f_i - y)^2 = (mean f - y)^2 + mean (f_i - mean f)^2."""
    f, y = outputs(4, 6), outputs(6, seed=1)
    mean = f.mean(0)
    assert torch.allclose(
        (f - y).square().mean(0), (mean - y).square() + (f - mean).square().mean(0)
    )
    gained = negative_correlation_losses(f, y, 0.0, "real") - negative_correlation_losses(
        f, y, 1.0, "real"
    )
    assert torch.allclose(gained, (f - mean).square().mean(0))


def test_at_the_limit_it_is_the_joint_answers_error() -> None:
    f, y = outputs(4, 6).requires_grad_(), outputs(6, seed=1)
    halved = 0.5 * negative_correlation_losses(f, y, 1.0, "real")
    assert torch.allclose(halved, 0.5 * (f.mean(0) - y).square())


def test_the_gradient_is_the_papers() -> None:
    """(f_i - y) - lambda (f_i - mean f), as if the mean stood still: Liu & Yao, equation 9."""
    f, y = outputs(4, 6).requires_grad_(), outputs(6, seed=1)
    halved = 0.5 * negative_correlation_losses(f, y, 0.7, "real").sum() * 4
    [gradient] = torch.autograd.grad(halved, f)
    assert torch.allclose(gradient, ((f - y) - 0.7 * (f - f.mean(0))).detach())


@pytest.mark.parametrize("penalty", [0.0, 0.4, 1.0])
def test_classes_are_paid_the_divergence_from_the_geometric_mean(penalty: float) -> None:
    z, y = outputs(4, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    each = torch.stack([F.cross_entropy(one, y, reduction="none") for one in z]).mean(0)
    mean = Categorical(logits=z.mean(0))
    apart = torch.stack([kl_divergence(mean, Categorical(logits=one)) for one in z]).mean(0)
    found = negative_correlation_losses(z, y, penalty, mean="outputs")
    assert torch.allclose(found, each - penalty * apart)


def test_classes_whose_probabilities_are_averaged() -> None:
    z, y = outputs(4, 6, 5), torch.tensor([0, 1, 2, 3, 4, 0])
    p = z.softmax(-1)[:, torch.arange(6), y]
    found = negative_correlation_losses(z, y, 0.4)
    assert torch.allclose(found, -0.6 * p.log().mean(0) - 0.4 * p.mean(0).log())
    assert ((-p.log().mean(0) + p.mean(0).log()) >= 0).all()


def test_labels_are_paid_the_divergence_of_each() -> None:
    z, y = outputs(4, 6, 5), (outputs(6, 5, seed=1) > 0).double()
    each = F.binary_cross_entropy_with_logits(z, y.expand(4, -1, -1), reduction="none")
    apart = kl_divergence(Bernoulli(logits=z.mean(0).expand_as(z)), Bernoulli(logits=z))
    expected = (each - 0.4 * apart).mean(0).mean(-1)
    found = negative_correlation_losses(z, y, 0.4, "multi-label", mean="outputs")
    assert torch.allclose(found, expected)


# the method ----------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["categorical", "multi-label", "real", "tokens"])
@pytest.mark.parametrize("mean", ["probabilities", "outputs"])
def test_core_in_a_hand_loop_equals_the_stack(kind: str, mean: str) -> None:
    x = torch.randn(2, 3, 4) if kind == "tokens" else torch.randn(6, 4)
    y = {
        "categorical": torch.tensor([0, 1, 2, 0, 1, 2]), "real": torch.randn(6, 3),
        "multi-label": torch.randint(0, 2, (6, 3)), "tokens": torch.tensor([[0, 1, 2], [2, 1, 0]]),
    }[kind]  # fmt: skip
    stack = stack_of(kind, mean=mean, penalty=0.4)
    model = Members(lambda: nn.Linear(4, 3), 3, kind=kind, mean=mean)
    optimizer = sgd(model.parameters())
    for _ in range(3):
        given = torch.stack([member(x) for member in model.members])
        loss = negative_correlation_losses(given, y, 0.4, kind, mean).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stack.step((x, y))
        assert stack.loss == pytest.approx(loss.item(), rel=1e-5)
    assert close(weights(model), weights(stack.run.module))


def test_without_penalty_members_learn_as_if_alone() -> None:
    """At K times the rate, as the loss is a mean over members."""
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    stack = stack_of(penalty=0.0)
    alone = Members(lambda: nn.Linear(4, 3), 3).members
    for _ in range(3):
        stack.step((x, y))
        for member in alone:
            member.zero_grad()
            (F.cross_entropy(member(x), y) / 3).backward()
            for p in member.parameters():
                p.data -= 0.1 * p.grad
    assert close(weights(alone), weights(stack.run.module.members))


def test_rows_without_a_target_are_left_out() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    one, other = stack_of(), stack_of()
    one.step(Batch(x, y, mask))
    other.step((x[mask], y[mask]))
    assert close(weights(one.run.module), weights(other.run.module))
    assert one.methods[0].readings() == pytest.approx(other.methods[0].readings(), rel=1e-5)
    assert one.step(Batch(x))  # where none has one, there is nothing to learn
    assert close(weights(one.run.module), weights(other.run.module))


def test_targets_that_other_methods_mix_and_smooth() -> None:
    methods = [NegativeCorrelation(0.4), LabelSmoothing(0.2), MixUp(1.0, at="floats")]
    stack = make_stack(methods, coupled=False)
    caught: list[Batch] = []
    from whet.objectives.supervised import Supervised

    class Watched(Supervised):
        def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
            caught.append(batch)
            return super().forward(run, batch, inner)

    stack = Stack(
        make_model(coupled=False, members=3), Watched(), methods, updates=6, optimizer=sgd
    )
    stack.gradients(stack.window(BATCHES[0]))
    [batch] = caught
    assert batch.targets is not None
    assert batch.targets.shape == (6, 3)
    model = make_model(coupled=False, members=3)
    seen: list[Tensor] = []
    model.head.joint.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    call(model, batch.inputs)
    expected = negative_correlation_losses(seen[0], batch.targets, 0.4).mean()
    assert stack.loss == pytest.approx(expected.item(), rel=1e-5)


def test_heads_on_a_trunk_are_called_once() -> None:
    stack = make_stack([CASE.method], coupled=False)
    calls: list[nn.Module] = []
    for part in (stack.run.module, *stack.run.module.head.members):
        part.register_forward_hook(lambda module, *_: calls.append(module))
    stack.step(BATCHES[0])
    assert len(calls) == 1 + 3


def test_members_errors_are_reported() -> None:
    stack = stack_of(penalty=0.4)
    assert all(value != value for value in stack.methods[0].readings().values())
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    with torch.no_grad():
        each = [F.cross_entropy(member(x), y).item() for member in stack.run.module.members]
        joint = F.cross_entropy(stack.run.module(x), y).item()
    halves = [Batch(x[:4], y[:4]), Batch(x[4:], y[4:])]
    stack.step(halves)
    mean = sum(each) / 3
    found = readings(stack)
    assert found["negative_correlation/member_loss"] == pytest.approx(mean, rel=1e-5)
    assert found["negative_correlation/worst_member_loss"] == pytest.approx(max(each), rel=1e-5)
    assert found["negative_correlation/joint_loss"] == pytest.approx(joint, rel=1e-5)
    assert found["negative_correlation/ambiguity"] == pytest.approx(mean - joint, abs=1e-5)


# errors --------------------------------------------------------------------------------------
def test_a_model_without_members() -> None:
    with pytest.raises(NotApplicable, match=r"no members.*Train whet\.Members\(make_model, 3\)"):
        Stack(nn.Linear(4, 3), "categorical", [NegativeCorrelation()], optimizer=sgd)


def test_members_joined_as_something_else() -> None:
    model = Members(lambda: nn.Linear(4, 3), 3)
    with pytest.raises(InputError, match=r"'categorical' and the objective is 'real'.*kind='real'"):
        Stack(model, "real", [NegativeCorrelation()], optimizer=sgd)


def test_members_in_the_middle() -> None:
    model = nn.Sequential(Members(lambda: nn.Linear(4, 5), 3), nn.Linear(5, 3))
    stack = Stack(model, "categorical", [NegativeCorrelation()], optimizer=sgd)
    with pytest.raises(InputError, match=r"shape \(6, 5\) and the model \(6, 3\).*the last"):
        stack.step((torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])))


def test_several_ensembles() -> None:
    model = nn.Sequential(*(Members(lambda: nn.Linear(4, 4), 2) for _ in range(2)))
    with pytest.raises(InputError, match=r"several Members \(0, 1\)"):
        Stack(model, "categorical", [NegativeCorrelation()], optimizer=sgd)


def test_does_not_apply_to_embeddings() -> None:
    model = Members(lambda: nn.Linear(4, 3), 3, kind="embedding")
    with pytest.raises(NotApplicable, match="no targets that members could miss"):
        Stack(model, "contrastive", [MoCo(dim=2), NegativeCorrelation()],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip


@pytest.mark.parametrize("penalty", [1.0, 1.5, -0.1])
def test_the_penalty_is_capped(penalty: float) -> None:
    with pytest.raises(InputError, match=r"penalty is .*must lie in \[0, 1\)"):
        stack_of(penalty=penalty)


def test_the_core_says_why_the_penalty_is_capped() -> None:
    with pytest.raises(InputError, match="no lower bound"):
        negative_correlation_losses(outputs(2, 3), outputs(3), 1.01, "real")


# traps ---------------------------------------------------------------------------------------
def unhalved(f: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Half an error beside a whole penalty: its limit is 1/2, and not 1."""
    return (0.5 * (f - y).square() - penalty * (f - f.mean(0)).square()).mean(0)


@trap(
    right=lambda f, y, penalty: negative_correlation_losses(f, y, penalty, "real"),
    wrong=unhalved,
)
def test_members_stay_near_the_targets_below_a_penalty_of_one(losses: Any) -> None:
    f, y = outputs(3, 6).requires_grad_(), outputs(6, seed=1)
    for _ in range(400):
        [gradient] = torch.autograd.grad(losses(f, y, 0.9).sum(), f)
        f = (f - 0.3 * gradient).detach().requires_grad_()
    assert (f - y).abs().max() < 1.0


def uncapped(f: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Any penalty: above 1 being apart pays more than missing costs."""
    return ((f - y).square() - penalty * (f - f.mean(0)).square()).mean(0)


@trap(
    right=lambda f, y, penalty: negative_correlation_losses(f, y, penalty, "real"),
    wrong=uncapped,
)
def test_no_penalty_pays_for_being_far_apart(losses: Any) -> None:
    """Members 100 on either side of the target: at 1.5 a loss of -5000."""
    f, y = torch.tensor([[100.0], [-100.0]]), torch.zeros(1)
    for penalty in (0.0, 0.9, 1.5):
        try:
            found = losses(f, y, penalty)
        except InputError:
            continue
        assert found.item() >= 0


class OfTheAnswer(NegativeCorrelation):
    """Every member's loss taken at the joint answer, which leaves nothing to be paid for."""

    def _outputs(self, heard: Any, forward: Any) -> Tensor:
        return forward.output[None].expand(3, *forward.output.shape)


@trap(right=NegativeCorrelation, wrong=OfTheAnswer)
def test_members_answer_for_themselves(kind: Any) -> None:
    stack = make_stack([kind(0.5)], coupled=False)
    stack.step(BATCHES[0])
    assert stack.methods[0].readings()["ambiguity"] > 1e-4
