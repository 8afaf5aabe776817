"""CutMix."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from whet import mixing
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.settings import number
from whet.training import Training


class Box(NamedTuple):
    """Rows `top` to `bottom` and columns `left` to `right` of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def kept(self, height: int, width: int) -> float:
        """The share of the pixels that lie outside.

        >>> Box(0, 2, 1, 3).kept(4, 4)
        0.75
        """
        return 1.0 - (self.bottom - self.top) * (self.right - self.left) / (height * width)


def draw_box(height: int, width: int, share: float, draws: random.Random) -> Box:
    r"""A box of area `1 - share`, around a uniform centre, clipped to the image.

    Its sides are floor(H √(1 - λ)) and floor(W √(1 - λ)).
    """
    top, bottom = _side(height, share, draws)
    left, right = _side(width, share, draws)
    return Box(top, bottom, left, right)


def _side(length: int, share: float, draws: random.Random) -> tuple[int, int]:
    # the usual centre ± side // 2 makes each odd side one pixel shorter, and of 1 it makes 0
    side = math.floor(length * math.sqrt(1.0 - share))
    first = draws.randrange(length) - side // 2
    return max(first, 0), min(first + side, length)


def cutmix(inputs: Tensor, targets: Tensor, permutation: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Images `(N, C, H, W)` with another row's box in them, and their soft targets `(N, C)`.

    Targets are mixed by the share of pixels that each row has in the result. New tensors.

    >>> x, y = torch.tensor([0.0, 9.0]).view(2, 1, 1, 1).expand(2, 1, 2, 2), torch.eye(2)
    >>> x, y = cutmix(x, y, torch.tensor([1, 0]), Box(0, 1, 0, 1))
    >>> x[0, 0], y[0]
    (tensor([[9., 0.],
            [0., 0.]]), tensor([0.7500, 0.2500]))
    """
    share = box.kept(*inputs.shape[-2:])
    return pasted(inputs, permutation, box), torch.lerp(targets[permutation], targets, share)


def pasted(images: Tensor, permutation: Tensor, box: Box) -> Tensor:
    """The images with the box taken from `images[permutation]`, a new tensor."""
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    result = images.clone()
    result[..., rows, columns] = images[permutation][..., rows, columns]
    return result


@method
class CutMix(Method):
    r"""Paste a box of another image into each image, and mix the targets by the pixels kept.

    $$\tilde x_i = M \odot x_i + (1 - M) \odot x_{\pi(i)}, \quad
    \tilde y_i = \bar M y_i + (1 - \bar M) y_{\pi(i)}, \quad
    \lambda \sim \mathrm{Beta}(\alpha, \alpha)$$

    with M zero in a box of area 1 - λ around a uniform centre and one elsewhere, and $\bar M$ its
    mean after the box was clipped to the image: the share of pixels kept, which is above λ where
    the box was clipped or rounded. One λ, box and permutation for each micro-batch. The targets
    are mixed, not the losses, so that smoothing and distillation work on what is mixed. Rows
    without a target stay as they are, to the bit; the others are mixed among themselves.

    Args:
        alpha: α >= 0 of the Beta distribution; 0 mixes nothing, 1 draws λ uniformly.
        at: which inputs are mixed, all of one height and width: `*` for all, or a name or glob
            over the keys of a mapping (`image`), or the positions of a tuple (`0`).

    Shapes: inputs `(N, C, H, W)` or `(N, ..., H, W)`, of any dtype; targets `(N,)` become `(N, C)`.

    Cost: no pass; 2 copies of the mixed inputs.

    Raises:
        InputError: an input to mix has no two spatial dimensions, or others than the rest; or `at`
            matches none.
        NotApplicable: the objective's targets have no mixture (tokens, embeddings).

    Paper: Yun et al. 2019, arXiv:1905.04899.

    >>> x, y = torch.randn(4, 3, 8, 8), torch.eye(2)[[0, 1, 1, 0]]      # soft targets
    >>> draws = random.Random(0)
    >>> box = draw_box(8, 8, share=draws.betavariate(1.0, 1.0), draws=draws)
    >>> x, y = cutmix(x, y, torch.randperm(4), box)
    """

    alpha: float = number(1.0, 0.0)
    at: str = "*"

    name: ClassVar[str] = "cutmix"
    layer: ClassVar[Layer] = Layer.INPUT_MIXING
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.INPUT_MIXING})
    uses: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS})
    outside: ClassVar[tuple[str, ...]] = ("manifold_mixup",)  # it mixes what is made of mixtures
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}
    card: ClassVar[Card] = Card(
        title="CutMix", paper="arXiv:1905.04899", cost="no pass", tier=1, phase="whole training",
        data="images, and what else has two spatial dimensions (spectrograms)",
        avoid_when="a box may hold the whole object, or none of it: small or localised things",
        zh={
            "title": "CutMix（裁剪混合）", "cost": "不增加前向或反向传播", "phase": "整个训练过程",
            "data": "图像，以及其他具有两个空间维度的输入（如语谱图）",
            "avoid_when": "目标很小或只占局部：一个方框可能盖住整个目标，也可能完全不含目标",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        mixing.check_targets(self.key, run)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.alpha == 0.0 or batch.targets is None:
            return inner(batch)
        _, chosen = mixing.chosen(self.key, batch.inputs, self.at)
        height, width = self._size(chosen)
        draws = random.Random(run.key(self))  # noqa: S311 - a draw, no secret
        box = draw_box(height, width, draws.betavariate(self.alpha, self.alpha), draws)
        permutation = mixing.permutation_of_known(batch, run.generator(self))

        def change(name: str, leaf: Tensor) -> Tensor:
            return pasted(leaf, permutation, box) if name in chosen else leaf

        # rows without a target are their own partners, so that nothing is pasted into them
        inputs = mixing.map_named(change, batch.inputs)
        soft = mixing.mixed_targets(run, batch, permutation, box.kept(height, width))
        return inner(batch.replace(inputs=inputs, targets=soft))

    def _size(self, chosen: Mapping[str, Tensor]) -> torch.Size:
        """Height and width that all inputs have which are mixed."""
        for name, leaf in chosen.items():
            if leaf.ndim < 4:
                what = f"input {name!r}" if name else "the input"
                images = "name those that are by at=..., or " if len(chosen) > 1 else ""
                raise InputError(
                    f"{self.key}: {what} has shape {tuple(leaf.shape)}; a box is cut from images "
                    f"(N, C, H, W). For inputs that are none, {images}use mixup."
                )
        sizes = {name: leaf.shape[-2:] for name, leaf in chosen.items()}
        if len(set(sizes.values())) > 1:
            told = ", ".join(f"{name} {tuple(size)}" for name, size in sizes.items())
            raise InputError(
                f"{self.key}: the inputs differ in height and width ({told}), so that one box has "
                "no one share of them. Name those of one size by at=..."
            )
        return next(iter(sizes.values()))
