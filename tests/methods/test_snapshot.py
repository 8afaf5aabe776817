"""Snapshot ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_run, make_stack, weights
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import Clash, InputError
from whet.method import Layer, Method, method
from whet.methods.ema import EMA
from whet.methods.snapshot import Snapshot, cycle_ends, cyclic_share, set_rates
from whet.predict import MeanPredictor, ModelPredictor, Predictor, State, model_state
from whet.stack import Stack

CASE = Case(
    Snapshot(cycles=2),
    judged=True,
    cost=Cost(kept=1, copies=1),
)


def rates(optimizer: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def batches(count: int = 6) -> list[Batch]:
    return Batch.of(data()).split(6)[:count]


def train(stack: Stack, count: int = 6, seen: list[State] | None = None) -> Stack:
    for batch in batches(count):
        stack.step(batch)
        if seen is not None:
            seen.append(model_state(stack.run.module))
    return stack


# the core ------------------------------------------------------------------------------------
def test_the_paper_s_formula_where_cycles_divide() -> None:
    total, cycles, peak = 60, 4, 0.1
    t = np.arange(1, total + 1)
    paper = peak / 2 * (np.cos(np.pi * np.mod(t - 1, total // cycles) / (total // cycles)) + 1)
    ours = [peak * cyclic_share(update, total, cycles) for update in range(total)]
    np.testing.assert_allclose(ours, paper, atol=1e-12)


def official(update: int, total: int, cycles: int) -> float:
    """The modulo by ceil(T / M), as it is copied around."""
    length = math.ceil(total / cycles)
    return 0.5 * (math.cos(math.pi * (update % length) / length) + 1)


@trap(right=cyclic_share, wrong=official)
def test_last_cycle_is_complete_where_cycles_do_not_divide(share: Any) -> None:
    for total, cycles in [(40, 6), (100, 6), (10, 3)]:
        lowest = 0.5 * (math.cos(math.pi * (1 - cycles / total)) + 1)
        assert share(total - 1, total, cycles) < 1.6 * lowest
        restarts = [u for u in range(total) if share(u, total, cycles) == 1.0]
        assert len(restarts) == cycles
        assert max(np.diff([*restarts, total])) - min(np.diff([*restarts, total])) <= 1


def test_cycle_ends() -> None:
    assert cycle_ends(7, 3) == [2, 4, 7]
    assert cycle_ends(3, 3) == [1, 2, 3]


def test_rates_of_several_groups_and_tensors() -> None:
    first, second = (nn.Parameter(torch.ones(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": [second], "lr": 0.4}])
    optimizer.param_groups[1]["lr"] = kept = torch.tensor(0.4)
    for share in (0.9, 0.5):  # shares are of the first rate, not of the last
        set_rates(optimizer, share)
    assert rates(optimizer) == pytest.approx([0.05, 0.2])
    assert optimizer.param_groups[1]["lr"] is kept


# the method ----------------------------------------------------------------------------------
def test_hand_loop_equals_the_method_to_the_bit() -> None:
    stack = train(make_stack([Snapshot(cycles=2)], coupled=False))
    model = make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    taken = []
    for update, batch in enumerate(batches()):
        optimizer.zero_grad()
        (F.cross_entropy(model(**batch.inputs), batch.targets, reduction="sum") / 6).backward()
        set_rates(optimizer, cyclic_share(update, 6, 2))
        optimizer.step()
        if update + 1 in cycle_ends(6, 2):
            taken.append(model_state(model))
    members = stack.predictor().members()
    assert len(members) == 2
    assert all(equal(a, b) for a, b in zip(members, taken, strict=True))
    assert equal(weights(stack.run.module), weights(model))


def test_has_an_effect_on_training_and_on_what_is_judged() -> None:
    plain, ours = make_run().fit(), make_run([CASE.method]).fit()
    assert not close(weights(plain.module), weights(ours.module))
    batch = batches(1)[0]
    alone = ModelPredictor.capture(ours.stack.run)
    assert not torch.allclose(ours.predictor()(batch), alone(batch))


def test_the_model_is_judged_until_there_is_a_snapshot() -> None:
    stack = train(make_stack([Snapshot(cycles=2)]), 2)
    assert equal(stack.predictor().members()[0], model_state(stack.run.module))
    train(stack, 2)  # in the middle of the second cycle
    assert len(stack.predictor().members()) == 1
    assert not equal(stack.predictor().members()[0], model_state(stack.run.module))


def test_base_rates_come_back() -> None:
    stack = train(make_stack([Snapshot(cycles=2)]), 5)
    assert rates(stack.optimizer)[0] < 0.1
    stack.step(batches(1)[0])
    assert rates(stack.optimizer) == [0.1]
    early = train(make_stack([Snapshot(cycles=2).during(0, 0.5)]), 3)
    assert rates(early.optimizer) == [0.1]


def test_snapshots_are_of_the_averaged_weights() -> None:
    taken: list[State] = []
    twin = make_stack([Snapshot(cycles=2), EMA(0.9)])
    alone = make_stack([Snapshot(cycles=2)])
    average = EMA(0.9)
    average.begin(alone.run.module)
    for batch in batches():
        twin.step(batch)
        alone.step(batch)
        average.update(alone.run.module)
        if alone.run.updates in (3, 6):
            with average.average(alone.run.module):
                taken.append(model_state(alone.run.module))
    assert all(equal(a, b) for a, b in zip(twin.predictor().members(), taken, strict=True))
    assert equal(weights(twin.run.module), weights(alone.run.module))


def test_predicting_leaves_training_untouched() -> None:
    stack = train(make_stack([Snapshot(cycles=2), EMA(0.9)]), 5)
    before = weights(stack.run.module)
    stack.predictor()
    assert equal(before, weights(stack.run.module))
    assert stack.run.module.training


def test_weights_come_back_when_a_predictor_inside_fails() -> None:
    @method
    class Fails(Method):
        name: ClassVar[str] = "fails"
        layer: ClassVar[Layer] = Layer.PREDICTION

        def predictor(self, run: Any, inner: Callable[[], Predictor]) -> Predictor:
            raise RuntimeError("no")

    stack = train(make_stack([Snapshot(cycles=2), Fails()]), 5)
    before = weights(stack.run.module)
    with pytest.raises(RuntimeError, match="no"):
        stack.predictor()
    assert equal(before, weights(stack.run.module))


def test_a_predictor_inside_holds_for_every_member() -> None:
    class Doubled(MeanPredictor):
        def __call__(self, batch: Batch) -> Tensor:
            return 2 * super().__call__(batch)

    @method
    class Inside(Method):
        name: ClassVar[str] = "inside"
        layer: ClassVar[Layer] = Layer.PREDICTION

        def predictor(self, run: Any, inner: Callable[[], Predictor]) -> Predictor:
            return Doubled([inner()])

    plain = train(make_stack([Snapshot(cycles=2)])).predictor()
    around = train(make_stack([Snapshot(cycles=2), Inside()])).predictor()
    batch = batches(1)[0]
    assert len(around.members()) == 2
    assert torch.allclose(around(batch), 2 * plain(batch))


def test_resumes_to_the_bit(tmp_path: Any) -> None:
    whole = make_run([CASE.method]).fit()
    make_run([CASE.method], folder=tmp_path, checkpoint_every=1).fit(until=4)
    rest = make_run([CASE.method], folder=tmp_path).fit()
    assert equal(weights(whole.module), weights(rest.module))
    pairs = zip(whole.predictor().members(), rest.predictor().members(), strict=True)
    assert all(equal(a, b) for a, b in pairs)


def test_exported_ensemble_predicts_the_same(tmp_path: Any) -> None:
    predictor, batch = train(make_stack([Snapshot(cycles=2)])).predictor(), batches(1)[0]
    predictor.save(tmp_path / "members.safetensors")
    again = Predictor.load(tmp_path / "members.safetensors", make_model(5))
    assert torch.equal(predictor(batch), again(batch))


# errors --------------------------------------------------------------------------------------
def test_length_must_be_known() -> None:
    with pytest.raises(InputError, match="pass updates=N"):
        make_stack([Snapshot()], updates=None)


def test_more_cycles_than_updates() -> None:
    with pytest.raises(InputError, match="7 cycles do not fit into 6 updates"):
        make_stack([Snapshot(cycles=7)])


def test_a_schedule_clashes() -> None:
    with pytest.raises(Clash, match="learning rate"):
        make_run([Snapshot()], schedule="cosine")


def test_begins_with_training() -> None:
    with pytest.raises(InputError, match="from the start"):
        Snapshot().during(0.5, 1)


# traps ---------------------------------------------------------------------------------------
class AfterTheRestart(Snapshot):
    """Takes the snapshot where the next cycle is seen to begin: after a step at the full rate."""

    def after_update(self, run: Any) -> None:
        if run.updates - 1 in cycle_ends(self._length, self.cycles):
            self._snapshots.append(model_state(run.module))


@trap(right=Snapshot, wrong=AfterTheRestart)
def test_snapshots_are_taken_before_the_restart(kind: Any) -> None:
    seen: list[State] = []
    stack = train(make_stack([kind(cycles=3)]), seen=seen)
    members = stack.predictor().members()
    expected = [seen[1], seen[3], seen[5]]
    assert len(members) == 3
    assert all(equal(a, b) for a, b in zip(members, expected, strict=True))


class MeanOfLogits(Snapshot):
    """Averages logits, which is a geometric mean of the members."""

    def predictor(self, run: Any, inner: Callable[[], Predictor]) -> Predictor:
        members = super().predictor(run, inner).members()

        class Logits(MeanPredictor):
            def __call__(self, batch: Batch) -> Tensor:
                logs = [one(batch).log() for one in self.predictors]
                return torch.stack(logs).mean(0).softmax(-1)

        kind = run.objective.family
        return Logits([ModelPredictor(run.module, state, kind) for state in members])


@trap(right=Snapshot, wrong=MeanOfLogits)
def test_probabilities_are_averaged(kind: Any) -> None:
    stack = train(make_stack([kind(cycles=3)], optimizer=lambda p: torch.optim.SGD(p, lr=1.0)))
    predictor, batch = stack.predictor(), batches(1)[0]
    given, model = predictor(batch), make_model(1).eval()
    each = []
    for state in predictor.members():
        model.load_state_dict(state)
        z = model(**batch.inputs).detach().double().numpy()
        each.append(np.exp(z) / np.exp(z).sum(1, keepdims=True))
    np.testing.assert_allclose(given.numpy(), np.mean(each, axis=0), atol=1e-6)
