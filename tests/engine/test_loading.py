"""From whatever a user has to batches: the same ones wherever and by whomever they are fetched."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from whet.batch import Batch
from whet.errors import InputError
from whet.loading import Epochs, Fixed, RowLoader, open_loader
from whet.rows import Arrays, Samples, as_tensor, open_rows
from whet.streams import Replayed, StreamLoader

X, Y = torch.arange(20.0).view(10, 2), torch.arange(10) % 3


def seen(loader: Epochs, epoch: int = 0, start: int = 0) -> list[list[Any]]:
    """Inputs, targets and indices of an epoch's batches, as plain values."""
    return [
        [None if part is None else part.tolist() for part in (b.inputs, b.targets, b.indices)]
        for b in loader.epoch(epoch, start)
    ]


class Augmented(Dataset[tuple[Tensor, int]]):
    """Draws from all three generators that users draw from."""

    def __init__(self, rows: int = 10) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        noise = [torch.rand(()).item(), random.random(), float(np.random.rand())]  # noqa: NPY002
        return torch.tensor([float(row), *noise]), row % 3


def masking(samples: list[Any]) -> tuple[Tensor, Tensor]:
    """A collate function that draws, as those that mask tokens do."""
    x = torch.stack([sample[0] for sample in samples])
    mask = torch.rand(len(x)) * random.random() * float(np.random.rand())  # noqa: NPY002
    return torch.cat([x, mask[:, None]], 1), torch.tensor([sample[1] for sample in samples])


class Counted(IterableDataset[tuple[Tensor, int]]):
    """A stream of ten rows, of which nobody knows the number."""

    def __init__(self, rows: int = 10, draws: bool = False) -> None:
        self.rows, self.draws = rows, draws

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        for row in range(self.rows):
            noise = torch.rand(()).item() + random.random() if self.draws else 0.0
            yield torch.tensor([row + noise]), row % 3


class Sized(Counted):
    def __len__(self) -> int:
        return self.rows


class TestSources:
    @pytest.mark.parametrize(
        "source",
        [
            (X, Y),
            (X.numpy(), Y.numpy()),
            (X.numpy().astype(np.float64), Y.numpy().astype(np.int32)),
            (pd.DataFrame(X.numpy(), columns=["a", "b"]), pd.Series(Y.numpy(), name="kind")),
            (X.tolist(), Y.tolist()),
            Batch(X, Y),
            {"labels": Y},
        ],
        ids=["tensors", "arrays", "other dtypes", "pandas", "lists", "Batch", "mapping"],
    )
    def test_all_give_the_same(self, source: Any) -> None:
        if isinstance(source, dict):
            source = {"x": X.numpy(), **source}
            batches = list(open_loader(source, 4, seed=3).epoch(0))
            given = [batch.inputs["x"] for batch in batches]
        else:
            batches = list(open_loader(source, 4, seed=3).epoch(0))
            given = [batch.inputs for batch in batches]
        assert [len(x) for x in given] == [4, 4, 2]
        assert all(x.dtype == torch.float32 for x in given)
        for x, batch in zip(given, batches, strict=True):
            assert batch.indices is not None
            assert batch.targets is not None
            assert batch.targets.dtype == torch.int64
            assert torch.equal(x, X[batch.indices])
            assert torch.equal(batch.targets, Y[batch.indices])

    @pytest.mark.parametrize("source", [X, X.numpy(), pd.DataFrame(X.numpy()), (X, None), {"x": X}])
    def test_without_targets(self, source: Any) -> None:
        batches = list(open_loader(source, 4).epoch(0))
        assert [batch.size for batch in batches] == [4, 4, 2]
        assert all(batch.targets is None for batch in batches)

    def test_several_inputs(self) -> None:
        [batch] = open_loader((({"a": X}, [1.0] * 10), Y), 10, shuffle=False).epoch(0)
        assert torch.equal(batch.inputs[0]["a"], X)
        assert batch.inputs[1].dtype == torch.float32

    def test_a_list_of_samples_is_a_dataset(self) -> None:
        samples = [(X[row], int(Y[row])) for row in range(10)]
        [batch] = open_loader(samples, 10, shuffle=False).epoch(0)
        assert torch.equal(batch.inputs, X)
        assert torch.equal(batch.targets, Y)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (3, "the data to train on is a int"),
            (None, "is a NoneType"),
            ((X, X, Y), r"a tuple of 3; give \(inputs, targets\)"),
            ((X, Y[:4]), "targets has 4"),
            ((["a", "b"], [0, 1]), "inputs has dtype <U1; whet trains on numbers"),
            ((np.array([{}, 1]), [0, 1]), "inputs has dtype object"),
            ((X, np.array(["cat"] * 10)), "targets has dtype <U3"),
            ({"x": X, "name": ["a"] * 10, "labels": Y}, r"the data\['name'\] has dtype"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, source: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            open_loader(source, 4)


class TestNumbers:
    def test_float64_becomes_the_default(self) -> None:
        for dtype in (np.float64, np.float32, np.float16, np.longdouble, ">f8", ">f4"):
            assert as_tensor(np.ones(3, dtype)).dtype == torch.float32
        assert as_tensor(np.ones(3, ">i8")).tolist() == [1, 1, 1]
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        try:
            assert as_tensor(np.ones(3, np.float32)).dtype == torch.float64
        finally:
            torch.set_default_dtype(before)

    def test_a_users_own_tensor_keeps_its_dtype(self) -> None:
        wide = X.double()
        assert as_tensor(wide) is wide

    def test_odd_memory(self) -> None:
        array = np.arange(6.0).reshape(3, 2)
        still = array.copy()
        still.setflags(write=False)
        assert as_tensor(array[::-1]).tolist() == [[4, 5], [2, 3], [0, 1]]
        assert as_tensor(still).tolist() == array.tolist()
        assert as_tensor(array.T).tolist() == array.T.tolist()

    def test_nothing_is_shared_with_the_users_array(self) -> None:
        for array in (np.ones(3, np.float32), np.ones(3, np.int64), np.ones(3, bool)):
            tensor = as_tensor(array)
            array[:] = 0
            assert tensor.sum() == 3

    def test_columns_of_several_kinds(self) -> None:
        frame = pd.DataFrame({"a": [1.5, 2.5], "b": [True, False], "c": [3, 4]})
        assert as_tensor(frame).tolist() == [[1.5, 1.0, 3.0], [2.5, 0.0, 4.0]]
        whole = pd.DataFrame({"b": [True, False], "c": [3, 4]})
        assert as_tensor(whole).dtype == torch.int64

    def test_nullable_columns(self) -> None:
        whole = pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": pd.array([3, 4], "Int64")})
        assert as_tensor(whole).tolist() == [[1, 3], [2, 4]]
        assert as_tensor(whole).dtype == torch.int64
        holed = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [3, 4]})
        assert as_tensor(holed)[1, 0].isnan()
        assert as_tensor(pd.Series([1, None], dtype="Int64"))[1].isnan()

    def test_columns_that_hold_no_numbers_are_named(self) -> None:
        frame = pd.DataFrame({"a": [1.0], "city": ["Rome"], "day": pd.to_datetime(["2020-01-01"])})
        with pytest.raises(InputError, match="columns city, day of the DataFrame hold no plain"):
            as_tensor(frame)
        with pytest.raises(InputError, match="column city of the DataFrame hold no plain"):
            open_loader((frame[["a", "city"]], [0]), 1)
        with pytest.raises(InputError, match="targets: column city of the Series"):
            open_loader((frame[["a"]], frame["city"]), 1)
        with pytest.raises(InputError, match="column kind"):
            as_tensor(pd.DataFrame({"kind": pd.Categorical(["x"])}))


class TestOrder:
    def test_epochs_differ_and_hold_every_row_once(self) -> None:
        loader = open_loader((X, Y), 4)
        orders = [[i for batch in seen(loader, epoch) for i in batch[2]] for epoch in range(3)]
        assert all(sorted(order) == list(range(10)) for order in orders)
        assert len({tuple(order) for order in orders}) == 3

    def test_a_function_of_seed_purpose_and_epoch(self) -> None:
        def order(seed: int, purpose: str) -> list[int]:
            return [i for batch in seen(open_loader((X, Y), 4, seed, purpose)) for i in batch[2]]

        assert order(0, "train") == order(0, "train")
        assert order(0, "train") != order(1, "train")
        assert order(0, "train") != order(0, "precise_bn")

    def test_without_shuffling(self) -> None:
        batches = seen(open_loader((X, Y), 4, shuffle=False), 5)
        assert [i for batch in batches for i in batch[2]] == list(range(10))

    def test_drop_last(self) -> None:
        loader = open_loader((X, Y), 4, drop_last=True)
        assert loader.batches == 2
        assert [len(batch[2]) for batch in seen(loader)] == [4, 4]
        assert open_loader((X, Y), 5, drop_last=True).batches == 2

    @pytest.mark.parametrize("start", range(5))
    def test_an_epoch_can_be_entered_anywhere(self, start: int) -> None:
        for source in ((X, Y), Augmented()):
            loader = open_loader(source, 3, seed=2)
            assert seen(loader, 1, start) == seen(loader, 1)[start:]

    def test_a_source_is_never_changed(self) -> None:
        x, y = X.clone(), Y.clone()
        frame, array = pd.DataFrame(X.numpy()), X.numpy().copy()
        samples = [(X[row].clone(), int(Y[row])) for row in range(10)]
        before = [(x.clone(), label) for x, label in samples]
        for source in ((x, y), (frame, y), (array, y), Batch(x, y), samples):
            for batch in open_loader(source, 4).epoch(0):
                batch.inputs.zero_()
                assert batch.targets is not None
                batch.targets.fill_(-1)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)
        assert np.array_equal(array, X.numpy())
        assert np.array_equal(frame.to_numpy(), X.numpy())
        assert all(
            torch.equal(a, b) and i == j for (a, i), (b, j) in zip(samples, before, strict=True)
        )


class TestFastPath:
    def test_a_batch_is_one_slice(self) -> None:
        """Whole arrays are indexed once per tensor and batch, not once per row."""
        calls = []

        class Watched(Tensor):
            @classmethod
            def __torch_function__(
                cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                if func in (Tensor.__getitem__, Tensor.index_select):
                    calls.append(func)
                return super().__torch_function__(func, types, args, kwargs or {})

        x = X.as_subclass(Watched)
        assert isinstance(open_rows((x, Y)), Arrays)
        list(open_loader((x, Y), 4).epoch(0))
        assert len(calls) == 3

    def test_a_dataset_is_asked_once_per_row(self) -> None:
        asked: list[int] = []

        class Asked(Augmented):
            def __getitem__(self, row: int) -> tuple[Tensor, int]:
                asked.append(row)
                return super().__getitem__(row)

        assert isinstance(open_rows(Asked()), Samples)
        loader = open_loader(Asked(), 4)
        batches = loader.epoch(0)
        assert not asked, "nothing is fetched before it is wanted"
        next(batches)
        assert len(asked) == 4
        list(batches)
        assert sorted(asked) == list(range(10))


class TestWorkers:
    @pytest.mark.parametrize("collate", [None, masking])
    def test_their_number_changes_nothing(self, collate: Any) -> None:
        alone = open_loader(Augmented(), 4, seed=5, collate=collate)
        for workers, prefetch in ((1, 1), (2, 4)):
            helped = open_loader(
                Augmented(), 4, seed=5, collate=collate, workers=workers, prefetch=prefetch
            )
            for epoch in range(2):
                assert seen(alone, epoch) == seen(helped, epoch)
                assert seen(alone, epoch, 1) == seen(helped, epoch, 1)
        assert seen(alone, 0) != seen(alone, 1)

    def test_an_epoch_is_entered_without_fetching_its_beginning(self) -> None:
        fetched = torch.zeros(10, dtype=torch.int64).share_memory_()

        class Watched(Augmented):
            def __getitem__(self, row: int) -> tuple[Tensor, int]:
                fetched[row] += 1
                return super().__getitem__(row)

        loader = open_loader(Watched(), 2, seed=5, workers=2)
        assert isinstance(loader, RowLoader)
        list(loader.epoch(1, 3))
        wanted = torch.zeros(10, dtype=torch.int64)
        wanted[loader.order(1)[6:]] = 1
        assert torch.equal(fetched, wanted)

    def test_prefetch_and_pinning_reach_the_pool(self) -> None:
        loader = open_loader(Augmented(), 4, workers=1, prefetch=3, pin=True)
        assert isinstance(loader, RowLoader)
        assert isinstance(loader.rows, Samples)
        pool = loader._open_pool(loader.rows)
        assert (pool.num_workers, pool.prefetch_factor, pool.pin_memory) == (1, 3, True)

    def test_the_users_generator_is_left_alone_by_the_pool(self) -> None:
        torch.manual_seed(1)
        before = torch.default_generator.get_state()
        list(open_loader(Augmented(), 4, workers=1).epoch(0))
        assert torch.equal(torch.default_generator.get_state(), before)

    def test_an_error_in_a_worker_leaves_a_loader_that_works(self) -> None:
        broken = torch.ones(1, dtype=torch.int64).share_memory_()

        class Broken(Augmented):
            def __getitem__(self, row: int) -> tuple[Tensor, int]:
                if broken[0] and row == 3:
                    raise RuntimeError("row 3 is torn")
                return super().__getitem__(row)

        loader = open_loader(Broken(), 4, workers=2)
        with pytest.raises(RuntimeError, match="row 3 is torn"):
            seen(loader)
        broken[0] = 0
        assert seen(loader) == seen(open_loader(Augmented(), 4))

    def test_a_killed_worker_is_replaced_in_the_next_epoch(self) -> None:
        fatal = torch.ones(1, dtype=torch.int64).share_memory_()

        class Fatal(Augmented):
            def __getitem__(self, row: int) -> tuple[Tensor, int]:
                if fatal[0] and row == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                return super().__getitem__(row)

        loader = open_loader(Fatal(), 4, workers=1)
        with pytest.raises(RuntimeError, match=r"worker.*killed|exited unexpectedly"):
            seen(loader)
        fatal[0] = 0
        assert seen(loader) == seen(open_loader(Augmented(), 4))

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            (DataLoader(Augmented()), "is a DataLoader, which has workers of its own: set its"),
            (Counted(), r"is a Counted, which alone knows.*DataLoader\(\.\.\., num_workers"),
        ],
    )
    def test_where_they_cannot_be_exact_they_are_refused(self, source: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            open_loader(source, 4, workers=2)

    def test_a_pool_left_in_mid_epoch(self) -> None:
        loader = open_loader(Augmented(), 2, workers=2)
        expected = seen(open_loader(Augmented(), 2))
        left = loader.epoch(0)
        next(left)
        assert seen(loader) == expected

    def test_samples_draw_anew_in_each_epoch_and_place(self) -> None:
        loader = open_loader([torch.zeros(1)] * 6, 3, collate=masked_noise)
        batches = [batch for epoch in range(2) for batch in seen(loader, epoch)]
        values = [tuple(row) for batch in batches for row in batch[0]]
        assert len(set(values)) == 12

    def test_the_users_generators_are_left_alone(self) -> None:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        expected = (torch.rand(1).item(), random.random(), np.random.rand())  # noqa: NPY002
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        list(open_loader(Augmented(), 4, collate=masking).epoch(0))
        assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected  # noqa: NPY002


def masked_noise(samples: list[Tensor]) -> Tensor:
    return torch.stack(samples) + torch.rand(len(samples), 1)


class TestStreams:
    def test_an_iterable_dataset(self) -> None:
        loader = open_loader(Counted(), 4)
        assert loader.batches is None
        assert [batch.size for batch in loader.epoch(0)] == [4, 4, 2]
        assert open_loader(Sized(), 4).batches == 3
        assert [b.size for b in open_loader(Sized(), 4, drop_last=True).epoch(0)] == [4, 4]

    def test_its_collate_function_is_used(self) -> None:
        [batch] = open_loader(
            Counted(), 10, collate=lambda some: (len(some) * torch.ones(2),)
        ).epoch(0)
        assert batch.inputs.tolist() == [10, 10]

    def test_a_ready_loader_keeps_its_users_order(self) -> None:
        ready = DataLoader(TensorDataset(X, Y), batch_size=3)
        loader = open_loader(ready, 64)
        assert loader.batches == 4
        rows = [row for batch in loader.epoch(0) for row in batch.inputs[:, 0].tolist()]
        assert rows == X[:, 0].tolist()
        sampler = torch.utils.data.SequentialSampler(range(9, -1, -1))
        backwards = DataLoader(TensorDataset(X.flip(0), Y), batch_size=3, sampler=sampler)
        rows = [row for b in open_loader(backwards, 1).epoch(2) for row in b.inputs[:, 0].tolist()]
        assert rows == X[:, 0].flip(0).tolist()

    def test_a_ready_loader_keeps_its_users_generator(self) -> None:
        def make() -> DataLoader[Any]:
            chance = torch.Generator().manual_seed(8)
            return DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, generator=chance)

        mine = [[x.tolist() for x, _ in loader] for loader in [make()] for _ in range(2)]
        loader = open_loader(make(), 1)
        assert mine == [[b.inputs.tolist() for b in loader.epoch(epoch)] for epoch in range(2)]

    def test_a_ready_loader_keeps_its_users_augmentation(self) -> None:
        ready = DataLoader(Augmented(), batch_size=4, shuffle=True, collate_fn=masking)
        loader = open_loader(ready, 1, seed=3)
        first = seen(loader)
        assert seen(loader) == first, "seeded by position"
        assert seen(loader, 1) != first
        assert first[0][0][0][1] != first[1][0][0][1]
        other = open_loader(DataLoader(Augmented(), batch_size=4, shuffle=True), 1, seed=4)
        assert seen(other)[0][0] != first[0][0]

    def test_training_between_batches_changes_nothing(self) -> None:
        for ready in (DataLoader(Augmented(), batch_size=4, shuffle=True), Counted(draws=True)):
            loader = open_loader(ready, 4, seed=3)
            expected = seen(loader)
            found = []
            for batch in loader.epoch(0):
                found.append(batch.inputs.tolist())
                torch.manual_seed(len(found))
                random.seed(len(found))
                np.random.seed(len(found))  # noqa: NPY002
            assert found == [batch[0] for batch in expected]

    def test_entering_in_the_middle_replays_the_beginning(self) -> None:
        loader = open_loader(DataLoader(Augmented(), batch_size=4, shuffle=True), 1)
        with pytest.warns(Replayed, match="the 2 before it again.*DataLoader does not say where"):
            assert seen(loader, 1, 2) == seen(loader, 1)[2:]

    def test_reading_aside_leaves_the_live_iterator_alone(self) -> None:
        """Persistent workers serve one iterator: a second one would end the first."""
        ready = DataLoader(Augmented(), batch_size=2, num_workers=1, persistent_workers=True)
        batches = open_loader(ready, 1).epoch(0)
        found = next(batches).inputs[:, 0].tolist()
        aside = open_loader(ready, 1, purpose="precise_bn")
        assert len(list(aside.epoch(0))) == 5
        found += [row for batch in batches for row in batch.inputs[:, 0].tolist()]
        assert found == list(range(10))

    def test_reading_aside_leaves_the_users_generator_alone(self) -> None:
        chance = torch.Generator().manual_seed(8)
        ready = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True, generator=chance)
        state = chance.get_state()
        for _ in open_loader(ready, 1, purpose="precise_bn").epoch(0):
            pass
        assert torch.equal(state, chance.get_state())
        for _ in open_loader(ready, 1, purpose="precise_bn").epoch(0):
            break  # and where it is left early
        assert torch.equal(state, chance.get_state())
        list(open_loader(ready, 1).epoch(0))
        assert not torch.equal(state, chance.get_state())

    def test_epochs_are_told_to_samplers_and_datasets(self) -> None:
        class Told(RandomSampler):
            told: list[int] = []  # noqa: RUF012

            def set_epoch(self, epoch: int) -> None:
                self.told.append(epoch)

        dataset = TensorDataset(X, Y)
        ready = DataLoader(dataset, batch_size=5, sampler=Told(dataset))
        for epoch in (0, 3):
            list(open_loader(ready, 1).epoch(epoch))
        list(open_loader(ready, 1, purpose="precise_bn").epoch(0))
        assert Told.told == [0, 3], "only training moves the epoch"


class TestEmpty:
    def test_rows(self) -> None:
        with pytest.raises(InputError, match="the data to train on is empty"):
            open_loader((X[:0], Y[:0]), 4)
        with pytest.raises(InputError, match="the data to select on is empty"):
            open_loader([], 4, purpose="select")

    def test_loader(self) -> None:
        nothing = DataLoader(TensorDataset(X[:2], Y[:2]), batch_size=4, drop_last=True)
        with pytest.raises(InputError, match=r"loader to train on gives no batch.*drop_last"):
            open_loader(nothing, 4)
        with pytest.raises(InputError, match="loader to train on gives no batch"):
            open_loader(DataLoader(TensorDataset(X[:0], Y[:0])), 4)

    def test_stream(self) -> None:
        with pytest.raises(InputError, match="gives no batch"):
            list(open_loader(Counted(0), 4).epoch(0))

    def test_drop_last_leaves_nothing(self) -> None:
        with pytest.raises(InputError, match="10 rows and batch_size 11"):
            open_loader((X, Y), 11, drop_last=True)

    def test_batch_size(self) -> None:
        with pytest.raises(InputError, match="batch_size is 0"):
            open_loader((X, Y), 0)


def test_kinds_of_loaders() -> None:
    assert isinstance(open_loader((X, Y), 4), RowLoader)
    assert isinstance(open_loader(Augmented(), 4), RowLoader)
    assert isinstance(open_loader(Counted(), 4), StreamLoader)
    assert isinstance(open_loader(DataLoader(Augmented()), 4), StreamLoader)
    opened = open_rows((X, Y))
    assert open_rows(opened) is opened


class TestFixed:
    def test_the_first_batches_in_every_epoch(self) -> None:
        loader = open_loader(Augmented(), 4, seed=3)
        fixed = Fixed(loader, 2)
        assert fixed.batches == 2
        assert seen(fixed) == seen(fixed, 7) == seen(loader)[:2]
        assert seen(fixed, 1, 1) == seen(loader)[1:2]

    def test_no_more_than_there_are(self) -> None:
        assert Fixed(open_loader((X, Y), 4), 100).batches == 3

    def test_a_model_that_writes_into_its_input_changes_nothing(self) -> None:
        fixed = Fixed(open_loader((X, Y), 4), 2)
        before = seen(fixed)
        for batch in fixed.epoch(0):
            batch.inputs.zero_()
        assert seen(fixed) == before
