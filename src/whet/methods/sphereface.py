"""SphereFace."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from whet import spans
from whet.margins import MarginHead, multiplied_angle
from whet.method import Card, method
from whet.settings import number
from whet.training import Training


def annealed(update: int, base: float, decay: float, lowest: float) -> float:
    """λ, the plain cosine's weight beside ψ: `max(lowest, base / (1 + decay * t))`.

    >>> [annealed(t, 1000.0, 0.12, 5.0) for t in (0, 100, 10_000)]
    [1000.0, 76.92307692307692, 5.0]
    """
    return max(lowest, base / (1.0 + decay * update))


@method
class SphereFace(MarginHead):
    r"""A cosine head, and a target whose angle counts m times.

    $$z_c = s \cos\theta_c, \qquad z_y = s\,
    \frac{\lambda \cos\theta_y + \psi(\theta_y)}{1 + \lambda}, \qquad
    \psi(\theta) = (-1)^k \cos(m\theta) - 2k, \quad k = \lfloor m\theta / \pi \rfloor$$

    in the loss, where $\theta_c$ is the angle between a row's features and the head's weights of
    class c. λ falls with the updates since the method's span began, as learning with ψ from the
    start does not converge: $\lambda = \max(\lambda_{min}, \lambda_0 / (1 + \gamma t))$. The
    scale is a number, as in the later papers; the first one has the features' norm in its place,
    which is the same for features of norm s.

    The last linear layer becomes the head: its weights stay its own and are normalised in each
    forward, in single precision; its bias is left out. What is judged is $s \cos\theta$, without a
    margin, and so is the output that R-Drop, a teacher or FixMatch sees. Soft targets of the data
    have the margin in their shares; what makes targets soft (mixup, smoothing) does not go beside
    it. Of `Members` each has a head and learns with the margin. By itself, outside of `evaluating`
    and of the predictor, the model computes what it did before; `whet.cosine.applied(model, {name:
    scale})` makes it a head there.

    Args:
        margin: m, a whole number from 1; 1 is none.
        scale: s, above 0, the largest logit; 16 to 64.
        base: λ at the start, from 0.
        decay: γ per update, from 0; a short training wants a larger one.
        lowest: λ at the end, from 0.
        at: name of the linear layer that gives the logits; None for the last one with an output
            for each class.

    Shapes: features `(N, D)`, logits `(N, C)`; or `(N, T, D)` and `(N, T, V)` for tokens.

    Cost: no pass but a forward of one batch at the start, for the number of classes; a second
    product of the features with the head's weights, and copies of the logits.

    Raises:
        InputError: there is no such layer, or the model does not return what it gives.
        NotApplicable: no linear layer has an output for each class, or targets are no classes that
            exclude each other.

    Paper: Liu et al. 2017, arXiv:1704.08063.

    >>> import torch
    >>> from whet.cosine import cosines
    >>> from whet.margins import with_margin
    >>> layer, features = torch.nn.Linear(8, 3), torch.randn(4, 8)
    >>> cos, labels = cosines(features, layer.weight), torch.tensor([0, 1, 2, 0])
    >>> blend = annealed(500, 1000.0, 0.12, 5.0)
    >>> logits = 30 * with_margin(cos, labels, lambda c: multiplied_angle(c, 4, blend))
    >>> loss = torch.nn.functional.cross_entropy(logits, labels)
    """

    margin: int = number(4, 1, whole=True)
    scale: float = number(30.0, 0.0, open_low=True)
    base: float = number(1000.0, 0.0)
    decay: float = number(0.12, 0.0)
    lowest: float = number(5.0, 0.0)
    at: str | None = None

    name: ClassVar[str] = "sphereface"
    card: ClassVar[Card] = Card(
        title="Multiplied angle (SphereFace)", paper="arXiv:1704.08063", cost="no pass", tier=1,
        phase="whole training", data="classes, many of them or few rows each; features to compare",
        avoid_when="training is too short to anneal, or the last layer is no linear one",
        zh={
            "title": "倍角间隔（SphereFace）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "分类任务：类别很多或每类样本很少，或需要比较特征",
            "avoid_when": "训练太短，来不及退火；或最后一层不是线性层",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self._last = self.base

    def harder(self, run: Training, cosines: Tensor) -> Tensor:
        return multiplied_angle(cosines, self.margin, self._blend(run))

    def readings(self) -> Mapping[str, float]:
        return {"lambda": self._last}

    def _blend(self, run: Training) -> float:
        began = spans.cut(self.span[0], run.total) if run.total else 0
        self._last = annealed(max(run.updates - began, 0), self.base, self.decay, self.lowest)
        return self._last
