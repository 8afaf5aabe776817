"""Images: flips and shifts, turns, shears, brightness and contrast, an erased box.

All of it suits images of any scaling, standardised ones too: sizes are shares of the image, light
is in shares of its own range, and a box is filled by its mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from whet.augmenting.draws import moved, per_row, steps, uniform

Draws = torch.Generator | None


def flipped(images: Tensor, generator: Draws = None) -> Tensor:
    """Each image `(N, ..., H, W)` or its mirror image, with even chances."""
    return torch.where(
        per_row(uniform(images, 0, 1, generator) < 0.5, images), images.flip(-1), images
    )


def shifted(images: Tensor, share: float, generator: Draws = None) -> Tensor:
    """Each image moved by up to `share` of its sides; what comes in is reflected."""
    for dim in (-2, -1):
        most = round(share * images.shape[dim])
        images = moved(images, steps(images, most, generator), dim, "reflect")
    return images


def turned(images: Tensor, matrices: Tensor) -> Tensor:
    """Images `(N, C, H, W)` under linear maps `(N, 2, 2)` about their centres; zeros come in.

    A map takes a place of the result, in pixels, to the place in the image that is shown there.
    """
    height, width = images.shape[-2:]
    # grid_sample counts in half sides, so that a map of pixels is stretched along the longer one
    half = images.new_tensor([width / 2, height / 2])
    theta = matrices.to(images) * half[None, None, :] / half[None, :, None]
    theta = torch.cat([theta, theta.new_zeros(len(images), 2, 1)], 2)
    grid = F.affine_grid(theta, [*images.shape], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def rotated(images: Tensor, size: Tensor) -> Tensor:
    """Turned by up to 30 degrees, at sizes `(N,)` in [-1, 1]."""
    angle = size * math.radians(30.0)
    cos, sin = angle.cos(), angle.sin()
    return turned(images, torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2))


def sheared(images: Tensor, size: Tensor, across: bool = True) -> Tensor:
    """Sheared by up to 0.3 along the rows or, not `across`, the columns."""
    matrices = torch.eye(2, device=size.device).repeat(len(images), 1, 1)
    matrices[:, 0 if across else 1, 1 if across else 0] = 0.3 * size
    return turned(images, matrices)


def brightened(images: Tensor, size: Tensor) -> Tensor:
    """`x + 0.5 size (max - min)` of each image."""
    flat = images.flatten(1)
    return images + 0.5 * per_row(size, images) * per_row(flat.amax(1) - flat.amin(1), images)


def contrasted(images: Tensor, size: Tensor) -> Tensor:
    """`mean + (1 + 0.9 size) (x - mean)` of each image."""
    mean = per_row(images.flatten(1).mean(1), images)
    return mean + (1.0 + 0.9 * per_row(size, images)) * (images - mean)


OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    rotated, sheared, lambda images, size: sheared(images, size, across=False),
    brightened, contrasted, lambda images, size: images,
)  # fmt: skip


def operated(images: Tensor, strength: float, count: int = 2, generator: Draws = None) -> Tensor:
    """`count` operations for each image, drawn out of `OPERATIONS`, of random sizes and signs.

    After RandAugment (arXiv:1909.13719): strength is its magnitude, and here the largest size.
    """
    for _ in range(count):
        size = uniform(images, -strength, strength, generator)
        which = uniform(images, 0, len(OPERATIONS), generator).long()
        for number, operation in enumerate(OPERATIONS):
            rows = (which == number).nonzero().flatten()
            if len(rows):
                images = images.index_copy(0, rows, operation(images[rows], size[rows]))
    return images


def erased(images: Tensor, most: float, generator: Draws = None) -> Tensor:
    """A box of each image in its mean: up to `most` of the area, sides up to 1 : 3.3.

    After Random Erasing (arXiv:1708.04896), with an area from 0 on.
    """
    height, width = images.shape[-2:]
    area = uniform(images, 0.0, most, generator) * height * width
    ratio = uniform(images, -math.log(3.3), math.log(3.3), generator).exp()
    marks = []
    for size, side in ((height, (area * ratio).sqrt()), (width, (area / ratio).sqrt())):
        length = side.round().clamp(max=size)
        first = (uniform(images, 0, 1, generator) * (size - length + 1)).floor()
        place = torch.arange(size, device=images.device)
        marks.append((place >= first[:, None]) & (place < (first + length)[:, None]))
    box = marks[0][:, :, None] & marks[1][:, None, :]
    box = box.view(len(images), *[1] * (images.ndim - 3), height, width)
    return torch.where(box, images.mean((-2, -1), keepdim=True), images)


def clipped(images: Tensor, valid_range: Any) -> Tensor:
    """Within `(low, high)`, numbers or one for each channel; as they are where it is None."""
    if valid_range is None:
        return images
    low, high = (torch.as_tensor(end, dtype=images.dtype, device=images.device)
                 for end in valid_range)  # fmt: skip
    return images.clamp(*(e.view(-1, 1, 1) if e.ndim == 1 else e for e in (low, high)))


def augmented(
    images: Tensor, policy: str, strength: float, generator: Draws, *, flip: bool, valid_range: Any
) -> Tensor:
    """The weak or strong set, for images `(N, C, H, W)`; strength in (0, 1]."""
    found = flipped(images, generator) if flip else images
    found = shifted(found, 0.25 * strength, generator)
    if policy == "weak":
        return found
    found = operated(found, strength, 2, generator)
    return clipped(erased(found, 0.5 * strength, generator), valid_range)
