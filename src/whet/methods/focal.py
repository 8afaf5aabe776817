"""Focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.objectives.families import Family, family
from whet.settings import number
from whet.training import Training

Alpha = float | Sequence[float] | None


def focal_losses(
    output: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    alpha: Alpha = None,
    kind: Family | None = None,
) -> Tensor:
    """Focal losses per item, not reduced; at `gamma=0` without alpha they are the family's own.

    Args:
        output: logits `(N, C)`, or `(N, T, V)` for tokens.
        targets: classes `(N,)`, probabilities `(N, C)`, or what the family wants.
        gamma: from 0.
        alpha: a weight for each class, or one number for the second of two.
        kind: categorical (None), multi-label or tokens.

    >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    >>> focal_losses(logits, labels, gamma=2.0)
    tensor([0.0018, 0.1733])
    """
    kind = kind or family("categorical")
    if gamma == 0.0 and alpha is None:
        return kind.losses(output, targets)
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()  # 1 - p has no digits left in half precision
    if kind.name == "multi-label":
        return _labels(output, targets.to(output), gamma, alpha)
    weight = _class_weights(alpha, output)
    if targets.is_floating_point():
        log_p = output.log_softmax(-1)
        each = _faded(-log_p, gamma)
        return (targets.to(each) * (each if weight is None else each * weight)).sum(-1)
    losses = _faded(kind.losses(output, targets), gamma)  # hard targets: the loss is -log p_t
    return losses if weight is None else losses * weight[targets.long().clamp(min=0)]


def _faded(losses: Tensor, gamma: float) -> Tensor:
    """`(1 - p)^gamma * losses` where the losses are -log p, unweighted."""
    rest = -torch.expm1(-losses)
    # where p rounds to 1 the power's slope is infinite below gamma 1, and infinity times 0 is NaN
    sure = rest < torch.finfo(rest.dtype).tiny
    return rest.masked_fill(sure, 1.0).pow(gamma).masked_fill(sure, 0.0) * losses


def _labels(output: Tensor, targets: Tensor, gamma: float, alpha: Alpha) -> Tensor:
    """The mean over a row's labels of both sides, each in the share that the target gives it."""
    yes, no = _faded(F.softplus(-output), gamma), _faded(F.softplus(output), gamma)
    if alpha is not None:
        share = _matching(alpha, output.shape[-1], output, "label")
        yes, no = share * yes, (1.0 - share) * no
    return (targets * yes + (1.0 - targets) * no).flatten(1).mean(1)


def _class_weights(alpha: Alpha, output: Tensor) -> Tensor | None:
    """One weight for each class."""
    if alpha is None:
        return None
    width = output.shape[-1]
    if isinstance(alpha, Sequence):
        return _matching(alpha, width, output, "class")
    if width != 2:
        raise InputError(
            f"focal: alpha={alpha:g} is the weight of the second of two classes, and the model has "
            f"{width} outputs. Give one weight for each class: alpha=({', '.join(['1'] * width)})."
        )
    return output.new_tensor([1.0 - alpha, alpha])


def _matching(alpha: float | Sequence[float], width: int, output: Tensor, what: str) -> Tensor:
    if isinstance(alpha, Sequence) and len(alpha) != width:
        raise InputError(
            f"focal: alpha has {len(alpha)} weights and the model {width} outputs; give one for "
            f"each {what}."
        )
    return torch.as_tensor(alpha, dtype=output.dtype).to(output.device, non_blocking=True)


@method
class Focal(Method):
    r"""Focal loss: what the model already gets right counts little.

    $$\ell = -\sum_c y_c\, \alpha_c\, (1 - p_c)^\gamma \log p_c$$

    which for a hard target is $\alpha_t (1 - p_t)^\gamma\, \mathrm{CE}$. p is the probability
    itself, whatever the classes weigh. The loss is linear in the target, so that mixup, label
    smoothing and distillation compose with it by the targets they set: the loss of a mixture is
    the mixture of the losses. It takes the place of the objective's loss and of nothing else: the
    terms that methods add (R-Drop's divergence, FixMatch's, a teacher's) stay what they are. The
    mean is over items; nothing is divided by the number of classes or by the sum of the weights.

    Args:
        gamma: γ, from 0; 0 without alpha is the plain loss to the bit.
        alpha: None weighs nothing (the paper's 0.25 belongs to its detector). A number in [0, 1]
            is the weight of the positive class, 1 - alpha of the other: for two classes, and for
            every label. A list has a weight for each class, from 0; for each label, in [0, 1].

    Shapes: losses `(N,)`, for tokens `(N, T)`. Binary with one logit is `multi-label` with targets
    `(N, 1)`; multi-label losses are means over the labels of a row.

    Cost: no pass; a few tensors of the size of the losses (soft targets: of the output).

    Raises:
        NotApplicable: the targets are reals or embeddings.
        InputError: alpha does not fit the classes.

    Paper: Lin et al. 2017, arXiv:1708.02002.

    >>> model = torch.nn.Linear(2, 3)
    >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    >>> loss = focal_losses(model(x), y, gamma=2.0, alpha=(1.0, 1.0, 2.0)).mean()
    """

    gamma: float = number(2.0, 0.0)
    alpha: float | tuple[float, ...] | None = number(None, 0.0, several=True)

    name: ClassVar[str] = "focal"
    layer: ClassVar[Layer] = Layer.OBJECTIVE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.OBJECTIVE})
    # what moves the logits that a loss is of
    outside: ClassVar[tuple[str, ...]] = (
        "arcface", "cosface", "logit_adjustment", "sphereface", "temperature",
    )  # fmt: skip
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"gamma": 0.0, "alpha": None}
    card: ClassVar[Card] = Card(
        title="Focal loss", paper="arXiv:1708.02002", cost="no pass", tier=1,
        phase="whole training", data="classes, some of them rare",
        avoid_when="labels are noisy, or confidence is used uncalibrated",
        zh={
            "title": "焦点损失（Focal Loss）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "分类任务，尤其是类别不平衡、含稀有类别的数据",
            "avoid_when": "标签噪声较大，或需要直接使用未校准的置信度",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "multi-label", "tokens"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no classes whose probability could be high. "
                "Leave it out, or use objective 'categorical', 'multi-label' or 'tokens'."
            )  # fmt: skip
        several = isinstance(self.alpha, Sequence)
        shares = self.alpha if isinstance(self.alpha, Sequence) else (self.alpha or 0.0,)
        if max(shares, default=0.0) > 1.0 and (kind == "multi-label" or not several):
            raise InputError(
                f"{self.key}: alpha is {self.alpha!r}; the weight of a positive lies in [0, 1], "
                "for a negative has 1 - alpha. Only a list, one for each class, may go beyond."
            )

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward = inner(batch)
        plain = self.gamma == 0.0 and self.alpha is None
        if plain or forward.batch.targets is None:
            return forward
        kind, targets = run.objective.family, forward.batch.targets
        losses = focal_losses(forward.learned, targets, self.gamma, self.alpha, kind)
        return forward.replace(losses=losses)
