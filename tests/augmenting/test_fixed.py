"""Views without chance, against torch's and kornia's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kornia.geometry import transform
from torch import Tensor
from torch.nn import functional as F

from whet import seeding
from whet.augmenting.fixed import FIXED, made, read
from whet.errors import InputError, UnknownName

PIXELS = torch.rand(3, 2, 8, 8, generator=seeding.generator(1))
WIDE = torch.rand(3, 2, 8, 12, generator=seeding.generator(2))


def one(text: str, images: Tensor = PIXELS) -> list[Tensor]:
    return made(text, images)


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


def test_flips_and_turns_as_kornia_has_them() -> None:
    assert equal(one("flip", WIDE), [transform.hflip(WIDE)])
    assert equal(one("vertical_flip", WIDE), [transform.vflip(WIDE)])
    assert equal(one("turn"), [torch.rot90(PIXELS, n, (2, 3)) for n in (1, 2, 3)])


def test_shifts_reflect_what_comes_in() -> None:
    padded = F.pad(WIDE, (1, 1, 1, 1), mode="reflect")
    wanted = [padded[..., 1:9, 2:], padded[..., 1:9, :12], padded[..., 2:, 1:13],
              padded[..., :8, 1:13]]  # fmt: skip
    assert equal(one("shift", WIDE), wanted)
    padded = F.pad(WIDE, (3, 3, 2, 2), mode="reflect")
    wanted = [padded[..., 2:10, 6:], padded[..., 2:10, :12], padded[..., 4:, 3:15],
              padded[..., :8, 3:15]]  # fmt: skip
    assert equal(one("shift=0.25", WIDE), wanted)


def test_crops_are_scaled_to_the_whole() -> None:
    found = one("crop=0.5")
    parts = [PIXELS[..., 2:6, 2:6], PIXELS[..., :4, :4], PIXELS[..., :4, 4:],
             PIXELS[..., 4:, :4], PIXELS[..., 4:, 4:]]  # fmt: skip
    for view, part in zip(found, parts, strict=True):
        theirs = transform.resize(part, (8, 8), interpolation="bilinear", align_corners=False)
        assert torch.allclose(view, theirs, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 20), (3, 4, 20), (3, 1, 4, 20)])
def test_sounds_are_earlier_and_later(shape: tuple[int, ...]) -> None:
    sounds = torch.rand(shape, generator=seeding.generator(3))
    earlier, later = one("time_shift=0.1", sounds)
    assert torch.equal(earlier[..., :-2], sounds[..., 2:])
    assert torch.equal(later[..., 2:], sounds[..., :-2])
    assert torch.equal(earlier[..., -2:], sounds[..., [-2, -3]])
    assert torch.equal(later[..., :2], sounds[..., [2, 1]])


@pytest.mark.parametrize("text", FIXED)
def test_rows_do_not_know_each_other_and_inputs_stay(text: str) -> None:
    before = PIXELS.clone()
    whole, row = one(text), one(text, PIXELS[1:2])
    assert torch.equal(PIXELS, before)
    assert equal([view[1:2] for view in whole], row)
    assert all(view.shape == PIXELS.shape and view.dtype == PIXELS.dtype for view in whole)
    assert not any(torch.equal(view, PIXELS) for view in whole)


def test_of_several_inputs_the_named_ones() -> None:
    nest = {"image": PIXELS, "more": {"ids": torch.ones(3, 4, dtype=torch.long)}}
    [view] = made("flip", nest, "image")
    assert torch.equal(view["image"], PIXELS.flip(-1))
    assert view["more"]["ids"] is nest["more"]["ids"]
    with pytest.raises(InputError, match=r"input 'more.ids' has shape .* Name them by at="):
        made("flip", nest)
    with pytest.raises(InputError, match="no input matches at='picture'"):
        made("flip", nest, "picture")
    [_, view] = made("shift", (PIXELS, PIXELS), "1")[:2]
    assert view[0] is PIXELS


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        ("flip", torch.ones(3, 8), r"flip: the input has shape \(3, 8\) .* images \(N, C, H, W\)"),
        ("flip", torch.ones(3, 1, 8, 8, dtype=torch.uint8), "dtype torch.uint8"),
        ("turn", WIDE, "8 x 12 pixels have another shape after a quarter turn"),
        ("shift=0.9", torch.ones(3, 1, 2, 2), "a shift by 2 of 2 leaves nothing"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(text: str, images: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        made(text, images)


@pytest.mark.parametrize(
    "text", ["shift=0", "shift=1", "shift=-0.1", "shift=x", "shift=", "crop=nan"]
)
def test_amounts_are_shares(text: str) -> None:
    with pytest.raises(InputError, match=r"takes a share in \(0, 1\), such as"):
        read(text)


def test_names() -> None:
    with pytest.raises(UnknownName, match="did you mean 'flip'"):
        read("flp")
    with pytest.raises(InputError, match="flip takes no amount"):
        read("flip=0.5")
