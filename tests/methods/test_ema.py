"""EMA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ema_pytorch
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_run, make_stack, weights
from tests.engine.tiny import rows
from tests.methods.record_libraries import numbers, recorded
from tests.methods.traps import trap
from whet import methods, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.methods.ema import EMA, decay_at
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    EMA(decay=0.9),
    trains=False,
    judged=True,
    cost=Cost(kept=1, copies=1),
)

BATCHES = Batch.of(data()).split(6)
PARAMETERS = [name for name, _ in make_model().named_parameters()]


def path(count: int, seed: int = 0) -> list[dict[str, Tensor]]:
    """Weights of a model along a training of `count` updates, the first before any."""
    stack = make_stack(seed=seed)
    found = [weights(stack.run.module)]
    for batch in BATCHES[:count]:
        stack.step(batch)
        found.append(weights(stack.run.module))
    return found


def averaged(ema: EMA, points: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The average by the core alone, over given weights."""
    model = make_model()
    model.load_state_dict(points[0])
    ema.begin(model)
    for point in points[1:]:
        model.load_state_dict(point)
        ema.update(model)
    with ema.average(model):
        return weights(model)


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = EMA(decay=0.9, warmup="none")
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        ema.update(model) if value > 1 else ema.begin(model)
    with ema.average(model):
        assert model.weight.item() == pytest.approx(0.9 * (0.9 * 1 + 0.1 * 2) + 0.1 * 4)
    assert model.weight.item() == 4.0


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ("none", [0.99] * 4),
        ("ratio", [2 / 11, 3 / 12, 4 / 13, 5 / 14]),
        ("power", [1 - t ** (-2 / 3) for t in (2, 3, 4, 5)]),
        ("debias", [0.99] * 4),
    ],
)
def test_decays(warmup: str, expected: list[float]) -> None:
    assert [decay_at(t, 0.99, warmup) for t in (1, 2, 3, 4)] == pytest.approx(expected)
    assert decay_at(10**6, 0.99, warmup) == 0.99


def test_debiased_average_is_the_weighted_mean_of_what_was_seen() -> None:
    points = path(4)
    found = averaged(EMA(decay=0.9, warmup="debias"), points)
    shares = torch.tensor([0.9**3, 0.9**2, 0.9, 1.0], dtype=torch.float64)
    shares /= shares.sum()
    for name in PARAMETERS:
        seen = torch.stack([point[name].double() for point in points[1:]])
        expected = torch.einsum("t,t...->...", shares, seen)
        assert torch.allclose(found[name].double(), expected, atol=1e-6)


def test_equals_torchs_averaged_model() -> None:
    points, model = path(6), make_model()
    model.load_state_dict(points[0])
    oracle = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for point in points:  # torch's first call copies: it is given the weights before training
        model.load_state_dict(point)
        oracle.update_parameters(model)
    found = averaged(EMA(decay=0.9, warmup="none"), points)
    theirs = weights(oracle.module)
    assert all(torch.allclose(found[n], theirs[n], atol=1e-7) for n in PARAMETERS)


def test_equals_ema_pytorch() -> None:
    """Their first call copies, as torch's does."""
    points, model = path(6), make_model()
    model.load_state_dict(points[0])
    oracle = ema_pytorch.EMA(model, beta=0.999, update_after_step=0, update_every=1, power=2 / 3)
    for point in points:
        model.load_state_dict(point)
        oracle.update()
    found = averaged(EMA(decay=0.999, warmup="power"), points)
    theirs = weights(oracle.ema_model)
    assert all(torch.allclose(found[n], theirs[n], atol=1e-6) for n in PARAMETERS)


@pytest.mark.parametrize(("warmup", "decay"), [("none", 0.9), ("power", 0.9999)])
def test_equals_timm(warmup: str, decay: float) -> None:
    """ModelEmaV3, as it was recorded."""
    model, ema = nn.Linear(3, 2, bias=False).double(), EMA(decay, warmup=warmup)
    model.weight.data = numbers(2, 3)
    ema.begin(model)
    for step in range(1, 6):
        model.weight.data = numbers(2, 3, offset=step)
        ema.update(model)
    with ema.average(model):
        found = model.weight.flatten().tolist()
    assert found == pytest.approx(recorded("timm")[f"ema_{warmup}"], abs=1e-12)


def test_equals_the_weighted_sum_of_gradients() -> None:
    """Under plain SGD from w0, s_n = w0 - sum_i (1 - d^(n-i)) * lr * g_i, with i from 0."""
    w = torch.tensor([1.0, -2.0], dtype=torch.float64)
    moves = torch.randn(7, 2, dtype=torch.float64, generator=seeding.generator(0))
    model = nn.Linear(2, 1, bias=False).double()
    ema = EMA(decay=0.8, warmup="none")
    model.weight.data[0] = w
    ema.begin(model)
    for move in moves:
        model.weight.data[0] -= move
        ema.update(model)
    gone = sum((1 - 0.8 ** (7 - i)) * move for i, move in enumerate(moves))
    with ema.average(model):
        assert torch.allclose(model.weight[0], w - gone)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack = make_stack([EMA(decay=0.9)])
    for batch in BATCHES:
        stack.step(batch)

    model, ema = make_model(), EMA(decay=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    ema.begin(model)
    for number, batch in enumerate(BATCHES):
        seeding.seed_default(make_position(number))
        optimizer.zero_grad()
        output = call(model, batch.inputs)
        loss = nn.functional.cross_entropy(output, batch.targets, reduction="none")
        (loss.sum() / batch.size).backward()
        optimizer.step()
        ema.update(model)
    assert equal(weights(model), weights(stack.run.module))
    with ema.average(model), stack.evaluating():
        assert equal(weights(model), weights(stack.run.module))


def make_position(window: int) -> int:
    run = make_stack().run
    run.window = window
    return run.position()


# traps ---------------------------------------------------------------------------------------


class PerMicroBatch(EMA):
    """mmengine's hook: after every training iteration, of which two make one update."""

    def after_update(self, run: Any) -> None: ...

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        self.update(run.module)


@trap(right=EMA, wrong=PerMicroBatch)
def test_counts_updates_not_micro_batches(kind: type[EMA]) -> None:
    stack = make_stack([kind(decay=0.9)])
    for at in range(0, 6, 2):
        stack.step(BATCHES[at : at + 2])
    assert stack.state_dict()["states"]["ema"]["updates"] == 3


def test_mmengines_average_counts_micro_batches() -> None:
    """EMAHook in 8 micro-batches of which 4 make a step, as it was recorded."""
    found = recorded("mmengine")
    assert (found["steps"], found["updates"]) == (2, 8)


class AfterEveryStep(EMA):
    """The usual loop: scaler.step(optimizer); scaler.update(); ema.update(model)."""

    def before_update(self, run: Any) -> None:
        self.update(run.module)

    def after_update(self, run: Any) -> None: ...


@trap(right=EMA, wrong=AfterEveryStep)
def test_a_skipped_step_is_not_averaged(kind: type[EMA]) -> None:
    stack = make_stack([kind(decay=0.5)], scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    stack.step(BATCHES[0])
    before = [t.clone() for t in stack.state_dict()["states"]["ema"]["shadows"][0].values()]
    stack.gradients(stack.window(BATCHES[1]))
    stack.run.module.head.weight.grad[0, 0] = float("inf")
    assert not stack.update()
    state = stack.state_dict()["states"]["ema"]
    assert state["updates"] == 1
    assert all(map(torch.equal, before, state["shadows"][0].values()))


class EveryBuffer(EMA):
    """Averages the whole state dict, as `for v, w in zip(ema.state_dict(), ...)` does."""

    def begin(self, model: nn.Module) -> None:
        self._all = {n: t.clone().float() for n, t in model.state_dict().items()}

    def update(self, model: nn.Module) -> None:
        for name, tensor in model.state_dict().items():
            self._all[name].lerp_(tensor.float(), 0.1)

    @contextmanager
    def average(self, model: nn.Module) -> Iterator[None]:
        backup = weights(model)
        model.load_state_dict(self._all)
        yield
        model.load_state_dict(backup)


@trap(right=EMA, wrong=EveryBuffer)
def test_integer_buffers_are_copied(kind: type[EMA]) -> None:
    model = nn.BatchNorm1d(2)
    ema = kind(decay=0.9, warmup="none")
    ema.begin(model)
    for _ in range(5):
        model(torch.randn(4, 2, generator=seeding.generator(1)))
        ema.update(model)
    with ema.average(model):
        assert model.num_batches_tracked == 5


def test_float_buffers_are_copied_or_averaged_by_choice() -> None:
    points = path(4)
    copied = averaged(EMA(decay=0.9, warmup="none"), points)
    assert torch.equal(copied["norm.running_mean"], points[-1]["norm.running_mean"])
    found = averaged(EMA(decay=0.9, warmup="none", buffers="average"), points)
    expected = points[0]["norm.running_var"].clone()
    for point in points[1:]:
        expected.lerp_(point["norm.running_var"], 1 - 0.9)
    assert torch.equal(found["norm.running_var"], expected)
    assert found["norm.num_batches_tracked"] == 4


class FromZero(EMA):
    """Shadows that begin at zero and are never divided by 1-d^t."""

    def begin(self, model: nn.Module) -> None:
        super().begin(model)
        for shadow in self._shadows:
            torch._foreach_zero_(shadow)


@pytest.mark.parametrize("warmup", ["none", "ratio", "power", "debias"])
def test_before_the_first_update_the_weights_themselves_are_judged(warmup: str) -> None:
    @trap(right=EMA, wrong=FromZero)
    def check(kind: type[EMA]) -> None:
        stack = make_stack([kind(decay=0.9, warmup=warmup)])
        before = weights(stack.run.module)
        with stack.evaluating():
            assert equal(before, weights(stack.run.module))

    check("right")
    if warmup != "debias":
        check("wrong")


def test_alone_before_the_first_update_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"nothing is averaged yet; call begin\(model\)"):
        EMA().average(nn.Linear(1, 1)).__enter__()
    with pytest.raises(InputError, match=r"nothing is averaged yet; call begin\(model\)"):
        EMA().load_state_dict({})


def raise_if(condition: bool) -> None:
    if condition:
        raise ZeroDivisionError


class Swapped(EMA):
    """apply_shadow(); evaluate(); restore(), with nothing that restores after an error."""

    @contextmanager
    def average(self, model: nn.Module) -> Iterator[None]:
        backup = [tensor.detach().clone() for tensor in self._sources]
        torch._foreach_copy_([t.detach() for t in self._sources], self._shadows[0])
        yield
        torch._foreach_copy_([t.detach() for t in self._sources], backup)


@trap(right=EMA, wrong=Swapped)
def test_weights_come_back_after_an_error(kind: type[EMA]) -> None:
    stack = make_stack([kind(decay=0.9)])
    for batch in BATCHES[:3]:
        stack.step(batch)
    before = weights(stack.run.module)
    with pytest.raises(ZeroDivisionError), stack.evaluating():
        raise_if(not equal(before, weights(stack.run.module)))
    assert equal(before, weights(stack.run.module))


class SwappedAtSave(EMA):
    """Averaged weights put in place when evaluation begins and left there until the next one."""

    @contextmanager
    def average(self, model: nn.Module) -> Iterator[None]:
        torch._foreach_copy_([t.detach() for t in self._sources], self._shadows[0])
        yield


@trap(right=EMA, wrong=SwappedAtSave)
def test_a_checkpoint_and_the_end_hold_the_training_weights(kind: type[EMA]) -> None:
    plain = make_run()
    watched = make_run()
    watched.stack.methods.append(kind(decay=0.9))
    plain.fit()
    watched.fit()
    watched.evaluate("judge")
    assert equal(weights(plain.module), watched.state_dict()["model"])


class Forgetful(EMA):
    """Saves the shadows and not the counter, so that the warm-up begins again."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"updates": 0}


@trap(right=EMA, wrong=Forgetful)
def test_the_counter_lives_through_a_resume(kind: type[EMA]) -> None:
    through, first, second = (make_stack([kind(decay=0.999)]) for _ in range(3))
    for batch in BATCHES:
        through.step(batch)
    for batch in BATCHES[:3]:
        first.step(batch)
    second.run.module.load_state_dict(first.run.module.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for batch in BATCHES[3:]:
        second.step(batch)
    with through.evaluating(), second.evaluating():
        assert equal(weights(through.run.module), weights(second.run.module))


class InALoop(EMA):
    """`for s, p in zip(shadow, model.parameters()): s.mul_(d).add_(p, alpha=1 - d)`."""

    def update(self, model: nn.Module) -> None:
        for shadow, source in zip(self._shadows[0], self._sources, strict=True):
            shadow.mul_(0.9).add_(source.detach(), alpha=0.1)


@trap(right=EMA, wrong=InALoop)
def test_the_update_is_a_few_kernels_for_all_parameters(kind: type[EMA]) -> None:
    """Not one per parameter: the count does not grow with the number of parameters."""

    def kernels(layers: int) -> int:
        model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
        ema = kind(decay=0.9)
        ema.begin(model)
        with torch.profiler.profile() as profile:
            ema.update(model)
        calls = [e for e in profile.events() if e.cpu_parent is None and "aten::" in e.name]
        return len(calls)

    assert kernels(20) == kernels(2)


# half-life -----------------------------------------------------------------------------------


def left_after(ema: EMA, sizes: list[int], accumulate: int = 1) -> float:
    """The share of the first weights that is left in the average after updates of these sizes."""
    model = nn.Linear(5, 3)
    stack = Stack(
        model, "categorical", [ema], optimizer=torch.optim.SGD(model.parameters(), lr=0.0)
    )
    nn.init.ones_(model.weight)
    stack.open()
    nn.init.zeros_(model.weight)
    for size in sizes:
        micros = [rows(size // accumulate, seed) for seed in range(accumulate)]
        stack.step(micros)
    with stack.evaluating():
        return model.weight[0, 0].item()


def in_rows() -> EMA:
    return EMA(half_life=20, warmup="none")


def in_updates() -> EMA:
    """The decay whose half-life is 20 rows at a batch of 5."""
    return EMA(decay=2 ** (-5 / 20), warmup="none")


@trap(right=in_rows, wrong=in_updates)
def test_growing_batches_keep_the_horizon(make: Callable[[], EMA]) -> None:
    """A constant decay's half-life in rows grows with the batch."""
    for sizes in ([5] * 4, [10] * 2, [20], [5, 5, 10]):
        assert left_after(make(), sizes) == pytest.approx(0.5, abs=1e-6)


def test_a_half_life_counts_the_rows_of_the_whole_window() -> None:
    assert left_after(in_rows(), [10, 10], accumulate=2) == pytest.approx(0.5, abs=1e-6)


def test_a_half_life_warms_up_and_is_debiased_as_a_decay_is() -> None:
    for warmup in ("ratio", "power", "debias"):
        found = left_after(EMA(half_life=20, warmup=warmup), [5, 5])
        assert found == left_after(EMA(decay=2 ** (-5 / 20), warmup=warmup), [5, 5])


def test_a_half_life_alone_needs_the_rows() -> None:
    model, ema = nn.Linear(1, 1), EMA(half_life=8, warmup="none")
    ema.begin(model)
    with pytest.raises(InputError, match=r"half_life counts rows.*Call update\(model, rows\)"):
        ema.update(model)


@pytest.mark.parametrize("given", [{"decay": 0.9}, {"decay": (0.9, 0.99)}])
def test_a_decay_and_a_half_life_are_one_too_many(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="both say how fast the average forgets"):
        EMA(half_life=100, **given)
    with pytest.raises(InputError, match="half_life is 0"):
        methods.make({"name": "ema", "half_life": 0})


# several decays ------------------------------------------------------------------------------


def test_the_decay_is_chosen_on_the_select_part() -> None:
    run = make_run([EMA(decay=(0.0, 0.5, 0.99), warmup="none")], updates=6).fit()
    [ema] = run.stack.methods
    scores = []
    for at in range(3):
        ema._chosen = at
        with run.stack.evaluating():
            from whet.predict import ModelPredictor

            scores.append(run.stack.run.score(ModelPredictor.capture(run.stack.run)))
    run.predictor()
    assert len(set(scores)) > 1
    assert ema._chosen == scores.index(max(scores))
    assert ema.view == f"ema[{ema._chosen}]"


def test_only_the_select_part_is_asked() -> None:
    stack = make_stack([EMA(decay=[0.0, 0.5, 0.9], warmup="none")])
    for batch in BATCHES:
        stack.step(batch)
    values = iter([1.0, float("nan"), 3.0])
    stack.run.score = lambda predictor: next(values)
    stack.predictor()
    assert stack.methods[0].view == "ema[2]"
    values = iter([float("nan"), float("nan"), -2.0])
    stack.predictor()
    assert stack.methods[0].view == "ema[2]"  # a NaN never wins


def test_one_of_several_decays_is_the_same_alone() -> None:
    points = path(5)
    several = EMA(decay=(0.5, 0.9))
    several._chosen = 1
    assert equal(averaged(several, points), averaged(EMA(decay=0.9), points))


# what else holds -----------------------------------------------------------------------------


def test_bfloat16_weights_are_averaged_in_float32() -> None:
    """With d = 0.999 a bfloat16 average never moves from 1 to 2."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.constant_(model.weight, 1.0)
    ema = EMA(decay=0.999, warmup="none")
    ema.begin(model)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(1000):
        ema.update(model)
    with ema.average(model):
        assert model.weight.item() == pytest.approx(2 - 0.999**1000, abs=0.01)
        assert model.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("grad", [True, False])
def test_the_callers_gradient_mode_stands_inside(grad: bool) -> None:
    model, ema = nn.Linear(1, 1), EMA()
    ema.begin(model)
    with torch.set_grad_enabled(grad), ema.average(model):
        assert torch.is_grad_enabled() == grad
    assert torch.is_grad_enabled()


def test_tied_weights_and_their_optimizer_keep_their_tensors() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    ema = EMA(decay=0.5)
    ema.begin(model)
    tensor = model[0].weight
    with ema.average(model):
        assert model[0].weight is model[1].weight is tensor


def test_the_average_may_be_put_into_a_copy_and_not_into_another_model() -> None:
    points = path(3)
    ema, expected = EMA(decay=0.5), averaged(EMA(decay=0.5), points)
    averaged(ema, points)
    copy = make_model(seed=5)
    with ema.average(copy):
        assert all(torch.equal(weights(copy)[n], expected[n]) for n in PARAMETERS)
    with pytest.raises(InputError, match="averages another model"):
        ema.average(nn.Linear(1, 1)).__enter__()


def test_continues_in_a_plain_loop() -> None:
    points = path(6)
    first, second = EMA(decay=0.9), EMA(decay=0.9)
    averaged(first, points[:4])
    model = make_model()
    second.begin(model)
    second.load_state_dict(first.state_dict())
    for point in points[4:]:
        model.load_state_dict(point)
        second.update(model)
    with second.average(model):
        assert equal(weights(model), averaged(EMA(decay=0.9), points))
    assert close(weights(model), points[-1], atol=0)


# elsewhere -----------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup", ["none", "ratio", "debias"])
def test_on_another_device_the_average_is_the_same(warmup: str) -> None:
    """There is one here, which is asked for by name; `make gpu` has two."""
    points = path(5)
    given = {"decay": (0.5, 0.9), "warmup": warmup}
    assert equal(averaged(EMA(**given, device="cpu"), points), averaged(EMA(**given), points))


class Beside(EMA):
    """Averages that stand beside the weights, wherever they were asked to."""

    def _seen(self) -> list[Tensor]:
        return [tensor.detach() for tensor in self._sources]


@trap(right=EMA, wrong=Beside)
def test_averages_stand_where_they_are_told_to(kind: type[EMA]) -> None:
    """By a device that holds no numbers: nothing of the average is with the weights."""
    ema, model = kind(decay=(0.5, 0.9), device="meta"), make_model()
    ema.begin(model)
    ema.update(model)
    for shadow in ema.state_dict()["shadows"]:
        assert {tensor.device.type for tensor in shadow.values()} == {"meta"}
    assert next(model.parameters()).device.type == "cpu"


def test_an_unknown_device_is_named_before_training() -> None:
    with pytest.raises(InputError, match="ema: device is 'gpu7'"):
        make_stack([EMA(device="gpu7")])
    with pytest.raises(InputError, match="ema: device is 'gpu7'"):
        EMA(device="gpu7").begin(nn.Linear(1, 1))


def test_parts_of_weights_are_averaged_where_they_are() -> None:
    assert EMA().whole_weights is False
    assert EMA(device="cpu").whole_weights == "device=None"
    assert EMA(decay=(0.5, 0.9), device="cpu").whole_weights == "one decay"
