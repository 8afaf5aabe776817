"""Micro-batches cut to what memory holds: the same weights, and nothing left of a failed try."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import close, make_run, make_stack, weights
from tests.contract.found import case, names
from tests.contract.test_singles import same
from tests.engine.tiny import linear, rows, sgd, stack, tiny
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Window
from whet.method import Method
from whet.microbatches import MicroBatches, out_of_memory
from whet.run import Run
from whet.stage import Stage
from whet.training import Training


class Narrow:
    """A memory that holds so many rows of what goes into a module in training.

    Without a limit it is half of what it is first asked to hold.
    """

    def __init__(
        self, module: nn.Module, limit: int | None = None, *, backward: bool = False
    ) -> None:
        self.limit, self.seen = limit, list[int]()
        if backward:
            module.register_full_backward_hook(self.after)
        else:
            module.register_forward_pre_hook(self.before)

    def check(self, tensor: Tensor) -> None:
        self.seen.append(len(tensor))
        if self.limit is None:
            self.limit = len(tensor) // 2
        if len(tensor) > self.limit:
            raise torch.OutOfMemoryError(f"{len(tensor)} rows do not fit")

    def before(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if module.training:
            self.check(inputs[0])

    def after(self, module: nn.Module, inner: Any, outer: tuple[Tensor, ...]) -> None:
        self.check(outer[0])


def state(run: Run) -> dict[str, Any]:
    """What a run's future depends on, without how the size of micro-batches was found."""
    return {k: v for k, v in run.state_dict().items() if k not in ("history", "recipe")}


def trained(method: Method, micro_batch: Any, *, narrow: bool) -> Run:
    run = make_run([method], micro_batch=micro_batch, batch_size=12, accumulate=1, updates=4)
    if narrow:
        Narrow(run.module.head)  # type: ignore[arg-type]  # after BN's statistics moved
    return run.fit()


@pytest.mark.parametrize("name", names())
def test_a_failed_try_leaves_nothing_behind(name: str) -> None:
    """Whatever was perturbed, staged, drawn or averaged: as if the size had been known."""
    found = trained(case(name).method, "auto", narrow=True)
    size = found.stack.micro.size
    assert size in (3, 6)
    known = trained(case(name).method, size, narrow=False)
    assert same(state(found), state(known))
    assert found.evaluate() == known.evaluate()


@pytest.mark.parametrize("backward", [False, True])
def test_each_half_is_tried(backward: bool, caplog: pytest.LogCaptureFixture) -> None:
    run = make_run(batch_size=13, drop_last=True, micro_batch="auto", updates=2)
    memory = Narrow(run.module.head, 4, backward=backward)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "whet"):
        run.fit()
    assert memory.seen[:6] == [13, 6, 3, 3, 3, 4]
    assert run.stack.micro.size == 4
    told = [note for note in run.notes if "out of memory" in note]
    assert [record.message for record in caplog.records if record.name == "whet"] == told
    assert [note.partition(" in window")[0] for note in told] == [
        "out of memory with 13 rows at a time",
        "out of memory with 7 rows at a time",
    ]
    assert "micro_batch=4 begins with this size" in told[-1]


def test_it_equals_the_whole_batch() -> None:
    """Items with a target weigh the same, however unevenly they fall."""
    batch = rows(13)
    batch = batch.replace(mask=torch.arange(13) % 5 != 0)
    whole, cut = stack(), stack(micro_batch="auto")
    Narrow(cut.run.module, 4)
    for _ in range(3):
        whole.step(batch)
        cut.step(batch)
    assert close(weights(whole.run.module), weights(cut.run.module))
    assert cut.loss == pytest.approx(whole.loss)
    assert cut.run.micros == 3 * 4


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_number_is_the_stages_own_cutting(accumulate: int) -> None:
    """`micro_batch=6` of batches of 12 is what accumulation over batches of 6 is."""
    cut = make_run(batch_size=12, accumulate=accumulate, micro_batch=6, drop_last=True).fit()
    plain = make_run(batch_size=6, accumulate=2 * accumulate, drop_last=True)
    windows = [[part for batch in window for part in batch.split(6)] for window in _windows(cut)]
    for window in windows:
        plain.stack.step(window)
    assert same(weights(cut.module), weights(plain.module))


def _windows(run: Run) -> list[list[Batch]]:
    size, found = run.stage.accumulate, []
    for epoch in range(6):
        batches = list(run.loader.epoch(epoch))
        found += [batches[at : at + size] for at in range(0, len(batches), size)]
    return found[: run.updates]


class TestCutting:
    @pytest.mark.parametrize(
        ("count", "size", "expected"),
        [(10, 4, [3, 3, 4]), (5, 4, [2, 3]), (8, 4, [4, 4]), (4, 4, [4]), (3, 1, [1, 1, 1])],
    )
    def test_parts_are_even_and_whole(self, count: int, size: int, expected: list[int]) -> None:
        batch = rows(count).replace(indices=torch.arange(count))
        cut = MicroBatches(size).cut(Window((batch,), 7.0, count, 1))
        assert [part.size for part in cut.batches] == expected
        assert (cut.items, cut.rows, cut.micros) == (7.0, count, len(expected))
        assert torch.equal(Batch.join(cut.batches).inputs, batch.inputs)
        assert torch.equal(Batch.join(cut.batches).indices, batch.indices)  # type: ignore[arg-type]

    def test_what_fits_is_not_touched(self) -> None:
        window = Window((rows(4), rows(2)), 6.0, 6, 2)
        assert MicroBatches(4).cut(window) is window
        assert MicroBatches("auto").cut(window) is window
        assert MicroBatches().cut(window) is window

    @pytest.mark.parametrize("count", range(4, 40))
    def test_three_rows_never_leave_one_alone(self, count: int) -> None:
        """Batch normalisation has nothing to normalise a single row by."""
        cut = MicroBatches(3).cut(Window((rows(count),), count, count, 1))
        assert min(part.size for part in cut.batches) >= 2


class TestRefusals:
    @pytest.mark.parametrize("wrong", [0, -1, True, 2.5, "half"])
    def test_what_is_no_size(self, wrong: Any) -> None:
        with pytest.raises(InputError, match=r"micro_batch is .*at least 1, 'auto', or None"):
            Stage(updates=1, micro_batch=wrong)
        with pytest.raises(InputError, match="micro_batch is"):
            stack(micro_batch=wrong)

    @pytest.mark.parametrize(("norm", "fewest"), [(True, 3), (False, 1)])
    def test_the_fewest_rows_that_do_not_fit(self, norm: bool, fewest: int) -> None:
        model = nn.Sequential(linear(), nn.BatchNorm1d(3)) if norm else linear()
        small = stack(model=model, micro_batch="auto")
        memory = Narrow(small.run.module, 0)
        with pytest.raises(torch.OutOfMemoryError) as told:
            small.step(rows(12))
        assert memory.seen[-1] == fewest
        assert f"down to {fewest} rows at a time" in told.value.__notes__[0]

    @pytest.mark.parametrize("micro_batch", [None, 8])
    def test_only_where_it_is_asked_for(self, micro_batch: int | None) -> None:
        small = stack(micro_batch=micro_batch)
        memory = Narrow(small.run.module, 2)
        with pytest.raises(torch.OutOfMemoryError):
            small.step(rows(8))
        assert memory.seen == [8]

    def test_other_errors_are_not_tried_again(self) -> None:
        calls: list[int] = []

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
            calls.append(batch.size)
            raise RuntimeError("a shape is wrong")

        with pytest.raises(RuntimeError, match="a shape is wrong"):
            stack(tiny(forward=forward), micro_batch="auto").step(rows(8))
        assert calls == [8]

    def test_an_update_that_has_begun_is_not_tried_again(self) -> None:
        """Its weights may have moved in part."""

        class Fat(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                super().step(closure)
                raise torch.OutOfMemoryError("no room for the moments")

        small = stack(micro_batch="auto", optimizer=lambda p: Fat(p, lr=0.1))
        with pytest.raises(torch.OutOfMemoryError, match="no room for the moments"):
            small.step(rows(8))
        assert small.run.window == 0
        assert small.micro.size is None

    @pytest.mark.parametrize(
        ("error", "is_one"),
        [
            (torch.OutOfMemoryError("x"), True),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `c`"), True),
            (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: y"), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        ],
    )
    def test_what_counts_as_out_of_memory(self, error: RuntimeError, is_one: bool) -> None:
        assert out_of_memory(error) is is_one


def test_a_real_allocation_that_fails() -> None:
    """As much as no machine has."""
    wide = 1 << 44  # bytes a row

    def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
        if batch.size > 2:
            torch.empty(batch.size, wide, dtype=torch.uint8).fill_(1)
        return inner(batch)

    small = stack(tiny(forward=forward), micro_batch="auto")
    assert small.step(rows(8))
    assert small.micro.size == 2


def test_gradients_of_a_failed_try_are_dropped() -> None:
    """The first micro-batch went back before the second one failed."""
    small, plain = stack(micro_batch="auto"), stack(micro_batch=4)
    Narrow(small.run.module, 5)
    window = [rows(4), rows(8, seed=1)]
    for one in (small, plain):
        one.gradients(one.window(window))
    pairs = zip(small.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)  # type: ignore[arg-type]


def test_fp16_scaling_goes_on() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    small = make_stack(micro_batch="auto", scaler=scaler)
    Narrow(small.run.module.head, 6)  # type: ignore[arg-type]
    plain = make_stack(micro_batch=6, scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    from tests.contract.test_singles import windows

    for window in windows(size=12):
        assert small.step(window)
        assert plain.step(window)
    assert same(weights(small.run.module), weights(plain.run.module))


def test_a_resumed_run_does_not_try_again(tmp_path: Path) -> None:
    def make(limit: int, folder: Path | None = None) -> tuple[Run, Narrow]:
        run = make_run(batch_size=12, micro_batch="auto", folder=folder, updates=6)
        return run, Narrow(run.module.head, limit)  # type: ignore[arg-type]

    through, _ = make(6)
    through.fit()
    first, _ = make(6, tmp_path)
    first.fit(until=3)
    resumed, memory = make(6, tmp_path)
    resumed.fit()
    assert max(memory.seen) <= 6
    assert same(state(through), state(resumed))


def test_each_stage_begins_anew() -> None:
    """What a stage can hold depends on what it trains."""
    from tests.contract.fixture import make_task
    from whet.stage import Recipe

    each = Stage(updates=1, batch_size=12, micro_batch="auto", optimizer=sgd)
    run = Run(make_task(), Recipe([each, each]), device="cpu")
    memory = Narrow(run.module.head, 6)  # type: ignore[arg-type]
    run.fit()
    assert memory.seen == [12, 6, 6, 12, 6, 6]
