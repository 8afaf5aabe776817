"""Views made of what others wrote: augmentation libraries, and translations there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whet import mixing, seeding
from whet.errors import InputError


@dataclass(frozen=True)
class _Seeded:
    augmentation: Callable[[Tensor], Tensor]
    at: str

    def __call__(self, inputs: Any, generator: torch.Generator) -> Any:
        _, chosen = mixing.chosen("seeded", inputs, self.at)

        def change(name: str, leaf: Tensor) -> Tensor:
            return self.augmentation(leaf) if name in chosen else leaf

        with seeding.borrowed(int(torch.randint(1 << 62, (), generator=generator))):
            return mixing.map_named(change, inputs)


def seeded(
    augmentation: Callable[[Tensor], Tensor], at: str = "*"
) -> Callable[[Any, torch.Generator], Any]:
    """A view of an augmentation that draws from torch's own generator, as kornia's do.

    It draws by position too: the generators of torch and of Python's `random` are seeded for it,
    and are afterwards as they were. What draws once for a whole batch goes on doing so.

    Args:
        augmentation: from a batch's tensor to one with as many rows.
        at: which inputs, as in `images`.

    >>> view = seeded(lambda x: x + torch.rand(len(x), 1))
    >>> x = torch.zeros(2, 1)
    >>> torch.equal(*[view(x, torch.Generator().manual_seed(3)) for _ in range(2)])
    True
    """
    return _Seeded(augmentation, at)


@dataclass(frozen=True)
class _Translated:
    decode: Callable[[Tensor], Sequence[str]]
    translate: Callable[[list[str], torch.Generator], Sequence[str]]
    encode: Callable[[list[str]], Tensor]
    at: str
    padding: int

    def __call__(self, inputs: Any, generator: torch.Generator) -> Any:
        found, chosen = mixing.chosen("back_translation", inputs, self.at)
        if len(chosen) != 1 or len(found) != 1:
            raise InputError(
                f"back_translation: the inputs are {', '.join(found)}, and what goes with words "
                "(masks, types) has no place in another text. Let the model find padding in the "
                "ids alone."
            )
        return mixing.map_named(lambda name, leaf: self._again(leaf, generator), inputs)

    def _again(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        texts = [*self.translate([*self.decode(ids)], generator)]
        if len(texts) != len(ids):
            raise InputError(f"back_translation: {len(texts)} translations of {len(ids)} texts.")
        made = self.encode(texts).to(ids)[:, : ids.shape[1]]
        made = F.pad(made, (0, ids.shape[1] - made.shape[1]), value=self.padding)
        lost = made.eq(self.padding).all(1, keepdim=True)
        return torch.where(lost, ids, made)


def back_translation(
    decode: Callable[[Tensor], Sequence[str]],
    translate: Callable[[list[str], torch.Generator], Sequence[str]],
    encode: Callable[[list[str]], Tensor], *, at: str = "*", padding: int = 0,
) -> Callable[[Any, torch.Generator], Any]:  # fmt: skip
    """A view of texts that were translated into another language and back.

    Args:
        decode: from ids `(N, T)` to N texts.
        translate: there and back, from texts and a generator (for sampling) to as many texts;
            often a look-up in what was translated before training.
        encode: from texts to ids `(N, T')`, cut and padded to T.
        at: which input holds the ids.
        padding: its id. A row of which nothing is left keeps its own text.

    >>> words = ["", "good", "fine", "film"]
    >>> view = back_translation(
    ...     lambda ids: [" ".join(words[i] for i in row if i) for row in ids],
    ...     lambda texts, generator: [text.replace("good", "fine") for text in texts],
    ...     lambda texts: torch.tensor([[words.index(w) for w in text.split()] for text in texts]))
    >>> view(torch.tensor([[1, 3, 0]]), torch.Generator()).tolist()
    [[2, 3, 0]]
    """
    return _Translated(decode, translate, encode, at, padding)
