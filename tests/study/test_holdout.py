"""Rows set aside: recognised by what they are, under every seed's split and encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.methods.traps import trap
from whet import Task, digests, holdout, rows, sources
from whet.errors import InputError

SHARE = 0.2
X = torch.randn(200, 3, generator=torch.Generator().manual_seed(5))
Y = torch.arange(200) % 2


class Rows(Dataset[Any]):
    def __init__(self, chosen: torch.Tensor, noise: float = 0.0) -> None:
        self.chosen, self.noise = chosen, noise

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, at: int) -> tuple[torch.Tensor, int]:
        row = int(self.chosen[at])
        return X[row] + self.noise * torch.randn(3), int(Y[row])


def split(seed: int) -> tuple[torch.Tensor, ...]:
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    return order.tensor_split((100, 150))


def task(seed: int, part: Callable[[torch.Tensor], Any], **given: Any) -> Task:
    return Task(torch.nn.Linear(3, 2), *map(part, split(seed)), **given)


def loader(chosen: torch.Tensor) -> DataLoader[Any]:
    return DataLoader(Rows(chosen), 16, shuffle=True, drop_last=True)


KINDS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensors": lambda c: (X[c], Y[c]),
    "arrays": lambda c: (X[c].numpy(), Y[c].numpy()),
    "mapping": lambda c: {"a": X[c][:, :1], "b": X[c][:, 1:], "labels": Y[c]},
    "tensor dataset": lambda c: TensorDataset(X[c], Y[c]),
    "subset": lambda c: Subset(TensorDataset(X, Y), c.tolist()),
    "dataset": Rows,
    "loader": loader,
}  # fmt: skip


def values(data: Any) -> set[float]:
    """What is in a part, each row by one of its numbers."""
    if isinstance(data, DataLoader):
        data = data.dataset
    opened = rows.open_rows(data)
    assert opened is not None
    found = opened.fetch(torch.arange(len(opened)), [0] * len(opened)).inputs
    first = found["a"][:, 0] if isinstance(found, dict) else found[:, 0]
    return set(first.tolist())


EVERY = set(X[:, 0].tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows_are_aside_under_every_seed(kind: str) -> None:
    aside = None
    for seed in (0, 1, 2000):
        made = task(seed, KINDS[kind])
        kept = holdout.without(made, SHARE)
        again = holdout.judged_aside(made, SHARE)
        there = [values(kept.part(name)) for name in ("train", "select", "judge")]
        judged = values(again.judge)
        assert judged | set.union(*there) == EVERY
        assert not judged & set.union(*there)
        assert values(again.train) == there[0]
        assert values(again.select) == there[1]
        assert aside is None or aside == judged
        aside = judged
    assert aside is not None
    assert 20 <= len(aside) <= 60  # a fifth of 200, as the digests fall
    assert type(kept.train) is type(again.train)


def test_all_kinds_recognise_the_same_rows() -> None:
    found = {kind: values(holdout.judged_aside(task(0, KINDS[kind]), SHARE).judge)
             for kind in KINDS if kind != "mapping"}  # fmt: skip
    assert len({frozenset(each) for each in found.values()}) == 1


def test_a_loader_stays_as_it_was() -> None:
    kept = holdout.without(task(0, loader), SHARE).train
    assert (kept.batch_size, kept.drop_last) == (16, True)
    assert isinstance(kept.sampler, torch.utils.data.RandomSampler)


def test_no_row_that_was_set_aside_is_dropped_at_the_end_of_a_loader() -> None:
    """The training part's loader drops what does not fill a batch; the judge part's does not."""
    train, select, judge = split(0)
    whole = DataLoader(Rows(judge), 16, collate_fn=lambda samples: samples)
    made = Task(torch.nn.Linear(3, 2), loader(train), loader(select), whole)
    judged = holdout.judged_aside(made, SHARE).judge
    assert isinstance(judged.sampler, torch.utils.data.SequentialSampler)
    assert (judged.drop_last, judged.collate_fn) == (False, whole.collate_fn)


def test_unlabelled_rows_are_taken_out_too() -> None:
    train, select, judge = split(0)
    free, train = train[:40], train[40:]
    parts = [(X[c], Y[c]) for c in (train, select, judge)]
    made = Task(torch.nn.Linear(3, 2), *parts, resources={"unlabelled": X[free], "other": 1})
    aside = values(holdout.judged_aside(task(0, KINDS["tensors"]), SHARE).judge)
    kept = holdout.without(made, SHARE)
    assert values(kept.resources["unlabelled"]) == set(X[free][:, 0].tolist()) - aside
    assert kept.resources["other"] == 1


@trap(right=lambda made: holdout.told(made, "train") < int(SHARE * 2**64),
      wrong=lambda made: np.arange(len(made.train[0])) < SHARE * len(made.train[0]))  # fmt: skip
def test_a_row_aside_under_one_seed_is_never_trained_on_under_another(aside: Any) -> None:
    """By position, what one seed sets aside another one trains on."""
    first, second = (task(seed, KINDS["tensors"]) for seed in (0, 1))
    out = {float(v) for v, gone in zip(first.train[0][:, 0], aside(first), strict=True) if gone}
    kept = {float(v) for v, gone in zip(second.train[0][:, 0], aside(second), strict=True)
            if not gone}  # fmt: skip
    assert not out & kept


def normalised(chosen: torch.Tensor) -> Any:
    return (X[chosen] - X[chosen].mean(0)), Y[chosen]


def augmented(chosen: torch.Tensor) -> Any:
    return Rows(chosen, noise=0.1)


def own(chosen: torch.Tensor) -> Any:
    return DataLoader(Rows(chosen), 8, sampler=WeightedRandomSampler([1.0] * len(chosen), 8))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (normalised, r"of seed 1's, 0% are found among seed 0's.*identities="),
        (augmented, r"the part 'train' of task: fetched twice.*augmented.*identities="),
        (own, r"the part 'train' of task aside: its DataLoader has a sampler of its own"),
        (lambda chosen: Stream(), r"a Stream gives them in its own order only"),
    ],
)
def test_what_cannot_be_recognised_is_refused(part: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        holdout.check(task(0, part), task(1, part), SHARE)


def test_a_large_dataset_is_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MOST", 99)
    with pytest.raises(InputError, match=r"fetch all 100 samples.*up to 99.*identities="):
        holdout.told(task(0, Rows), "train")
    assert len(holdout.told(task(0, KINDS["tensor dataset"]), "train")) == 100


def known(seed: int, part: Any) -> Task:
    names = ("train", "select", "judge")
    ids = {name: rows.tolist() for name, rows in zip(names, split(seed), strict=True)}
    return replace(task(seed, part), identities=ids)


@pytest.mark.parametrize("part", [normalised, augmented])
def test_identities_recognise_what_the_seed_encodes(part: Any) -> None:
    made = [known(seed, part) for seed in (0, 1)]
    told = holdout.check(made[0], made[1], SHARE)
    assert told["rows"] == 200
    ids = [{int(i) for name in ("train", "select", "judge")
            for i, gone in zip(m.identities[name], holdout.told(m, name) < int(SHARE * 2**64),
                               strict=True) if gone} for m in made]  # fmt: skip
    assert ids[0] == ids[1]
    assert len(ids[0]) == told["aside"]


def test_augmented_rows_are_not_judged() -> None:
    def parts(seed: int) -> Task:
        train, *_ = split(seed)
        made = known(seed, Rows)
        return replace(made, train=Rows(train, noise=0.1))

    judged = values(holdout.judged_aside(parts(0), SHARE).judge)
    assert judged <= EVERY  # a row that was augmented has another number
    assert 0 < len(judged) < holdout.check(parts(0), parts(1), SHARE)["aside"]


def test_one_group_stays_together() -> None:
    groups = {name: (rows % 20).tolist() for name, rows in
              zip(("train", "select", "judge"), split(0), strict=True)}  # fmt: skip
    made = replace(task(0, KINDS["tensors"]), identities=groups)
    found = {(g, bool(gone)) for name in groups
             for g, gone in zip(groups[name], holdout.told(made, name) < int(SHARE * 2**64),
                                strict=True)}  # fmt: skip
    assert len(found) == 20


@pytest.mark.parametrize(
    ("ids", "said"),
    [({"train": range(100)}, "none for the part 'select'"),
     ({"train": range(3)}, r"'train' are 3, and it has 100 rows")],
)  # fmt: skip
def test_identities_that_do_not_fit(ids: Any, said: str) -> None:
    made = replace(task(0, KINDS["tensors"]), identities=ids)
    with pytest.raises(InputError, match=said):
        holdout.check(made, made, SHARE)


def test_nothing_left_and_nothing_aside() -> None:
    few = Task(torch.nn.Linear(3, 2), *[(X[:1], Y[:1])] * 3)
    aside = holdout.told(few, "train")[0] < int(0.5 * 2**64)
    said = "leaves no row in the part 'train'" if aside else "sets no row of task aside"
    with pytest.raises(InputError, match=said):
        holdout.check(few, few, 0.5)


@pytest.mark.parametrize("name", ["digits", "churn", "intents"])
def test_the_built_in_tasks_are_recognised(name: str) -> None:
    source = sources.load(name)
    told = holdout.check(source.task(0), source.task(1), SHARE)
    assert told["aside"] / told["rows"] == pytest.approx(SHARE, abs=0.02)
