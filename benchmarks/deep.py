"""What is trained where a method's cost is measured: deep enough that a step is mostly passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from benchmarks.engines import Setting, mlp

Batches = Iterator[tuple[Tensor, Tensor]]


class Sentences(nn.Module):
    """A classifier of token sequences: embedding, transformer layers, mean, logits.

    In place of ids it takes vectors, as hand-written attacks on embeddings give them.
    """

    def __init__(self, words: int, width: int, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        layer = nn.TransformerEncoderLayer
        self.body = nn.Sequential(
            *[layer(width, 2, 4 * width, batch_first=True) for _ in range(layers)]
        )
        self.head = nn.Linear(width, 2)

    def forward(self, given: Tensor) -> Tensor:
        vectors = given if given.is_floating_point() else self.words(given)
        return self.head(self.body(vectors).mean(1))


@dataclass(frozen=True)
class Work:
    """A model, the rows it learns, and how many batches of them are a chunk.

    Args:
        words: what it is, for notes.
        model: makes it, always the same.
        rows: makes inputs and classes, always the same; a chunk is one epoch of them.
        batch: rows of a batch.
        steps: batches of a chunk.
    """

    words: str
    model: Callable[[], nn.Module]
    rows: Callable[[], tuple[Tensor, Tensor]]
    batch: int
    steps: int

    def batches(self) -> Batches:
        """An epoch in a new order: the rows are sliced by a permutation."""
        x, y = self.rows()
        for rows in torch.randperm(len(x)).split(self.batch):
            yield x[rows], y[rows]


def sentences(words: int, width: int, layers: int, batch: int, length: int, steps: int) -> Work:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return Sentences(words, width, layers)

    @cache
    def rows() -> tuple[Tensor, Tensor]:
        maker, count = torch.Generator().manual_seed(0), batch * steps
        ids = torch.randint(words, (count, length), generator=maker)
        return ids, torch.randint(2, (count,), generator=maker)

    said = (
        f"embedding of {words} x {width}, {layers} transformer layers with dropout, batch {batch} "
        f"of {length} tokens, AdamW"
    )
    return Work(said, model, rows, batch, steps)


def numbers(setting: Setting) -> Work:
    @cache
    def rows() -> tuple[Tensor, Tensor]:
        maker, count = torch.Generator().manual_seed(0), setting.batch * setting.steps
        x = torch.randn(count, setting.widths[0], generator=maker)
        return x, torch.randint(setting.widths[-1], (count,), generator=maker)

    return Work(setting.words, lambda: mlp(setting), rows, setting.batch, setting.steps)
