"""Distillation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import (
    close,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    resources,
    weights,
)
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import Distillation, distillation_loss, distillation_losses
from whet.methods.focal import Focal, focal_losses
from whet.methods.label_smoothing import LabelSmoothing
from whet.methods.mixup import MixUp
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.objectives.families import family
from whet.objectives.objective import call
from whet.predict import MeanPredictor, ModelPredictor
from whet.stack import Stack

CASE = Case(Distillation(temperature=2.0, weight=0.6))

BATCHES = Batch.of(data()).split(6)


def logits(seed: int, rows: int = 6, classes: int = 5) -> Tensor:
    return 2 * torch.randn(rows, classes, generator=seeding.generator(seed)).double()


def teacher_of(stack: Any) -> nn.Module:
    found: nn.Module = stack.run.resources["teacher"]
    return found


def simple(teacher: Any, objective: str = "categorical", width: int = 3, **given: Any) -> Stack:
    with seeding.borrowed(5):
        model = nn.Linear(4, width)
    return Stack(
        model, objective, [Distillation(**given)], resources={"teacher": teacher},
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 20.0])
def test_oracle_is_torchs_divergence(temperature: float) -> None:
    s, t, y = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    p, q = Categorical(logits=t / temperature), Categorical(logits=s / temperature)
    soft = temperature**2 * kl_divergence(p, q)
    assert torch.allclose(distillation_losses(s, t, temperature), soft)
    hard = F.cross_entropy(s, y)
    found = distillation_loss(s, t, y, temperature, weight=0.3)
    assert torch.allclose(found, 0.7 * hard + 0.3 * soft.mean())
    for weight in (None, 1.0):
        found = distillation_loss(s, t, y, temperature, weight, "sum")
        assert torch.allclose(found, hard + soft.mean())
    found = distillation_loss(s, t, y, temperature)
    assert torch.allclose(found, 0.5 * (hard + soft.mean()))


def test_labels_and_reals() -> None:
    s, t = logits(0), logits(1)
    p, q = Bernoulli(logits=t / 3), Bernoulli(logits=s / 3)
    found = distillation_losses(s, t, 3.0, family("multi-label"))
    assert torch.allclose(found, 9 * kl_divergence(p, q).mean(1))
    for temperature in (1.0, 7.0):  # it cancels
        found = distillation_losses(s, t, temperature, family("real"))
        assert torch.allclose(found, 0.5 * (s - t).square().mean(1))


def test_high_temperature_matches_logits() -> None:
    """dL/ds -> (s - t)/C for logits of zero mean: section 2.1 of the paper."""
    s, t = (z - z.mean(1, keepdim=True) for z in (logits(0), logits(1)))
    s.requires_grad_()
    [gradient] = torch.autograd.grad(distillation_losses(s, t, 1e4).sum(), s)
    assert torch.allclose(gradient, (s - t).detach() / 5, atol=1e-3)


def test_no_gradient_reaches_the_teacher() -> None:
    s, t = logits(0).requires_grad_(), logits(1).requires_grad_()
    distillation_losses(s, t).sum().backward()
    assert s.grad is not None
    assert t.grad is None


# the method ----------------------------------------------------------------------------------
@pytest.mark.parametrize("weighting", ["convex", "sum"])
@pytest.mark.parametrize("coupled", [False, True])
def test_core_in_a_hand_loop_equals_the_stack(weighting: str, coupled: bool) -> None:
    stack = make_stack([Distillation(3.0, 0.7, weighting)], coupled=coupled)
    model, teacher = make_model(coupled=coupled), resources()["teacher"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        seeding.seed_default(stack.run.position())
        with torch.no_grad():
            soft = call(teacher, batch.inputs)
        optimizer.zero_grad()
        output = call(model, batch.inputs)
        distillation_loss(output, soft, batch.targets, 3.0, 0.7, weighting).backward()
        optimizer.step()
        stack.step(batch)
    assert close(weights(model), weights(stack.run.module), atol=1e-7)


def test_neutral_never_calls_the_teacher() -> None:
    def never(batch: Batch) -> Tensor:
        raise AssertionError

    for weighting in ("convex", "sum"):
        stack = make_stack([Distillation(2.0, 0.0, weighting)], resources={"teacher": never})
        plain = make_stack()
        for one in (stack, plain):
            one.step(BATCHES[0])
        assert equal(weights(stack.run.module), weights(plain.run.module))


def test_the_teacher_sees_what_the_student_sees() -> None:
    """With mixed inputs, and before smoothing touches the targets."""
    seen: list[Batch] = []
    given = resources()

    def teacher(batch: Batch) -> Tensor:
        seen.append(batch)
        return call(given["teacher"], batch.inputs)

    caught: list[Tensor] = []
    methods = [Distillation(2.0), MixUp(1.0, at="floats"), LabelSmoothing()]
    stack = make_stack(methods, coupled=False, resources={"teacher": teacher})
    stack.run.module.hidden.register_forward_pre_hook(lambda m, args: caught.append(args[0]))
    stack.step(BATCHES[0])
    floats = seen[0].inputs["floats"]
    assert not torch.equal(floats, BATCHES[0].inputs["floats"])
    assert torch.equal(caught[-1][:, 6:], floats)
    assert "mixup > label_smoothing > distillation > supervised" in stack.explain()


def test_rows_without_a_target_are_taught_too() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    stack = make_stack([Distillation(2.0, 0.6)], coupled=False)
    stack.gradients(stack.window(BATCHES[0].replace(mask=mask)))
    model = make_model(coupled=False)
    output = call(model, BATCHES[0].inputs)
    with torch.no_grad():
        soft = call(teacher_of(stack).eval(), BATCHES[0].inputs)
    hard = F.cross_entropy(output[mask], BATCHES[0].targets[mask])
    (0.4 * hard + 0.6 * distillation_losses(output, soft, 2.0).mean()).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)
    before = weights(stack.run.module)
    assert stack.step(Batch(BATCHES[0].inputs))  # and where no row has a target
    assert not equal(before, weights(stack.run.module))


def test_tokens_are_taught_where_they_have_a_target() -> None:
    with seeding.borrowed(1):
        model, teacher = nn.Embedding(5, 4), nn.Embedding(5, 4)
    twin = copy.deepcopy(model)
    tokens, labels = (
        torch.tensor([[1, 2, 3], [3, 4, 0]]),
        torch.tensor([[0, -100, 3], [-100, 1, 2]]),
    )
    stack = Stack(
        model, "tokens", [Distillation(2.0, 0.6)], resources={"teacher": teacher},
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    stack.gradients(stack.window((tokens, labels)))
    s, t = twin(tokens), teacher(tokens)
    distillation_loss(s, t, labels, 2.0, 0.6, objective="tokens").backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)
    before = weights(model)
    stack.step(Batch(tokens))
    assert equal(before, weights(model))


def test_composes_with_r_drop_and_focal() -> None:
    stack = make_stack([Distillation(2.0, 0.6), Focal(2.0)], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    model = make_model(coupled=False)
    output, soft = (call(m, BATCHES[0].inputs) for m in (model, teacher_of(stack).eval()))
    hard = focal_losses(output, BATCHES[0].targets, 2.0).mean()
    expected = 0.4 * hard + 0.6 * distillation_losses(output, soft, 2.0).mean()
    assert stack.loss == pytest.approx(expected.item(), rel=1e-6)
    for passes in ("two", "joined"):
        with seeding.borrowed(2):
            drop = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
        drop[1].p = 1e-9  # the two passes are one, and the loss is that of one
        given = {"teacher": nn.Linear(4, 3)}
        x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
        both = Stack(
            drop, "categorical", [RDrop(passes=passes), Distillation(2.0)], resources=given,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )  # fmt: skip
        both.gradients(both.window((x, y)))
        loss = distillation_loss(drop(x), given["teacher"](x), y, 2.0)
        assert both.loss == pytest.approx(loss.item(), rel=1e-5)


# the teacher ---------------------------------------------------------------------------------
class Eager(Distillation):
    """Calls the teacher as it is handed over."""

    def _taught(self, run: Any, batch: Batch) -> Tensor:
        found: Tensor = call(run.resource("teacher", self), batch.inputs).detach()
        return found


def trained_beside(kind: Any, teacher: nn.Module) -> Stack:
    stack = make_stack([kind(2.0, 0.6)], resources={"teacher": teacher})
    stack.step(BATCHES[0])
    return stack


@trap(right=Distillation, wrong=Eager)
def test_the_teacher_answers_in_evaluation_mode(kind: Any) -> None:
    """Handed over in training mode; its batch statistics stand still, and its modes come back."""
    teacher = make_model(9).train()
    teacher.dropout.eval()
    before, modes = weights(teacher), [m.training for m in teacher.modules()]
    stack = trained_beside(kind, teacher)
    assert equal(before, weights(teacher)), "its batch statistics moved"
    assert modes == [m.training for m in teacher.modules()]
    quiet = trained_beside(Distillation, make_model(9).eval())
    assert equal(weights(stack.run.module), weights(quiet.run.module))


@trap(right=Distillation, wrong=Eager)
def test_the_teacher_draws_nothing_from_the_students_generators(kind: Any) -> None:
    class Noisy(nn.Module):
        def forward(self, **given: Tensor) -> Tensor:
            return torch.rand(len(given["floats"]), 3)

    stack, plain = make_stack([kind(2.0)], resources={"teacher": Noisy()}), make_stack()
    masks: list[Tensor] = []
    for one in (stack, plain):
        one.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
        one.step(BATCHES[0])
    assert torch.equal(*masks)


class Registered(Distillation):
    """`self.teacher = teacher` on the model, as in many a LightningModule."""

    def build(self, run: Any) -> None:
        run.module.teacher = run.resource("teacher", self)


@trap(right=Distillation, wrong=Registered)
def test_the_teacher_is_in_no_optimizer_checkpoint_or_export(kind: Any) -> None:
    run = make_run([])
    run.stack.methods = []
    stack = Stack(
        run.module, "categorical", [kind(2.0)], resources=resources(),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    stack.step(BATCHES[0])
    teachers = {id(p) for p in teacher_of(stack).parameters()}
    held = {id(p) for group in stack.optimizer.param_groups for p in group["params"]}
    assert not teachers & held
    assert set(stack.run.module.state_dict()) == set(make_model().state_dict())
    assert set(stack.predictor().members()[0]) == set(make_model().state_dict())
    assert stack.state_dict()["states"] == {"distillation": {}}
    assert stack.state_dict()["heads"] == {}
    assert all(p.grad is None for p in teacher_of(stack).parameters())


def test_checkpoint_of_a_run_holds_the_student_alone() -> None:
    plain, taught = make_run().fit(until=2), make_run([CASE.method]).fit(until=2)
    assert plain.state_dict()["model"].keys() == taught.state_dict()["model"].keys()
    sizes = [len(run.state_dict()["optimizer"]["state"]) for run in (plain, taught)]
    assert sizes[0] == sizes[1]


def test_the_student_may_not_teach_itself() -> None:
    model = make_model()
    for teacher in (model, model.head, nn.Sequential(model.hidden)):
        with pytest.raises(InputError, match=r"shares parameters.*copy\.deepcopy"):
            Stack(model, "categorical", [Distillation()], resources={"teacher": teacher})
    Stack(model, "categorical", [Distillation()], resources={"teacher": copy.deepcopy(model)})


def test_a_predictor_teaches_by_its_probabilities() -> None:
    """softmax(log(p)/T) is softmax(t/T), so that a predictor and its module teach the same."""
    teacher = resources()["teacher"]
    predictor = ModelPredictor(teacher, weights(teacher), family("categorical"))
    found = []
    for given in (teacher, predictor, MeanPredictor([predictor, predictor])):
        stack = make_stack([Distillation(4.0, 0.6)], resources={"teacher": given})
        for batch in BATCHES[:3]:
            stack.step(batch)
        found.append(weights(stack.run.module))
    assert close(found[0], found[1])
    assert close(found[0], found[2])


def test_an_earlier_self_teaches_as_a_predictor() -> None:
    run = make_run().fit(until=3)
    stack = Stack(
        run.module, "categorical", [Distillation(2.0)], resources={"teacher": run.predictor()},
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    first = weights(run.module)
    stack.step(BATCHES[0])
    assert not equal(first, weights(run.module))
    assert all(module.training for module in run.module.modules())


@pytest.mark.parametrize("objective", ["multi-label", "real"])
def test_predictors_of_labels_and_reals(objective: str) -> None:
    with seeding.borrowed(3):
        teacher = nn.Linear(4, 3)
    x, y = torch.randn(4, 4), torch.rand(4, 3)
    predictor = ModelPredictor(teacher, weights(teacher), family(objective))
    found = []
    for given in (teacher, predictor):
        stack = simple(given, objective, temperature=3.0)
        stack.step((x, y))
        found.append(weights(stack.run.module))
    assert close(*found)


def test_reals_of_one_column() -> None:
    teacher, x, y = nn.Linear(4, 1), torch.randn(4, 4), torch.randn(4)
    stack = simple(teacher, "real", 1, weight=0.6)
    stack.gradients(stack.window((x, y)))
    s, t = stack.run.module(x)[:, 0], teacher(x)[:, 0]
    expected = 0.4 * (s - y).square().mean() + 0.6 * 0.5 * (s - t).square().mean()
    assert stack.loss == pytest.approx(expected.item(), rel=1e-6)
    flat = simple(lambda batch: teacher(batch.inputs)[:, 0], "real", 1, weight=0.6)
    flat.gradients(flat.window((x, y)))
    assert flat.loss == pytest.approx(expected.item(), rel=1e-6)


def test_inputs_are_cast_for_a_teacher_of_another_dtype() -> None:
    x, y = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    with seeding.borrowed(3):
        teacher = nn.Linear(4, 3)
    found = []
    for given in (teacher, copy.deepcopy(teacher).double()):
        stack = simple(given)
        stack.step((x, y))
        found.append(weights(stack.run.module))
    assert close(*found)
    assert found[1]["weight"].dtype == torch.float32


# errors --------------------------------------------------------------------------------------
def test_another_number_of_classes_is_named() -> None:
    with pytest.raises(InputError, match=r"teacher has 7 classes and the model 3.*same classes"):
        simple(nn.Linear(4, 7)).step((torch.ones(2, 4), torch.tensor([0, 1])))
    with pytest.raises(InputError, match=r"shape \(1, 3\) against the model's \(2, 3\)"):
        simple(lambda batch: torch.zeros(1, 3)).step((torch.ones(2, 4), torch.tensor([0, 1])))


def test_there_must_be_something_to_call() -> None:
    with pytest.raises(InputError, match="'teacher' is a str"):
        simple("resnet50")


def test_a_convex_share_lies_below_one() -> None:
    with pytest.raises(InputError, match="weighting='sum'"):
        simple(nn.Linear(4, 3), weight=1.5)
    assert simple(nn.Linear(4, 3), weight=1.5, weighting="sum")


def test_does_not_apply_to_embeddings() -> None:
    given = {"teacher": nn.Linear(4, 3), "view": lambda x, g: x}
    with pytest.raises(NotApplicable, match="no distribution"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), Distillation()],
              data=torch.ones(4, 4), resources=given)  # fmt: skip


# traps ---------------------------------------------------------------------------------------
def by_entries(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """nn.KLDivLoss() with its default reduction."""
    return temperature**2 * F.kl_div((s / temperature).log_softmax(1), (t / temperature).softmax(1))


@pytest.mark.filterwarnings("ignore:reduction. 'mean':UserWarning")
@trap(right=lambda s, t, temperature: distillation_losses(s, t, temperature).mean(),
      wrong=by_entries)  # fmt: skip
def test_the_mean_is_over_rows_and_not_over_classes(loss: Any) -> None:
    """More classes of no probability change nothing."""
    s, t = logits(0), logits(1)
    wide = [torch.cat([z, torch.full((6, 20), -1e4).double()], 1) for z in (s, t)]
    assert torch.allclose(loss(*wide, 2.0), loss(s, t, 2.0))


def shortcut(s: Tensor, t: Tensor, y: Tensor, temperature: float, weight: float) -> Tensor:
    """`if alpha == 1: return kd`, with the factor on the other branch only."""
    kl = distillation_losses(s, t, temperature).mean() / temperature**2
    if weight == 1.0:
        return kl
    return (1 - weight) * F.cross_entropy(s, y) + weight * temperature**2 * kl


@trap(right=distillation_loss, wrong=shortcut)
def test_the_squared_temperature_stays_at_the_ends(loss: Any) -> None:
    s, t, y = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    nearly = loss(s, t, y, 5.0, 1.0 - 1e-9)
    assert torch.allclose(loss(s, t, y, 5.0, 1.0), nearly, rtol=1e-6)
    assert torch.allclose(loss(s, t, y, 5.0, 0.0), F.cross_entropy(s, y))


@trap(
    right=distillation_losses,
    wrong=lambda s, t, temperature: distillation_losses(t.detach(), s, temperature),
)
def test_the_teacher_stands_on_the_left(losses: Any) -> None:
    """What the teacher finds probable the student may not miss; the other way it may."""
    t = torch.tensor([[5.0, 5.0, -50.0]])
    narrow, broad = torch.tensor([[5.0, -5.0, -50.0]]), torch.tensor([[5.0, 5.0, 5.0]])
    assert losses(narrow, t, 1.0) > losses(broad, t, 1.0)
