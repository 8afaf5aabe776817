"""Stochastic weight averaging."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_stage,
    make_task,
    weights,
)  # fmt: skip
from tests.methods.test_ema import make_position, path
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import Clash, InputError
from whet.method import Placement, Resource
from whet.methods.ema import EMA
from whet.methods.precise_bn import PreciseBN, applied, precise_statistics
from whet.methods.snapshot import Snapshot
from whet.methods.swa import SWA, cycle_share
from whet.objectives.objective import call
from whet.optim import borrowed_rates, set_rates
from whet.predict import MeanPredictor
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe

CASE = Case(
    SWA(after=0.3, every=2, lr=(0.9, 0.3)),
    judged=True,
    cost=Cost(kept=1, copies=1),
)

BATCHES = Batch.of(data()).split(6)
PARAMETERS = [name for name, _ in make_model().named_parameters()]


class Watched(torch.optim.SGD):
    """Notes the rates that its steps are made with."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, lr=0.1, momentum=0.9)
        self.rates: list[float] = []

    def step(self, closure: Any = None) -> None:
        self.rates.append(float(self.param_groups[0]["lr"]))
        super().step(closure)


def train(stack: Stack, count: int = 6) -> Stack:
    for at in range(count):
        stack.step(BATCHES[at % 6])
    return stack


def rates_of(*methods: Any, count: int = 6, **changes: Any) -> list[float]:
    stack = train(make_stack(methods, optimizer=Watched, **changes), count)
    found: list[float] = stack.optimizer.rates
    return found


def averaged(swa: SWA, points: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean by the core alone, over given weights."""
    model = make_model()
    for point in points:
        model.load_state_dict(point)
        swa.collect(model)
    with swa.average(model):
        return weights(model)


def judged(stack: Stack) -> dict[str, Tensor]:
    with stack.evaluating():
        return {name: p.detach().clone() for name, p in stack.run.module.named_parameters()}


def mean_of(points: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {n: torch.stack([point[n].double() for point in points]).mean(0) for n in PARAMETERS}


def near(found: dict[str, Tensor], wanted: dict[str, Tensor], atol: float = 1e-7) -> bool:
    return all(torch.allclose(found[n].double(), wanted[n], atol=atol) for n in PARAMETERS)


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    model, swa = nn.Linear(1, 1, bias=False), SWA()
    for value in (1.0, 2.0, 4.0):
        nn.init.constant_(model.weight, value)
        swa.collect(model)
    with swa.average(model):
        assert model.weight.item() == pytest.approx(7 / 3)
    assert model.weight.item() == 4.0


def test_equals_the_mean_in_double_precision() -> None:
    points = path(6)
    assert near(averaged(SWA(), points), mean_of(points))


@pytest.mark.parametrize("fused", [True, False])
def test_equals_torchs_averaged_model(fused: bool) -> None:
    """To the bit where torch interpolates, as it does on accelerators.

    On a CPU it adds (w - mean) / n instead, which is one rounding of the largest weight away.
    """
    points, model = path(6), make_model()
    oracle = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn() if fused else None)
    for point in points:
        model.load_state_dict(point)
        oracle.update_parameters(model)
    found, theirs = averaged(SWA(), points), dict(oracle.module.named_parameters())
    for name in PARAMETERS:
        largest = torch.stack([point[name].abs() for point in points]).amax(0)
        allowed = 0.0 if fused else torch.finfo(torch.float32).eps * largest
        assert ((found[name] - theirs[name]).abs() <= allowed).all()


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ({}, [5, 6]),
        ({"after": 0.0}, [1, 2, 3, 4, 5, 6]),
        ({"after": 0.0, "every": 4}, [2, 6]),
        ({"after": 0.3, "every": 2}, [2, 4, 6]),
        ({"after": 0.5, "every": 100}, [6]),
        ({"after": 0.99}, [6]),
    ],
)
def test_what_is_collected(settings: dict[str, Any], updates: list[int]) -> None:
    points = path(6)
    stack = train(make_stack([SWA(**settings, lr=None)]))
    assert stack.state_dict()["states"]["swa"]["count"] == len(updates)
    assert near(judged(stack), mean_of([points[at] for at in updates]))


def collected(**changes: Any) -> list[int]:
    seen: list[int] = []

    class Noting(SWA):
        def collect(self, model: nn.Module) -> None:
            super().collect(model)
            seen.append(run.stack.run.updates)

    run = make_run([SWA(after=0.3, every=None)], **changes)
    for noting in (method for method in run.stack.methods if method.name == "swa"):
        noting.__class__ = Noting
    run.fit()
    return seen


def test_by_epochs() -> None:
    """An epoch of the fixture has four updates."""
    assert collected(updates=10) == [4, 8, 10]
    assert collected(updates=8) == [4, 8]  # the end of the last epoch counts once


def test_a_span_has_its_own_end() -> None:
    points = path(6)
    stack = train(make_stack([SWA(after=0.5, lr=None).during(0, 0.7)]))
    model = stack.run.module
    [swa] = [method for method in stack.methods if method.name == "swa"]
    with swa.average(model):
        assert near(weights(model), mean_of(points[3:5]))
    assert equal(judged(stack), dict(model.named_parameters()))  # it takes no part any more


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack = make_stack([SWA(after=0.5, lr=0.5)], optimizer=Watched)
    stack.set_scheduler(CosineAnnealingLR(stack.optimizer, 6))
    train(stack)

    model, swa = make_model(), SWA()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = CosineAnnealingLR(optimizer, 6)
    for number, batch in enumerate(BATCHES[:6]):
        seeding.seed_default(make_position(number))
        optimizer.zero_grad()
        losses = F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="none")
        (losses.sum() / batch.size).backward()
        [group] = optimizer.param_groups
        scheduled = group["lr"]
        if number >= 3:
            group["lr"] = 0.05
        optimizer.step()
        group["lr"] = scheduled
        scheduler.step()
        if number >= 3:
            swa.collect(model)
    assert equal(weights(model), weights(stack.run.module))
    with swa.average(model):
        found = {name: p.detach().clone() for name, p in model.named_parameters()}
        precise = precise_statistics(model, BATCHES, lambda batch: call(model, batch.inputs))
    assert equal(found, judged(stack))
    with stack.evaluating(), swa.average(model), applied(model, precise):
        norm, theirs = model.norm, stack.run.module.norm
        assert torch.allclose(norm.running_mean, theirs.running_mean, atol=1e-6)
        assert torch.allclose(norm.running_var, theirs.running_var, rtol=1e-5)


def test_without_a_rate_training_is_untouched() -> None:
    plain, observed = make_run([PreciseBN()]).fit(), make_run([SWA(lr=None)]).fit()
    assert equal(weights(plain.module), weights(observed.module))


def test_until_something_is_collected_the_weights_themselves_are_judged() -> None:
    stack = train(make_stack([SWA()]), 4)
    assert equal(judged(stack), dict(stack.run.module.named_parameters()))
    stack.step(BATCHES[4])
    stack.step(BATCHES[5])
    assert not equal(judged(stack), dict(stack.run.module.named_parameters()))


def test_goes_on_in_the_next_stage_where_the_recipe_lists_it() -> None:
    stage = make_stage(updates=4)
    methods = [SWA(after=0.5, every=None, lr=None), PreciseBN()]
    run = Run(make_task(), Recipe([stage, stage], methods=methods), 0, device="cpu").fit()
    assert run.stack.state_dict()["states"]["swa"]["count"] == 2  # the same update of both stages


# the learning rate ---------------------------------------------------------------------------


def test_a_constant_rate_and_a_cyclic_one() -> None:
    assert rates_of(SWA(after=0.5, lr=0.5)) == pytest.approx([0.1] * 3 + [0.05] * 3)
    found = rates_of(SWA(after=0.0, every=3, lr=(0.9, 0.3)))
    assert found == pytest.approx([0.07, 0.05, 0.03] * 2)
    ends = [cycle_share(place, 3, 0.9, 0.3) for place in (1, 2, 3)]
    assert ends == pytest.approx([0.7, 0.5, 0.3])


def test_a_cycle_that_does_not_divide_is_cut_at_its_beginning() -> None:
    found = rates_of(SWA(after=0.0, every=4, lr=(0.9, 0.1)))
    assert found == pytest.approx([0.03, 0.01, 0.07, 0.05, 0.03, 0.01])


def test_each_group_has_its_own_share() -> None:
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.4}])
    optimizer.param_groups[1]["lr"] = kept = torch.tensor(0.4)
    with borrowed_rates(optimizer, 0.5):
        inside = [float(group["lr"]) for group in optimizer.param_groups]
        assert inside == pytest.approx([0.05, 0.2])
    with pytest.raises(ZeroDivisionError), borrowed_rates(optimizer, 0.3):
        raise ZeroDivisionError
    assert [float(group["lr"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.4])
    assert optimizer.param_groups[1]["lr"] is kept


class ShareAsRate(SWA):
    """Composer's and torch's reading: swa_lr is a rate, 1.0 if nobody said otherwise."""

    def before_update(self, run: Any) -> None:
        if run.updates >= self._first:
            run.optimizer.param_groups[0]["lr"] = self.lr


@trap(right=SWA, wrong=ShareAsRate)
def test_without_a_scheduler_the_share_is_of_the_optimizers_rate(kind: type[SWA]) -> None:
    assert rates_of(kind(after=0.5, lr=1.0)) == pytest.approx([0.1] * 6)


class LeftInPlace(SWA):
    """Sets the rate before the step and leaves it to a scheduler that goes on from there."""

    def before_update(self, run: Any) -> None:
        if self._first <= run.updates < self._end:
            set_rates(run.optimizer, self.lr)


def scheduled(stack: Stack, count: int) -> list[float]:
    """Rates after each update, of a scheduler that computes the next from the present."""
    stack.set_scheduler(CosineAnnealingLR(stack.optimizer, 10))
    found = []
    for at in range(count):
        stack.step(BATCHES[at])
        found.append(stack.optimizer.param_groups[0]["lr"])
    return found


@trap(right=SWA, wrong=LeftInPlace)
def test_the_users_schedule_goes_on_beneath(kind: type[SWA]) -> None:
    plain = scheduled(make_stack(optimizer=Watched), 6)
    stack = make_stack([kind(after=0.5, lr=0.9).during(0, 0.7)], optimizer=Watched)
    assert scheduled(stack, 6) == plain
    made = stack.optimizer.rates
    assert made[2:4] == pytest.approx([0.09, 0.09])  # updates 3 and 4 of the span's 4
    assert made[4:] == pytest.approx(plain[3:5])  # and the schedule's again after its end


@pytest.mark.parametrize("stop", [2, 4, 5])
def test_resumes_under_a_scheduler_that_goes_on_from_its_last_rate(
    stop: int, tmp_path: Any
) -> None:
    def given(folder: Any = None) -> Any:
        return make_run(
            [SWA(after=0.5, every=2, lr=(0.9, 0.1))], folder=folder,
            schedule=CosineAnnealingLR,
        )  # fmt: skip

    through = given().fit()
    given(tmp_path).fit(until=stop)
    resumed = given(tmp_path).fit()
    assert equal(weights(through.module), weights(resumed.module))
    a, b = through.predictor().members(), resumed.predictor().members()
    assert all(map(equal, a, b))


def test_a_skipped_step_gives_the_rate_back() -> None:
    stack = make_stack(
        [SWA(after=0.0, lr=0.5)], optimizer=Watched,
        scaler=torch.amp.GradScaler("cpu", init_scale=8.0),
    )  # fmt: skip
    stack.step(BATCHES[0])
    stack.gradients(stack.window(BATCHES[1]))
    stack.run.module.head.weight.grad[0, 0] = float("inf")
    assert not stack.update()
    assert stack.optimizer.param_groups[0]["lr"] == 0.1
    assert stack.state_dict()["states"]["swa"]["count"] == 1


def test_claims_the_rate_only_where_it_sets_it() -> None:
    assert SWA(lr=0.5).owns == {Resource.EVALUATION_WEIGHTS, Resource.LEARNING_RATE}
    assert SWA(lr=None).owns == {Resource.EVALUATION_WEIGHTS}
    assert SWA.owns == SWA().owns
    assert SWA.placements is SWA().placements is Placement.ANYTIME
    assert SWA(lr=None).placements is Placement.OBSERVER
    with pytest.raises(Clash, match="learning rate"):
        make_stack([SWA(lr=0.5), Snapshot()])
    assert train(make_stack([SWA(lr=None), Snapshot(cycles=2)]))
    assert make_run([SWA(lr=0.5)], schedule="cosine").fit(until=1)


# traps ---------------------------------------------------------------------------------------


class FromTheBeginning(SWA):
    """swa_model = deepcopy(model) before training, counted as the first of the mean."""

    def start(self, run: Any) -> None:
        super().start(run)
        self.collect(run.module)


@trap(right=SWA, wrong=FromTheBeginning)
def test_the_random_initial_weights_are_not_in_the_mean(kind: type[SWA]) -> None:
    stack = train(make_stack([kind(after=0.5, lr=None)]))
    assert near(judged(stack), mean_of(path(6)[4:]))


class CountedFromItsStart(SWA):
    """`if step >= start and step % every == 0`, or at the beginning of each epoch."""

    def after_update(self, run: Any) -> None:
        if run.updates > self._first and (run.updates - self._first - 1) % self.every == 0:
            self._take(run)


@trap(right=SWA, wrong=CountedFromItsStart)
def test_the_last_weights_are_in_the_mean(kind: type[SWA]) -> None:
    for total in (5, 6):
        stack = train(make_stack([kind(after=0.0, every=2, lr=None)], updates=total), total)
        wanted = [at for at in range(1, total + 1) if (total - at) % 2 == 0]
        assert near(judged(stack), mean_of([path(6)[at] for at in wanted]))


@pytest.mark.filterwarnings("ignore")  # theirs, about workers and logging
@pytest.mark.parametrize(("start", "first"), [(1, 0), (0.5, 4)])
def test_what_lightnings_average_is_of(start: float, first: int) -> None:
    """It collects before each epoch: the random weights may be in, and the last are not."""
    import lightning
    from lightning.pytorch.callbacks import StochasticWeightAveraging

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)
            nn.init.zeros_(self.layer.weight)

        def training_step(self, batch: Any, number: int) -> Tensor:
            return nn.functional.mse_loss(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:  # each epoch adds exactly 1
            return torch.optim.Rprop(self.parameters(), lr=1.0, step_sizes=(1.0, 1.0))

    rows = torch.utils.data.TensorDataset(torch.ones(2, 1), torch.full((2, 1), 1e4))
    module = Module()
    lightning.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        callbacks=[StochasticWeightAveraging(1.0, swa_epoch_start=start)],
    ).fit(module, torch.utils.data.DataLoader(rows, batch_size=2))  # fmt: skip
    collected = list(range(first, 10))
    assert module.layer.weight.item() == sum(collected) / len(collected)


class PerMicroBatch(SWA):
    """Collects after each backward."""

    def after_update(self, run: Any) -> None: ...

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        self.collect(run.module)


@trap(right=SWA, wrong=PerMicroBatch)
def test_counts_updates_not_micro_batches(kind: type[SWA]) -> None:
    stack = make_stack([kind(after=0.0)], updates=3)
    for at in range(0, 6, 2):
        stack.step(BATCHES[at : at + 2])
    assert stack.state_dict()["states"]["swa"]["count"] == 3


class AfterEveryStep(SWA):
    """scaler.step(optimizer); scaler.update(); swa_model.update_parameters(model)."""

    def before_update(self, run: Any) -> None:
        self.collect(run.module)

    def after_update(self, run: Any) -> None: ...


@trap(right=SWA, wrong=AfterEveryStep)
def test_a_skipped_step_is_not_collected(kind: type[SWA]) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    stack = make_stack([kind(after=0.0)], scaler=scaler)
    stack.step(BATCHES[0])
    stack.gradients(stack.window(BATCHES[1]))
    stack.run.module.head.weight.grad[0, 0] = float("inf")
    assert not stack.update()
    assert stack.state_dict()["states"]["swa"]["count"] == 1


class SwappedOnTheWay(SWA):
    """The articles' `if epoch % 100 == 0: optimizer.swap_swa_sgd()`: the mean is trained on."""

    def after_update(self, run: Any) -> None:
        super().after_update(run)
        if self._count:
            for source, mean in zip(self._sources, self._mean, strict=True):
                source.data.copy_(mean)


@trap(right=SWA, wrong=SwappedOnTheWay)
def test_the_mean_is_judged_and_never_trained_on(kind: type[SWA]) -> None:
    plain, observed = train(make_stack()), train(make_stack([kind(after=0.0, lr=None)]))
    assert equal(weights(plain.run.module), weights(observed.run.module))


class Unclaimed(SWA):
    """Two averages at once: the one that stands further inside is judged, in silence."""

    owns = frozenset()


@trap(right=SWA, wrong=Unclaimed)
def test_ema_and_swa_do_not_both_claim_what_is_judged(kind: type[SWA]) -> None:
    message = ""
    try:
        make_stack([kind(), EMA()])
    except Clash as error:
        message = str(error)
    assert "both claim the evaluation weights" in message


class TrustsTheStatistics(SWA):
    """Judges the mean with the running statistics of the weights that were trained."""

    def _check_statistics(self, run: Any, begins: float) -> None: ...


def alone(kind: type[SWA], *others: Any, **changes: Any) -> str:
    """What is said where the stack holds these methods and nothing else."""
    stack = Stack(
        make_model(coupled=changes.get("coupled", True)), "categorical", [kind(), *others],
        optimizer=Watched, updates=6, data=data(), batch_size=6,
    )  # fmt: skip
    if changes.get("frozen"):
        stack.run.module.norm.eval()
    try:
        stack.open()
    except InputError as error:
        return str(error)
    return ""


@trap(right=SWA, wrong=TrustsTheStatistics)
def test_batch_normalisation_needs_precise_bn(kind: type[SWA]) -> None:
    said = alone(kind)
    assert "swa: batch normalisation (layers: 1) keeps statistics" in said
    assert 'Add "precise_bn" to the methods;' in said


def test_precise_bn_must_be_there_when_the_mean_is_judged() -> None:
    assert alone(SWA, PreciseBN()) == ""
    assert alone(SWA, PreciseBN().during(0.5, 1)) == ""
    assert "to stand beside it from 0.75 to 1" in alone(SWA, PreciseBN().during(0, 0.5))
    assert "to stand beside it from 0.75 to 1" in alone(SWA, PreciseBN().during(0.8, 1))
    assert alone(SWA, frozen=True) == ""
    assert alone(SWA, coupled=False) == ""


class InItsOwnPrecision(SWA):
    """AveragedModel of a bf16 model: the mean is bf16 and soon stops moving."""

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        self._attach(model)
        self._count += 1
        if self._count == 1:
            self._mean = [tensor.detach().clone() for tensor in self._sources]
        sources = [tensor.detach() for tensor in self._sources]
        torch._foreach_lerp_(self._mean, sources, 1.0 / self._count)


@trap(right=SWA, wrong=InItsOwnPrecision)
def test_half_precision_is_averaged_in_single(kind: type[SWA]) -> None:
    model, swa = nn.Linear(1, 1, bias=False).bfloat16(), kind()
    for value in [1.0] + [1.0078125] * 255:  # neighbours in bf16
        nn.init.constant_(model.weight, value)
        swa.collect(model)
    with swa.average(model):
        assert model.weight.dtype == torch.bfloat16
        assert model.weight.item() == 1.0078125


class Swapped(SWA):
    """Puts the mean in place with nothing that restores after an error."""

    @contextmanager
    def average(self, model: nn.Module) -> Iterator[None]:
        backup = [tensor.detach().clone() for tensor in self._sources]
        torch._foreach_copy_([t.detach() for t in self._sources], self._mean)
        yield
        torch._foreach_copy_([t.detach() for t in self._sources], backup)


@trap(right=SWA, wrong=Swapped)
def test_weights_come_back_after_an_error(kind: type[SWA]) -> None:
    stack = train(make_stack([kind(after=0.0)]))
    before = weights(stack.run.module)
    with pytest.raises(ZeroDivisionError), stack.evaluating():
        raise ZeroDivisionError
    assert equal(before, weights(stack.run.module))


class Forgetful(SWA):
    """Saves the mean and not how many weights it is of."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"count": 1}


@trap(right=SWA, wrong=Forgetful)
def test_the_counter_lives_through_a_resume(kind: type[SWA]) -> None:
    through = train(make_stack([kind(after=0.0)]))
    first, second = make_stack([kind(after=0.0)]), make_stack([kind(after=0.0)])
    train(first, 3)
    second.run.module.load_state_dict(first.run.module.state_dict())
    second.optimizer.load_state_dict(first.optimizer.state_dict())
    second.load_state_dict(first.state_dict())
    for batch in BATCHES[3:6]:
        second.step(batch)
    assert equal(judged(through), judged(second))


# SWAG-diagonal -------------------------------------------------------------------------------


def deviations(kind: type[SWA], values: list[float]) -> float:
    """Standard deviation of what is drawn after these weights were collected."""
    model, swa = nn.Linear(1, 1, bias=False), kind(swag=1)
    for value in values:
        nn.init.constant_(model.weight, value)
        swa.collect(model)
    drawn = []
    for seed in range(400):
        with swa.sample(model, seeding.generator(seed)):
            drawn.append(model.weight.detach().clone())
    return torch.cat(drawn).double().std().item()


class MeanOfSquares(SWA):
    """The official second moment, in float32: mean of w^2 less the square of the mean of w."""

    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        n, square = self._count, [t.detach().square() for t in model.parameters()]
        kept = getattr(self, "_moment", square)
        self._moment = [(m * n + s) / (n + 1) for m, s in zip(kept, square, strict=True)]
        super().collect(model)
        self._squares = [
            (s - m.square()) * self._count for s, m in zip(self._moment, self._mean, strict=True)
        ]


@trap(right=SWA, wrong=MeanOfSquares)
def test_the_variance_of_weights_that_hardly_move(kind: type[SWA]) -> None:
    values = [1.0 + step * 2e-5 for step in range(-5, 6)]
    wanted = torch.tensor(values).double().std(correction=0).item()
    assert deviations(kind, values) == pytest.approx(wanted, rel=0.15)


def test_samples_have_mean_and_variance_of_what_was_collected() -> None:
    values = [1.0, 2.0, 4.0, 5.0]
    assert deviations(SWA, values) == pytest.approx(2.5**0.5, rel=0.1)
    model, swa = nn.Linear(1, 1, bias=False), SWA(swag=1)
    for value in values:
        nn.init.constant_(model.weight, value)
        swa.collect(model)
    noise = torch.randn(1, 1, generator=seeding.generator(3)).item()
    with swa.sample(model, seeding.generator(3)):
        assert model.weight.item() == pytest.approx(3.0 + 2.5**0.5 * noise, rel=1e-6)
    assert model.weight.item() == 5.0


def test_predicts_the_mean_of_the_samples_probabilities() -> None:
    stack = train(make_stack([SWA(after=0.0, swag=3)]))
    before = weights(stack.run.module)
    predictor = stack.predictor()
    assert isinstance(predictor, MeanPredictor)
    each = [one(BATCHES[0]) for one in predictor.predictors]
    assert len(each) == 3
    assert not torch.allclose(each[0], each[1])
    assert torch.allclose(predictor(BATCHES[0]), torch.stack(each).mean(0))
    assert equal(before, weights(stack.run.module))
    again = stack.predictor()(BATCHES[0])
    assert torch.equal(again, predictor(BATCHES[0]))  # drawn by position
    other = train(make_stack([SWA(after=0.0, swag=3)], seed=1)).predictor()(BATCHES[0])
    assert not torch.equal(again, other)
    plain = train(make_stack([SWA(after=0.0)]))
    assert equal(judged(stack), judged(plain))  # within `evaluating` stands the mean


class OneView(SWA):
    """All members under one name, so that PreciseBN gives each the statistics of the first."""

    @property
    def view(self) -> str:
        return self.key


@trap(right=SWA, wrong=OneView)
def test_each_member_has_batch_statistics_of_its_own(kind: type[SWA]) -> None:
    predictor = train(make_stack([kind(after=0.0, swag=2)])).predictor()
    for member in predictor.members():
        model = make_model()
        model.load_state_dict(member)
        rows = list(make_stack([SWA()]).run.data("precise_bn"))
        found = precise_statistics(model, rows, lambda batch: call(model, batch.inputs))  # noqa: B023
        mean, _ = found["norm"]
        assert torch.allclose(member["norm.running_mean"].double(), mean, atol=1e-6)


@pytest.mark.parametrize("stop", [3, 5])
def test_swag_resumes_to_the_bit(stop: int, tmp_path: Any) -> None:
    method = SWA(after=0.3, swag=2)
    through = make_run([method]).fit()
    make_run([method], folder=tmp_path).fit(until=stop)
    resumed = make_run([method], folder=tmp_path).fit()
    a, b = through.predictor().members(), resumed.predictor().members()
    assert len(a) == 2
    assert all(map(equal, a, b))


# errors --------------------------------------------------------------------------------------


def test_length_must_be_known() -> None:
    with pytest.raises(InputError, match="pass updates=N to Stack"):
        make_stack([SWA()], updates=None)


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": (0.9, 0.1)}, {"lr": (0.9, 0.1), "every": None}, {"lr": (0.9,), "every": 3},
        {"lr": (0.9, 0.5, 0.1), "every": 3},
    ],
)  # fmt: skip
def test_a_cycle_needs_two_rates_and_a_length(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"give lr=\(high, low\) and every of 2 or more"):
        make_stack([SWA(**settings)])


def test_alone_before_anything_is_collected() -> None:
    with pytest.raises(InputError, match=r"nothing is collected yet; call collect\(model\)"):
        SWA().average(nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"nothing is collected yet; call collect\(model\)"):
        SWA(swag=1).sample(nn.Linear(1, 1), seeding.generator(0))


def test_another_model_is_named() -> None:
    swa = SWA()
    swa.collect(make_model())
    with pytest.raises(InputError, match="swa averages another model"):
        swa.average(nn.Linear(1, 1))
