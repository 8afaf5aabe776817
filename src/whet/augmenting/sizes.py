"""Images at another size: resized, cropped for a test, cropped at random for training.

Training crops at random and stretches what it cropped, so that objects look larger than in a test,
which crops the centre of the whole image (Touvron et al. 2019, arXiv:1906.06423). A test at a
larger size makes up for that.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from whet.errors import InputError

CROP = 0.875  # of the resized image's side, that a test sees: 224 of 256
Draws = torch.Generator | None


def resized(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Images `(N, C, H, W)` at another size, without aliasing where they become smaller.

    Args:
        images: real numbers.
        size: of the shorter side, in pixels, the aspect kept; or `(height, width)`.

    Raises:
        InputError: these are no such images, or the size is below one pixel.

    >>> resized(torch.rand(2, 3, 40, 30), 15).shape
    torch.Size([2, 3, 20, 15])
    """
    height, width = _wanted(images, size)
    if (height, width) == tuple(images.shape[-2:]):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True)


def _wanted(images: Tensor, size: int | tuple[int, int]) -> tuple[int, int]:
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; give real ones (N, C, H, W), as "
            "whet.data.images.pixels makes them."
        )
    if isinstance(size, int):
        height, width = images.shape[-2:]
        scale = size / min(height, width)
        size = (round(height * scale), round(width * scale))
    if min(size) < 1:
        raise InputError(f"a size of {size} pixels: give a number, or (height, width), above 0.")
    return size


def resize_for(crop: int, share: float = CROP) -> int:
    """The side to resize to before the centre is cropped: crop / share, and so never below it.

    >>> resize_for(224)
    256
    """
    if crop < 1 or not 0.0 < share <= 1.0:
        raise InputError(f"crop={crop} must be above 0, and share={share} in (0, 1].")
    return round(crop / share)


def cropped(images: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The centre of images `(N, C, H, W)`: a square of `size`, or `(height, width)`.

    Raises:
        InputError: the crop is larger than the images; a border would be invented.
    """
    wanted = (size, size) if isinstance(size, int) else size
    there = tuple(images.shape[-2:])
    if wanted[0] > there[0] or wanted[1] > there[1]:
        raise InputError(
            f"a centre of {wanted[0]} x {wanted[1]} does not fit into images of "
            f"{there[0]} x {there[1]}. Resize to crop / {CROP} first: resize_for({max(wanted)})."
        )
    top, left = (round((a - b) / 2) for a, b in zip(there, wanted, strict=True))
    return images[..., top : top + wanted[0], left : left + wanted[1]]


def centred(images: Tensor, size: int, share: float = CROP) -> Tensor:
    """The usual test view: the shorter side resized to size / share, its centre cropped to size.

    >>> centred(torch.rand(2, 3, 40, 30), 28).shape
    torch.Size([2, 3, 28, 28])
    """
    return cropped(resized(images, resize_for(size, share)), size)


def random_crops(
    size: int | tuple[int, int], area: tuple[float, float] = (0.08, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3), flip: bool = True,
) -> Callable[[Tensor, Draws], Tensor]:  # fmt: skip
    """A view that crops each image at random and stretches the crop to a size.

    Args:
        size: of what is trained on, in pixels; a square, or `(height, width)`.
        area: of the crop, as shares of the image's own, drawn uniformly.
        aspect: width to height of the crop, beside that of `size`, drawn uniformly by logarithm.
        flip: whether an image may be mirrored.

    Cost: a resize for each row, a tenth of a millisecond for a small image on one core.

    Raises:
        InputError: an area outside (0, 1], or an aspect that is not positive.

    >>> random_crops(24)(torch.rand(2, 3, 40, 30), torch.Generator()).shape
    torch.Size([2, 3, 24, 24])
    """
    if not 0.0 < area[0] <= area[1] <= 1.0 or not 0.0 < aspect[0] <= aspect[1]:
        raise InputError(f"area={area} must be an interval within (0, 1], aspect={aspect} above 0.")
    shape = (size, size) if isinstance(size, int) else size

    def view(images: Tensor, generator: Draws = None) -> Tensor:
        drawn = torch.rand(len(images), 5, generator=generator).tolist()
        return torch.cat([
            _crop(image[None], shape, area, aspect, row, flip)
            for image, row in zip(images, drawn, strict=True)
        ])  # fmt: skip

    return view


def _crop(
    image: Tensor, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float],
    drawn: list[float], flip: bool,
) -> Tensor:  # fmt: skip
    height, width = image.shape[-2:]
    share = area[0] + drawn[0] * (area[1] - area[0])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = math.exp(low + drawn[1] * (high - low)) * size[1] / size[0]
    pixels = share * height * width
    tall = max(1, min(height, round(math.sqrt(pixels / ratio))))
    wide = max(1, min(width, round(math.sqrt(pixels * ratio))))
    top, left = int(drawn[2] * (height - tall + 1)), int(drawn[3] * (width - wide + 1))
    found = resized(image[..., top : top + tall, left : left + wide], size)
    return found.flip(-1) if flip and drawn[4] < 0.5 else found
