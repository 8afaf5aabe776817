"""CosFace, and what all margin heads share: the layer, the targets, and what is judged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning.losses import CosFaceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import (
    CLASSES,
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
from whet import cosine, methods, seeding
from whet.batch import Batch
from whet.cosine import cosines
from whet.errors import InputError, NotApplicable
from whet.margins import additive_cosine, with_margin
from whet.methods.class_weights import ClassWeights
from whet.methods.cosface import CosFace
from whet.methods.distillation import Distillation
from whet.methods.ema import EMA
from whet.methods.focal import Focal, focal_losses
from whet.methods.logit_adjustment import LogitAdjustment
from whet.methods.moco import MoCo
from whet.methods.snapshot import Snapshot
from whet.methods.temperature import Temperature
from whet.objectives.objective import call
from whet.predict import LivePredictor, MeanPredictor, Predictor
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage

CASE = Case(CosFace(scale=8.0), judged=True)

BATCHES = Batch.of(data()).split(6)
HEADS = [methods.make(name) for name in ("arcface", "cosface", "sphereface")]


def features(model: nn.Module, batch: Batch) -> Tensor:
    """What enters the fixture's head."""
    seen: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    call(model, batch.inputs)
    handle.remove()
    return seen[0]


def scaled(model: nn.Module, batch: Batch, scale: float = 8.0) -> Tensor:
    return cosines(features(model, batch), model.head.weight, scale)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def learned(batch: Any, *given: Any) -> list[Tensor]:
    stack = make_stack(given, coupled=False)
    stack.gradients(stack.window(batch))
    return gradients(stack.run.module)


def by_hand(loss: Any, batch: Batch = BATCHES[0]) -> list[Tensor]:
    model = make_model(coupled=False)
    loss(scaled(model, batch), batch.targets).backward()
    return gradients(model)


def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def harder(cos: Tensor) -> Tensor:
    return additive_cosine(cos, 0.35)


# the core ------------------------------------------------------------------------------------
def test_oracle() -> None:
    maker = seeding.generator(0)
    x, y = torch.randn(16, 8, generator=maker).double(), torch.arange(16) % 5
    theirs = CosFaceLoss(5, 8, margin=0.35, scale=16).double()
    cos = cosines(x, theirs.W.T)
    ours = F.cross_entropy(16 * with_margin(cos, y, harder), y)
    wanted = theirs(x, y)
    assert torch.allclose(ours, wanted)
    for a, b in zip(*(torch.autograd.grad(one, theirs.W) for one in (ours, wanted)), strict=True):
        assert torch.allclose(a, b)


def test_by_hand() -> None:
    cos = torch.tensor([[0.5, 0.25, -1.0]])
    assert with_margin(cos, torch.tensor([1]), harder).tolist()[0] == pytest.approx(
        [0.5, -0.1, -1.0]
    )
    assert cosines(torch.tensor([[3.0, 4.0]]), torch.eye(2) * 7, 10.0).tolist() == [[6.0, 8.0]]


def test_a_soft_target_has_the_margin_in_its_shares() -> None:
    cos, labels = torch.randn(6, 4).tanh(), torch.tensor([0, 1, 2, 3, 0, 1])
    hot = F.one_hot(labels, 4).float()
    assert torch.equal(with_margin(cos, hot, harder), with_margin(cos, labels, harder))
    soft = torch.tensor([0.5, 0.3, 0.2, 0.0]).expand(6, 4)
    assert torch.allclose(with_margin(cos, soft, harder), cos - 0.35 * soft)


def by_the_largest(cos: Tensor, targets: Tensor, harder: Any) -> Tensor:
    """The whole margin for the likeliest class of a mixture."""
    return with_margin(cos, targets.argmax(-1), harder)


@trap(right=with_margin, wrong=by_the_largest)
def test_a_little_more_of_a_class_moves_the_loss_a_little(moved: Any) -> None:
    """At one half of each, which class has the margin would be decided by rounding."""
    cos = torch.tensor([[0.5, 0.4]])
    below, above = (torch.tensor([[0.5 + d, 0.5 - d]]) for d in (-1e-4, 1e-4))
    a, b = (F.cross_entropy(30 * moved(cos, y, harder), y) for y in (below, above))
    assert (a - b).abs() < 0.05


# the cosines ---------------------------------------------------------------------------------
def by_normalize(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(F.normalize(x, dim=-1), F.normalize(weight, dim=-1))


@trap(right=cosines, wrong=by_normalize)
def test_a_row_of_zeros_has_no_gradient(found: Any) -> None:
    """All units of a layer may be off. F.normalize divides by 1e-12 there, and so its gradient."""
    x = torch.zeros(1, 3, requires_grad=True)
    [gradient] = torch.autograd.grad(found(x, torch.eye(3)).sum(), x)
    assert gradient.abs().max() < 1.0


def under_autocast(x: Tensor, weight: Tensor) -> Tensor:
    unit = [t / t.norm(dim=-1, keepdim=True) for t in (x, weight)]
    return F.linear(*unit)


@trap(right=cosines, wrong=under_autocast)
def test_cosines_keep_their_digits_in_half_precision(found: Any) -> None:
    """A bf16 cosine is off by 0.0016, times a scale of 64 a tenth of a logit."""
    maker = seeding.generator(0)
    x, weight = torch.randn(64, 32, generator=maker), torch.randn(10, 32, generator=maker)
    exact = cosines(x.double(), weight.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (found(x, weight).double() - exact).abs().max() < 1e-6
    assert found(x.bfloat16(), weight.bfloat16()).dtype == torch.float32


# the method ----------------------------------------------------------------------------------
def test_learns_the_formula_and_no_bias() -> None:
    def theirs(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(z - 8 * 0.35 * F.one_hot(y, CLASSES), y)

    stack = make_stack([CASE.method], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    assert agree(gradients(stack.run.module), by_hand(theirs))
    assert stack.run.module.head.bias.grad is None


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([CASE.method], coupled=False), make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        stack.step(batch)
        optimizer.zero_grad()
        cos = scaled(model, batch, 1.0)
        F.cross_entropy(8 * with_margin(cos, batch.targets, harder), batch.targets).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module), atol=1e-5)


@pytest.mark.parametrize("head", HEADS, ids=lambda one: one.name)
def test_costs_no_pass_but_one_at_the_start(head: Any) -> None:
    model, calls = make_model(), []
    model.hidden.register_forward_hook(lambda m, args, out: calls.append(len(out)))
    stack = make_stack([head], model=model)
    for batch in BATCHES[:3]:
        stack.step(batch)
    assert calls == [6, 6, 6, 6]


@pytest.mark.parametrize("head", HEADS, ids=lambda one: one.name)
def test_no_parameter_and_no_buffer_is_new(head: Any) -> None:
    stack = make_stack([head])
    assert weights(stack.run.module).keys() == weights(make_model()).keys()
    assert len(stack.parameters()) == len(list(make_model().parameters()))
    before = stack.run.module.head.bias.clone()
    stack.step(BATCHES[0])
    assert torch.equal(before, stack.run.module.head.bias)


def judged_with_a_margin(stack: Stack, batch: Batch) -> Tensor:
    z = scaled(stack.run.module.eval(), batch, 1.0)
    return (8 * with_margin(z, batch.targets, harder)).softmax(1)


def judged(stack: Stack, batch: Batch) -> Tensor:
    return stack.predictor()(batch)


@trap(right=judged, wrong=judged_with_a_margin)
def test_what_is_judged_has_no_margin(found: Any) -> None:
    """A margin needs the target: with it the judged probability of the truth is another one."""
    stack = make_stack([CASE.method], coupled=False)
    stack.step(BATCHES[0])
    plain = scaled(make_copy(stack).eval(), BATCHES[1]).softmax(1)
    assert torch.allclose(found(stack, BATCHES[1]), plain, atol=1e-6)


def make_copy(stack: Stack) -> nn.Module:
    model = make_model(5, coupled=False)
    model.load_state_dict(stack.run.module.state_dict())
    return model


def test_in_evaluating_the_model_itself_is_a_cosine_head() -> None:
    stack = make_stack([CASE.method], coupled=False)
    stack.step(BATCHES[0])
    plain = scaled(make_copy(stack).eval(), BATCHES[1])
    with stack.evaluating():
        assert torch.allclose(call(stack.run.module, BATCHES[1].inputs), plain, atol=1e-5)
        assert isinstance(stack.predictor(live=True), LivePredictor)
        live = stack.predictor(live=True)(BATCHES[1])
    assert torch.allclose(live, plain.softmax(1), atol=1e-6)
    outside = call(stack.run.module, BATCHES[1].inputs)
    assert torch.allclose(outside, call(make_copy(stack), BATCHES[1].inputs))
    assert cosine.standing(stack.run.module) == {}


def test_the_head_is_exported(tmp_path: Path) -> None:
    for given in ([], [EMA(0.9)], [Snapshot(2)], [methods.make("temperature_scaling")]):
        run = make_run([CASE.method, *given]).fit()
        found = run.predictor()
        found.save(tmp_path / "model")
        again = Predictor.load(tmp_path / "model", make_task(7).model)
        batch = Batch.of(data(20, 2))
        assert torch.equal(again(batch), found(batch))
        assert again.form() == found.form()
        [first, *_] = again.models()
        assert first.form() == {"cosine": {"head": 8.0}}


def test_a_mean_of_cosine_and_plain_models(tmp_path: Path) -> None:
    mean = MeanPredictor([make_run(g).fit().predictor() for g in ([], [CASE.method])])
    mean.save(tmp_path / "model")
    batch = Batch.of(data(20, 2))
    assert torch.equal(Predictor.load(tmp_path / "model", make_task().model)(batch), mean(batch))


def test_after_its_span_the_layer_is_linear_again() -> None:
    run = make_run([CASE.method.during(0, 0.5)]).fit()
    assert run.predictor().form() == {}
    batch = Batch.of(data(20, 2))
    z = call(run.module.eval(), batch.inputs)
    assert torch.allclose(run.predictor()(batch), z.softmax(1))
    late = make_run([CASE.method.during(0.5, 1)])
    late.fit(until=3)
    assert equal(weights(late.module), weights(make_run().fit(until=3).module))
    assert late.fit().predictor().form() == {"cosine": {"head": 8.0}}


# with others ---------------------------------------------------------------------------------
def test_the_chain_of_losses_does_not_depend_on_the_users_order() -> None:
    prior = torch.bincount(data()["labels"]).float().log()
    prior = prior - prior.logsumexp(0)
    table = torch.tensor([0.5, 1.0, 4.0])

    def theirs(z: Tensor, y: Tensor) -> Tensor:
        moved = (z - 8 * 0.35 * F.one_hot(y, 3)) / 2.0 + prior
        losses = focal_losses(moved, y, 2.0)
        return (losses * table[y]).sum() / table[y].sum()

    chain = [
        CASE.method, Temperature(2.0), LogitAdjustment(), Focal(2.0),
        ClassWeights(weights=(0.5, 1.0, 4.0)),
    ]  # fmt: skip
    for order in (chain, chain[::-1]):
        assert agree(learned(BATCHES[0], *order), by_hand(theirs))


def test_a_teacher_meets_the_output_without_a_margin() -> None:
    found = []
    for margin in (0.0, 0.35):
        stack = make_stack([CosFace(margin, scale=8.0), Distillation()], coupled=False)
        stack.gradients(stack.window(BATCHES[0]))
        found.append(stack.terms["distillation"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    text = make_stack([CosFace(), ClassWeights(), Distillation()]).explain()
    assert "class_weights > distillation > cosface > supervised" in text


def test_a_key_encoder_has_the_head_of_the_queries() -> None:
    """MoCo's copy would else give linear outputs as keys, where the queries are cosines."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(MoCo):
        def keys(self, inputs: Any) -> Tensor:
            found = self.features(self._encoder, inputs)
            seen.append((found, scaled(self._encoder, Batch(inputs))))
            return super().keys(inputs)

    stack = make_stack([CASE.method, Watched(queue=8, dim=4)], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    [(found, wanted)] = seen
    assert torch.allclose(found, wanted, atol=1e-5)


def test_rows_and_tokens_without_a_target() -> None:
    targets = torch.tensor([0, -100, 2, 99, 1, -1])
    mask = torch.tensor([True, False, True, False, True, False])

    def theirs(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy((z - 8 * 0.35 * F.one_hot(y.clamp(0, 2), 3))[mask], y[mask])

    batch = Batch(BATCHES[0].inputs, targets, mask)
    assert agree(learned(batch, CASE.method), by_hand(theirs, batch))
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))
    twin = copy.deepcopy(model)
    tokens, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, 2]])
    stack = stack_of(model, "tokens", CosFace(scale=8.0))
    stack.gradients(stack.window((tokens, labels)))
    z = cosines(twin[0](tokens), twin[1].weight, 8.0)[0, [0, 2]]
    F.cross_entropy(z - 8 * 0.35 * torch.eye(3)[[0, 2]], torch.tensor([0, 2])).backward()
    assert torch.allclose(model[1].weight.grad, twin[1].weight.grad, atol=1e-6)
    before = weights(stack.run.module)
    stack.step(Batch(tokens))
    assert equal(before, weights(stack.run.module))


def test_a_branch_and_a_stage_may_begin_from_it() -> None:
    stages = [Stage(updates=3, methods=["cosface"], optimizer="sgd"),
              Stage(updates=2, starts_from="evaluation", optimizer="sgd")]  # fmt: skip
    from whet.stage import Recipe

    run = Run(make_task(), Recipe(stages), device="cpu").fit()
    assert run.predictor().form() == {}


# which layer ---------------------------------------------------------------------------------
class Several(nn.Module):
    """A head that is not the last linear layer, and one whose output is changed."""

    def __init__(self, changed: bool = False) -> None:
        super().__init__()
        self.changed = changed
        self.head = nn.Linear(4, 3)
        self.other = nn.Linear(4, 5)
        self.also = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.other(x)
        self.also(x)
        return self.head(x).log_softmax(-1) if self.changed else self.head(x)


def stack_of(model: nn.Module, objective: str, *given: Any, **changes: Any) -> Stack:
    return Stack(model, objective, given, optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
                 **changes)  # fmt: skip


X, Y = torch.randn(6, 4, generator=seeding.generator(0)), torch.arange(6) % 3


def test_the_last_layer_with_an_output_for_each_class() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Identity())
    for given in (None, (X, Y)):
        stack = stack_of(model, "categorical", CosFace(), data=given)
        assert stack.methods[0]._heads == ("1",)  # type: ignore[attr-defined]
        assert stack.step((X, Y))

    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(5, 3), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x))

    stack = stack_of(Reversed(), "categorical", CosFace(), data=(X, Y))
    assert stack.methods[0]._heads == ("head",)  # type: ignore[attr-defined]
    assert stack.step((X, Y))
    bare = nn.Linear(4, 3)
    assert stack_of(bare, "categorical", CosFace()).step((X, Y))


@pytest.mark.parametrize("changed", [False, True])
def test_a_layer_whose_output_is_not_returned_is_refused(changed: bool) -> None:
    head = CosFace(at="head") if changed else CosFace()
    with pytest.raises(InputError, match=r"(?s)cosface: what the model returns.*at=.*also \(3\)"):
        stack_of(Several(changed), "categorical", head, data=(X, Y)).step((X, Y))
    assert stack_of(Several(), "categorical", CosFace(at="head"), data=(X, Y)).step((X, Y))


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"no linear layer at='last'; it has head \(3\)"):
        stack_of(Several(), "categorical", CosFace(at="last"))
    with pytest.raises(NotApplicable, match="an output for each class; it has no linear layer"):
        stack_of(nn.Conv1d(4, 3, 1), "categorical", CosFace())

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.body(x), x], 1)

    with pytest.raises(NotApplicable, match=r"each of its 6 classes; it has body \(2\)"):
        stack_of(Wide(), "categorical", CosFace(), data=(X, Y))


@pytest.mark.parametrize("objective", ["multi-label", "real"])
def test_does_not_apply_without_one_class(objective: str) -> None:
    with pytest.raises(NotApplicable, match="no one class to which an angle"):
        stack_of(nn.Linear(4, 3), objective, CosFace())


def test_a_frozen_layer_and_a_tied_one() -> None:
    """The weight is the layer's own, whoever else holds it."""
    tied = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    tied[1].weight = tied[0].weight
    tokens = torch.tensor([[1, 2, 3]])
    stack = stack_of(tied, "tokens", CosFace())
    assert stack.step((tokens, tokens))
    assert tied[1].weight is tied[0].weight
    still = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    still[1].requires_grad_(False)
    before = still[1].weight.clone()
    assert stack_of(still, "categorical", CosFace()).step((X, Y))
    assert torch.equal(before, still[1].weight)


def test_a_copy_of_the_model_is_a_plain_one() -> None:
    stack = make_stack([CASE.method], coupled=False)
    twin = copy.deepcopy(stack.run.module)
    with cosine.applied(stack.run.module, {"head": 3.0}):
        here, there = (call(m, BATCHES[0].inputs) for m in (stack.run.module, twin))
        assert here.abs().max() <= 3.0
        assert not torch.allclose(here, there)
