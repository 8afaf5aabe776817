"""Frozen parts stay in evaluation mode, whoever calls `train()`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import equal, weights
from tests.engine.tiny import rows
from tests.methods.traps import trap
from whet import entering
from whet.freezing import Frozen
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

PLAIN = {"name": "sgd", "lr": 0.1}


class Net(nn.Module):
    """A body of which the forward calls the parts one by one, and a head."""

    def __init__(self, keen: bool = False) -> None:
        super().__init__()
        self.keen = keen
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.keen and self.training:
            self.train()
        for part in self.body:  # the body's own forward is never called
            x = part(x)
        return self.head(x)


def net(**changes: Any) -> Net:
    torch.manual_seed(0)
    return Net(**changes)


def trained(model: nn.Module, *stages: Stage, **changes: Any) -> Run:
    stages = stages or (Stage(updates=4, batch_size=8, optimizer=PLAIN, freeze=["body"]),)
    return Run(Task(model, rows(24)), Recipe(stages), device="cpu", **changes).fit()


def by_callback(**changes: Any) -> Net:
    model = net()
    trained(model, callbacks=[lambda run: run.module.train()], **changes)
    return model


def by_method(**changes: Any) -> Net:
    """A second pass, which first looks for the norms whose statistics it must keep."""
    model = net()
    stage = Stage(updates=4, batch_size=8, optimizer=PLAIN, freeze=["body"], methods=["sam"])
    trained(model, stage, callbacks=[lambda run: run.module.train()], **changes)
    return model


def by_itself(**changes: Any) -> Net:
    model = net(keen=True)
    trained(model, **changes)
    return model


class Once(Frozen):
    """`model.train(); frozen.eval()` when the stage begins, as most loops have it."""

    @contextmanager
    def staying(self) -> Iterator[None]:
        yield

    def still(self) -> None: ...


class BeforeUpdates(Once):
    """Put back before each update, but not where the forward itself changes the modes."""

    still = Frozen.still


class ByHooks(Frozen):
    """Put back by hooks alone: a method that looks at the modes before a forward is misled."""

    def still(self) -> None: ...


@contextmanager
def using(kind: type[Frozen]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entering, "Frozen", kind)
        yield


@pytest.mark.parametrize("train", [by_callback, by_itself, by_method])
def test_statistics_and_dropout_stand_still(train: Callable[..., Net]) -> None:
    @trap(right=Frozen, wrong=Once)
    def check(kind: type[Frozen]) -> None:
        before = weights(net())
        with using(kind):
            after = weights(train())
        for name in before:
            assert torch.equal(before[name], after[name]) == name.startswith("body"), name

    check("right")
    check("wrong")


@trap(right=Frozen, wrong=BeforeUpdates)
def test_a_forward_that_calls_train(kind: type[Frozen]) -> None:
    """It trains as a model whose forward does not."""
    plain = net()
    trained(plain)
    with using(kind):
        assert equal(weights(plain), weights(by_itself()))


@trap(right=Frozen, wrong=ByHooks)
def test_a_method_meets_the_right_modes_before_it_calls_the_model(kind: type[Frozen]) -> None:
    seen: list[bool] = []

    def looks(run: Run) -> None:
        step = run.stack.step
        run.module.train()

        def stepping(batches: Any) -> bool:
            seen.append(run.module.body[1].training)
            return step(batches)

        run.stack.step = stepping  # type: ignore[method-assign]

    with using(kind):
        trained(net(), callbacks=[looks])
    assert seen
    assert not any(seen)


class Quiet(nn.Linear):
    """A module of a user's own, of which nobody knows what it goes by."""


@pytest.mark.parametrize(
    ("module", "hooked"),
    [
        (nn.Linear(2, 2), False), (nn.Sequential(nn.ReLU()), False), (nn.Conv2d(1, 1, 1), False),
        (nn.LayerNorm(2), False), (nn.Embedding(2, 2), False), (nn.BatchNorm2d(2), True),
        (nn.InstanceNorm1d(2), True), (nn.Dropout(), True), (nn.Dropout2d(), True),
        (nn.AlphaDropout(), True), (nn.RReLU(), True), (nn.LSTM(2, 2), True), (nn.GRU(2, 2), True),
        (nn.MultiheadAttention(2, 1), True), (nn.TransformerEncoderLayer(2, 1), True),
        (Quiet(2, 2), True), (nn.utils.spectral_norm(nn.Linear(2, 2)), True),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)), True),
    ],
    ids=lambda given: str(given).split("(")[0],
)  # fmt: skip
def test_only_modules_that_may_go_by_their_mode_are_slowed(module: nn.Module, hooked: bool) -> None:
    frozen = Frozen([module])
    with frozen.staying():
        assert any(hook is frozen for hook in module._forward_pre_hooks.values()) == hooked


def test_a_hook_that_looks_at_the_mode_comes_later() -> None:
    """A spectral norm's power iteration moves a vector in training mode only."""
    module = nn.utils.spectral_norm(nn.Linear(3, 3)).eval()
    module(torch.ones(1, 3))
    before = module.weight_u.clone()
    with Frozen([module]).staying():
        module.train()
        module(torch.ones(1, 3))
    assert torch.equal(before, module.weight_u)
    module.train()
    module(torch.ones(1, 3))
    assert not torch.equal(before, module.weight_u)


def test_the_next_stage_thaws_and_nothing_stays_behind() -> None:
    model = net()
    first, second = (
        Stage(updates=2, batch_size=8, optimizer=PLAIN, freeze=freeze) for freeze in (["body"], [])
    )
    before = weights(model)
    trained(model, first, second)
    assert not torch.equal(before["body.1.running_mean"], model.body[1].running_mean)
    assert all(module.training for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_no_hook_stays_after_an_error_or_a_pause() -> None:
    def fail(run: Run) -> None:
        raise ZeroDivisionError

    model = net()
    with pytest.raises(ZeroDivisionError):
        trained(model, callbacks=[fail])
    assert not any(module._forward_pre_hooks for module in model.modules())
    stage = Stage(updates=4, batch_size=8, optimizer=PLAIN, freeze=["body"])
    run = Run(Task(model, rows(24)), stage, device="cpu").fit(until=2)
    assert not any(module._forward_pre_hooks for module in model.modules())
    model.body.train()  # its user's affair
    run.fit()
    assert not model.body.training


def test_copies_have_it_too_and_it_ends_for_them_as_well() -> None:
    copies: list[nn.Module] = []

    def copying(run: Run) -> None:
        copies.append(copy.deepcopy(run.module).train())
        copies[-1](rows(4).inputs)
        assert not copies[-1].body[1].training
        assert copies[-1].head[0].training

    trained(net(), callbacks=[copying])
    last = copies[-1].train()
    moved = last.body[1].running_mean.clone()
    last(rows(4).inputs)
    assert not torch.equal(moved, last.body[1].running_mean)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("before", [False, True])
def test_a_compiled_model(before: bool) -> None:
    """Compiled in place, also with a graph that is older than the freezing."""
    torch.compiler.reset()
    plain, model = net(), net()
    state = weights(model)
    model.compile(backend="eager")
    if before:
        model(rows(8).inputs).sum().backward()
        model.load_state_dict(state)
        model.zero_grad()
    stages = [Stage(updates=3, batch_size=8, optimizer=PLAIN, freeze=f) for f in (["body"], [])]
    for one in (plain, model):
        trained(one, *stages, callbacks=[lambda run: run.module.train()])
    # in the second stage the callback's `train()` is right
    assert equal(weights(plain), weights(model))
    torch.compiler.reset()


def test_a_run_that_ends_frozen_leaves_a_model_that_can_be_trained() -> None:
    """Otherwise the next run takes what this one froze for the user's wish, in silence."""
    task = Task(net(), rows(24))
    stage = Stage(updates=2, batch_size=8, optimizer=PLAIN, freeze=["body"])
    run = Run(task, stage, device="cpu", log=None).fit(until=1)
    assert not any(p.requires_grad for p in run.module.get_submodule("body").parameters())
    run.fit()
    assert all(p.requires_grad for p in run.module.parameters())
    thawed = Stage(updates=1, batch_size=8, optimizer=PLAIN)
    again = Run(task, thawed, device="cpu", log=None)
    before = [p.clone() for p in again.module.get_submodule("body").parameters()]
    again.fit()
    after = again.module.get_submodule("body").parameters()
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
