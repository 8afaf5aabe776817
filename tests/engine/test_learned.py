"""Losses of other logits than those that are judged, beside methods that ask the model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import data, equal, make_model, make_run, make_stack, noisy, weights
from tests.contract.found import case, names
from tests.methods.traps import trap
from whet import methods, nesting
from whet.batch import Batch
from whet.cosine import cosines
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, method
from whet.methods.adversarial_consistency import AdversarialConsistency
from whet.methods.class_weights import ClassWeights
from whet.methods.cosface import CosFace
from whet.methods.feature_distillation import FeatureDistillation
from whet.methods.fixmatch import FixMatch
from whet.methods.free_at import FreeAT
from whet.methods.logit_adjustment import LogitAdjustment
from whet.methods.negative_correlation import NegativeCorrelation
from whet.methods.pgd_inputs import PGDInputs
from whet.methods.r_drop import RDrop
from whet.methods.self_distillation import SelfDistillation
from whet.methods.temperature import Temperature
from whet.methods.vat import VAT
from whet.objectives.objective import call
from whet.predict import Predictor
from whet.stack import Stack

BATCHES = Batch.of(data()).split(6)
HEAD = CosFace(0.35, scale=8.0)
COMPARE: list[Method] = [
    AdversarialConsistency(at="floats", epsilon=0.3).during(0, 1), FixMatch(threshold=0.0), RDrop(),
    SelfDistillation(), VAT(at="floats").during(0, 1), methods.make("distillation"),
]  # fmt: skip


def learned(stack: Stack, batch: Any = BATCHES[0]) -> Stack:
    stack.gradients(stack.window(batch))
    return stack


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# who compares answers compares what is judged ------------------------------------------------
@pytest.mark.parametrize("one", COMPARE, ids=lambda one: one.name)
def test_answers_are_compared_as_they_are_judged(one: Method) -> None:
    """A margin, a temperature, a prior are of the loss: no answer is another for them."""
    for without, moved in (
        ([], Temperature(3.0)), ([], LogitAdjustment(2.0)),
        ([CosFace(0.0, scale=8.0)], HEAD),
    ):  # fmt: skip
        plain, other = (learned(make_stack([one, *beside])) for beside in (without, [moved]))
        assert plain.terms[one.key] == pytest.approx(other.terms[one.key], rel=1e-5)
        assert plain.terms[one.key] > 0
        assert abs(plain.loss - other.loss) > 1e-3


# who asks the model meets the head -----------------------------------------------------------
def composes(name: str) -> bool:
    return nesting.clash(case(name).method, HEAD) is None


@pytest.mark.parametrize("name", [name for name in names() if composes(name)])
def test_every_pass_meets_the_head(name: str) -> None:
    """Attacks climb the model that is judged, before its own forward too."""
    stack = make_stack([case(name).method, HEAD])
    seen: list[float] = []
    for part, module in stack.run.module.named_modules():
        if part.startswith("head") and isinstance(module, nn.Linear):
            module.weight.data *= 100.0
            module.register_forward_hook(
                lambda m, a, out: seen.append(out.detach().abs().max().item())
            )
    learned(stack)
    assert len(seen) >= 1
    assert max(seen) <= 8.0 + 1e-4


class InItsForward(CosFace):
    """The head stands from the model's own forward on: an attack before it climbs another model."""

    def gradients(self, run: Any, window: Any, inner: Any) -> None:
        inner(window)

    def forward(self, run: Any, batch: Batch, inner: InnerForward) -> Forward:
        run.hold(self, self._standing(run))
        return super().forward(run, batch, inner)


@trap(right=CosFace, wrong=InItsForward)
def test_an_attack_climbs_the_cosines(kind: Any) -> None:
    stack = make_stack(
        [PGDInputs(at="floats", steps=1, init=0.0).during(0, 1), kind(scale=8.0)], coupled=False
    )
    found: list[Tensor] = []
    stack.run.module.hidden.register_forward_pre_hook(lambda m, a: found.append(a[0][:, 6:]))
    model = make_model(coupled=False)
    inner: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda m, a: inner.append(a[0]))
    for net in (model, stack.run.module):
        net.head.bias.data = torch.tensor([4.0, 0.0, -4.0])
    batch = BATCHES[0]
    floats = batch.inputs["floats"].clone().requires_grad_()
    call(model, {**batch.inputs, "floats": floats})
    loss = F.cross_entropy(cosines(inner[0], model.head.weight, 8.0), batch.targets)
    [slope] = torch.autograd.grad(loss, floats)
    learned(stack)
    moved = found[-1].detach() - found[0].detach()
    assert torch.equal(moved.sign(), slope.sign())


# teachers ------------------------------------------------------------------------------------
@pytest.mark.parametrize("teacher", ["ema", "start"])
def test_an_earlier_self_has_the_head_of_the_model(teacher: str) -> None:
    """Nothing has been learned and nothing drops: they agree."""
    stack = make_stack([HEAD, SelfDistillation(teacher=teacher)], coupled=False)
    assert learned(stack).terms["self_distillation"] == pytest.approx(0.0, abs=1e-6)


def test_an_earlier_self_keeps_the_head_that_it_learned_with(tmp_path: Path) -> None:
    """Where the head's span ends, and after a resume too."""
    given = [HEAD.during(0, 0.5), SelfDistillation(teacher="start")]
    whole = make_run(given).fit()
    make_run(given, folder=tmp_path).fit(until=4)
    resumed = make_run(given, folder=tmp_path).fit()
    assert equal(weights(whole.module), weights(resumed.module))
    state = resumed.stack.methods[0].state_dict()
    assert state["heads"] == {"head": 8.0}
    late = [HEAD.during(0.5, 1), SelfDistillation(teacher="start")]
    assert make_run(late).fit().stack.methods[0].state_dict()["heads"] == {}


def test_a_features_layer_may_be_the_head() -> None:
    stack = make_stack([HEAD, FeatureDistillation(at="head")], coupled=False)
    batch, model = BATCHES[0], make_model(coupled=False)
    inner: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda m, a: inner.append(a[0]))
    call(model, batch.inputs)
    teacher = stack.run.resources["teacher"]
    taught = call(teacher, batch.inputs)
    wanted = (cosines(inner[0], model.head.weight, 8.0) - taught).square().mean()
    assert learned(stack).terms["feature_distillation"] == pytest.approx(wanted.item(), rel=1e-4)


# members -------------------------------------------------------------------------------------
def member_outputs(model: nn.Module, batch: Batch, scale: float | None = None) -> Tensor:
    inner: list[Tensor] = []
    handle = model.head.register_forward_pre_hook(lambda m, a: inner.append(a[0]))
    call(model, batch.inputs)
    handle.remove()
    if scale is None:
        return torch.stack([one(inner[0]) for one in model.head.members])
    return torch.stack([cosines(inner[0], one.weight, scale) for one in model.head.members])


def joint(outputs_K: Tensor) -> Tensor:
    return outputs_K.softmax(-1).mean(0).log()


def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("at", [None, "head.members.1"])
def test_each_member_learns_with_the_margin(at: str | None) -> None:
    model, twin, batch = (*(make_model(coupled=False, members=3) for _ in "ab"), BATCHES[0])
    stack = learned(make_stack([CosFace(0.35, scale=8.0, at=at)], model=model))
    margins = 8.0 * 0.35 * F.one_hot(batch.targets, 3)
    z = member_outputs(twin, batch, 8.0) - margins
    F.nll_loss(joint(z), batch.targets).backward()
    assert agree(gradients(stack.run.module), gradients(twin))


PRIOR = torch.bincount(data()["labels"]).float().log()
MOVES: list[tuple[Method, float | None, Any]] = [
    (Temperature(2.0), None, lambda z, y: z / 2.0),
    (LogitAdjustment(), None, lambda z, y: z + PRIOR),
    (HEAD, 8.0, lambda z, y: z - 8.0 * 0.35 * F.one_hot(y, 3)),
]


@pytest.mark.parametrize(
    ("moves", "scale", "move"), MOVES, ids=lambda one: getattr(one, "name", "")
)
@pytest.mark.parametrize("swapped", [False, True])
def test_members_are_trained_by_their_own_moved_losses(
    moves: Method, scale: float | None, move: Any, swapped: bool
) -> None:
    pair = [NegativeCorrelation(0.25), moves]
    stack = learned(make_stack(pair[::-1] if swapped else pair, coupled=False))
    twin, batch = make_model(coupled=False, members=3), BATCHES[0]
    z, y = member_outputs(twin, batch, scale), batch.targets
    own = torch.stack([F.cross_entropy(move(one, y), y) for one in z]).mean()
    # a margin is each member's; a temperature and a prior are of the answer
    together = joint(move(z, y)) if scale else move(joint(z), y)
    (0.75 * own + 0.25 * F.cross_entropy(together, y)).backward()
    assert agree(gradients(stack.run.module), gradients(twin))


def test_members_with_heads_are_exported(tmp_path: Path) -> None:
    run = make_run([HEAD], members=3).fit()
    found, batch = run.predictor(), BATCHES[1]
    assert found.form() == {"cosine": {f"head.members.{at}": 8.0 for at in range(3)}}
    found.save(tmp_path / "model")
    again = Predictor.load(tmp_path / "model", make_model(5, members=3))
    assert torch.equal(again(batch), found(batch))
    model = run.module.eval()
    wanted = member_outputs(model, batch, 8.0).softmax(-1).mean(0)
    assert torch.allclose(found(batch), wanted, atol=1e-6)


# rows ----------------------------------------------------------------------------------------
def test_fixmatch_keeps_the_rows_of_what_is_learned() -> None:
    seen: list[Forward] = []

    @method
    class Outermost(Method):
        name: ClassVar[str] = "outermost"
        layer: ClassVar[Layer] = Layer.BATCH_SOURCE

        def forward(self, run: Any, batch: Batch, inner: InnerForward) -> Forward:
            seen.append(inner(batch))
            return seen[-1]

    resources = {"unlabelled": data(30, 7), "weak": noisy(0.05), "strong": noisy(0.5)}
    resources["unlabelled"] = {k: v for k, v in resources["unlabelled"].items() if k != "labels"}
    given = [Outermost(), FixMatch(threshold=0.0), HEAD]
    learned(make_stack(given, coupled=False, resources=resources))
    [forward], y = seen, BATCHES[0].targets
    wanted = forward.output - 8.0 * 0.35 * F.one_hot(y, 3)
    assert torch.allclose(forward.learned, wanted, atol=1e-5)
    assert torch.allclose(forward.losses, F.cross_entropy(wanted, y, reduction="none"), atol=1e-5)


class Within(FreeAT):
    """Within the weighing, which has then counted the window that is left out."""

    outside: ClassVar[tuple[str, ...]] = ()


@trap(right=FreeAT, wrong=Within)
def test_class_weights_are_divided_by_those_of_the_window_that_is_learned(kind: Any) -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 1])
    windows = [BATCHES[0].replace(targets=labels), BATCHES[1].replace(targets=2 - labels)]
    given = [
        kind(epsilon=0.0, replays=2, at="floats").during(0, 1),
        ClassWeights(weights=(1.0, 2.0, 9.0)),
    ]
    still = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "coupled": False}
    stack, found = make_stack(given, **still), []
    for window in windows:
        stack.step(window)
        found.append(stack.loss)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
