"""Sources in their own order: entered by their own state, or by reading the beginning again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.contract.fixture import equal, weights
from tests.contract.test_singles import same
from tests.engine.test_loading import Augmented, Counted, seen
from tests.engine.tiny import linear
from whet.errors import InputError
from whet.loading import open_loader
from whet.run import Run
from whet.stage import Stage
from whet.streams import Replayed, StreamLoader
from whet.task import Task


class Resumable(IterableDataset[tuple[Tensor, int]]):
    """A stream that says where it stands, draws, and counts what it reads."""

    def __init__(self, rows: int = 10, sized: bool = False) -> None:
        self.rows, self.sized = rows, sized
        self.at, self.begin = 0, 0
        self.read: list[int] = []

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        self.at, self.begin = self.begin, 0
        while self.at < self.rows:
            row = self.at
            self.at += 1
            self.read.append(row)
            yield torch.tensor([row + torch.rand(()).item(), 1.0, 0.5, -row]), row % 3

    def __len__(self) -> int:
        if not self.sized:
            raise TypeError
        return self.rows

    def state_dict(self) -> dict[str, Any]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.begin = state["at"]


class Stateful(DataLoader[Any]):
    """What torchdata's StatefulDataLoader does, for an order without draws."""

    entered = 0

    def __iter__(self) -> Any:
        self.given, skipped = self.entered, self.entered
        type(self).entered = 0
        return self._count(skipped)

    def _count(self, skipped: int) -> Iterator[Any]:
        for at, indices in enumerate(self.batch_sampler or ()):
            if at >= skipped:
                self.given = at + 1
                yield self.collate_fn([self.dataset[row] for row in indices])

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        type(self).entered = state["given"]


class TestOwnState:
    @pytest.mark.parametrize("start", [1, 2])
    def test_a_dataset_is_entered_without_reading_its_beginning(self, start: int) -> None:
        expected = seen(open_loader(Resumable(), 4, seed=3), 1)
        left = open_loader(Resumable(), 4, seed=3)
        batches = left.epoch(1)
        for _ in range(start):
            next(batches)
        source = Resumable()
        resumed = open_loader(source, 4, seed=3)
        resumed.load_state_dict(left.state_dict())
        assert seen(resumed, 1, start) == expected[start:]
        assert source.read == list(range(4 * start, 10))
        assert seen(resumed, 2) == seen(open_loader(Resumable(), 4, seed=3), 2), "and then anew"

    def test_the_last_batch_may_be_where_it_stands(self) -> None:
        left = open_loader(Resumable(), 4)
        batches = left.epoch(0)
        for _ in range(3):
            next(batches)
        resumed = open_loader(Resumable(), 4)
        resumed.load_state_dict(left.state_dict())
        assert seen(resumed, 0, 3) == []

    def test_a_loader_of_ones_own(self) -> None:
        def make() -> StreamLoader:
            loader = open_loader(Stateful(Augmented(), batch_size=3), 1, seed=2)
            assert isinstance(loader, StreamLoader)
            return loader

        expected = seen(make())
        left = make()
        batches = left.epoch(0)
        next(batches), next(batches)
        state = left.state_dict()
        assert state == {"epoch": 0, "batch": 2, "source": {"given": 2}}
        resumed = make()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state, "a run that is saved again before it trains"
        assert seen(resumed, 0, 2) == expected[2:]
        assert resumed.state_dict() == {}, "between epochs there is nothing to say"

    def test_a_pause_in_one_process(self) -> None:
        source = Resumable()
        loader = open_loader(source, 4, seed=1)
        expected = seen(open_loader(Resumable(), 4, seed=1))
        batches = loader.epoch(0)
        next(batches)
        batches.close()  # type: ignore[attr-defined]
        assert seen(loader, 0, 1) == expected[1:]
        assert source.read == list(range(10))

    def test_a_state_of_another_place_is_not_used(self) -> None:
        left = open_loader(Resumable(), 4)
        next(left.epoch(0))
        resumed = open_loader(Resumable(), 4)
        resumed.load_state_dict(left.state_dict())
        with pytest.warns(Replayed):
            assert seen(resumed, 0, 2) == seen(open_loader(Resumable(), 4))[2:]

    def test_a_state_is_a_copy(self) -> None:
        class Sharing(Resumable):
            kept: dict[str, Any] = {"at": 0}  # noqa: RUF012

            def state_dict(self) -> dict[str, Any]:
                self.kept["at"] = self.at
                return self.kept

        loader = open_loader(Sharing(), 4)
        batches = loader.epoch(0)
        next(batches)
        state = loader.state_dict()
        next(batches)
        loader.state_dict()
        assert state["source"] == {"at": 4}

    @pytest.mark.parametrize("odd", [np.zeros(2), {1, 2}, torch.nn.Parameter(torch.ones(1))])
    def test_what_no_checkpoint_may_hold_is_named(self, odd: Any) -> None:
        class Odd(Resumable):
            def state_dict(self) -> dict[str, Any]:
                return {"at": self.at, "more": [odd]}

        loader = open_loader(Odd(), 4)
        next(loader.epoch(0))
        with pytest.warns(Replayed, match=rf"state of Odd holds a {type(odd).__name__}"):
            assert loader.state_dict() == {}

    def test_reading_aside_leaves_the_live_state_alone(self) -> None:
        source = Resumable()
        loader = open_loader(source, 4)
        batches = loader.epoch(0)
        next(batches)
        assert len(list(open_loader(source, 4, purpose="precise_bn").epoch(0))) == 3
        assert loader.state_dict()["source"] == {"at": 4}
        assert len(list(batches)) == 2

    def test_what_cannot_be_copied_to_be_read_aside_is_named(self) -> None:
        source = Resumable()
        source.file = open(__file__)  # type: ignore[attr-defined]  # noqa: SIM115
        with pytest.raises(InputError, match=r"precise_bn reads.*Resumable cannot be copied"):
            open_loader(source, 4, purpose="precise_bn")
        source.file.close()  # type: ignore[attr-defined]

    def test_workers_run_ahead_of_a_dataset(self) -> None:
        """The Dataset in this process stands at 0 while a worker's copy goes on."""
        loader = open_loader(DataLoader(Resumable(), batch_size=4, num_workers=1), 1)
        next(loader.epoch(0))
        assert loader.state_dict() == {}


class TestReplay:
    @pytest.mark.parametrize("source", [Counted(draws=True), DataLoader(Augmented(), 4)])
    def test_it_is_told(self, source: Any) -> None:
        loader = open_loader(source, 4, seed=3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expected = seen(loader)
        told = f"batch 1 of epoch 0.*the {type(source).__name__} does not say where it stands"
        with pytest.warns(Replayed, match=told):
            assert seen(loader, 0, 1) == expected[1:]


class TestRuns:
    @staticmethod
    def make(data: Any, **changes: Any) -> Run:
        model = nn.Sequential(linear(dim=4), nn.BatchNorm1d(3), nn.Dropout(0.2))
        stage = Stage(updates=7, batch_size=5, accumulate=2, methods=["ema", "precise_bn"])
        return Run(Task(model, data), stage, device="cpu", **changes)

    @pytest.mark.parametrize("sized", [False, True])
    def test_resumed_anywhere_is_uninterrupted(self, sized: bool, tmp_path: Path) -> None:
        through = self.make(Resumable(23, sized)).fit()
        read: list[int] = []
        for stop in range(1, 8):
            source = Resumable(23, sized)
            self.make(source, folder=tmp_path).fit(until=stop)
            read += source.read
        run = self.make(Resumable(23, sized), folder=tmp_path)
        assert run.updates == 7
        assert same(through.state_dict(), run.state_dict())
        assert read == through.task.train.read, "nothing is read twice"

    def test_a_stream_that_does_not_say_is_replayed(self, tmp_path: Path) -> None:
        def make(**changes: Any) -> Run:
            stage = Stage(updates=3, batch_size=3)
            return Run(Task(linear(dim=1), Counted(draws=True)), stage, device="cpu", **changes)

        through = make().fit()
        make(folder=tmp_path).fit(until=2)
        with pytest.warns(Replayed, match="Counted does not say"):
            resumed = make(folder=tmp_path).fit()
        assert equal(weights(through.module), weights(resumed.module))
