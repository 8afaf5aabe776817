"""CosFace."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from whet.margins import MarginHead, additive_cosine
from whet.method import Card, method
from whet.settings import number
from whet.training import Training


@method
class CosFace(MarginHead):
    r"""A cosine head, and a target that must win by a margin in cosine.

    $$z_c = s \cos\theta_c, \qquad \ell = -\log
    \frac{e^{s(\cos\theta_y - m)}}{e^{s(\cos\theta_y - m)} + \sum_{c \ne y} e^{s \cos\theta_c}}$$

    with $\theta_c$ the angle between a row's features and the head's weights of class c. The last
    linear layer becomes the head: its weights stay its own and are normalised in each forward, in
    single precision; its bias is left out. What is judged is $s \cos\theta$, without a margin, and
    so is the output that R-Drop, a teacher or FixMatch sees. Soft targets of the data have the
    margin in their shares; what makes targets soft (mixup, smoothing) does not go beside it. Of
    `Members` each has a head and learns with the margin. By itself, outside of `evaluating` and of
    the predictor, the model computes what it did before; `whet.cosine.applied(model, {name:
    scale})` makes it a head there.

    Args:
        margin: m, from 0, in cosine.
        scale: s, above 0, the largest logit; 16 to 64.
        at: name of the linear layer that gives the logits; None for the last one with an output
            for each class.

    Shapes: features `(N, D)`, logits `(N, C)`; or `(N, T, D)` and `(N, T, V)` for tokens.

    Cost: no pass but a forward of one batch at the start, for the number of classes; a second
    product of the features with the head's weights, and copies of the logits.

    Raises:
        InputError: there is no such layer, or the model does not return what it gives.
        NotApplicable: no linear layer has an output for each class, or targets are no classes that
            exclude each other.

    Paper: Wang et al. 2018, arXiv:1801.09414.

    >>> import torch
    >>> from whet.cosine import cosines
    >>> from whet.margins import with_margin
    >>> layer, features = torch.nn.Linear(8, 3), torch.randn(4, 8)
    >>> cos, labels = cosines(features, layer.weight), torch.tensor([0, 1, 2, 0])
    >>> logits = 30 * with_margin(cos, labels, lambda c: additive_cosine(c, 0.35))
    >>> loss = torch.nn.functional.cross_entropy(logits, labels)
    """

    margin: float = number(0.35, 0.0)
    scale: float = number(30.0, 0.0, open_low=True)
    at: str | None = None

    name: ClassVar[str] = "cosface"
    card: ClassVar[Card] = Card(
        title="Margin in cosine (CosFace)", paper="arXiv:1801.09414", cost="no pass", tier=1,
        phase="whole training", data="classes, many of them or few rows each; features to compare",
        avoid_when="labels are noisy, or the last layer is no linear one",
        zh={
            "title": "余弦间隔（CosFace）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "分类任务：类别很多或每类样本很少，或需要比较特征",
            "avoid_when": "标签噪声较大，或最后一层不是线性层",
        },
    )  # fmt: skip

    def harder(self, run: Training, cosines: Tensor) -> Tensor:
        return additive_cosine(cosines, self.margin)
