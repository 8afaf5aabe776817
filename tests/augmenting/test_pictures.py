"""Augmented images, against kornia's formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kornia import enhance
from kornia.geometry import transform
from torch import Tensor
from torch.nn import functional as F

from tests.methods.traps import trap
from whet import seeding
from whet.augmenting import images, pictures
from whet.augmenting.draws import moved, spans, uniform
from whet.errors import InputError

PIXELS = torch.rand(6, 3, 8, 12, generator=seeding.generator(1))
GREY = PIXELS[:, :1]
SIZE = torch.tensor([-1.0, -0.4, 0.0, 0.2, 0.7, 1.0])
MAKER = seeding.generator


# the values ----------------------------------------------------------------------------------


def test_rotated_as_kornia_does() -> None:
    theirs = transform.rotate(PIXELS, 30.0 * SIZE, align_corners=True)
    assert torch.allclose(pictures.rotated(PIXELS, SIZE), theirs, atol=1e-5)


@pytest.mark.parametrize("across", [True, False])
def test_sheared_as_kornia_warps(across: bool) -> None:
    """A map about the centre, in pixels; kornia wants the way there, and we say the way back."""
    centre = torch.tensor([(12 - 1) / 2, (8 - 1) / 2])
    back = torch.eye(2).repeat(6, 1, 1)
    back[:, 0 if across else 1, 1 if across else 0] = 0.3 * SIZE
    there = back.inverse()
    offset = centre - there @ centre
    matrix = torch.cat([there, offset[:, :, None]], 2)
    theirs = transform.warp_affine(PIXELS, matrix, (8, 12), align_corners=True)
    assert torch.allclose(pictures.sheared(PIXELS, SIZE, across), theirs, atol=1e-5)


def test_contrast_and_brightness_as_kornia_has_them() -> None:
    middle = 0.4 + 0.2 * GREY  # so that nothing is clipped
    theirs = enhance.adjust_contrast_with_mean_subtraction(middle, 1 + 0.9 * SIZE)
    assert torch.allclose(pictures.contrasted(middle, SIZE), theirs, atol=1e-6)
    flat = middle.flatten(1)
    theirs = enhance.adjust_brightness(middle, 0.5 * SIZE * (flat.amax(1) - flat.amin(1)))
    assert torch.allclose(pictures.brightened(middle, SIZE), theirs, atol=1e-6)


def test_each_image_is_mirrored_with_even_chances() -> None:
    many = PIXELS[:1].repeat(2000, 1, 1, 1)
    found = pictures.flipped(many, MAKER(0))
    mirrored = (found == transform.hflip(many)).flatten(1).all(1)
    assert torch.equal((found == many).flatten(1).all(1), ~mirrored)
    assert abs(mirrored.float().mean() - 0.5) < 0.04


@pytest.mark.parametrize(
    ("edge", "mode"), [("reflect", "reflect"), ("repeat", "replicate"), ("zero", "constant")]
)
def test_moved_is_a_crop_of_the_padded_image(edge: str, mode: str) -> None:
    steps = torch.tensor([-3, -1, 0, 1, 2, 3])
    padded = F.pad(PIXELS, (3, 3, 0, 0), mode=mode)
    theirs = torch.stack([p[..., 3 + s : 15 + s] for p, s in zip(padded, steps, strict=True)])
    assert torch.equal(moved(PIXELS, steps, -1, edge), theirs)


def test_shifts_go_as_far_as_they_may_and_all_alike() -> None:
    row = torch.arange(12.0).expand(4000, 1, 1, 12)
    place = pictures.shifted(row, 0.25, MAKER(0))[:, 0, 0, 6] - 6
    counts = place.long().add(3).bincount(minlength=7) / 4000
    assert len(counts) == 7
    assert (counts - 1 / 7).abs().max() < 0.03


def test_an_erased_box_is_a_box_of_the_mean_and_not_too_large() -> None:
    found = pictures.erased(PIXELS.repeat(100, 1, 1, 1), 0.3, MAKER(0))
    given = PIXELS.repeat(100, 1, 1, 1)
    gone = (found != given).all(1)
    mean = given.mean((2, 3), keepdim=True)
    assert torch.equal(found, torch.where(gone[:, None], mean, given))
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    share = gone.float().mean((1, 2))
    assert share.max() <= 0.3 + 0.1  # whole pixels
    assert abs(share.mean() - 0.15) < 0.04


def test_operations_are_drawn_for_each_image_and_grow_with_strength() -> None:
    many = GREY[:1].repeat(300, 1, 1, 1)
    distance = [
        (pictures.operated(many, s, 2, MAKER(0)) - many).abs().mean().item() for s in (0.1, 0.5, 1)
    ]
    assert distance[0] < distance[1] < distance[2]
    found = pictures.operated(many, 0.5, 2, MAKER(0))
    assert len({tuple(one.flatten().tolist()) for one in found}) > 200


def test_standardised_images_keep_their_scale() -> None:
    """Of images scaled otherwise the view is the view, scaled; up to the zeros that come in."""
    plain, moved = (pictures.brightened(pictures.contrasted(x, SIZE), SIZE) for x in (
        PIXELS, (PIXELS - 0.5) / 0.25))  # fmt: skip
    assert torch.allclose(moved, (plain - 0.5) / 0.25, atol=1e-5)


def test_clipped_to_the_valid_range() -> None:
    found = images("strong", 1.0, valid_range=(0.0, 1.0))(PIXELS, MAKER(0))
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    ends = (torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0.5, 0.6, 0.7]))
    found = images("strong", 1.0, valid_range=ends)(PIXELS, MAKER(0))
    assert torch.equal(found.amax((0, 2, 3)) <= ends[1], torch.ones(3).bool())
    named = images("strong", 1.0, at="x", valid_range={"x": (0.4, 0.5)})
    assert named({"x": PIXELS}, MAKER(0))["x"].min() >= 0.4


# traps ---------------------------------------------------------------------------------------


def in_half_sides(pixels: Tensor, matrices: Tensor) -> Tensor:
    """affine_grid given a rotation as it is: an image that is no square is sheared and squeezed."""
    theta = torch.cat([matrices, matrices.new_zeros(len(pixels), 2, 1)], 2)
    grid = F.affine_grid(theta, [*pixels.shape], align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False)


@trap(right=pictures.turned, wrong=in_half_sides)
def test_a_turned_image_keeps_its_angles(turn: Any) -> None:
    angle = torch.full((6,), 0.4)
    maps = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    theirs = transform.rotate(PIXELS, angle.rad2deg(), align_corners=True)
    assert torch.allclose(turn(PIXELS, maps), theirs, atol=1e-5)


def once(pixels: Tensor, generator: Any) -> Tensor:
    """One draw for the whole batch, as of an augmentation of images that is given a batch."""
    return pixels.flip(-1) if torch.rand((), generator=generator) < 0.5 else pixels


@trap(right=pictures.flipped, wrong=once)
def test_each_row_is_drawn_for_by_itself(flip: Any) -> None:
    many = PIXELS[:1].repeat(32, 1, 1, 1)
    found = flip(many, MAKER(0))
    assert 0 < (found == many).flatten(1).all(1).sum() < 32


def from_anywhere(like: Tensor, size: int, most: int, generator: Any) -> Tensor:
    """The span begins anywhere and is cut at the end, so that many are shorter than drawn."""
    length = uniform(like, 0.0, most + 1.0, generator).floor()
    first = uniform(like, 0.0, size, generator).floor()
    place = torch.arange(size)
    return (place >= first[:, None]) & (place < (first + length)[:, None])


@trap(right=spans, wrong=from_anywhere)
def test_spans_have_the_length_that_was_drawn(draw: Any) -> None:
    """SpecAugment: f of {0, ..., F} all alike, and f0 of {0, ..., size - f} all alike."""
    found = draw(torch.zeros(20_000, 1), 10, 4, MAKER(0))
    counts = found.sum(1).bincount(minlength=5) / 20_000
    assert (counts - 0.2).abs().max() < 0.015
    full = found[found.sum(1) == 4]
    first = full.long().argmax(1).bincount(minlength=7) / len(full)
    assert (first - 1 / 7).abs().max() < 0.02
    assert ((found[:, 1:] != found[:, :-1]).sum(1) <= 2).all()  # in one piece


def test_what_is_no_image_is_told() -> None:
    with pytest.raises(InputError, match=r"the input has shape \(6, 4\).* \(N, C, H, W\)"):
        images()(torch.zeros(6, 4), MAKER(0))
    with pytest.raises(InputError, match=r"input 'b' has shape \(6, 1, 2, 2\) and dtype torch.u"):
        images()({"a": PIXELS, "b": torch.zeros(6, 1, 2, 2, dtype=torch.uint8)}, MAKER(0))
    with pytest.raises(InputError, match=r"strength is 1\.5"):
        images("weak", 1.5)
    with pytest.raises(InputError, match="policy is 'hard'"):
        images("hard")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_dtype_and_the_given_images(dtype: torch.dtype) -> None:
    given = PIXELS.to(dtype)
    before = given.clone()
    assert images("strong")(given, MAKER(0)).dtype == dtype
    assert torch.equal(given, before)


def test_without_strength_the_inputs_go_through() -> None:
    assert images("strong", 0.0)(PIXELS, MAKER(0)) is PIXELS
