"""Studies on fractions of the data: which rows, which arms, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from whet import Batch, Study, Task, composition, rows, subset
from whet.errors import InputError
from whet.methods import catalogue
from whet.study import arms, design, fractions, node, trie
from whet.study.plan import BASELINE, Arm, Node


def task(train: Any, objective: str = "categorical") -> Task:
    return Task(torch.nn.Linear(1, 3), train, train, train, objective)


class TestRows:
    classes = np.repeat([0, 1, 2, 3], [500, 300, 150, 7])

    def rows(self, fraction: float, seed: int = 0) -> list[int]:
        return subset.beginning(len(self.classes), fraction, self.classes, seed).tolist()

    def test_a_fraction_is_within_every_larger_one(self) -> None:
        before: set[int] = set()
        for fraction in (0.001, 0.01, 0.05, 0.1, 0.5, 1.0):
            here = self.rows(fraction)
            assert len(set(here)) == len(here)
            assert before <= set(here)
            before = set(here)
        assert len(before) == len(self.classes)

    def test_every_class_has_its_share_to_within_one_row(self) -> None:
        for fraction in (0.02, 0.1, 0.33, 0.8):
            here = self.rows(fraction)
            assert len(here) == round(fraction * len(self.classes))
            shares = np.bincount(self.classes[here], minlength=4)
            wanted = np.bincount(self.classes) * fraction
            assert (np.abs(shares - wanted) <= 1.5).all(), (shares, wanted)

    def test_no_class_is_absent(self) -> None:
        assert sorted(self.classes[self.rows(0.001)].tolist()) == [0, 1, 2, 3]

    def test_without_stratification_a_rare_class_would_be_absent(self) -> None:
        """The wrong way: a random draw."""
        lacking = [
            len(np.unique(self.classes[subset.beginning(957, 0.02, None, seed)])) < 4
            for seed in range(20)
        ]
        assert np.mean(lacking) > 0.5

    def test_rows_are_drawn_from_the_seed(self) -> None:
        assert self.rows(0.1, 1) == self.rows(0.1, 1)
        assert set(self.rows(0.1, 1)) != set(self.rows(0.1, 2))

    def test_rows_do_not_depend_on_the_order_of_the_classes_numbers(self) -> None:
        """A class's rows are drawn at random and not in the order they stand in."""
        first = [min(self.rows(0.02, seed)) for seed in range(10)]
        assert len(set(first)) > 5

    @given(
        sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
        fraction=st.floats(0.001, 1.0), seed=st.integers(0, 99),
    )  # fmt: skip
    @settings(max_examples=60, deadline=None)
    def test_any_classes(self, sizes: list[int], fraction: float, seed: int) -> None:
        classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
        whole = subset.order(len(classes), classes, seed)
        assert sorted(whole.tolist()) == list(range(len(classes)))
        here = subset.beginning(len(classes), fraction, classes, seed)
        assert len(here) == max(len(sizes), round(fraction * len(classes)))
        assert set(classes[here].tolist()) == set(range(len(sizes)))


class Labelled(Dataset[Any]):
    """A Dataset that says its targets; reading a sample would be an error here."""

    def __init__(self) -> None:
        self.targets = [0] * 50 + [1] * 40 + [2] * 10

    def __len__(self) -> int:
        return 100

    def __getitem__(self, row: int) -> Any:
        raise AssertionError("samples are not read")


X, Y = torch.arange(100.0)[:, None], torch.tensor(Labelled().targets)


class TestData:
    def targets(self, train: Any, objective: str = "categorical") -> tuple[list[int], Any]:
        """How many rows of each class a fifth has, and the part."""
        part = subset.of(task(train, objective), 0.2, 3).train
        opened = rows.open_rows(part)
        assert opened is not None
        every = opened.fetch(torch.arange(len(opened)), [0] * len(opened))
        return torch.bincount(Y[every.inputs.flatten().long()], minlength=3).tolist(), every

    @pytest.mark.parametrize(
        "train",
        [
            (X, Y), (X.numpy(), Y.numpy()), {"inputs": X, "labels": Y}, Batch(X, Y),
            TensorDataset(X, Y), Subset(TensorDataset(X, Y), list(range(100))),
            [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        ],
        ids=lambda train: type(train).__name__,
    )  # fmt: skip
    def test_classes_are_found_in_whatever_holds_the_rows(self, train: Any) -> None:
        if isinstance(train, dict):
            part = subset.of(task(train), 0.2, 3).train
            counts, targets = torch.bincount(part.targets).tolist(), part.targets
        else:
            counts, every = self.targets(train)
            targets = every.targets
            assert torch.equal(Y[every.inputs.flatten().long()], targets)
        assert counts == [10, 8, 2]
        assert len(targets) == 20

    def test_a_dataset_is_cut_without_reading_its_samples(self) -> None:
        part = subset.of(task(Labelled()), 0.2, 3).train
        assert isinstance(part, Subset)
        assert np.bincount(np.array(part.dataset.targets)[part.indices]).tolist() == [10, 8, 2]

    def test_the_same_rows_whatever_holds_them(self) -> None:
        found = [self.targets(train)[1].inputs for train in ((X, Y), TensorDataset(X, Y))]
        assert torch.equal(*found)

    def test_real_targets_are_drawn_at_random(self) -> None:
        counts, every = self.targets((X, Y.float()), "real")
        assert len(every.inputs) == 20
        assert sum(counts) == 20

    def test_rows_without_a_target_are_a_kind_of_their_own(self) -> None:
        batch = Batch(X, Y, mask=torch.arange(100) % 2 == 0)
        part = subset.of(task(batch), 0.1, 0).train
        assert part.mask.sum() == 5
        assert set(part.targets[part.mask].tolist()) == {0, 1, 2}

    def test_the_rest_of_the_task_is_as_it_was(self) -> None:
        whole = Task(torch.nn.Linear(1, 3), (X, Y), (X, Y), (X, Y), resources={"unlabelled": X})
        part = subset.of(whole, 0.2, 0)
        assert part.model is whole.model
        assert part.judge is whole.judge
        assert part.resources["unlabelled"] is X
        assert subset.of(whole, 1.0, 0) is whole
        assert subset.of(whole, None, 0) is whole

    def test_data_whose_rows_cannot_be_chosen_is_refused(self) -> None:
        class Stream(IterableDataset[Any]):
            def __iter__(self) -> Any:
                raise AssertionError("nothing is read")

        loader = DataLoader(TensorDataset(X, Y))
        for train, kind, remedy in (
            (loader, "DataLoader", "the Dataset that it reads"),
            (Stream(), "Stream", "a Dataset with a length"),
            (iter([1]), "list_iterator", "a Dataset with a length"),
        ):
            said = subset.refusal(task(train))
            assert said is not None
            assert kind in said
            assert remedy in said
            assert "leave --data out" in said
            with pytest.raises(InputError, match=kind):
                subset.of(task(train), 0.5, 0)
        assert subset.refusal(task((X, Y))) is None


class TestArms:
    @pytest.mark.parametrize(
        ("text", "said"),
        [("", "names no fraction"), ("0.1,0.10", "names 0.1 twice"), ("0", "is no fraction"),
         ("1.5", "is no fraction"), ("half", "is no fraction"), ("nan", "is no fraction")],
    )  # fmt: skip
    def test_mistakes_are_named(self, text: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            fractions.parse(text)

    def made(self, kind: str, data: str, when: str = "whole") -> design.Design:
        singles = arms.parse("ema,sam", catalogue())
        found, _ = design.placed(singles, [when], catalogue())
        return fractions.spread(design.designed(kind, found), fractions.parse(data))

    def test_every_fraction_has_a_baseline_of_its_own(self) -> None:
        made = self.made("add-one", "0.1,1")
        assert [(arm.name, arm.reference, arm.data) for arm in made.arms] == [
            ("baseline", "baseline", 1.0), ("ema", "baseline", 1.0), ("sam", "baseline", 1.0),
            ("baseline@data=0.1", "baseline", 0.1), ("ema@data=0.1", "baseline@data=0.1", 0.1),
            ("sam@data=0.1", "baseline@data=0.1", 0.1),
        ]  # fmt: skip
        assert made.contrasts == {
            "data": {"baseline@data=0.1": {"baseline@data=0.1": 1.0, "baseline": -1.0}}
        }
        assert "0.1 and 1 of the training part" in made.notes[0]
        assert "as many updates as with all data" in made.notes[0]

    def test_the_baseline_on_all_data_is_always_there(self) -> None:
        made = self.made("add-one", "0.1")
        assert [arm.name for arm in made.arms] == [
            "baseline", "baseline@data=0.1", "ema@data=0.1", "sam@data=0.1"
        ]  # fmt: skip

    def test_all_of_the_data_is_no_other_study(self) -> None:
        assert self.made("pairs", "1") == self.made("pairs", "1.0")
        assert [arm.name for arm in self.made("pairs", "1").arms] == [
            "baseline", "ema", "sam", "ema+sam"
        ]  # fmt: skip

    def test_other_designs_on_every_fraction(self) -> None:
        made = self.made("pairs", "0.5,1", "end")
        assert made.arms[-1].name == "ema@end+sam@end@data=0.5"
        assert made.arms[-1].reference == "baseline@data=0.5"
        assert made.contrasts["interactions@data=0.5"] == {
            "ema@end × sam@end@data=0.5": {
                "ema@end+sam@end@data=0.5": 1.0, "ema@end@data=0.5": -1.0,
                "sam@end@data=0.5": -1.0, "baseline@data=0.5": 1.0,
            }
        }  # fmt: skip

    def test_arms_of_different_data_share_no_training(self) -> None:
        made = self.made("add-one", "0.1,1", "end")

        def make(arm: Arm, seed: int) -> Node:
            return Node("toy", arm.name, arm.methods, seed, {"data": arm.data})

        nodes = trie.grown(made.arms, [0], make)
        trunks = {each.key: each for each in nodes if each.until is not None}
        assert sorted(each.options["data"] for each in trunks.values()) == [0.1, 1.0]
        assert len({each.arm for each in trunks.values()}) == 2
        for each in trie.judged(nodes):
            assert each.parent is not None
            assert trunks[each.parent].options == each.options
        assert trie.cost(nodes) == 2 * (0.75 + 3 * 0.25)


def test_a_node_trains_on_its_fraction_for_as_long(tmp_path: Path) -> None:
    options = {"updates": 12, "data_fraction": 0.1}
    seen: set[int] = set()
    make = composition.Run

    class Watched(make):  # type: ignore[misc, valid-type]
        def fit(self, *given: Any) -> Any:
            seen.add(len(rows.open_rows(self.task.train)))
            return super().fit(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(composition, "Run", Watched)
        less = node.train(Node("digits", BASELINE, (), 0, options), tmp_path / "less")
    whole = node.train(Node("digits", BASELINE, (), 0, {"updates": 12}), tmp_path / "whole")
    train = len(node.sources.load("digits").task(0).train[0])
    assert seen == {round(0.1 * train)}
    assert less["updates"] == whole["updates"] == 12
    assert less["metrics"]["judge"] != whole["metrics"]["judge"]


def clouds(seed: int) -> Task:
    """Two clouds."""
    y = torch.arange(90) % 2
    x = torch.randn(90, 2) + y[:, None]
    return Task(torch.nn.Linear(2, 2), *[(x[a : a + 30], y[a : a + 30]) for a in (0, 30, 60)])


clouds.about = {"epochs": 3, "batch_size": 10}  # type: ignore[attr-defined]


def test_a_study_on_fractions_of_the_data(tmp_path: Path) -> None:
    study = Study(
        clouds, methods=["ema"], data=[0.2, 1], seeds=3, out=tmp_path, console=Console(quiet=True)
    )
    found = study.run()
    assert [each.arm for each in found.comparisons] == ["ema"]
    assert [family.key for family in found.further] == ["baseline@data=0.2", "data"]
    assert found.leaving == []
    told = [(each.fraction, each.arm, each.comparison.n) for each in found.by_data]
    assert told == [(0.2, "ema", 3), (1.0, "ema", 3)]
    lengths = {row["arm"]: row["updates"] for row in found.rows}
    assert set(lengths.values()) == {9}, "as many updates as with all data"
    page = found.report.read_text(encoding="utf-8")
    assert "Gain over baseline@data=0.2" in page
    assert "What less data costs" in page
    again = study.run()
    assert [row["key"] for row in again.rows] == [row["key"] for row in found.rows]


def test_a_ready_loader_is_refused_before_training(tmp_path: Path) -> None:
    def loaded(seed: int) -> Task:
        loader = DataLoader(TensorDataset(X, Y), batch_size=10)
        return Task(torch.nn.Linear(1, 3), loader, (X, Y), (X, Y))

    loaded.about = {"updates": 3}  # type: ignore[attr-defined]
    study = Study(loaded, methods=["ema"], data="0.5", out=tmp_path, console=Console(quiet=True))
    with pytest.raises(InputError, match=r"DataLoader, whose rows cannot be chosen"):
        study.run()
    assert not (tmp_path / "study.json").exists()
