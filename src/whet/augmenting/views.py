"""Weak and strong views by kind of input, of a strength that a study can grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whet import mixing, settings
from whet.augmenting import pictures, sounds, tables, words
from whet.errors import InputError
from whet.settings import choice, number

KINDS = ("images", "spectrograms", "waveforms", "tokens", "table")
_DIMS = {"images": (4,), "spectrograms": (3, 4), "waveforms": (2, 3)}
_SHAPES = {
    "images": "(N, C, H, W)", "spectrograms": "(N, F, T) or (N, C, F, T)",
    "waveforms": "(N, T) or (N, C, T)",
}  # fmt: skip


@dataclass(frozen=True)
class View:
    """A function `(inputs, generator) -> inputs`; made by `images` and the others.

    Args:
        kind: one of `KINDS`.
        policy: `weak` or `strong`.
        strength: in [0, 1]; 0 changes nothing.
        at: which inputs: `*` for all, a name or glob over the keys of a mapping, a position.
        flip: whether images may be mirrored.
        valid_range: of images, what the strong set is clipped to.
        padding: of tokens, its id.
        special: of tokens, ids that stay where they are.
        std: of a table's numbers, a column's deviation.

    Raises:
        InputError: a setting out of range; an input of another kind.
    """

    kind: str = choice("images", *KINDS)
    policy: str = choice("weak", "weak", "strong")
    strength: float = number(default=0.5, low=0.0, high=1.0)
    at: str = "*"
    flip: bool = True
    valid_range: Any = None
    padding: int = 0
    special: Sequence[int] = ()
    std: float = number(default=1.0, low=0.0, open_low=True)

    def __post_init__(self) -> None:
        for field in settings.fields(type(self)):
            allowed, value = field.metadata.get("range"), getattr(self, field.name)
            if allowed is not None and not allowed.holds(value):
                raise InputError(f"{self.kind}: {field.name} is {value!r}; it must be {allowed}.")

    def __call__(self, inputs: Any, generator: torch.Generator | None = None) -> Any:
        """The inputs with what `at` names augmented, row by row; new tensors."""
        if self.strength == 0.0:
            return inputs
        found, chosen = mixing.chosen(self.kind, inputs, self.at)
        if self.kind == "tokens":
            changed = self._words(found, chosen, generator)
        else:
            self._check(chosen)
            changed = {n: self._changed(n, leaf, generator) for n, leaf in chosen.items()}
        return mixing.map_named(changed.get, inputs)

    def _changed(self, name: str, leaf: Tensor, generator: torch.Generator | None) -> Tensor:
        given = (leaf, self.policy, self.strength, generator)
        if self.kind == "images":
            ends = self.valid_range
            ends = ends.get(name) if isinstance(ends, Mapping) else ends
            return pictures.augmented(*given, flip=self.flip, valid_range=ends)
        if self.kind == "table":
            return tables.augmented(*given, std=self.std)
        return getattr(sounds, self.kind)(*given)  # type: ignore[no-any-return]

    def _words(
        self, found: Mapping[str, Tensor], chosen: Mapping[str, Tensor],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:  # fmt: skip
        named = [name for name in chosen if name.endswith("input_ids")] or [*chosen]
        if len(named) > 1:
            raise InputError(
                f"tokens: at={self.at!r} names several inputs ({', '.join(named)}). Name the ids; "
                "what has their shape goes with them."
            )
        [name] = named
        ids = found[name]
        if ids.ndim != 2 or ids.is_floating_point():
            raise InputError(
                f"tokens: {_called(name)} has shape {tuple(ids.shape)} and dtype {ids.dtype}; "
                "words are swapped in ids (N, T). Name them by at=..."
            )
        others = {k: v for k, v in found.items() if k != name and v.shape == ids.shape}
        about = {"padding": self.padding, "special": tuple(self.special)}
        ids, others = words.augmented(ids, others, self.policy, self.strength, generator, **about)  # type: ignore[arg-type]
        return {name: ids, **others}

    def _check(self, chosen: Mapping[str, Tensor]) -> None:
        floating = {name for name, leaf in chosen.items() if leaf.is_floating_point()}
        if self.kind == "table":
            if not floating and self.policy == "weak":
                raise InputError(
                    "table: the weak set is noise, and of categories there is none. Name numbers "
                    "by at=..., or use policy='strong', which swaps values between rows."
                )
            return
        for name, leaf in chosen.items():
            if name not in floating or leaf.ndim not in _DIMS[self.kind]:
                raise InputError(
                    f"{self.kind}: {_called(name)} has shape {tuple(leaf.shape)} and dtype "
                    f"{leaf.dtype}; {self.kind} are floating {_SHAPES[self.kind]}. Name them by "
                    "at=..., or convert them in the Dataset."
                )


def _called(name: str) -> str:
    return f"input {name!r}" if name else "the input"


def images(
    policy: str = "weak", strength: float = 0.5, *, at: str = "*", flip: bool = True,
    valid_range: Any = None,
) -> View:  # fmt: skip
    """A view of images `(N, C, H, W)`.

    `weak`: mirrored or not, and shifted by up to strength / 4 of the sides, reflected at the edge.
    `strong`: that, then two of: turned (up to 30 degrees times strength), sheared (0.3) along
    either side, brighter or darker (half the image's range), more or less contrast (0.9), nothing;
    then a box of up to half of the area times strength is erased. FixMatch's own sizes are a
    strength of 0.5 for `weak`. kornia's RandAugment and others become views by `seeded`.

    Args:
        policy: `weak` or `strong`.
        strength: in [0, 1].
        at: which inputs.
        flip: False where a mirror image is another thing (digits, text, left and right).
        valid_range: `(low, high)`, numbers or one for each channel, as the model sees images; the
            strong set is clipped to it.

    >>> weak, strong = images("weak"), images("strong", 0.8, flip=False)
    >>> strong(torch.rand(5, 3, 8, 8), torch.Generator().manual_seed(0)).shape
    torch.Size([5, 3, 8, 8])
    """
    return View("images", policy, strength, at, flip=flip, valid_range=valid_range)


def spectrograms(policy: str = "weak", strength: float = 0.5, *, at: str = "*") -> View:
    """A view of spectrograms `(N, F, T)` or `(N, C, F, T)`.

    `weak`: earlier or later by up to 0.2 strength of the time. `strong`: that, and SpecAugment's
    masks, two of up to 0.3 strength of the bands and two of 0.2 strength of the time, in the mean.

    >>> spectrograms("strong")(torch.rand(5, 8, 20), torch.Generator()).shape
    torch.Size([5, 8, 20])
    """
    return View("spectrograms", policy, strength, at)


def waveforms(policy: str = "weak", strength: float = 0.5, *, at: str = "*") -> View:
    """A view of waveforms `(N, T)` or `(N, C, T)`.

    `weak`: earlier or later by up to 0.2 strength of the time, silence coming in. `strong`: that,
    up to 6 decibels times strength louder or softer, noise of up to a tenth of the wave's root mean
    square, and silence for up to 0.2 strength of the time.

    >>> waveforms("strong")(torch.rand(5, 100), torch.Generator()).shape
    torch.Size([5, 100])
    """
    return View("waveforms", policy, strength, at)


def tokens(
    policy: str = "weak", strength: float = 0.5, *, at: str = "*", padding: int = 0,
    special: Sequence[int] = (),
) -> View:  # fmt: skip
    """A view of words by their ids `(N, T)`, int64.

    `weak`: pairs of words change places, 0.2 strength of a text's words but one pair at least.
    `strong`: then each word is left out with probability 0.2 strength, but never the last one.
    Masks and types of the ids' shape go with their words.

    Args:
        policy: `weak` or `strong`.
        strength: in [0, 1].
        at: which input holds the ids; of several, `input_ids` is meant.
        padding: its id; it stays on the side where it is.
        special: ids that stay ([CLS], [SEP]).

    >>> tokens("weak")(torch.tensor([[5, 6, 0]]), torch.Generator()).tolist()
    [[6, 5, 0]]
    """
    return View("tokens", policy, strength, at, padding=padding, special=tuple(special))


def table(policy: str = "weak", strength: float = 0.5, *, at: str = "*", std: float = 1.0) -> View:
    """A view of a table: numbers, floating, and categories, whole, each `(N, M)`.

    `weak`: Gaussian noise of 0.2 strength deviations on the numbers. `strong`: that, and each
    value, of categories too, with probability 0.3 strength that of another row of the batch in the
    same column.

    Args:
        policy: `weak` or `strong`.
        strength: in [0, 1].
        at: which inputs.
        std: a column's deviation; 1 for standardised numbers.

    >>> table("strong")({"numbers": torch.rand(5, 3)}, torch.Generator())["numbers"].shape
    torch.Size([5, 3])
    """
    return View("table", policy, strength, at, std=std)
