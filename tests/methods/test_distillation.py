"""Distillation."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    close,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_stage,
    make_task,
    resources,
    weights,
)
from tests.methods.traps import trap
from whet import kept_answers as answers
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import (
    Distillation,
    distillation_loss,
    distillation_losses,
    soft_mean,
)
from whet.methods.fgm import FGM
from whet.methods.fixmatch import FixMatch
from whet.methods.focal import Focal, focal_losses
from whet.methods.label_smoothing import LabelSmoothing
from whet.methods.mixup import MixUp
from whet.methods.moco import MoCo
from whet.methods.pgd_inputs import PGDInputs
from whet.methods.r_drop import RDrop
from whet.objectives.families import family
from whet.objectives.objective import call
from whet.predict import MeanPredictor, ModelPredictor
from whet.run import Run
from whet.stack import Stack

CASE = Case(
    Distillation(temperature=2.0, weight=0.6),
    cost=Cost(asked=1),
)

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

    def _said(self, run: Any, batch: Batch) -> list[Tensor]:
        return [call(run.resource("teacher", self), batch.inputs).detach()]


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


# several teachers ----------------------------------------------------------------------------
def teachers(count: int = 3) -> list[nn.Module]:
    return [make_model(20 + number).eval() for number in range(count)]


@pytest.mark.parametrize("weights_of", [None, [2.0, 1.0, 1.0]])
def test_several_teach_the_mean_of_their_softened_answers(weights_of: Any) -> None:
    s, t = logits(0), [logits(n) for n in (1, 2, 3)]
    shares = torch.tensor(weights_of or [1.0, 1.0, 1.0]).double()
    shares = shares / shares.sum()
    p = torch.einsum("k,knc->nc", shares, (torch.stack(t) / 4.0).softmax(-1))
    expected = 16 * kl_divergence(Categorical(probs=p), Categorical(logits=s / 4.0))
    found = distillation_losses(s, soft_mean(t, 4.0, weights_of), 4.0)
    assert torch.allclose(found, expected)


@trap(
    right=lambda t: (soft_mean(t, 5.0) / 5.0).softmax(-1),
    wrong=lambda t: (torch.stack(t).softmax(-1).mean(0).log() / 5.0).softmax(-1),
)
def test_answers_are_softened_before_they_are_averaged(soft: Any) -> None:
    t = [logits(n) for n in (1, 2, 3)]
    assert torch.allclose(soft(t), (torch.stack(t) / 5.0).softmax(-1).mean(0))


@trap(
    right=lambda t: (soft_mean(t, 5.0) / 5.0).softmax(-1),
    wrong=lambda t: (torch.stack(t).mean(0) / 5.0).softmax(-1),
)
def test_probabilities_are_averaged_and_not_logits(soft: Any) -> None:
    """Adding a constant to one teacher's logits changes nothing that it says; nor does scale."""
    sure = torch.tensor([[200.0, 0.0, 0.0]])
    others = [torch.tensor([[0.0, 5.0, 0.0]])] * 2
    assert soft([sure, *others])[0, 0] < 0.6


def test_several_labels_and_reals() -> None:
    t = [logits(n) for n in (1, 2)]
    found = soft_mean(t, 3.0, None, family("multi-label")) / 3.0
    assert torch.allclose(found.sigmoid(), (torch.stack(t) / 3.0).sigmoid().mean(0))
    assert torch.allclose(soft_mean(t, 3.0, None, family("real")), torch.stack(t).mean(0))


def test_several_teachers_in_the_stack() -> None:
    several = teachers()
    calls: list[nn.Module] = []
    for one in several:
        one.register_forward_hook(lambda module, *_: calls.append(module))
    method = Distillation(3.0, 0.6, teacher_weights=(2.0, 1.0, 1.0))
    stack = make_stack([method], coupled=False, resources={"teacher": several})
    stack.gradients(stack.window(BATCHES[0]))
    assert calls == several
    model = make_model(coupled=False)
    with torch.no_grad():
        said = [call(one, BATCHES[0].inputs) for one in several]
    output = call(model, BATCHES[0].inputs)
    soft = soft_mean(said, 3.0, [2.0, 1.0, 1.0])
    distillation_loss(output, soft, BATCHES[0].targets, 3.0, 0.6).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)


def test_one_teacher_in_a_list_is_the_teacher_to_the_bit() -> None:
    found = []
    for given in (resources()["teacher"], [resources()["teacher"]]):
        stack = make_stack([Distillation(2.0, 0.6)], resources={"teacher": given})
        stack.step(BATCHES[0])
        found.append(weights(stack.run.module))
    assert equal(*found)


@pytest.mark.parametrize("given", [(1.0,), (1.0, 1.0), (0.0, 0.0, 0.0)])
def test_a_weight_for_each_teacher(given: Any) -> None:
    with pytest.raises(InputError, match=r"teacher_weights is .* there are 3 teachers"):
        make_stack([Distillation(teacher_weights=given)], resources={"teacher": teachers()})


def test_each_of_several_is_looked_at() -> None:
    model = make_model()
    for bad, told in (([], "empty list"), ([make_model(1), "resnet"], "is a str"),
                      ([make_model(1), model], "shares parameters")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            Stack(model, "categorical", [Distillation()], resources={"teacher": bad})


# a teacher elsewhere -------------------------------------------------------------------------
class Placed(nn.Linear):
    """Says where it was moved."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.moved = [*getattr(self, "moved", []), args[0]]
        return self  # there is one device here


def test_a_teacher_stands_where_it_is_told_to() -> None:
    for device, expected in ((None, torch.device("cpu")), ("cuda:1", torch.device("cuda:1"))):
        teacher = Placed(4, 3)
        simple(teacher, device=device).step((torch.ones(2, 4), torch.tensor([0, 1])))
        assert teacher.moved == [expected]


def test_inputs_go_to_the_teacher_and_answers_come_back() -> None:
    """By what torch is asked for: a teacher on `meta` would answer without numbers."""
    teacher = nn.Linear(4, 3, device="meta")
    seen: list[torch.device] = []
    teacher.register_forward_pre_hook(lambda module, args: seen.append(args[0].device))
    with pytest.raises(NotImplementedError, match="copy out of meta"):
        simple(teacher, device="meta").step((torch.ones(2, 4), torch.tensor([0, 1])))
    assert seen == [torch.device("meta")]


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(InputError, match="device is 'gpu7'"):
        simple(nn.Linear(4, 3), device="gpu7")


# answers that were kept ----------------------------------------------------------------------
def kept_answers() -> Tensor:
    with torch.no_grad():
        return call(resources()["teacher"], Batch.of(data()).inputs)


def cached(given: Any, *others: Any, **settings: Any) -> Any:
    method = Distillation(2.0, 0.6, **({"cached": True} | settings))
    return make_stack([method, *others], coupled=False,
                      resources=resources() | {"teacher_logits": given})  # fmt: skip


def in_order() -> list[Batch]:
    """Batches that say which rows they hold, not in the data's order."""
    from whet.loading import open_loader

    return list(open_loader(data(), 6, 3).epoch(0))


@pytest.mark.parametrize("form", ["tensor", "half", "array", "file"])
def test_kept_answers_teach_like_the_teacher(form: str, tmp_path: Any) -> None:
    whole: Any = kept_answers()
    if form == "half":
        whole = whole.bfloat16()
    elif form != "tensor":
        np.save(tmp_path / "said.npy", whole.numpy())
        whole = np.load(tmp_path / "said.npy", mmap_mode="r" if form == "file" else None)
    stack = cached(whole)
    asked = make_stack([Distillation(2.0, 0.6)], coupled=False)
    for batch in in_order()[:4]:
        stack.step(batch)
        asked.step(batch)
    found = (weights(stack.run.module), weights(asked.run.module))
    assert close(*found, atol=1e-2 if form == "half" else 1e-6)


def test_kept_answers_in_a_run_and_over_accumulation(tmp_path: Any) -> None:
    task = make_task()
    task.resources["teacher_logits"] = kept_answers()
    asked = make_run([Distillation(2.0, 0.6)]).fit()
    stage = make_stage([Distillation(2.0, 0.6, cached=True)])
    run = Run(task, stage, device="cpu").fit()
    assert close(weights(run.module), weights(asked.module))


def test_several_teachers_answers() -> None:
    one, other = kept_answers(), kept_answers().flip(1)
    stack = cached([one, other], teacher_weights=(3.0, 1.0))
    [batch] = in_order()[:1]
    stack.gradients(stack.window(batch))
    model = make_model(coupled=False)
    soft = soft_mean([one[batch.indices], other[batch.indices]], 2.0, [3.0, 1.0])
    expected = distillation_loss(call(model, batch.inputs), soft, batch.targets, 2.0, 0.6)
    assert stack.loss == pytest.approx(expected.item(), rel=1e-5)


class InTheOrderOfTheBatches(Distillation):
    """`logits[step * size : (step + 1) * size]`, as if rows came in the data's order."""

    def _said(self, run: Any, batch: Batch) -> list[Tensor]:
        at = run.window * 6
        return [self._kept[0].given[at : at + batch.size]]


@trap(right=Distillation, wrong=InTheOrderOfTheBatches)
def test_answers_go_by_the_rows_indices(kind: Any) -> None:
    stack = make_stack([kind(2.0, 0.6, cached=True)], coupled=False,
                       resources={"teacher_logits": kept_answers()})  # fmt: skip
    asked = make_stack([Distillation(2.0, 0.6)], coupled=False)
    for batch in in_order()[:4]:
        stack.step(batch)
        asked.step(batch)
    assert close(weights(stack.run.module), weights(asked.run.module))


def test_r_drop_asks_for_rows_side_by_side() -> None:
    for passes in ("two", "joined"):
        model = make_model(coupled=False, dropout=0.2)
        model.dropout.p = 0.2
        stack = Stack(
            model, "categorical", [RDrop(passes=passes), Distillation(cached=True)],
            resources={"teacher_logits": kept_answers()}, data=data(),
            optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        )  # fmt: skip
        assert stack.step(in_order()[0])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda: kept_answers()[:-1], "has 39 rows and the training data 40"),
        (lambda: torch.cat([kept_answers(), kept_answers()]), "80 rows and the training data 40"),
        (lambda: kept_answers().index_fill(0, torch.tensor([17]), float("nan")), "in row 17"),
        (lambda: kept_answers().tolist(), "is a list"),
        (lambda: kept_answers()[:0], "is a Tensor"),
    ],
)
def test_kept_answers_are_checked_before_training(given: Any, told: str) -> None:
    wrong = given()
    with pytest.raises(InputError, match=told):
        cached([wrong] if isinstance(wrong, list) else wrong)


def test_rows_must_be_known() -> None:
    stack = cached(kept_answers())
    with pytest.raises(InputError, match="do not say which rows"):
        stack.step(BATCHES[0])
    far = Stack(
        make_model(coupled=False), "categorical", [Distillation(cached=True)],
        resources={"teacher_logits": kept_answers()[:10]},
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    with pytest.raises(InputError, match=r"none of the 10 kept answers"):
        far.step(in_order()[0])


class NeverAsks(Distillation):
    """Takes the answers for good whatever became of the rows."""

    def build(self, run: Any) -> None:
        self._kept = [answers.Kept(run.resource("teacher_logits", self), self.key)]

    def _said(self, run: Any, batch: Batch) -> list[Tensor]:
        return [kept.rows(batch) for kept in self._kept]


def said_of(kind: Any, *others: Any) -> str:
    stack_or_error: Any = ""
    try:
        stack_or_error = make_stack(
            [kind(2.0, 0.6, cached=True), *others], coupled=False,
            resources=resources() | {"teacher_logits": kept_answers()},
        )  # fmt: skip
        stack_or_error.step(in_order()[0])
    except InputError as error:
        return str(error)
    return ""


@trap(right=Distillation, wrong=NeverAsks)
def test_answers_to_other_rows_are_refused(kind: Any) -> None:
    for other, name in (
        (MixUp(1.0, at="floats"), "mixup"), (FixMatch(mu=1), "fixmatch"),
        (PGDInputs(at="floats", epsilon=0.3).during(0, 1), "a method outside of it"),
    ):  # fmt: skip
        assert f"on rows that {name} changed" in said_of(kind, other)


def test_answers_to_other_rows_are_taught_on_purpose() -> None:
    assert cached(kept_answers(), MixUp(1.0, at="floats"), cached="regardless").step(in_order()[0])
    apart = [Distillation(cached=True).during(0, 0.5), MixUp(1.0, at="floats").during(0.5, 1)]
    stack = make_stack(apart, coupled=False, resources={"teacher_logits": kept_answers()})
    for batch in in_order()[:6]:
        assert stack.step(batch)


def test_methods_that_move_no_inputs_go_together_with_kept_answers() -> None:
    assert cached(kept_answers(), FGM(0.5).during(0, 1), LabelSmoothing()).step(in_order()[0])


class Augmented(torch.utils.data.Dataset[Any]):
    def __init__(self, noise: float) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.full((4,), float(row)) + self.noise * torch.randn(4), row % 3


@trap(right=Distillation, wrong=NeverAsks)
def test_a_dataset_that_augments_is_refused(kind: Any) -> None:
    model = nn.Linear(4, 3)

    def made(noise: float, cached: Any = True) -> str:
        try:
            Stack(
                model, "categorical", [kind(cached=cached)], data=Augmented(noise),
                resources={"teacher_logits": torch.zeros(12, 3)},
            )  # fmt: skip
        except InputError as error:
            return str(error)
        return ""

    before = torch.random.get_rng_state()
    assert made(0.0) == ""
    assert "the Dataset, which gives other inputs each time" in made(0.1)
    assert made(0.1, "regardless") == ""
    assert torch.equal(before, torch.random.get_rng_state())


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
