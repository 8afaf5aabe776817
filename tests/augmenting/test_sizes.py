"""Images at other sizes: against Pillow, and each way to get the test's view wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.methods.traps import trap
from whet.augmenting.sizes import centred, cropped, random_crops, resize_for, resized
from whet.errors import InputError


def inverted(crop: int, share: float = 0.875) -> int:
    """As the articles print it."""
    return round(crop * share)


def aliased(images: Tensor, size: int) -> Tensor:
    return F.interpolate(images, (size, size), mode="bilinear")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@trap(right=resize_for, wrong=inverted)
def test_the_crop_lies_within_the_resized_image(side: Callable[[int], int]) -> None:
    assert [side(crop) for crop in (224, 256, 320)] == [256, 293, 366]
    images = torch.rand(1, 3, 300, 300)
    assert min(resized(images, side(224)).shape[-2:]) >= 224


def test_an_inverted_resize_is_refused_and_not_padded() -> None:
    with pytest.raises(InputError, match=r"224 x 224 does not fit .* resize_for\(224\)"):
        cropped(resized(torch.rand(1, 3, 300, 300), inverted(224)), 224)


@trap(right=resized, wrong=aliased)
def test_fine_stripes_become_grey(smaller: Callable[[Tensor, int], Tensor]) -> None:
    stripes = (torch.arange(64) % 2).float().expand(1, 1, 64, 64)
    middle = smaller(stripes, 20)[..., 2:-2, 2:-2]
    assert (middle.max() - middle.min()) < 0.1


@pytest.mark.parametrize("side", [9, 15, 30, 47])
def test_resizing_is_pillows(side: int) -> None:
    pixels = np.random.default_rng(0).random((31, 31), np.float32)
    theirs = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
    ours = resized(torch.from_numpy(pixels)[None, None], side)[0, 0].numpy()
    assert np.allclose(ours, theirs, atol=1e-5)


def test_the_shorter_side_has_the_size_and_the_aspect_stays() -> None:
    assert resized(torch.rand(1, 3, 160, 120), 60).shape[-2:] == (80, 60)
    assert resized(torch.rand(1, 3, 120, 160), 60).shape[-2:] == (60, 80)
    assert centred(torch.rand(2, 1, 160, 120), 56).shape == (2, 1, 56, 56)


def test_the_centre_is_the_centre() -> None:
    images = torch.arange(25.0).view(1, 1, 5, 5)
    assert cropped(images, 3)[0, 0].tolist() == [[6, 7, 8], [11, 12, 13], [16, 17, 18]]
    assert cropped(images, (1, 5))[0, 0].tolist() == [[10, 11, 12, 13, 14]]


@pytest.mark.parametrize("images", [torch.rand(3, 8, 8), torch.zeros(1, 3, 8, 8).byte()])
def test_what_are_no_images(images: Tensor) -> None:
    with pytest.raises(InputError, match="pixels"):
        resized(images, 4)


def test_settings_out_of_range() -> None:
    with pytest.raises(InputError, match="a size of"):
        resized(torch.rand(1, 1, 8, 8), 0)
    with pytest.raises(InputError, match=r"share=1\.2"):
        resize_for(224, 1.2)
    with pytest.raises(InputError, match="area="):
        random_crops(8, area=(0.0, 1.0))


class TestRandomCrops:
    def test_a_row_is_a_function_of_its_draws(self) -> None:
        images = torch.rand(6, 3, 20, 30, generator=draws())
        view = random_crops((10, 12))
        once, again = view(images, draws(1)), view(images, draws(1))
        assert once.shape == (6, 3, 10, 12)
        assert torch.equal(once, again)
        assert not torch.equal(once, view(images, draws(2)))
        assert torch.equal(view(images[:3], draws(1)), once[:3])

    def test_rows_are_drawn_for_by_themselves(self) -> None:
        found = random_crops(8, flip=False)(torch.rand(1, 1, 32, 32).expand(5, 1, 32, 32), draws())
        assert len({row.sum().item() for row in found}) == 5

    def test_the_area_is_that_of_the_crop(self) -> None:
        """On a ramp, a crop's range of values is its share of the side."""
        ramp = torch.arange(200.0).expand(400, 1, 200, 200)
        found = random_crops(50, area=(0.25, 0.25), aspect=(1, 1), flip=False)(ramp, draws())
        reach = found.amax((1, 2, 3)) - found.amin((1, 2, 3))
        assert torch.allclose(reach, torch.full_like(reach, 98.0), atol=2.0)
        starts = found.amin((1, 2, 3))
        assert starts.min() < 5
        assert starts.max() > 95
        assert 45 < starts.mean() < 57

    def test_whole_images_are_only_resized(self) -> None:
        images = torch.rand(3, 1, 16, 16)
        found = random_crops(8, area=(1, 1), aspect=(1, 1), flip=False)(images, draws())
        assert torch.equal(found, resized(images, 8))

    def test_half_are_mirrored(self) -> None:
        images = torch.arange(8.0).expand(400, 1, 8, 8)
        found = random_crops(8, area=(1, 1), aspect=(1, 1))(images, draws())
        mirrored = (found[:, 0, 0, 0] > found[:, 0, 0, -1]).float().mean()
        assert 0.4 < mirrored < 0.6
