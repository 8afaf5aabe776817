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


class Pictures(nn.Sequential):
    """A classifier of pictures 32 x 32: patches of 4 x 4, convolutions over them, each normed."""

    def __init__(self, channels: int, layers: int) -> None:
        parts: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=4)]
        for number in range(layers):
            if number:
                parts.append(nn.Conv2d(channels, channels, 3, padding=1))
            parts += [nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


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
    said = f"embedding of {words} x {width}, {layers} transformer layers with dropout"
    return _work(
        f"{said}, batch {batch} of {length} tokens", lambda: Sentences(words, width, layers),
        lambda count, maker: torch.randint(words, (count, length), generator=maker), batch, steps,
    )  # fmt: skip


def pictures(channels: int, layers: int, batch: int, steps: int) -> Work:
    said = f"{layers} normed convolutions of {channels} channels over patches of 4 x 4"
    return _work(
        f"{said}, batch {batch} of 3 x 32 x 32", lambda: Pictures(channels, layers),
        lambda count, maker: torch.randn(count, 3, 32, 32, generator=maker), batch, steps,
    )  # fmt: skip


def numbers(setting: Setting) -> Work:
    return _work(
        f"MLP {'-'.join(map(str, setting.widths))}, batch {setting.batch}", lambda: mlp(setting),
        lambda count, maker: torch.randn(count, setting.widths[0], generator=maker),
        setting.batch, setting.steps,
    )  # fmt: skip


def _work(
    words: str, model: Callable[[], nn.Module],
    inputs: Callable[[int, torch.Generator], Tensor], batch: int, steps: int,
) -> Work:  # fmt: skip
    def made() -> nn.Module:
        torch.manual_seed(0)
        return model()

    @cache
    def rows() -> tuple[Tensor, Tensor]:
        maker, count = torch.Generator().manual_seed(0), batch * steps
        x = inputs(count, maker)
        return x, torch.randint(2, (count,), generator=maker)

    return Work(f"{words}, AdamW", made, rows, batch, steps)
