"""Light batches are gathered several at a time, and nobody can tell."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from whet import Run, Stage, Task
from whet.batch import Batch, leaves
from whet.loading import RowLoader
from whet.rows import LIGHT, TOGETHER, Arrays

ROWS, SIZE = 16 * (2 * TOGETHER + 3) + 5, 16  # two gathered times, a third that is short, a tail


def data(width: int = 8) -> dict[str, Any]:
    maker = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, width, generator=maker)
    y = torch.randint(3, (ROWS,), generator=maker)
    known = torch.rand(ROWS, generator=maker) > 0.2
    return {
        "tensor": Batch(x, y),
        "no targets": Batch(x),
        "tuple": Batch((x, [x[:, :4].contiguous()]), y),
        "mapping": Batch({"a": x, "empty": {}}, y),
        "mask, not aligned": Batch(x, y, known),
    }


def same(a: Batch, b: Batch) -> bool:
    ours, theirs = (
        [*(tensor for _, tensor in leaves(one.inputs)), one.targets, one.mask, one.indices]
        for one in (a, b)
    )
    return all(
        p is None if q is None else torch.equal(p, q) for p, q in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("kind", data())
@pytest.mark.parametrize("first", [0, 1, TOGETHER - 1, TOGETHER, 2 * TOGETHER + 1])
def test_the_same_batches_from_anywhere(kind: str, first: int) -> None:
    rows = Arrays(data()[kind])
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    expected = [rows.fetch(part, ()) for part in order.split(SIZE)][first:]
    batches = list(rows.in_turn(order, SIZE, first))
    assert len(batches) == len(expected)
    assert all(same(a, b) for a, b in zip(batches, expected, strict=True))


def test_a_batch_lies_where_it_lay_when_the_epoch_was_entered_in_the_middle() -> None:
    def places(start: int) -> list[int]:
        loader = RowLoader(Arrays(data()["tensor"]), SIZE)
        return [batch.inputs.storage_offset() for batch in loader.epoch(0, start)]

    whole = places(0)
    assert len(set(whole)) == TOGETHER
    assert all(offset * 4 % 64 == 0 for offset in whole)
    assert all(places(start) == whole[start:] for start in range(len(whole)))


@pytest.mark.parametrize(
    ("whole", "together"),
    [
        (Batch(torch.zeros(ROWS, LIGHT // SIZE // 4)), TOGETHER),
        (Batch(torch.zeros(ROWS, LIGHT // SIZE // 4 + 4)), 1),  # heavy
        (Batch(torch.zeros(ROWS, 8), None, torch.ones(ROWS, dtype=torch.bool)), 1),  # 16 bytes
    ],
)
def test_only_light_and_aligned_batches_are_gathered_together(whole: Batch, together: int) -> None:
    loader = RowLoader(Arrays(whole), SIZE)
    places = {batch.inputs.storage_offset() for batch in loader.epoch(0)}
    assert len(places) == together


def test_changing_a_batch_in_place_leaves_the_others_alone() -> None:
    """A model may write into its input, with a gradient even."""
    x, y = torch.ones(64, 8), torch.zeros(64, dtype=torch.long)

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            inputs *= self.scale
            return self.head(inputs)

    run = Run(Task(Scaled(), (x, y)), Stage(updates=4, batch_size=16), device="cpu").fit()
    assert run.updates == 4
    assert torch.equal(x, torch.ones(64, 8))
