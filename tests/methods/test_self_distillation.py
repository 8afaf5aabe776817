"""Self-distillation."""

from __future__ import annotations

from typing import Any

import ema_pytorch
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    close,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    weights,
)
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import Distillation
from whet.methods.fgm import FGM
from whet.methods.moco import MoCo
from whet.methods.self_distillation import SelfDistillation, ramp
from whet.objectives.objective import call
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe, Stage

CASE = Case(
    SelfDistillation(decay=0.9, weight=5.0, temperature=2.0),
    cost=Cost(asked=1, kept=1, copies=1),
)

BATCHES = Batch.of(data()).split(6)
SGD = {"name": "sgd", "lr": 0.1}


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def own(stack: Stack) -> SelfDistillation:
    [found] = [m for m in stack.methods if isinstance(m, SelfDistillation)]
    return found


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("teacher", ["ema", "start"])
@pytest.mark.parametrize("coupled", [False, True])
def test_core_in_a_hand_loop_equals_the_stack(teacher: str, coupled: bool) -> None:
    """With KL by torch's own distributions."""
    stack = make_stack([SelfDistillation(teacher, 0.9, 3.0, 2.0)], coupled=coupled)
    model, method = make_model(coupled=coupled), SelfDistillation(teacher, 0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method.begin(model)
    for batch in BATCHES:
        seeding.seed_default(stack.run.position())
        taught = method.answer(model, batch.inputs)
        output = call(model, batch.inputs)
        apart = kl_divergence(Categorical(logits=taught / 2.0), Categorical(logits=output / 2.0))
        optimizer.zero_grad()
        (F.cross_entropy(output, batch.targets) + 3.0 * 4.0 * apart.mean()).backward()
        optimizer.step()
        method.update(model)
        stack.step(batch)
    assert close(weights(model), weights(stack.run.module))
    assert close(weights(method.own), weights(own(stack).own))


def test_the_average_equals_ema_pytorch() -> None:
    """min(1 - 1/(t+1), d) is their warm-up of inverse gamma 1 and power 1, until the cap."""
    stack = make_stack([SelfDistillation(decay=0.75)], coupled=False)
    stack.open()
    model = stack.run.module
    oracle = ema_pytorch.EMA(model, beta=0.75, update_after_step=0, update_every=1, power=1.0)
    oracle.update()  # their first call copies
    for batch in BATCHES:
        stack.step(batch)
        oracle.update()
    assert close(weights(oracle.ema_model), weights(own(stack).own))


def test_the_teacher_follows_as_the_paper_says() -> None:
    stack = make_stack([SelfDistillation(decay=0.6)], coupled=False)
    expected = weights(stack.run.module)
    for t, batch in enumerate(BATCHES[:4], 1):
        stack.step(batch)
        d = min(1 - 1 / (t + 1), 0.6)
        for name, tensor in weights(stack.run.module).items():
            expected[name] = d * expected[name] + (1 - d) * tensor
    assert close(expected, weights(own(stack).own))


def test_the_weight_ramps_up() -> None:
    assert ramp(0.2, 0.0) == 1.0
    stack = make_stack([SelfDistillation(weight=2.0, ramp_up=0.5)], coupled=False)
    for update, batch in enumerate(BATCHES[:6]):
        stack.gradients(stack.window(batch))
        share = 2.0 * ramp(update / 6, 0.5)
        model = stack.run.module
        with torch.no_grad():
            s, t = (call(m, batch.inputs) for m in (model, own(stack).own))
        apart = kl_divergence(Categorical(logits=t), Categorical(logits=s)).mean()
        found = stack.terms["self_distillation"]
        assert found == pytest.approx((share * apart).item(), rel=1e-3, abs=1e-7)
        stack.update()


def test_unlabelled_rows_are_taught_too() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    stack = make_stack([SelfDistillation(decay=0.9, weight=3.0)], coupled=False)
    stack.step(BATCHES[0])
    stack.gradients(stack.window(BATCHES[1].replace(mask=mask)))
    with torch.no_grad():
        s, t = (call(m, BATCHES[1].inputs) for m in (stack.run.module, own(stack).own))
    apart = kl_divergence(Categorical(logits=t), Categorical(logits=s)).mean()
    hard = F.cross_entropy(s[mask], BATCHES[1].targets[mask])
    assert stack.loss == pytest.approx((hard + 3.0 * apart).item(), rel=1e-5)


def test_tokens_are_taught_where_they_have_a_target() -> None:
    with seeding.borrowed(1):
        model = nn.Embedding(5, 4)
    stack = Stack(model, "tokens", [SelfDistillation("start")], optimizer=sgd)
    tokens = torch.tensor([[1, 2, 3], [3, 4, 0]])
    labels = torch.tensor([[0, -100, 3], [-100, 1, 2]])
    stack.step((tokens, labels))
    before = weights(model)
    stack.gradients(stack.window((tokens, labels)))
    kept = labels != -100
    s, t = model(tokens)[kept], own(stack).own(tokens)[kept]
    apart = kl_divergence(Categorical(logits=t), Categorical(logits=s)).mean()
    assert stack.terms["self_distillation"] == pytest.approx(apart.item(), abs=1e-7)
    stack.run.zero_grad()
    stack.step(Batch(tokens))
    assert equal(before, weights(model))


# a generation before -------------------------------------------------------------------------
def test_a_second_stage_learns_from_the_first() -> None:
    """The teacher is what the first stage ended with, and stands still."""
    first = Stage(updates=4, batch_size=6, optimizer=SGD)
    second = Stage(updates=4, batch_size=6, optimizer=SGD,
                   methods=[SelfDistillation("start", weight=2.0)])  # fmt: skip
    run = Run(make_task(), Recipe([first, second]), device="cpu").fit()
    ended = Run(make_task(), first, device="cpu").fit()
    assert equal(weights(ended.module), weights(own(run.stack).own))
    assert not equal(weights(run.module), weights(own(run.stack).own))


def test_a_span_learns_from_what_it_began_with() -> None:
    stack = make_stack([SelfDistillation("start").during(0.5, 1)])
    plain = make_stack()
    for batch in BATCHES[:3]:
        stack.step(batch)
        plain.step(batch)
    assert equal(weights(stack.run.module), weights(plain.run.module))
    stack.step(BATCHES[3])
    assert equal(weights(own(stack).own), weights(plain.run.module))


# the teacher ---------------------------------------------------------------------------------
class Live(SelfDistillation):
    """The model itself, asked a second time under no_grad."""

    def begin(self, model: nn.Module) -> None:
        self.own = model

    def update(self, model: nn.Module) -> None: ...


@trap(right=SelfDistillation, wrong=Live)
def test_the_teacher_is_a_copy(kind: Any) -> None:
    stack = make_stack([kind("start")], coupled=False)
    before = weights(stack.run.module)
    for batch in BATCHES[:3]:
        stack.step(batch)
    assert equal(before, weights(own(stack).own))


class InTraining(SelfDistillation):
    """Copied in training mode: its batch statistics move and its dropout draws."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        with torch.no_grad():
            taught = call(self.own.train(), batch.inputs)
        forward = inner(batch)
        values = run.objective.family.divergence(taught, forward.output)
        return forward.add(self.key, values, per="rows", weight=self.weight)


@trap(right=SelfDistillation, wrong=InTraining)
def test_the_teacher_answers_in_evaluation_mode(kind: Any) -> None:
    stack = make_stack([kind("start")])
    stack.open()
    before, plain = weights(own(stack).own), make_stack()
    masks: list[Tensor] = []
    for one in (stack, plain):
        one.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
        one.step(BATCHES[0])
    assert equal(before, weights(own(stack).own)), "its batch statistics moved"
    assert torch.equal(*masks), "it drew from the student's generators"


class OthersStatistics(SelfDistillation):
    """The average of the weights, with the running statistics of the model's own."""

    def answer(self, model: nn.Module, inputs: Any) -> Tensor:
        with torch.no_grad():
            found: Tensor = call(self.own, inputs)
        return found


@trap(right=SelfDistillation, wrong=OthersStatistics)
def test_an_average_normalises_by_its_own_statistics(kind: Any) -> None:
    """Weights that grew tenfold leave the answers of normalised units alone."""
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    method, x = kind(decay=0.0), torch.randn(64, 4, generator=seeding.generator(0))
    for _ in range(100):
        model(x)
    method.begin(model)
    before = method.answer(model, x)
    with torch.no_grad():
        method.own[0].weight.mul_(10.0)
        method.own[0].bias.mul_(10.0)
    assert torch.allclose(before, method.answer(model, x), atol=1e-3)


def test_frozen_norms_of_the_model_are_frozen_in_the_teacher() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    model[1].eval()
    method, x = SelfDistillation(), torch.randn(6, 4)
    method.begin(model)
    assert torch.allclose(method.answer(model, x), model(x))


class PerMicroBatch(SelfDistillation):
    """`update_ema_variables` after each backward, of which two make one update."""

    def after_update(self, run: Any) -> None: ...

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        self.update(run.module)


@trap(right=SelfDistillation, wrong=PerMicroBatch)
def test_follows_updates_and_not_micro_batches(kind: Any) -> None:
    stack = make_stack([kind(decay=0.9)])
    for at in range(0, 6, 2):
        stack.step(BATCHES[at : at + 2])
    assert stack.state_dict()["states"]["self_distillation"]["updates"] == 3


class Registered(SelfDistillation):
    """`model.teacher = copy.deepcopy(model)`."""

    def begin(self, model: nn.Module) -> None:
        super().begin(model)
        self.own.requires_grad_(True)
        model.teacher = self.own


@trap(right=SelfDistillation, wrong=Registered)
def test_the_teacher_is_in_no_optimizer_export_or_model_state(kind: Any) -> None:
    model = make_model()
    method = kind("start")
    stack = Stack(model, "categorical", [method], updates=6, optimizer=sgd(model.parameters()))
    for batch in BATCHES[:2]:
        stack.step(batch)
    assert set(model.state_dict()) == set(make_model().state_dict())
    assert set(stack.predictor().members()[0]) == set(make_model().state_dict())
    assert stack.state_dict()["heads"] == {}
    taught = {id(p) for p in own(stack).own.parameters()}
    assert not taught & {id(p) for group in stack.optimizer.param_groups for p in group["params"]}
    assert not taught & {id(p) for p in stack.parameters()}
    assert all(p.grad is None for p in own(stack).own.parameters())


def test_one_forward_more_and_no_backward() -> None:
    stack = make_stack([SelfDistillation()], coupled=False)
    stack.open()
    calls: list[str] = []
    own(stack).own.hidden.register_forward_hook(lambda *_: calls.append("teacher"))
    hidden = stack.run.module.hidden
    hidden.register_forward_hook(lambda *_: calls.append("student"))
    hidden.register_full_backward_hook(lambda *_: calls.append("back"))
    stack.step(BATCHES[0])
    assert calls == ["teacher", "student", "back"]


def test_an_attack_on_the_student_does_not_move_the_teacher() -> None:
    """The table that is perturbed is the model's; the teacher has one of its own."""
    seen: list[Tensor] = []
    stack = make_stack([SelfDistillation("start"), FGM(0.5).during(0, 1)], coupled=False)
    stack.open()
    own(stack).own.register_forward_hook(lambda module, args, out: seen.append(out))
    stack.step(BATCHES[0])
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_beside_another_teacher_the_order_is_settled() -> None:
    for order in (1, -1):
        stack = make_stack([Distillation(), SelfDistillation()][::order])
        assert "self_distillation > distillation > supervised" in stack.explain()


# errors --------------------------------------------------------------------------------------
def test_weights_in_half_precision() -> None:
    model = nn.Linear(4, 3).bfloat16()
    with pytest.raises(NotApplicable, match="half precision"):
        Stack(model, "categorical", [SelfDistillation()], optimizer=sgd)
    assert Stack(model, "categorical", [SelfDistillation("start")], optimizer=sgd)


def test_a_ramp_needs_a_length() -> None:
    with pytest.raises(InputError, match="pass updates=N to Stack"):
        make_stack([SelfDistillation(ramp_up=0.2)], updates=None)


def test_does_not_apply_to_embeddings() -> None:
    with pytest.raises(NotApplicable, match="no distribution"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), SelfDistillation()],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip


def test_a_run_resumes_with_its_teacher(tmp_path: Any) -> None:
    method = SelfDistillation(decay=0.9, weight=3.0)
    through = make_run([method]).fit()
    make_run([method], folder=tmp_path).fit(until=3)
    resumed = make_run([method], folder=tmp_path).fit()
    assert equal(weights(through.module), weights(resumed.module))
    assert equal(weights(own(through.stack).own), weights(own(resumed.stack).own))
