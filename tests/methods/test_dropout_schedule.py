"""Dropout that comes and goes with training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_run, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods import SAM, dropout_schedule
from whet.methods.dropout_schedule import DropoutSchedule, dropouts, dropping, share
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    DropoutSchedule(kind="late", cut=0.5),
    accumulates="dropout draws for each micro-batch by itself, and without it there is nothing",
)
BATCH = Batch.of(data()).take(slice(0, 6))
WIDE = torch.ones(64, 1000)


def dropped(method: Any, updates: int = 10, rate: float = 0.5, **given: Any) -> list[float]:
    """Which part of a layer's numbers is dropped, update by update."""
    model = nn.Sequential(nn.Dropout(rate), nn.Linear(1000, 2, bias=False))
    stack = Stack(model, "categorical", [method], updates=updates, **{
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.0), **given,
    })  # fmt: skip
    seen: list[float] = []
    model[1].register_forward_pre_hook(
        lambda m, args: seen.append(float(args[0].eq(0).float().mean()))
    )
    for _ in range(updates):
        stack.step((WIDE, torch.zeros(64, dtype=torch.int64)))
    assert model[0].p == rate
    return seen


# the value -----------------------------------------------------------------------------------


def official(rate: float, cut: int, updates: int, kind: str) -> list[float]:
    """Rates as the authors list them: over the updates before the cut, and after it."""
    late = kind == "late"
    early = torch.linspace(rate, 0, cut + 1)[:cut] if kind == "early" else torch.full((cut,), rate)
    before = torch.zeros(cut) if late else early
    after = torch.full((updates - cut,), rate if late else 0.0)
    return torch.cat([before, after]).tolist()


@pytest.mark.parametrize("kind", ["early", "early_constant", "late"])
def test_rates_are_the_papers(kind: str) -> None:
    found = [0.4 * share(kind, at / 20, cut=0.25) for at in range(20)]
    assert found == pytest.approx(official(0.4, 5, 20, kind))


def test_a_line() -> None:
    assert [share("linear", at, first=0.2, last=0.6) for at in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.2, 0.4, 0.6]
    )


@pytest.mark.parametrize(("method", "wanted"), [
    (DropoutSchedule(cut=0.4), [0.5, 0.375, 0.25, 0.125, 0, 0, 0, 0, 0, 0]),
    (DropoutSchedule(kind="late", cut=0.7), [0] * 7 + [0.5] * 3),
    (DropoutSchedule(kind="early_constant", cut=0.3, rate=0.2), [0.2] * 3 + [0] * 7),
    (DropoutSchedule(kind="linear", rate=0.9), [0.09 * at for at in range(10)]),
])  # fmt: skip
def test_so_much_is_dropped(method: DropoutSchedule, wanted: list[float]) -> None:
    assert dropped(method) == pytest.approx(wanted, abs=0.01)


def test_a_model_made_without_dropout_is_given_some() -> None:
    method = DropoutSchedule(kind="early_constant", cut=0.5, rate=0.3)
    assert dropped(method, 4, rate=0.0) == pytest.approx([0.3, 0.3, 0, 0], abs=0.01)
    with pytest.raises(InputError, match=r"rate 0; say .* rate=0\.1"):
        dropped(DropoutSchedule(), rate=0.0)


def test_in_its_span_progress_is_the_stages() -> None:
    method = DropoutSchedule(kind="linear").during(0.5, 1)
    assert dropped(method, 4) == pytest.approx([0.5, 0.5, 0.25, 0.375], abs=0.01)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([DropoutSchedule(kind="linear")]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    for at, batch in enumerate(Batch.of(data()).split(6)[:6]):
        stack.step(batch)
        run.window = at
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        with dropping(list(dropouts(model).values()), share("linear", at / 6)):
            nn.functional.cross_entropy(call(model, batch.inputs), batch.targets).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


@pytest.mark.parametrize("kind", [
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout,
])  # fmt: skip
@pytest.mark.parametrize("inplace", [False, True])
def test_layers_drop_in_their_own_way(kind: Any, inplace: bool) -> None:
    shape = {nn.Dropout1d: (4, 6, 5), nn.Dropout3d: (4, 6, 2, 2, 2)}.get(kind, (4, 6, 5, 5))
    layer, wanted = kind(0.5, inplace), kind(0.2)
    x = torch.randn(shape)
    with seeding.borrowed(3), dropping([layer], 0.4):
        found = layer(x.clone())
    with seeding.borrowed(3):
        assert torch.equal(found, wanted(x))
    layer.eval()
    with dropping([layer], 0.4):
        assert torch.equal(layer(x), x)


def test_one_within_another_takes_its_share_of_that() -> None:
    layer = nn.Dropout(0.5)
    with dropping([layer], 1.0, rate=0.8):
        with dropping([layer], 0.25):
            assert float(layer(WIDE).eq(0).float().mean()) == pytest.approx(0.2, abs=0.01)
        assert float(layer(WIDE).eq(0).float().mean()) == pytest.approx(0.8, abs=0.01)
    assert layer.p == 0.5


def test_attention_and_recurrent_layers_of_torch() -> None:
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    recurrent = nn.LSTM(4, 4, num_layers=2, dropout=0.5)
    with dropping([attention, recurrent], 0.0):
        x, y = torch.randn(2, 3, 8), torch.randn(5, 2, 4)
        assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
        assert torch.equal(recurrent(y)[0], recurrent(y)[0])
    assert (attention.dropout, recurrent.dropout) == (0.5, 0.5)
    assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


def test_which_modules() -> None:
    model = nn.ModuleDict({"a": nn.Dropout(0.1), "b": nn.Sequential(nn.Dropout(0.2), nn.GRU(2, 2))})
    assert list(dropouts(model)) == ["a", "b.0", "b.1"]
    assert list(dropouts(model, exclude=["b"])) == ["a"]
    assert list(dropouts(model, at="b.*", exclude=["*.1"])) == ["b.0"]
    with pytest.raises(NotApplicable, match=r"at='c'.*there are: a, b\.0, b\.1"):
        dropouts(model, at="c")
    with pytest.raises(NotApplicable, match=r"none: add nn\.Dropout"):
        dropouts(nn.Linear(2, 2))


def test_the_length_must_be_known() -> None:
    with pytest.raises(InputError, match="pass updates=N to Stack"):
        make_stack([DropoutSchedule()], updates=None).step(BATCH)


# traps ---------------------------------------------------------------------------------------


class Written(DropoutSchedule):
    """`m.p = rate` in the model, as a callback does it."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        for module in self._modules:
            module.p = 0.2 * share(self.kind, run.progress, self.cut)
        return inner(batch)


@trap(right=DropoutSchedule, wrong=Written)
def test_rates_are_the_models_own_afterwards(kind: type[DropoutSchedule]) -> None:
    """Another stage, or a run that goes on from this model, would train at the last rate."""
    run = make_run([kind(kind="early", cut=0.5).during(0, 0.5)]).fit()
    assert run.module.dropout.p == 0.2


class Counting(DropoutSchedule):
    """A counter of forwards in the layer: a replay counts, and a checkpoint must hold it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._count = 0

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        now = share(self.kind, self._count / run.total, self.cut, self.first, self.last)
        self._count += 1
        run.hold(self, dropping(self._modules, now, self.rate))
        return inner(batch)


@trap(right=DropoutSchedule, wrong=Counting)
def test_a_replay_does_not_go_on(kind: type[DropoutSchedule]) -> None:
    seen: list[float] = []
    stack = make_stack([kind(kind="linear", rate=0.6), SAM()])
    stack.run.module.dropout.register_forward_pre_hook(
        lambda m, args: seen.append(dropout_schedule._STANDING[m])
    )
    for batch in Batch.of(data()).split(6)[:3]:
        stack.step(batch)
    assert seen == pytest.approx([0, 0, 0.1, 0.1, 0.2, 0.2])


@contextmanager
def written(modules: list[nn.Module], share: float, rate: float | None = None) -> Iterator[None]:
    before = [module.p for module in modules]
    for module, own in zip(modules, before, strict=True):
        module.p = own * share
    yield
    for module, own in zip(modules, before, strict=True):
        module.p = own


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@trap(right=dropping, wrong=written)
def test_a_compiled_model_is_not_compiled_for_every_rate(drop: Any) -> None:
    """A rate is a constant of the graph: after eight of them the compiler gives up."""
    made: list[int] = []

    def counted(graph: Any, example: Any) -> Any:
        made.append(1)
        return graph.forward

    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))
    dropout_schedule._ready(model[1])
    compiled = torch.compile(model, backend=counted)
    for at in range(6):
        with drop([model[1]], share("linear", at / 6)):
            compiled(torch.ones(3, 4)).sum().backward()
        if at == 1:
            some = len(made)
    torch.compiler.reset()
    assert len(made) == some
