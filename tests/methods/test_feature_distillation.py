"""Feature distillation."""

from __future__ import annotations

import copy
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
    resources,
    weights,
)
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.distillation import Distillation
from whet.methods.feature_distillation import (
    FeatureDistillation,
    feature_distances,
    regressor,
)
from whet.methods.r_drop import RDrop
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    FeatureDistillation(weight=2.0, at="head", teacher_at="hidden"),
    cost=Cost(asked=1, inputs=3),
)

BATCHES = Batch.of(data()).split(6)


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeding.generator(seed)).double()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def teacher_of(stack: Stack) -> nn.Module:
    found: nn.Module = stack.run.resources["teacher"]
    return found


class Pictures(nn.Module):
    """A convolution of so many channels, and a classifier."""

    def __init__(self, width: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, width, 3, stride, padding=1)
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


def pictures(width: int, **given: Any) -> Stack:
    with seeding.borrowed(1):
        student, teacher = Pictures(4), Pictures(width, given.pop("stride", 1))
    images = features(12, 1, 6, 6).float(), torch.arange(12) % 3
    return Stack(
        student, "categorical", [FeatureDistillation(at="body", **given)], data=images,
        batch_size=6, resources={"teacher": teacher}, optimizer=sgd,
    )  # fmt: skip


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(6, 8), (6, 5, 8), (6, 8, 4, 4)])
def test_oracle_is_torchs(shape: tuple[int, ...]) -> None:
    s, t = features(*shape), features(*shape, seed=1)
    assert torch.allclose(feature_distances(s, t).mean(), F.mse_loss(s, t))
    at = 1 if len(shape) == 4 else -1
    places = [z.movedim(at, -1).reshape(-1, 8) for z in (s, t)]
    expected = F.cosine_embedding_loss(*places, torch.ones(len(places[0])))
    assert torch.allclose(feature_distances(s, t, "cosine").mean(), expected)
    assert feature_distances(s, t).shape == feature_distances(s, t, "cosine").shape == (6,)


def test_no_gradient_reaches_the_teacher() -> None:
    s, t = features(3, 4).requires_grad_(), features(3, 4, seed=1).requires_grad_()
    (feature_distances(s, t) + feature_distances(s, t, "cosine")).sum().backward()
    assert s.grad is not None
    assert t.grad is None


def test_the_map_between_widths() -> None:
    assert regressor(features(3, 4), features(3, 4)) is None
    assert isinstance(regressor(features(3, 4), features(3, 6)), nn.Linear)
    assert isinstance(regressor(features(3, 5, 4), features(3, 5, 6)), nn.Linear)
    found = regressor(features(3, 4, 5, 5), features(3, 6, 5, 5))
    assert isinstance(found, nn.Conv2d)
    assert found.weight.shape == (6, 4, 1, 1)
    for a, b in (((3, 4), (2, 6)), ((3, 5, 4), (3, 6, 4)), ((3, 4, 5, 5), (3, 4, 6, 6)),
                 ((3, 4), (3, 4, 1)), ((3,), (3,))):  # fmt: skip
        with pytest.raises(InputError, match="differ in width alone"):
            regressor(features(*a), features(*b))


# the method ----------------------------------------------------------------------------------
@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_core_in_a_hand_loop_equals_the_stack(distance: str) -> None:
    method = FeatureDistillation(0.7, distance, at="head", teacher_at="hidden")
    stack = make_stack([method], coupled=False)
    model, teacher = make_model(coupled=False), resources()["teacher"]
    maps = copy.deepcopy(stack.run.heads["feature_distillation"])
    assert maps.weight.shape == (16, 3)
    optimizer = torch.optim.SGD([*model.parameters(), *maps.parameters()], lr=0.1, momentum=0.9)
    seen: list[Tensor] = []
    teacher.hidden.register_forward_hook(lambda module, args, out: seen.append(out))
    for batch in BATCHES:
        with torch.no_grad():
            call(teacher, batch.inputs)
        output = call(model, batch.inputs)
        apart = feature_distances(maps(output), seen[-1], distance)
        optimizer.zero_grad()
        (F.cross_entropy(output, batch.targets) + 0.7 * apart.mean()).backward()
        optimizer.step()
        stack.step(batch)
    assert close(weights(model), weights(stack.run.module))
    assert close(weights(maps), weights(stack.run.heads["feature_distillation"]))


def test_widths_that_are_one_need_no_map() -> None:
    stack = make_stack([FeatureDistillation(0.7, at="hidden")], coupled=False)
    assert len(stack.run.heads) == 0
    stack.gradients(stack.window(BATCHES[0]))
    model = make_model(coupled=False)
    seen: list[Tensor] = []
    for one in (model, teacher_of(stack)):
        one.hidden.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        call(teacher_of(stack), BATCHES[0].inputs)
    output = call(model, BATCHES[0].inputs)
    (F.cross_entropy(output, BATCHES[0].targets) + 0.7 * F.mse_loss(seen[1], seen[0])).backward()
    for ours, theirs in zip(stack.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)


@pytest.mark.parametrize("distance", ["l2", "cosine"])
@pytest.mark.parametrize("width", [4, 9])
def test_images_learn_the_teachers_channels(width: int, distance: str) -> None:
    stack = pictures(width, weight=5.0, distance=distance)
    assert (len(stack.run.heads) == 1) == (width == 9)
    x, y = features(12, 1, 6, 6).float(), torch.arange(12) % 3
    found = []
    for _ in range(40):
        stack.step((x, y))
        found.append(stack.terms["feature_distillation"])
    assert found[-1] < 0.6 * found[0]


def test_tokens_are_taught_at_every_place() -> None:
    stack = make_stack([FeatureDistillation(3.0, at="embed")], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    with torch.no_grad():
        given = [
            m.embed(BATCHES[0].inputs["tokens"]) for m in (stack.run.module, teacher_of(stack))
        ]
    expected = 3.0 * F.mse_loss(*given)
    assert stack.terms["feature_distillation"] == pytest.approx(expected.item(), rel=1e-5)


def test_rows_without_a_target_are_taught_too() -> None:
    stack = make_stack([FeatureDistillation(at="hidden")], coupled=False)
    before = weights(stack.run.module)
    assert stack.step(Batch(BATCHES[0].inputs))
    assert not equal(before, weights(stack.run.module))


def test_neutral_never_calls_the_teacher() -> None:
    stack = make_stack([FeatureDistillation(0.0, at="hidden")])
    calls: list[nn.Module] = []
    teacher_of(stack).register_forward_hook(lambda module, *_: calls.append(module))
    stack.step(BATCHES[0])
    assert calls == []


def test_one_forward_more_and_no_backward() -> None:
    stack = make_stack([CASE.method], coupled=False)
    calls: list[str] = []
    for name, one in (("teacher", teacher_of(stack)), ("student", stack.run.module)):
        one.hidden.register_forward_hook(lambda *_, name=name: calls.append(name))
    stack.run.module.hidden.register_full_backward_hook(lambda *_: calls.append("back"))
    stack.step(BATCHES[0])
    assert calls == ["teacher", "student", "back"]


@pytest.mark.parametrize("passes", ["two", "joined"])
def test_composes_with_two_passes(passes: str) -> None:
    stack = make_stack([RDrop(passes=passes), FeatureDistillation(at="hidden"), Distillation()])
    assert all(stack.step(batch) for batch in BATCHES[:3])
    explained = stack.explain()
    assert "r_drop > feature_distillation > distillation > supervised" in explained


def test_the_map_is_learned_saved_and_not_exported(tmp_path: Any) -> None:
    run = make_run([CASE.method], folder=tmp_path).fit(until=3)
    maps = run.stack.run.heads["feature_distillation"]
    held = {id(p) for group in run.stack.optimizer.param_groups for p in group["params"]}
    assert all(id(p) in held for p in maps.parameters())
    fresh = make_run([CASE.method])
    assert not equal(weights(fresh.stack.run.heads), weights(run.stack.run.heads))
    resumed = make_run([CASE.method], folder=tmp_path)
    assert equal(weights(resumed.stack.run.heads), weights(run.stack.run.heads))
    assert set(run.predictor().members()[0]) == set(make_model().state_dict())


def test_the_map_begins_by_the_runs_seed() -> None:
    found = [weights(make_stack([CASE.method], seed=seed).run.heads) for seed in (0, 0, 1)]
    assert equal(found[0], found[1])
    assert not equal(found[0], found[2])


# errors --------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "at= names no module of the Net.*hidden"),
        ({"at": "layer4"}, "no module 'layer4' of the Net"),
        ({"at": "hidden", "teacher_at": "body.3"}, r"no module 'body.3' of the Net"),
        ({"at": "hidden", "teacher_at": "embed"}, r"feature_distillation: .*\(6, 16\) and the t"),
        ({"at": "hidden", "device": "gpu7"}, "device is 'gpu7'"),
    ],
)  # fmt: skip
def test_what_is_named_must_be_there(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        make_stack([FeatureDistillation(**settings)])


def test_a_module_that_is_not_called() -> None:
    model = make_model()
    model.spare = nn.Linear(16, 3)
    with pytest.raises(InputError, match="'spare' was not called"):
        make_stack([FeatureDistillation(at="spare", teacher_at="head")], model=model)


def test_maps_of_another_resolution() -> None:
    with pytest.raises(InputError, match="layers of one resolution"):
        pictures(4, stride=2)


def test_a_teacher_must_be_a_module_of_its_own() -> None:
    for teacher, told in ((lambda batch: batch, "must be an nn.Module"),):
        with pytest.raises(InputError, match=told):
            make_stack([FeatureDistillation(at="hidden")], resources={"teacher": teacher})
    model = make_model()
    with pytest.raises(InputError, match="shares parameters"):
        make_stack([FeatureDistillation(at="hidden")], model=model, resources={"teacher": model})


def test_shapes_are_seen_by_data() -> None:
    with pytest.raises(InputError, match="data= to Stack"):
        make_stack([FeatureDistillation(at="hidden")], data=None)


def test_checkpoints_that_keep_no_graph() -> None:
    class Older(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
            self.body = nn.Sequential(nn.Linear(5, 5), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            if torch.is_grad_enabled() and self.training:
                hidden = checkpoint(self.body, hidden, use_reentrant=True)
            else:
                hidden = self.body(hidden)
            return self.head(hidden)

    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    stack = Stack(
        Older(), "categorical", [FeatureDistillation(at="body.0")], data=(x, y), optimizer=sgd,
        resources={"teacher": Older()},
    )  # fmt: skip
    with pytest.raises(NotApplicable, match="use_reentrant=False"):
        stack.step((x, y))


# traps ---------------------------------------------------------------------------------------
class Eager(FeatureDistillation):
    """Calls the teacher as it is handed over."""

    def _taught(self, run: Any, teacher: nn.Module, batch: Batch) -> Tensor:
        seen: list[Tensor] = []
        handle = teacher.get_submodule(self._there).register_forward_hook(
            lambda module, args, out: seen.append(out.detach())
        )
        call(teacher, batch.inputs)
        handle.remove()
        return seen[-1]


@trap(right=FeatureDistillation, wrong=Eager)
def test_the_teacher_answers_in_evaluation_mode(kind: Any) -> None:
    teacher = make_model(9).train()
    before, modes = weights(teacher), [m.training for m in teacher.modules()]
    stack = make_stack([kind(at="hidden")], resources={"teacher": teacher})
    stack.step(BATCHES[0])
    assert equal(before, weights(teacher)), "its batch statistics moved"
    assert modes == [m.training for m in teacher.modules()]


class Registered(FeatureDistillation):
    """`self.teacher = teacher` on the model."""

    def build(self, run: Any) -> None:
        super().build(run)
        run.module.teacher = run.resource("teacher", self)


@trap(right=FeatureDistillation, wrong=Registered)
def test_the_teacher_is_in_no_optimizer_checkpoint_or_export(kind: Any) -> None:
    stack = make_stack([kind(at="hidden")])
    stack.step(BATCHES[0])
    taught = {id(p) for p in teacher_of(stack).parameters()}
    held = {id(p) for group in stack.optimizer.param_groups for p in group["params"]}
    assert not taught & held
    assert set(stack.run.module.state_dict()) == set(make_model().state_dict())
    assert set(stack.predictor().members()[0]) == set(make_model().state_dict())
    assert stack.state_dict()["heads"] == {}
    assert all(p.grad is None for p in teacher_of(stack).parameters())


class Unlearned(FeatureDistillation):
    """The map made on the way, when the optimizer has been given its parameters already."""

    def build(self, run: Any) -> None:
        super().build(run)
        self.maps = run.heads.pop(self.key)

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        taught = self._taught(run, run.resource("teacher", self), batch)
        forward = inner(batch)
        values = feature_distances(self.maps(forward.output), taught)
        return forward.add(self.key, values, per="rows", weight=self.weight)


@trap(right=FeatureDistillation, wrong=Unlearned)
def test_the_map_learns(kind: Any) -> None:
    stack = make_stack([kind(2.0, at="head", teacher_at="hidden")])
    maps = getattr(stack.methods[0], "maps", None) or stack.run.heads["feature_distillation"]
    before = weights(maps)
    for batch in BATCHES[:3]:
        stack.step(batch)
    assert not equal(before, weights(maps))


@trap(
    right=lambda s, t: feature_distances(s, t).mean(),
    wrong=lambda s, t: F.mse_loss(s, t, reduction="sum"),
)
def test_more_rows_weigh_no_more(loss: Any) -> None:
    s, t = features(6, 8), features(6, 8, seed=1)
    assert torch.allclose(loss(torch.cat([s, s]), torch.cat([t, t])), loss(s, t))


@trap(
    right=lambda s, t: feature_distances(s, t, "cosine"),
    wrong=lambda s, t: 1 - F.cosine_similarity(s, t, dim=-1).flatten(1).mean(1),
)
def test_the_cosine_of_images_is_over_channels(distances: Any) -> None:
    """Each place's vector scaled by itself stays where it points."""
    s = features(3, 8, 4, 4)
    scale = 1 + features(3, 1, 4, 4, seed=2).abs()
    assert torch.allclose(distances(s, s * scale), torch.zeros(3).double(), atol=1e-9)
