"""What every method passes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.case import Case
from tests.contract.fixture import (
    Net,
    close,
    companions,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    members_of,
    weights,
)  # fmt: skip
from tests.contract.found import case, names
from whet import methods, nesting, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.loading import open_loader
from whet.method import Card, Method, Placement
from whet.objectives import make as make_objective
from whet.run import Run
from whet.stack import Stack

every = pytest.mark.parametrize("name", names())


def flat(state: Any, path: str = "") -> dict[str, Any]:
    """The leaves of a nested state, by path."""
    if isinstance(state, dict):
        pairs = [(str(k), v) for k, v in state.items()]
    elif isinstance(state, list | tuple):
        pairs = [(str(k), v) for k, v in enumerate(state)]
    else:
        return {path: state}
    return {k: v for name, part in pairs for k, v in flat(part, f"{path}/{name}").items()}


def same(a: Any, b: Any) -> bool:
    """Equality of two states to the bit."""
    left, right = flat(a), flat(b)
    return left.keys() == right.keys() and all(
        torch.equal(left[k], right[k]) if isinstance(left[k], Tensor) else left[k] == right[k]
        for k in left
    )


def whole(run: Run) -> dict[str, Any]:
    """All that a run's future depends on."""
    return {k: v for k, v in run.state_dict().items() if k != "history"}


def windows(seed: int = 0, size: int = 6, accumulate: int = 2) -> list[list[Batch]]:
    """The windows that the engine makes of the fixture's data, two epochs of them."""
    loader = open_loader(data(), size, seeding.key(seed, 0))
    found = []
    for epoch in range(2):
        batches = list(loader.epoch(epoch))
        found += [batches[at : at + accumulate] for at in range(0, len(batches), accumulate)]
    return found


@every
def test_declares_itself(name: str) -> None:
    kind = methods.registry()[name]
    assert kind.name == name
    assert isinstance(kind.card, Card)
    assert all([kind.card.title, kind.card.cost, kind.card.avoid_when])
    assert isinstance(kind.neutral, str) or set(kind.neutral) <= set(kind().settings())
    doc = kind.__doc__ or ""
    for part in ("Args:", "Cost:", "Paper:", ">>>"):
        assert part in doc, f"the docstring of {name} lacks {part}"


@every
def test_plain_loop_equals_engine(name: str) -> None:
    method = case(name).method
    run = make_run([method]).fit()
    stack = make_stack([method])
    for window in windows()[:6]:
        stack.step(window)
    assert equal(weights(run.module), weights(stack.run.module))
    assert same(run.stack.state_dict()["states"], stack.state_dict()["states"])
    batch = Batch.of(data(20, 1))
    assert torch.equal(run.predictor()(batch), stack.predictor()(batch))


@every
def test_resumes_at_every_step(name: str, tmp_path: Any) -> None:
    method = case(name).method
    through = make_run([method], schedule=schedule(method)).fit()
    for stop in range(1, 6):
        folder = tmp_path / str(stop)
        make_run([method], schedule=schedule(method), folder=folder).fit(until=stop)
        resumed = make_run([method], schedule=schedule(method), folder=folder)
        assert resumed.updates == stop
        resumed.fit()
        assert same(whole(through), whole(resumed)), f"differs after a stop at update {stop}"
        batch = Batch.of(data(20, 2))
        assert torch.equal(through.predictor()(batch), resumed.predictor()(batch))


def schedule(method: Method) -> str | None:
    return None if nesting.brings_schedule(method) else "cosine"


@every
def test_evaluating_leaves_training_untouched(name: str) -> None:
    method = case(name).method
    plain = make_run([method]).fit()
    watched = make_run([method], evaluate_every=1)
    modes = [module.training for module in watched.module.modules()]
    watched.fit()
    assert equal(weights(plain.module), weights(watched.module))
    assert same(plain.state_dict()["stack"], watched.state_dict()["stack"])
    assert modes == [module.training for module in watched.module.modules()]


class Broken(RuntimeError):
    pass


@every
def test_weights_come_back_when_a_pass_raises(name: str) -> None:
    """The model fails in its first call, then in its second, and so on, until none fails."""
    window = windows()[0]
    for fatal in range(100):
        stack = make_stack([case(name).method])
        stack.open()
        before = dict(stack.run.module.named_parameters())
        before = {k: v.detach().clone() for k, v in before.items()}
        calls = iter(range(1000))

        def fail(*_: Any, calls: Any = calls, fatal: int = fatal) -> None:
            if next(calls) == fatal:
                raise Broken

        handle = stack.run.module.norm.register_forward_hook(fail)
        try:
            stack.gradients(stack.window(window))
        except Broken:
            after = dict(stack.run.module.named_parameters())
            assert all(torch.equal(before[k], after[k]) for k in before)
            handle.remove()
            stack.step(window)  # and the stack goes on
            continue
        return
    raise AssertionError("the model was called 100 times in one window")


@every
def test_weights_come_back_when_an_evaluation_raises(name: str) -> None:
    stack = make_stack([case(name).method])
    for window in windows()[:3]:
        stack.step(window)
    before = weights(stack.run.module)
    with pytest.raises(Broken), stack.evaluating():
        raise Broken
    assert equal(before, weights(stack.run.module))
    assert all(module.training for module in stack.run.module.modules())


@every
def test_replaying_moves_no_state(name: str) -> None:
    once, twice = make_stack([case(name).method]), make_stack([case(name).method])
    for window in windows()[:3]:
        once.gradients(once.window(window))
        twice.gradients(twice.window(window))
        states = twice.state_dict()
        twice.gradients(twice.window(window))
        assert same(states, twice.state_dict())
        for a, b in zip(once.parameters(), twice.parameters(), strict=True):
            assert (a.grad is None and b.grad is None) or torch.equal(a.grad, b.grad)
        for norm in ("running_mean", "running_var", "num_batches_tracked"):  # a replay moves twice
            getattr(twice.run.module.norm, norm).copy_(getattr(once.run.module.norm, norm))
        once.update(), twice.update()
        assert same(once.state_dict()["states"], twice.state_dict()["states"])


@every
def test_has_an_effect(name: str) -> None:
    about = case(name)
    plain = make_run(companions([about.method]), members=members_of([about.method])).fit()
    changed = make_run([about.method]).fit()
    assert equal(weights(plain.module), weights(changed.module)) != about.trains
    batch = Batch.of(data(20, 2))
    judged = not torch.equal(plain.predictor()(batch), changed.predictor()(batch))
    assert judged == (about.trains or about.judged)


@every
def test_neutral_form_equals_the_baseline(name: str) -> None:
    about = case(name)
    if isinstance(about.method.neutral, str):
        assert len(about.method.neutral) > 20, "say why there is no neutral form"
        return
    given = {**about.method.settings(), **about.method.neutral}
    neutral = methods.make(given)
    beside = companions([neutral], about.neutral.get("coupled", True))
    plain = make_run(beside, **({"members": members_of([neutral])} | about.neutral)).fit()
    changed = make_run([neutral], **about.neutral).fit()
    assert equal(weights(plain.module), weights(changed.module))
    batch = Batch.of(data(20, 2))
    assert torch.equal(plain.predictor()(batch), changed.predictor()(batch))


@every
def test_clones_without_state(name: str) -> None:
    stack = make_stack([case(name).method])
    for window in windows()[:2]:
        stack.step(window)
    [used] = [method for method in stack.methods if method.name == name]
    twin = used.clone()
    assert type(twin) is type(used)
    assert twin.settings() == used.settings()
    fresh, again = make_stack([twin]), make_stack([case(name).method])
    for one in (fresh, again):
        one.step(windows()[0])
    assert same(fresh.state_dict(), again.state_dict())


@every
def test_settings_survive_json(name: str) -> None:
    method = case(name).method.labelled("twin")
    if method.placements is not Placement.START:
        method = method.during(0.25, 0.75)
    made = methods.make(json.loads(json.dumps(method.settings())))
    assert made.settings() == method.settings()
    assert (made.span, made.label, type(made)) == (method.span, method.label, type(method))


@every
def test_refuses_unknown_settings_and_bad_values(name: str) -> None:
    with pytest.raises(InputError, match="unknown setting"):
        methods.make({"name": name, "no_such_setting": 1})
    for field in case(name).method.__dataclass_fields__.values():
        if field.init and "range" in field.metadata:
            with pytest.raises(InputError, match=field.name):
                methods.make({"name": name, field.name: "nonsense"})


@every
def test_keeps_dtype(name: str) -> None:
    def double(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: double(v) for k, v in value.items()}
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.double() if floating else value

    from tests.contract.fixture import resources

    given = resources() | {"unlabelled": double(resources()["unlabelled"])}
    method = case(name).method.clone()
    stack = Stack(
        make_model(members=members_of([method])).double(), "categorical",
        [method, *companions([method])], updates=4, data=double(data()), batch_size=6,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1), resources=given,
    )  # fmt: skip
    loader = open_loader(double(data()), 6)
    for batch in list(loader.epoch(0))[:4]:
        stack.step(batch)
    floating = [t for t in stack.run.module.state_dict().values() if t.is_floating_point()]
    assert all(t.dtype == torch.float64 for t in floating)
    kept = [t for t in flat(stack.state_dict()["states"]).values() if isinstance(t, Tensor)]
    assert all(t.dtype == torch.float64 for t in kept if t.is_floating_point())
    assert stack.predictor()(Batch.of(double(data(8, 3)))).dtype in (torch.float32, torch.float64)


@every
def test_accumulation_equals_one_batch(name: str) -> None:
    """Six and four rows in two micro-batches, or ten in one."""
    about = case(name)
    if about.accumulates is not True:
        assert isinstance(about.accumulates, str)
        assert len(about.accumulates) > 20, "say why not"
        return
    parts = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
    stacks = [make_stack([about.method], coupled=False) for _ in range(2)]
    for stack, window in zip(stacks, [parts, [Batch.join(parts)]], strict=True):
        for _ in range(3):
            stack.step(window)
    assert close(*(weights(stack.run.module) for stack in stacks))


@every
def test_a_skipped_step_changes_nothing(name: str) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    stack = make_stack([case(name).method], scaler=scaler)
    stack.step(windows()[0])
    model, states = weights(stack.run.module), stack.state_dict()["states"]
    states = {k: v.clone() if isinstance(v, Tensor) else v for k, v in flat(states).items()}
    updates = stack.run.updates
    stack.gradients(stack.window(windows()[1]))
    planted = next(p for p in stack.parameters() if p.grad is not None)
    assert planted.grad is not None
    planted.grad.view(-1)[0] = float("inf")
    assert stack.update() is False
    assert stack.run.updates == updates
    assert equal(model, weights(stack.run.module))
    assert same(states, flat(stack.state_dict()["states"]))
    assert stack.step(windows()[2])  # and training goes on


@every
def test_trains_under_a_scaler_as_without(name: str) -> None:
    """A power of two scales exactly, so that the weights are the same to rounding."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    plain, scaled = make_stack([case(name).method]), make_stack([case(name).method], scaler=scaler)
    for window in windows()[:4]:
        plain.step(window)
        scaled.step(window)
    assert close(weights(plain.run.module), weights(scaled.run.module), atol=1e-5)


@every
def test_needs_are_named_before_training(name: str) -> None:
    method = case(name).method
    for need in method.needs:
        given = dict(make_task().resources)
        del given[need]
        with pytest.raises(InputError, match=need):
            make_stack([method], resources=given)


def test_the_case_describes_the_method() -> None:
    for name in names():
        assert isinstance(case(name), Case)
        assert case(name).method.name == name


def test_objectives_are_innermost() -> None:
    assert isinstance(make_objective("categorical"), Method)
    assert Net().training
