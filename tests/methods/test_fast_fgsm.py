"""Fast FGSM."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    close,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    weights,
)
from tests.methods import pictures as pictured
from tests.methods import record_torchattacks
from tests.methods.pictures import IMAGES, drawn, learned, pictures
from tests.methods.record_libraries import recorded
from tests.methods.traps import trap
from whet import seeding
from whet.attack import CatastrophicOverfitting, attack_pass
from whet.ball import Ball
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import Distillation
from whet.methods.fast_fgsm import FastFGSM, fast_fgsm
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    FastFGSM(epsilon=0.3, at="floats", watch=2, drop=1.0).during(0, 1),
    accumulates="the random start is drawn for each micro-batch anew",
    cost=Cost(forwards=2, backwards=2, inputs=2),
)

PARTS = Batch.of(data()).split(6)


def small(**changes: Any) -> FastFGSM:
    return FastFGSM(**({"epsilon": 0.3, "at": "floats", "watch": 0} | changes)).during(0, 1)


# the value -----------------------------------------------------------------------------------
def by_hand(
    model: nn.Module, x: Tensor, y: Tensor, epsilon: float, alpha: float, noise: Tensor
) -> Tensor:
    """FFGSM for images in [0, 1]."""
    adversarial = torch.clamp(x + epsilon * noise, min=0, max=1).detach()
    adversarial.requires_grad = True
    cost = F.cross_entropy(model(adversarial), y)
    gradient = torch.autograd.grad(cost, adversarial)[0]
    adversarial = adversarial.detach() + alpha * gradient.sign()
    delta = torch.clamp(adversarial - x, min=-epsilon, max=epsilon)
    return torch.clamp(x + delta, min=0, max=1).detach()


def test_the_hand_written_loop_is_torchattacks() -> None:
    """FFGSM from the noise that it drew, as it was recorded."""
    model, (x, y) = record_torchattacks.Small(), record_torchattacks.images()
    noise, expected = (
        torch.tensor(recorded("torchattacks")[name], dtype=torch.float64).view(x.shape)
        for name in ("noise", "moved")
    )
    found = by_hand(model, x, y, 0.1, 0.125, noise / 0.1)
    assert (found - expected).abs().max() < 1e-12
    assert (found - x).abs().max() > 0.09


@pytest.mark.parametrize("step", [0.0, 0.5, 1.0, 1.25, 3.0])
def test_oracle_is_the_hand_written_loop(step: float) -> None:
    model = pictures([]).run.module
    x, y = IMAGES.inputs, IMAGES.targets
    noise = torch.rand(x.shape, generator=seeding.generator(4)) * 2 - 1
    expected = by_hand(model, x, y, 0.1, 0.1 * step, noise)
    found = fast_fgsm(
        lambda x: F.cross_entropy(model(x), y), x, 0.1, step, low=0.0, high=1.0,
        generator=seeding.generator(4),
    )  # fmt: skip
    assert torch.allclose(found, expected, atol=1e-7)
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_method_learns_what_the_hand_loop_learns() -> None:
    method = FastFGSM(0.1, watch=0).during(0, 1)
    stack = pictures([method], valid_range=(0.0, 1.0))
    noise = drawn(stack, IMAGES.inputs, "")
    model = pictures([]).run.module
    expected = by_hand(model, IMAGES.inputs, IMAGES.targets, 0.1, 0.125, noise)
    assert torch.allclose(learned(stack, IMAGES, "0"), expected, atol=1e-7)
    F.cross_entropy(model(expected), IMAGES.targets).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_plain_fgsm_and_the_noise_control() -> None:
    x = PARTS[0].inputs["floats"]
    noisy = make_stack([small(step_size=0.0)], coupled=False)
    noise = drawn(noisy, x)
    assert torch.allclose(learned(noisy, PARTS[0]), x + 0.3 * noise, atol=1e-6)
    plain = make_stack([small(init=0.0, step_size=1.0)], coupled=False)
    floats = x.clone().requires_grad_()
    output = call(make_model(coupled=False), PARTS[0].inputs | {"floats": floats})
    [g] = torch.autograd.grad(F.cross_entropy(output, PARTS[0].targets), floats)
    assert torch.allclose(learned(plain, PARTS[0]), x + 0.3 * g.sign(), atol=1e-6)


def test_the_control_makes_no_attack_pass() -> None:
    for step, passes in ((0.0, 1), (1.25, 2)):
        calls: list[int] = []
        stack = make_stack([small(step_size=step, watch=1)])
        stack.run.module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        stack.gradients(stack.window(PARTS[0]))
        assert len(calls) == passes


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
            floats = fast_fgsm(loss, batch.inputs["floats"], 0.3, generator=maker)
        optimizer.zero_grad()
        loss(floats).backward()
        optimizer.step()
        stack.step(batch)
        assert close(weights(model), weights(stack.run.module), atol=1e-6)


@pytest.mark.parametrize("coupled", [False, True])
def test_core_on_embeddings_equals_the_stack(coupled: bool) -> None:
    method = FastFGSM(0.1, scope="embeddings", watch=0).during(0, 1)
    stack, model = make_stack([method], coupled=coupled), make_model(coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in PARTS:
        seeding.seed_default(stack.run.position())

        def loss(batch: Batch = batch) -> Tensor:
            return F.cross_entropy(call(model, batch.inputs), batch.targets)

        optimizer.zero_grad()
        with method.attack(model, loss, seed=stack.run.key(stack.methods[0])):
            loss().backward()
        optimizer.step()
        stack.step(batch)
        assert close(weights(model), weights(stack.run.module), atol=1e-6)


def returned(stack: Stack, batch: Batch) -> list[Tensor]:
    """What the embedding gives on, pass by pass."""
    seen: list[Tensor] = []
    hidden = stack.run.module.hidden
    stack.run.module.embed.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    assert hidden is not None
    stack.gradients(stack.window(batch))
    return seen


def test_embeddings_move_within_the_ball_and_padding_stays() -> None:
    batch, mask = PARTS[0], torch.tensor([True, False, True, True, True, True])
    stack = make_stack([FastFGSM(0.1, scope="embeddings", watch=0).during(0, 1)], coupled=False)
    words = make_model(coupled=False).embed(batch.inputs["tokens"])
    delta = returned(stack, batch.replace(mask=mask))[-1] - words
    padding = batch.inputs["tokens"] == 0
    assert padding.any()
    assert not delta[padding].any()
    assert not delta[~mask].any()
    assert delta.abs().max() <= 0.1 + 1e-6
    assert (delta[mask][~padding[mask]].abs() > 0.099).float().mean() > 0.4  # most are at the rim


def test_a_blend_is_the_sum_of_both() -> None:
    found = {}
    for weight in (1.0, 0.3):
        stack = make_stack([small(weight=weight)], coupled=False)
        stack.gradients(stack.window(PARTS[0]))
        found[weight] = [p.grad.clone() for p in stack.parameters()]
    model = make_model(coupled=False)
    F.cross_entropy(call(model, PARTS[0].inputs), PARTS[0].targets).backward()
    for clean, worse, both in zip(model.parameters(), found[1.0], found[0.3], strict=True):
        assert torch.allclose(both, 0.7 * clean.grad + 0.3 * worse, atol=1e-6)


def test_a_blend_moves_batch_statistics_by_the_clean_pass() -> None:
    plain, blend = make_stack(), make_stack([small(weight=0.5)])
    for stack in (plain, blend):
        stack.gradients(stack.window(PARTS[0]))
    assert equal(dict(plain.run.module.named_buffers()), dict(blend.run.module.named_buffers()))


# units and ranges ----------------------------------------------------------------------------
def test_std_divides_the_radius_by_channel() -> None:
    std, mean = (0.2, 0.5, 1.0), (0.5, 0.4, 0.3)
    width, centre = (torch.tensor(v).view(1, 3, 1, 1) for v in (std, mean))
    batch = IMAGES.replace(inputs=(IMAGES.inputs - centre) / width)
    ends = tuple(((end - centre) / width).flatten() for end in (0.0, 1.0))
    stack = pictures([FastFGSM(0.1, std=std, watch=0).during(0, 1)], valid_range=ends)
    moved = learned(stack, batch, "0") * width + centre
    assert (moved - IMAGES.inputs).abs().amax((0, 2, 3)).tolist() == pytest.approx([0.1] * 3)
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6
    assert (moved < 1e-6).any()  # and something was clipped


def test_a_range_by_the_inputs_name() -> None:
    stack = make_stack([small()], coupled=False, resources={"valid_range": {"floats": (-4.0, 0.0)}})
    batch = PARTS[0].replace(inputs=PARTS[0].inputs | {"floats": -torch.rand(6, 4)})
    assert learned(stack, batch).max() <= 0
    free = make_stack([small()], coupled=False, resources={"valid_range": {"image": (-4.0, 0.0)}})
    assert learned(free, batch).max() > 0


def test_what_is_not_clipped_or_watched_is_said() -> None:
    assert pictures([FastFGSM().during(0, 1)]).methods[0].notes == [
        "no resource valid_range: x + delta is not clipped"
    ]
    assert pictures([FastFGSM().during(0, 1)], valid_range=(0.0, 1.0)).methods[0].notes == []
    notes = pictures([FastFGSM().during(0, 1)], "real", valid_range=(0.0, 1.0)).methods[0].notes
    assert notes == ["reals have no accuracy: overfitting is not watched"]


def test_reals_and_labels_and_tokens_are_attacked() -> None:
    reals = pictures([FastFGSM(0.1, watch=1).during(0, 1)], "real")
    assert reals.step(IMAGES.replace(targets=torch.rand(6, 3)))
    assert reals.methods[0].accuracy is None
    labels = pictures([FastFGSM(0.1, watch=1, drop=1.0).during(0, 1)], "multi-label")
    assert labels.step(IMAGES.replace(targets=torch.ones(6, 3)))
    assert 0 <= labels.methods[0].accuracy <= 1
    tokens = Stack(
        nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5)), "tokens",
        [FastFGSM(0.1, scope="embeddings", watch=1, drop=1.0).during(0, 1)],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    assert tokens.step((torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, 3]])))
    assert 0 <= tokens.methods[0].accuracy <= 1


# what an attack leaves alone -----------------------------------------------------------------
def test_rows_without_a_target_stay_as_they_are() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    moved = learned(make_stack([small()]), PARTS[0].replace(mask=mask))
    x = PARTS[0].inputs["floats"]
    assert torch.equal(moved[~mask], x[~mask])
    assert (moved[mask] != x[mask]).any(1).all()
    stack = make_stack([small()], coupled=False)
    assert torch.equal(learned(stack, Batch(PARTS[0].inputs)), x)


def test_only_what_is_named_and_floating_moves() -> None:
    seen: list[Any] = []
    stack = make_stack([small(at="*")], coupled=False)
    stack.run.module.register_forward_pre_hook(lambda m, a, k: seen.append(k), with_kwargs=True)
    stack.gradients(stack.window(PARTS[0]))
    assert torch.equal(seen[-1]["tokens"], PARTS[0].inputs["tokens"])
    assert not torch.equal(seen[-1]["floats"], PARTS[0].inputs["floats"])
    assert not PARTS[0].inputs["floats"].requires_grad


def test_statistics_move_once_and_dropout_masks_are_one() -> None:
    plain, attacked = make_stack(), make_stack([small()])
    for stack in (plain, attacked):
        masks: list[Tensor] = []
        stack.run.module.dropout.register_forward_hook(
            lambda m, a, out, masks=masks: masks.append(out == 0)
        )
        stack.gradients(stack.window(PARTS[0]))
        stack.run.masks = masks
    assert attacked.run.module.norm.num_batches_tracked == 1
    assert len(attacked.run.masks) == 2
    for mask in attacked.run.masks:  # the attack climbs the network that learns
        assert torch.equal(mask, plain.run.masks[0])


def test_composes_with_what_stands_inside() -> None:
    """R-Drop's two passes move batch statistics once, and a teacher is asked once."""
    asked: list[int] = []
    given = {"teacher": lambda batch: asked.append(1) or torch.zeros(batch.size, 3)}
    stack = make_stack([small(), RDrop(), Distillation()], resources=given)
    stack.gradients(stack.window(PARTS[0]))
    assert stack.run.module.norm.num_batches_tracked == 1
    assert len(asked) == 2  # for R-Drop's two passes, none for the attack
    assert "fast_fgsm > r_drop > distillation > supervised" in stack.explain()


def test_a_model_may_change_its_inputs_in_place() -> None:
    class Hasty(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.sub_(0.5))

    stack = Stack(Hasty(4, 3), "categorical", [FastFGSM(0.1, watch=0).during(0, 1)],
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    assert stack.step((torch.rand(4, 4), torch.tensor([0, 1, 2, 0])))


def test_checkpointed_embeddings_meet_the_same_shift() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.late = nn.Embedding(9, 4), nn.Linear(4, 3), False

        def body(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).tanh().mean(1))

        def forward(self, ids: Tensor) -> Tensor:
            return checkpoint(self.body, ids, use_reentrant=False) if self.late else self.body(ids)

    found = []
    for late in (False, True):
        with seeding.borrowed(3):
            model = Late()
        model.late = late
        fast = FastFGSM(0.5, scope="embeddings", watch=0).during(0, 1)
        stack = Stack(model, "categorical", [fast],
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
        stack.step((torch.tensor([[1, 2], [3, 4]]), torch.tensor([0, 2])))
        found.append(weights(model))
    assert close(*found)


# errors --------------------------------------------------------------------------------------
def test_token_ids_point_to_the_scope_that_moves_them() -> None:
    with pytest.raises(NotApplicable, match="scope='embeddings'"):
        make_stack([small(at="tokens")]).step(PARTS[0])
    with pytest.raises(InputError, match=r"no input matches at='pixels'; there are: tokens"):
        make_stack([small(at="pixels")]).step(PARTS[0])


def test_what_the_model_does_not_use_is_no_silent_attack() -> None:
    class Deaf(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.detach())

    batch = (torch.rand(2, 4), torch.tensor([0, 1]))
    with pytest.raises(NotApplicable, match=r"does not depend on the inputs that at='\*'"):
        Stack(Deaf(4, 3), "categorical", [FastFGSM().during(0, 1)],
              optimizer=lambda p: torch.optim.SGD(p, lr=0.1)).step(batch)  # fmt: skip

    class DeafToWords(nn.Sequential):
        def forward(self, ids: Tensor) -> Tensor:
            return self[1](self[0](ids).detach())

    model = DeafToWords(nn.Embedding(4, 2), nn.Linear(2, 2))
    with pytest.raises(NotApplicable, match="does not depend on the embeddings"):
        Stack(model, "categorical", [FastFGSM(scope="embeddings").during(0, 1)],
              optimizer=lambda p: torch.optim.SGD(p, lr=0.1)).step(
            (torch.tensor([1, 2]), torch.tensor([0, 1])))  # fmt: skip


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="std is of inputs"):
        make_stack([FastFGSM(scope="embeddings", std=0.5).during(0, 1)])
    with pytest.raises(InputError, match=r"std has shape \(2,\) and input '' \(6, 3, 4, 4\)"):
        pictures([FastFGSM(std=(0.1, 0.2)).during(0, 1)]).step(IMAGES)
    with pytest.raises(InputError, match=r"it is a pair \(low, high\)"):
        pictures([FastFGSM().during(0, 1)], valid_range=1.0).step(IMAGES)
    with pytest.raises(NotApplicable, match="no loss of its own"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), FastFGSM().during(0, 1)],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        pictures([FastFGSM(scope="embeddings").during(0, 1)])


# the watch -----------------------------------------------------------------------------------
def test_a_fall_halves_the_step_or_ends_the_attack() -> None:
    method = FastFGSM(drop=0.2).during(0, 1)
    for accuracy in (0.3, 0.5, 0.35):
        method.observe(accuracy)
    assert (method.best, method.accuracy, method._sizes) == (0.5, 0.35, (1.25,))
    with pytest.warns(CatastrophicOverfitting, match=r"0\.50 to 0\.05; the step is 0\.625 times"):
        method.observe(0.05)
    method.observe(0.0)
    method.observe(0.4)
    with pytest.warns(CatastrophicOverfitting, match=r"0\.3125"):
        method.observe(0.1)
    stopping = FastFGSM(on_drop="stop").during(0, 1)
    stopping.observe(0.6)
    with pytest.warns(CatastrophicOverfitting, match="attack ends"):
        stopping.observe(0.3)
    assert stopping.stopped


class Failing(FastFGSM):
    """Its accuracy under PGD is told by the number of the update."""

    def _under_pgd(self, run: Any, batch: Batch) -> float:
        return 0.9 if run.updates < 3 else 0.1


@pytest.mark.parametrize("act", ["halve", "stop"])
def test_the_act_takes_hold_and_is_resumed(act: str) -> None:
    def fresh() -> Stack:
        return make_stack(
            [Failing(0.3, at="floats", watch=1, on_drop=act).during(0, 1)], coupled=False
        )

    stack = fresh()
    for batch in PARTS[:2]:
        stack.step(batch)
    with pytest.warns(CatastrophicOverfitting, match="0.90 to 0.10"):
        stack.step(PARTS[2])
    stack.step(PARTS[3])
    method = stack.methods[0]
    assert (method.stopped, method.halved) == ((True, 0) if act == "stop" else (False, 1))
    again = fresh()
    again.run.module.load_state_dict(stack.run.module.state_dict())
    again.load_state_dict(stack.state_dict())
    x = PARTS[4].inputs["floats"]
    moved = [learned(one, PARTS[4]) for one in (stack, again)]
    assert torch.equal(*moved)
    assert torch.equal(moved[0], x) == (act == "stop")


def test_the_watch_sees_what_pgd_does_and_leaves_no_trace() -> None:
    watched, plain = (make_run([small(watch=watch, drop=1.0)]) for watch in (1, 0))
    for run in (watched, plain):
        run.fit()
    assert equal(weights(watched.module), weights(plain.module))
    assert all(module.training for module in watched.module.modules())
    method = watched.stack.methods[0]
    assert 0 <= method.accuracy <= method.best <= 1


def test_accuracy_under_pgd_by_hand() -> None:
    """A line between two rows: within reach of PGD one is lost, beyond it none."""
    rows, targets = torch.tensor([[0.5], [2.0]]), torch.tensor([1, 1])
    for epsilon, wanted in ((0.1, 1.0), (1.0, 0.5), (3.0, 0.0)):
        model = nn.Linear(1, 2, bias=False)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[-1.0], [1.0]]))  # class 1 where x > 0
        stack = Stack(model, "categorical", [FastFGSM(epsilon, watch=1).during(0, 1)],
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.0))  # fmt: skip
        stack.step((rows, targets))
        assert stack.methods[0].accuracy == wanted


def test_a_skipped_update_is_not_watched() -> None:
    stack = make_stack([small(watch=1)], scaler=torch.amp.GradScaler("cpu", init_scale=2.0))
    stack.gradients(stack.window(PARTS[0]))
    stack.run.module.head.weight.grad[0, 0] = float("inf")
    assert not stack.update()
    assert stack.methods[0].accuracy is None


# traps ---------------------------------------------------------------------------------------
class ByBackward(pictured.ByBackward, FastFGSM):
    """The gradient by backward()."""


@trap(right=FastFGSM, wrong=ByBackward)
def test_the_attack_pollutes_no_gradient(kind: Any) -> None:
    pictured.pollutes_no_gradient(kind(0.3, at="floats", watch=0).during(0, 1))


class Counted(pictured.Counted, FastFGSM):
    """Statistics move with the attack."""


@trap(right=FastFGSM, wrong=Counted)
def test_batch_statistics_are_those_of_the_inputs_that_are_learned(kind: Any) -> None:
    pictured.statistics_are_of_what_is_learned(kind(0.3, at="floats", watch=0).during(0, 1))


class InPixels(pictured.InPixels, FastFGSM):
    """std is not asked for."""


@trap(right=FastFGSM, wrong=InPixels)
def test_epsilon_is_in_pixels_where_inputs_are_normalised(kind: Any) -> None:
    pictured.moves_by_pixels(kind(8 / 255, std=0.25, watch=0).during(0, 1))


class Unchecked(pictured.Unchecked, FastFGSM):
    """The range is not looked at."""


@trap(right=FastFGSM, wrong=Unchecked)
def test_a_range_of_other_units_is_an_error(kind: Any) -> None:
    pictured.names_a_range_of_other_units(kind(0.1, watch=0).during(0, 1))


def plain_sign(point: Tensor, slope: Tensor) -> Tensor:
    return point + 0.1 * slope.sign()


def in_a_ball(point: Tensor, slope: Tensor) -> Tensor:
    return Ball(point, torch.tensor(0.1)).climbed(point, slope, 1.0)


@trap(right=in_a_ball, wrong=plain_sign)
def test_no_step_where_the_gradient_is_no_number(climb: Callable[..., Tensor]) -> None:
    slope = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -2.0])
    assert torch.allclose(climb(torch.zeros(5), slope), torch.tensor([0.0, 0.0, 0.0, 0.0, -0.1]))


class Unwatched(FastFGSM):
    def after_update(self, run: Any) -> None:
        pass


@trap(right=FastFGSM, wrong=Unwatched)
def test_catastrophic_overfitting_is_noticed(kind: Any) -> None:
    """A row that PGD did not take over the line, once the line has moved past it."""
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    stack = Stack(model, "categorical", [kind(0.5, watch=1).during(0, 1)], updates=2,
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.0))  # fmt: skip
    rows, other = (torch.tensor([[2.0]]), torch.tensor([1])), (torch.ones(3, 1), torch.ones(3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stack.step(rows)
        with torch.no_grad():
            model.weight.neg_()
        stack.step((other[0], other[1].long()))
    assert [one.category for one in caught] == [CatastrophicOverfitting]
    assert stack.methods[0].halved == 1
