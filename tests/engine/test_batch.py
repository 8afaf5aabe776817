"""Batches: what they are read from, what they refuse, and how they are cut and joined."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from whet.batch import Batch, join_leaves, leaves, map_leaves
from whet.errors import InputError

X, Y = torch.arange(12.0).view(4, 3), torch.tensor([0, 1, 2, 1])
IDS = torch.arange(8).view(4, 2)


class TestReading:
    def test_pair(self) -> None:
        for raw in ((X, Y), [X, Y]):
            batch = Batch.of(raw)
            assert batch.inputs is X
            assert batch.targets is Y

    def test_inputs_alone(self) -> None:
        for raw in (X, (X,), [X]):
            batch = Batch.of(raw)
            assert batch.inputs is X
            assert batch.targets is None

    @pytest.mark.parametrize("key", ["labels", "label", "targets", "target"])
    def test_mapping(self, key: str) -> None:
        raw = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), key: Y}
        batch = Batch.of(raw)
        assert batch.targets is Y
        assert set(batch.inputs) == {"input_ids", "attention_mask"}
        assert key in raw, "the user's own mapping stays whole"

    def test_mapping_without_labels(self) -> None:
        assert Batch.of({"input_ids": IDS}).targets is None

    def test_batch_encoding(self) -> None:
        from transformers import BatchEncoding

        encoding = BatchEncoding({"input_ids": IDS, "labels": Y})
        batch = Batch.of(encoding)
        assert type(batch.inputs) is dict
        assert batch.targets is Y
        assert batch.size == 4

    def test_a_batch_stays_itself_or_gets_indices(self) -> None:
        batch = Batch(X, Y)
        assert Batch.of(batch) is batch
        rows = torch.tensor([7, 8, 9, 10])
        assert Batch.of(batch, rows).indices is rows
        assert batch.indices is None

    def test_indices(self) -> None:
        rows = torch.arange(4)
        for raw in ((X, Y), {"x": X, "labels": Y}, X):
            assert Batch.of(raw, rows).indices is rows

    def test_nests(self) -> None:
        nest = {"a": (X, [IDS, IDS + 1]), "b": X + 1}
        batch = Batch.of((nest, Y))
        paths = [path for path, _ in leaves(batch.inputs)]
        assert paths == [
            "inputs['a'][0]",
            "inputs['a'][1][0]",
            "inputs['a'][1][1]",
            "inputs['b']",
        ]
        assert batch.size == 4

    @pytest.mark.parametrize("raw", [(X, Y, X), 3, "text", None, []])
    def test_what_is_no_batch(self, raw: Any) -> None:
        with pytest.raises(InputError, match="cannot read a batch from a"):
            Batch.of(raw)


class TestRefusals:
    """Each names the leaf."""

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: Batch(X, Y[:3]), r"inputs has 4 rows and targets has 3 \(shape \(3,\)\)"),
            (lambda: Batch({"a": X, "b": IDS[:2]}), r"inputs\['a'\] has 4 rows and inputs\['b'\]"),
            (lambda: Batch((X, (IDS, IDS[:1]))), r"inputs\[1\]\[1\] has 1"),
            (lambda: Batch(X, Y, indices=torch.arange(5)), "indices has 5"),
            (lambda: Batch(X, Y, mask=torch.ones(3, dtype=torch.bool)), "mask has 3"),
            (lambda: Batch(torch.tensor(1.0)), r"inputs of the batch has no rows \(shape \(\)\)"),
            (lambda: Batch({"x": X, "t": torch.tensor(0.1)}), r"inputs\['t'\] of the batch has no"),
            (lambda: Batch(X, torch.tensor(1)), "targets of the batch has no rows"),
            (lambda: Batch({}), "its inputs are empty"),
            (lambda: Batch({}, Y), "its inputs are empty"),
            (lambda: Batch((), Y), "its inputs are empty"),
            (lambda: Batch(X, [0, 1, 2, 1]), "targets of the batch is a list"),  # type: ignore[arg-type]
            (lambda: Batch(X, Y.numpy()), "targets of the batch is a ndarray"),  # type: ignore[arg-type]
            (lambda: Batch(np.zeros((4, 2)), Y), "inputs is a ndarray"),
            (lambda: Batch({"text": ["a", "b"]}), r"inputs\['text'\]\[0\] is a str"),
            (lambda: Batch(X, Y, mask=torch.tensor([1, 1, 0, 1])), "mask of the batch has dtype"),
            (lambda: Batch(X, Y, mask=torch.ones(4, 1, dtype=torch.bool)), r"it is bool \(N,\)"),
            (lambda: Batch.of([(X, Y), (X, Y)]), "targets of the batch is a tuple"),
        ],
    )
    def test_named(self, make: Callable[[], Batch], words: str) -> None:
        with pytest.raises(InputError, match=words):
            make()


class TestCutting:
    def whole(self) -> Batch:
        mask = torch.tensor([True, False, True, True])
        return Batch({"x": X, "ids": (IDS,)}, Y, mask, torch.tensor([9, 8, 7, 6]))

    def test_take_rows(self) -> None:
        part = self.whole().take(torch.tensor([2, 0]))
        assert torch.equal(part.inputs["x"], X[[2, 0]])
        assert torch.equal(part.inputs["ids"][0], IDS[[2, 0]])
        assert part.targets is not None
        assert part.mask is not None
        assert part.indices is not None
        assert part.targets.tolist() == [2, 0]
        assert part.mask.tolist() == [True, True]
        assert part.indices.tolist() == [7, 9]

    def test_take_a_slice_and_a_mask(self) -> None:
        assert self.whole().take(slice(1, 3)).size == 2
        rows = torch.tensor([False, True, False, True])
        assert self.whole().take(rows).rows_with_target().tolist() == [False, True]

    @pytest.mark.parametrize(("size", "sizes"), [(1, [1] * 4), (3, [3, 1]), (4, [4]), (9, [4])])
    def test_split(self, size: int, sizes: list[int]) -> None:
        parts = self.whole().split(size)
        assert [part.size for part in parts] == sizes
        again = Batch.join(parts)
        for (_, a), (_, b) in zip(leaves(again.inputs), leaves(self.whole().inputs), strict=True):
            assert torch.equal(a, b)
        for name in ("targets", "mask", "indices"):
            assert torch.equal(getattr(again, name), getattr(self.whole(), name))

    def test_map_and_to(self) -> None:
        def double(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        mapped = self.whole().map(double)
        assert mapped.inputs["x"].dtype == torch.float64
        assert self.whole().to("meta").device.type == "meta"
        assert self.whole().inputs["x"].dtype == torch.float32

    def test_replace_checks_again(self) -> None:
        assert self.whole().replace(targets=None).targets is None
        with pytest.raises(InputError, match="targets has 2"):
            self.whole().replace(targets=Y[:2])


class TestJoining:
    def test_all_have_targets(self) -> None:
        joined = Batch.join([Batch(X, Y), Batch(X + 1, Y)])
        assert joined.size == 8
        assert joined.mask is None
        assert joined.targets is not None
        assert joined.targets.tolist() == [*Y.tolist(), *Y.tolist()]

    def test_some_have_none(self) -> None:
        joined = Batch.join([Batch(X, Y), Batch(X[:2])])
        assert joined.rows_with_target().tolist() == [True] * 4 + [False] * 2
        assert joined.targets is not None
        assert joined.targets.dtype == torch.int64

    def test_none_has_any(self) -> None:
        joined = Batch.join([Batch(X), Batch(X)])
        assert joined.targets is None
        assert not joined.rows_with_target().any()

    def test_masks_are_kept(self) -> None:
        mask = torch.tensor([False, True, True, True])
        joined = Batch.join([Batch(X, Y, mask), Batch(X, Y)])
        assert joined.rows_with_target().tolist() == [False] + [True] * 7

    def test_indices_only_where_all_have_them(self) -> None:
        known, unknown = Batch(X, Y, indices=torch.arange(4)), Batch(X, Y)
        joined = Batch.join([known, known])
        assert joined.indices is not None
        assert joined.indices.tolist() == [0, 1, 2, 3] * 2
        assert Batch.join([known, unknown]).indices is None
        assert Batch.join([unknown, Batch(X)]).indices is None

    def test_soft_targets(self) -> None:
        soft = torch.full((4, 3), 1 / 3)
        joined = Batch.join([Batch(X, soft), Batch(X[:1])])
        assert joined.targets is not None
        assert joined.targets.shape == (5, 3)

    def test_nests(self) -> None:
        nest = {"a": (X, IDS), "b": [X]}
        joined = join_leaves([nest, nest])
        assert joined["a"][1].shape == (8, 2)
        assert joined["b"][0].shape == (8, 3)
        with pytest.raises(ValueError, match="shorter"):
            join_leaves([(X, X), (X,)])


def test_known_targets_blank_what_rows_without_target_hold() -> None:
    reals = torch.tensor([[1.0], [float("nan")], [2.0], [3.0]])
    mask = torch.tensor([True, False, True, True])
    assert Batch(X, reals, mask).known_targets().flatten().tolist() == [1.0, 0.0, 2.0, 3.0]
    assert Batch(X, Y).known_targets() is Y
    with pytest.raises(InputError, match="no targets"):
        Batch(X).known_targets()


def test_map_leaves_makes_plain_dicts() -> None:
    given = OrderedDict(a=X, b=[Y])
    mapped = map_leaves(lambda tensor: tensor + 1, given)
    assert type(mapped) is dict
    assert torch.equal(mapped["b"][0], Y + 1)
    assert torch.equal(given["a"], X)
