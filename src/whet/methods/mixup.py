"""MixUp."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import mixing
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.settings import number
from whet.training import Training


def mixup(
    inputs: Tensor, targets: Tensor, permutation: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """Mixtures of rows and of their soft targets `(N, C)`; new tensors, the given ones stay.

    >>> x, y = torch.tensor([[0.0], [4.0]]), torch.eye(2)
    >>> mixup(x, y, torch.tensor([1, 0]), 0.75)
    (tensor([[1.],
            [3.]]), tensor([[0.7500, 0.2500],
            [0.2500, 0.7500]]))
    """
    return mixed(inputs, permutation, share), torch.lerp(targets[permutation], targets, share)


def mixed(rows: Tensor, permutation: Tensor, share: float) -> Tensor:
    """`share * rows + (1 - share) * rows[permutation]`, a new tensor."""
    return rows[permutation].lerp_(rows, share)  # two passes over memory, where the sum takes four


@method
class MixUp(Method):
    r"""Train on mixtures of two rows, and of their targets in the same shares.

    $$\tilde x_i = \lambda x_i + (1 - \lambda) x_{\pi(i)}, \quad
    \tilde y_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \quad
    \lambda \sim \mathrm{Beta}(\alpha, \alpha)$$

    one λ and one permutation for each micro-batch. The targets are mixed, not the losses, so that
    smoothing, focal loss, distillation and R-Drop work on what is mixed. Rows without a target
    stay as they are, to the bit; the others are mixed among themselves.

    Args:
        alpha: α >= 0 of the Beta distribution; 0 mixes nothing, 1 draws λ uniformly.
        at: which inputs are mixed: `*` for all, or a name or glob over the keys of a mapping
            (`floats`, `image.*`), or the positions of a tuple (`0`). What is not mixed stays the
            row's own, and a λ below 1/2 then gives most of the target to another row.

    Shapes: inputs `(N, ...)`, floating; targets `(N,)` become `(N, C)`.

    Cost: no pass; 1 copy of the mixed inputs.

    Raises:
        InputError: an input to mix is no floating tensor, or `at` matches none.
        NotApplicable: the objective's targets have no mixture (tokens, embeddings).

    Paper: Zhang et al. 2018, arXiv:1710.09412.

    >>> x, y = torch.randn(4, 3), torch.eye(2)[[0, 1, 1, 0]]       # soft targets
    >>> share, permutation = random.betavariate(0.2, 0.2), torch.randperm(4)
    >>> x, y = mixup(x, y, permutation, share)
    >>> loss = torch.nn.functional.cross_entropy(torch.nn.Linear(3, 2)(x), y)
    """

    alpha: float = number(0.2, 0.0)
    at: str = "*"

    name: ClassVar[str] = "mixup"
    layer: ClassVar[Layer] = Layer.INPUT_MIXING
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.INPUT_MIXING})
    uses: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS})
    outside: ClassVar[tuple[str, ...]] = ("manifold_mixup",)  # it mixes what is made of mixtures
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}
    card: ClassVar[Card] = Card(
        title="MixUp", paper="arXiv:1710.09412", cost="no pass", tier=1, phase="whole training",
        data="floating inputs (images, audio, tables)",
        avoid_when="a mixture of two inputs keeps neither label: dense or localised tasks",
        zh={
            "title": "样本混合增强（MixUp）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "浮点输入（图像、音频、表格）",
            "avoid_when": "两个输入混合后原有标签不再成立：密集预测或定位任务",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        mixing.check_targets(self.key, run)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.alpha == 0.0 or batch.targets is None:
            return inner(batch)
        draws = random.Random(run.key(self))  # noqa: S311 - a draw, no secret
        share = draws.betavariate(self.alpha, self.alpha)
        permutation = mixing.permutation_of_known(batch, run.generator(self))
        soft = mixing.mixed_targets(run, batch, permutation, share)
        inputs = self._mix(batch, permutation, share)
        return inner(batch.replace(inputs=inputs, targets=soft))

    def _mix(self, batch: Batch, permutation: Tensor, share: float) -> Any:
        """The inputs with what `at` names mixed."""
        found, chosen = mixing.chosen(self.key, batch.inputs, self.at)
        for name in chosen:
            self._check(name, found)

        def change(name: str, leaf: Tensor) -> Tensor:
            if name not in chosen:
                return leaf
            new = mixed(leaf, permutation, share)
            if batch.mask is None:
                return new
            return torch.where(batch.mask.view(-1, *[1] * (leaf.ndim - 1)), new, leaf)

        return mixing.map_named(change, batch.inputs)

    def _check(self, name: str, found: Mapping[str, Tensor]) -> None:
        if found[name].is_floating_point():
            return
        what = f"input {name!r}" if name else "the input"
        floating = [other for other, leaf in found.items() if leaf.is_floating_point()]
        remedy = f"Mix only what is floating (at={floating[0]!r}), or mix" if floating else "Mix"
        raise InputError(
            f"{self.key}: {what} has dtype {found[name].dtype}; numbers that stand for things "
            f"have no mixture. {remedy} what the embedding returns (manifold_mixup)."
        )
