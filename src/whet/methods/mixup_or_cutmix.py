"""MixUp in some batches and CutMix in the others."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from whet import mixing
from whet.batch import Batch
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.methods.cutmix import CutMix
from whet.methods.mixup import MixUp
from whet.settings import number
from whet.training import Training


def takes_cutmix(probability: float, draws: random.Random) -> bool:
    """Whether a batch is cut and pasted, or else mixed.

    >>> draws = random.Random(0)
    >>> sum(takes_cutmix(0.25, draws) for _ in range(1000))
    247
    """
    return draws.random() < probability


@method
class MixUpOrCutMix(Method):
    r"""Mix each micro-batch by one of two methods, drawn anew: CutMix with probability p, or MixUp.

    $$(\tilde x, \tilde y) = \begin{cases}
    \mathrm{CutMix}_{\alpha_c}(x, y) & u < p \\ \mathrm{MixUp}_{\alpha_m}(x, y) & u \ge p
    \end{cases}, \quad u \sim U(0, 1)$$

    Never both: a row is of two rows at most, and its target says in which shares. The choice is
    drawn apart from λ, which is Beta-distributed in either kind of batch. What the chosen method
    does, and draws, is what it does alone at that place of training: with p = 0 this is `mixup`,
    with p = 1 `cutmix`, to the bit.

    Args:
        probability: p in [0, 1], of CutMix.
        mixup_alpha: α_m >= 0 of MixUp's Beta distribution; 0 leaves those batches as they are.
        cutmix_alpha: α_c >= 0 of CutMix's.
        at: which inputs are mixed, images of one size: `*` for all, or a name or glob over the
            keys of a mapping (`image`), or the positions of a tuple (`0`).

    Shapes: inputs `(N, C, H, W)` or `(N, ..., H, W)`, floating; targets `(N,)` become `(N, C)`.

    Cost: no pass; 1 or 2 copies of the mixed inputs.

    Raises:
        InputError: an input to mix is no floating image; the message is that of `mixup` or
            `cutmix`, whichever is the first to be drawn.
        NotApplicable: the objective's targets have no mixture (tokens, embeddings).

    Paper: Yun et al. 2019, arXiv:1905.04899; both by turns as in Touvron et al. 2021,
    arXiv:2012.12877.

    >>> import torch
    >>> from whet.methods.cutmix import cutmix, draw_box
    >>> from whet.methods.mixup import mixup
    >>> x, y = torch.randn(4, 3, 8, 8), torch.eye(2)[[0, 1, 1, 0]]      # soft targets
    >>> draws, permutation = random.Random(0), torch.randperm(4)
    >>> if takes_cutmix(0.5, draws):
    ...     box = draw_box(8, 8, draws.betavariate(1.0, 1.0), draws)
    ...     x, y = cutmix(x, y, permutation, box)
    ... else:
    ...     x, y = mixup(x, y, permutation, draws.betavariate(0.2, 0.2))
    """

    probability: float = number(0.5, 0.0, 1.0)
    mixup_alpha: float = number(0.2, 0.0)
    cutmix_alpha: float = number(1.0, 0.0)
    at: str = "*"

    name: ClassVar[str] = "mixup_or_cutmix"
    layer: ClassVar[Layer] = Layer.INPUT_MIXING
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.INPUT_MIXING})
    uses: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS})
    outside: ClassVar[tuple[str, ...]] = ("manifold_mixup",)  # it mixes what is made of mixtures
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    card: ClassVar[Card] = Card(
        title="MixUp or CutMix, by turns", paper="arXiv:1905.04899", cost="no pass", tier=1,
        phase="whole training", data="images, and what else has two spatial dimensions",
        avoid_when="one of the two alone does harm: compare all three",
        zh={
            "title": "每批随机选用 MixUp 或 CutMix", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "图像，以及其他具有两个空间维度的输入",
            "avoid_when": "其中一种单独使用就有害：请三者对照比较",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        mixing.check_targets(self.key, run)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        return self.chosen(run).forward(run, batch, inner)

    def chosen(self, run: Training) -> Method:
        """The method that mixes this micro-batch, with draws under its own name."""
        draws = random.Random(run.key(self))  # noqa: S311 - a draw, no secret
        if takes_cutmix(self.probability, draws):
            return CutMix(self.cutmix_alpha, self.at)
        return MixUp(self.mixup_alpha, self.at)
