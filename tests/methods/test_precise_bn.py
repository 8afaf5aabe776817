"""Precise batch normalisation: exact statistics, and each way to get them wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import IterableDataset

from tests.contract.case import Case
from tests.contract.fixture import equal, make_run, make_stack, weights
from tests.contract.test_singles import windows
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.batch_statistics import PooledMoments
from whet.errors import InputError, NotApplicable
from whet.methods.ema import EMA
from whet.methods.precise_bn import (
    PreciseBN,
    applied,
    precise_statistics,
    refresh_batch_statistics,
)
from whet.stack import Stack

CASE = Case(
    PreciseBN(),
    accumulates="it observes batch statistics, which a model without them does not have",
    trains=False,
    judged=True,
)


def normed() -> nn.Sequential:
    with seeding.borrowed(0):
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


def ordered(last: int = 3) -> list[Tensor]:
    """Batches of unequal size whose means differ: sorted data with a short last batch."""
    maker = torch.Generator().manual_seed(1)
    sizes = [16, 16, 16, last]
    return [torch.randn(n, 3, generator=maker) + 3.0 * at for at, n in enumerate(sizes)]


def exact(model: nn.Sequential, batches: list[Tensor]) -> tuple[Any, Any]:
    with torch.no_grad():
        values = torch.cat([model[0](batch) for batch in batches]).double().numpy()
    return values.mean(0), values.var(0)


def whets(model: nn.Module, batches: list[Tensor]) -> tuple[Any, Any]:
    [(mean, variance)] = precise_statistics(model, batches).values()
    return mean.numpy(), variance.numpy()


def torchs(model: nn.Module, batches: list[Tensor]) -> tuple[Any, Any]:
    update_bn(batches, model)
    return model[1].running_mean.numpy(), model[1].running_var.numpy()


def bessels(model: nn.Sequential, batches: list[Tensor]) -> tuple[Any, Any]:
    mean, variance = exact(model, batches)
    rows = sum(map(len, batches))
    return mean, variance * rows / (rows - 1)


@pytest.mark.parametrize("shape", [(7, 3), (5, 3, 4), (2, 3, 4, 5)])
def test_pooled_moments_are_numpys(shape: tuple[int, ...]) -> None:
    maker = torch.Generator().manual_seed(0)
    parts = [torch.randn((n, *shape[1:]), generator=maker) for n in (shape[0], 1, 11)]
    moments = PooledMoments()
    for part in parts:
        moments.update(part)
    whole = torch.cat(parts).double().transpose(0, 1).flatten(1).numpy()
    np.testing.assert_allclose(moments.mean.numpy(), whole.mean(1), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(moments.variance.numpy(), whole.var(1), rtol=1e-12)


@trap(right=whets, wrong=torchs)
def test_trap_averaging_the_variances_of_batches(statistics: Any) -> None:
    """torch's update_bn: with ordered batches it misses the spread between them altogether."""
    mean, variance = statistics(normed(), ordered())
    wanted_mean, wanted_variance = exact(normed(), ordered())
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-6)
    np.testing.assert_allclose(variance, wanted_variance, rtol=1e-6)


def test_how_far_update_bn_is_off() -> None:
    _, wanted = exact(normed(), ordered())
    _, variance = torchs(normed(), ordered())
    off = np.abs(variance / wanted - 1)
    assert off.max() > 0.25


@trap(right=whets, wrong=bessels)
def test_trap_bessels_correction(statistics: Any) -> None:
    batches = ordered()[:1]
    _, variance = statistics(normed(), batches)
    np.testing.assert_allclose(variance, exact(normed(), batches)[1], rtol=1e-6)


class SquaresInSingle(PooledMoments):
    """E[x^2] - E[x]^2 in the input's own precision."""

    def update(self, values: Tensor) -> None:
        flat = values.transpose(0, 1).flatten(1)
        self.count, self.mean = flat.shape[1], flat.mean(1)
        self._squares = (flat.square().mean(1) - self.mean.square()) * self.count


@trap(right=PooledMoments, wrong=SquaresInSingle)
def test_trap_a_negative_variance_in_single_precision(kind: Any) -> None:
    maker = torch.Generator().manual_seed(0)
    values = torch.randn(4096, 8, generator=maker) * 0.1 + 1000.0
    moments = kind()
    moments.update(values)
    np.testing.assert_allclose(moments.variance.numpy(), values.double().numpy().var(0), rtol=1e-3)


def zeros(model: nn.Module, batches: list[Tensor]) -> Any:
    """Sums divided by a count that starts at one: no batches give zeros."""
    return {"1": (torch.zeros(4), torch.zeros(4))}


@trap(right=precise_statistics, wrong=zeros)
def test_trap_no_batches_write_zeros(statistics: Any) -> None:
    message = ""
    try:
        statistics(normed(), [])
    except InputError as error:
        message = str(error)
    assert "the loader is empty" in message, "statistics of nothing were accepted"


def flipping(model: nn.Module, batches: list[Tensor]) -> Any:
    model.train()
    return precise_statistics(model, batches)


@trap(right=precise_statistics, wrong=flipping)
def test_trap_frozen_layers_are_flipped_to_training(statistics: Any) -> None:
    model = nn.Sequential(normed(), nn.BatchNorm1d(4))
    model[0].eval()
    found = statistics(model, ordered())
    assert list(found) == ["1"]
    assert not model[0][1].training


def unguarded(model: nn.Module, batches: list[Tensor]) -> Any:
    norm = model[1]
    norm.momentum = 1.0
    for batch in batches:
        model(batch)
    norm.momentum = 0.1


@trap(right=precise_statistics, wrong=unguarded)
def test_trap_an_error_leaves_the_layer_changed(statistics: Any) -> None:
    model = normed()
    before = weights(model)
    with pytest.raises(RuntimeError):
        statistics(model, [*ordered(), torch.zeros(2, 99)])
    assert model[1].momentum == 0.1
    assert model[1].training
    assert model[2].training
    assert not model[1]._forward_pre_hooks
    assert equal(before, weights(model))


def drawing(model: nn.Module, batches: list[Tensor]) -> Any:
    return [model(batch) for batch in batches]


@trap(right=precise_statistics, wrong=drawing)
def test_trap_the_generator_moves(statistics: Any) -> None:
    seeding.seed_default(5)
    wanted = torch.rand(3)
    seeding.seed_default(5)
    statistics(normed(), ordered())
    assert torch.equal(torch.rand(3), wanted)


def test_a_users_loader_leaves_the_generators_where_they_were() -> None:
    """Iterating a DataLoader draws its seed from torch's own generator."""
    rows = torch.utils.data.TensorDataset(torch.randn(10, 3), torch.zeros(10, dtype=torch.long))
    stack = Stack(
        normed(), "categorical", [PreciseBN()],
        data=torch.utils.data.DataLoader(rows, batch_size=5, shuffle=True),
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    seeding.seed_default(5)
    wanted = torch.rand(3)
    seeding.seed_default(5)
    stack.predictor()
    assert torch.equal(torch.rand(3), wanted)


class OfTheRawWeights(PreciseBN):
    """Statistics computed as training goes, for the weights that are trained."""

    def after_update(self, run: Any) -> None:
        self._found = super()._statistics(run)

    def _statistics(self, run: Any) -> Any:
        return self._found


@trap(right=PreciseBN, wrong=OfTheRawWeights)
def test_trap_statistics_belong_to_the_averaged_weights(kind: Any) -> None:
    stack = make_stack([])
    stack.methods = [EMA(decay=0.95, warmup="none"), kind()]
    for window in windows()[:6]:
        stack.step(window)
    before = weights(stack.run.module)
    ema = stack.methods[0]
    batches = [batch.inputs for batch in stack.run.data("precise_bn")]
    model = stack.run.module
    with ema.average(model):
        [(mean, variance)] = precise_statistics(
            model, batches, lambda inputs: model(**inputs)
        ).values()
    with stack.evaluating():
        assert torch.allclose(model.norm.running_mean.double(), mean, atol=1e-6)
        assert torch.allclose(model.norm.running_var.double(), variance, rtol=1e-5)
    assert equal(before, weights(model))


def test_it_is_computed_once_for_one_view() -> None:
    run = make_run([PreciseBN()]).fit(until=3)
    calls = []
    handle = run.module.norm.register_forward_hook(lambda *_: calls.append(1))
    run.predictor()
    first = len(calls)
    run.predictor()
    handle.remove()
    assert first == 7  # one pass over forty rows in batches of six
    assert len(calls) == first


def test_applied_restores_after_an_error() -> None:
    model = normed()
    before = weights(model)
    with pytest.raises(KeyError), applied(model, precise_statistics(model, ordered())):
        raise KeyError if not equal(before, weights(model)) else AssertionError
    assert equal(before, weights(model))


def test_a_loader_shorter_than_asked_raises() -> None:
    with pytest.raises(InputError, match=r"batches=8, and the training data has 7"):
        make_run([PreciseBN(batches=8)]).fit(until=1)  # before training, not at its end
    assert make_run([PreciseBN(batches=7)]).fit(until=1).predictor()


class Endless(IterableDataset[Any]):
    """Five rows, whose number nobody knows beforehand."""

    def __iter__(self) -> Any:
        return iter([(row, torch.tensor(0)) for row in torch.randn(5, 3)])


@pytest.mark.parametrize(("batches", "enough"), [(2, True), (3, False)])
def test_a_stream_shorter_than_asked_raises(batches: int, enough: bool) -> None:
    stack = Stack(
        normed(), "categorical", [PreciseBN(batches=batches)], data=Endless(), batch_size=3,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
    )  # fmt: skip
    if enough:
        assert stack.predictor()
        return
    with pytest.raises(InputError, match=r"batches=3, and the training data has 2"):
        stack.predictor()


def test_without_training_data_it_fails_before_training() -> None:
    stack = make_stack([PreciseBN()], data=None)
    with pytest.raises(InputError, match="this stack was given none"):
        stack.step(windows()[0])


def test_zero_batches_are_refused() -> None:
    with pytest.raises(InputError, match=r"batches is 0; it must be a whole number in \[1, inf"):
        make_stack([PreciseBN(batches=0)])


def test_a_batch_of_one_row_is_named() -> None:
    with pytest.raises(InputError, match=r"one value per channel for 1, .* batch of one row"):
        precise_statistics(normed(), ordered(last=1))


class WithAuxiliaryHead(nn.Module):
    """As in GoogLeNet and Inception: a branch of its own, only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.auxiliary = normed(), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.body(x)
        return hidden + self.auxiliary(hidden) if self.training else hidden


def test_layers_that_evaluation_does_not_call_keep_theirs() -> None:
    model = WithAuxiliaryHead()
    found = precise_statistics(model, ordered())
    assert list(found) == ["body.1"]
    before = model.auxiliary.running_var.clone()
    with applied(model, found):
        assert torch.equal(model.auxiliary.running_var, before)
    with pytest.raises(InputError, match="auxiliary saw no data: the model calls none of them"):
        precise_statistics(model, ordered(), norms={"auxiliary": model.auxiliary})


def test_statistics_that_are_not_finite_raise() -> None:
    with pytest.raises(InputError, match="1 are not finite"):
        precise_statistics(normed(), [torch.full((2, 3), float("nan"))])


def test_no_layer_to_work_on() -> None:
    with pytest.raises(NotApplicable, match="no batch normalisation"):
        make_stack([PreciseBN()], coupled=False)
    with pytest.raises(NotApplicable, match="frozen"):
        make_run([PreciseBN()], freeze=["norm"]).fit()


def test_used_in_evaluation_mode() -> None:
    """The statistics make the evaluated layer's output standard over the data it was made from."""
    model, batches = normed(), ordered()
    with applied(model, precise_statistics(model, batches)), modes.evaluation_mode(model):
        output = model(torch.cat(batches)).detach().double()
    assert torch.allclose(output.mean(0), torch.zeros(4).double(), atol=1e-5)
    assert torch.allclose(output.var(0, correction=0), torch.ones(4).double(), atol=1e-4)


# for a loop of one's own ---------------------------------------------------------------------
def by_torch(model: nn.Module, loader: Any) -> None:
    torch.optim.swa_utils.update_bn(loader, model)


def pairs(batches: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(x, torch.zeros(len(x))) for x in batches]


@trap(right=refresh_batch_statistics, wrong=by_torch)
def test_refreshed_statistics_are_those_of_all_rows(refresh: Any) -> None:
    """In batches that came in order, and the last of them short."""
    model, batches = normed(), ordered()
    mean, variance = exact(model, batches)
    refresh(model, pairs(batches))
    [norm] = modes.batch_norms(model).values()
    np.testing.assert_allclose(norm.running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), variance, rtol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_refreshing_moves_nothing_else(training: bool) -> None:
    model, batches = nn.Sequential(normed(), nn.Dropout(0.5)).train(training), ordered()
    [(name, norm)] = modes.batch_norms(model).items()
    norm.momentum, before = 0.37, {k: v.clone() for k, v in model.state_dict().items()}
    state, seen = torch.random.get_rng_state(), [m.training for m in model.modules()]
    refresh_batch_statistics(model, pairs(batches))
    assert torch.equal(state, torch.random.get_rng_state())
    assert seen == [m.training for m in model.modules()]
    assert norm.momentum == 0.37
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{name}.running_mean", f"{name}.running_var"}


def test_an_error_on_the_way_refreshes_nothing() -> None:
    model, batches = normed(), ordered()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for bad in ([*pairs(batches), ("no", "tensors")], [], pairs([torch.full((4, 3), torch.nan)])):
        with pytest.raises(InputError):
            refresh_batch_statistics(model, bad)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(NotApplicable, match="no batch normalisation"):
        refresh_batch_statistics(nn.Linear(3, 3), pairs(batches))


def test_whatever_a_loader_gives() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = normed()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x)

    found = []
    batches = ordered()
    for given in (
        pairs(batches), batches, [{"x": x, "labels": torch.zeros(len(x))} for x in batches],
        [Batch({"x": x}) for x in batches],
    ):  # fmt: skip
        model = Named()
        model.load_state_dict({f"inside.{k}": v for k, v in normed().state_dict().items()})
        refresh_batch_statistics(model, given)
        found.append(model.state_dict())
    assert all(equal(one, found[0]) for one in found)


def test_a_frozen_layer_keeps_its_own() -> None:
    with seeding.borrowed(0):
        model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[0].eval()
    refresh_batch_statistics(model, pairs(ordered()))
    assert torch.equal(model[0].running_mean, torch.zeros(3))
    assert not torch.equal(model[2].running_mean, torch.zeros(4))
