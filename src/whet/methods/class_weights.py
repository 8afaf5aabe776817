"""Class weights."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import frequencies
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward, Window
from whet.frequencies import Frequencies
from whet.method import Card, InnerForward, InnerWindow, Layer, Method, method
from whet.settings import choice, number
from whet.training import Training


def inverse_weights(counts: Tensor) -> Tensor:
    """`N / (K n_c)`: every class weighs the same in all.

    >>> inverse_weights(torch.tensor([30.0, 10.0]))
    tensor([0.6667, 2.0000])
    """
    return counts.sum() / (len(counts) * counts.clamp(min=1.0))


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """`(1 - beta) / (1 - beta^n_c)`, scaled to a sum of K: the inverse of effective numbers.

    >>> effective_weights(torch.tensor([30.0, 10.0]), 0.0)      # the inverse, as beta nears 1
    tensor([1., 1.])
    """
    if beta == 0.0:
        return torch.ones_like(counts)
    log = torch.as_tensor(beta, dtype=torch.float64).log()
    weights = 1.0 / -torch.expm1(counts.clamp(min=1.0) * log)  # beta^n near 1 keeps its digits
    return (weights * (len(counts) / weights.sum())).to(counts.dtype)


def item_weights(targets: Tensor, weights: Tensor) -> Tensor:
    """The weight of every item; of a soft target the mean of the classes' in its shares.

    >>> item_weights(torch.tensor([1, 0]), torch.tensor([0.5, 2.0]))
    tensor([2.0000, 0.5000])
    """
    if targets.is_floating_point():
        return targets @ weights.to(targets)
    return weights.to(targets.device)[targets.long().clamp(min=0)]  # -100 is masked


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """`sum w_i l_i / sum w_i`, as torch divides a weighted cross-entropy."""
    return losses.mul(weights).sum() / weights.sum()


@method
class ClassWeights(Method):
    r"""Rows of rare classes weigh more.

    $$L = \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}}, \qquad
    w_c = \frac{N}{K n_c} \quad\text{or}\quad w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}$$

    over the whole window: all its micro-batches, in all processes. It weighs a row's loss,
    whatever that is, and leaves the target alone: focal loss has its p from the unweighted model,
    and with label smoothing the row weighs what its class does, where `F.cross_entropy(weight=,
    label_smoothing=)` weighs the smoothed target's entries and so moves the optimum towards heavy
    classes (pytorch issue 104776). A mixture of two rows weighs their weights in its shares. Terms
    that methods add (divergences, a teacher's) keep their own means.

    Args:
        by: `inverse` frequency, or the inverse of the `effective` number of rows.
        beta: β of the effective number, in [0, 1); 0 weighs nothing, towards 1 it is `inverse`.
        weights: w for each class, in place of both.
        counts: how often each class occurs; None counts the training part.

    Shapes: losses `(N,)`, for tokens `(N, T)`.

    Cost: no pass; a forward of one batch at the start, for the number of classes.

    Raises:
        InputError: the classes cannot be counted without reading all samples, or `weights` or
            `counts` do not fit the model.
        NotApplicable: the targets are no classes that exclude each other.

    Paper: Cui et al. 2019, arXiv:1901.05555.

    >>> weights = effective_weights(torch.tensor([900.0, 100.0]), beta=0.999)
    >>> logits, labels = torch.zeros(4, 2), torch.tensor([0, 0, 0, 1])
    >>> losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    >>> weighted_mean(losses, item_weights(labels, weights))
    tensor(0.6931)
    """

    by: str = choice("inverse", "inverse", "effective")
    beta: float = number(0.999, 0.0, 1.0, open_high=True)
    weights: tuple[float, ...] | None = number(None, 0.0, several=True)
    counts: tuple[float, ...] | None = number(None, 0.0, several=True)

    name: ClassVar[str] = "class_weights"
    layer: ClassVar[Layer] = Layer.TARGET_TRANSFORM
    outside: ClassVar[tuple[str, ...]] = ("label_smoothing",)  # the class, before it is smoothed
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"by": "effective", "beta": 0.0, "weights": None}
    card: ClassVar[Card] = Card(
        title="Class weights", paper="arXiv:1901.05555", cost="no pass", tier=1,
        phase="whole training", data="classes, some of them rare, that matter alike",
        avoid_when="probabilities are used as they are: rare classes become too likely",
        zh={
            "title": "类别加权", "cost": "不增加前向或反向传播", "phase": "整个训练过程",
            "data": "类别不平衡、且各类同等重要的分类任务",
            "avoid_when": "需要直接使用预测概率：稀有类别的概率会被高估",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._known: Frequencies | None = None
        self._table: Tensor | None = None
        self._factor: Tensor | float = 1.0

    @property
    def _weighs(self) -> bool:
        """Whether the settings make any difference between classes."""
        return self.weights is not None or self.by == "inverse" or self.beta > 0.0

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "tokens"):
            remedy = "Use focal with alpha, or logit_adjustment" if kind == "multi-label" else (
                "Leave it out, or use objective 'categorical' or 'tokens'")  # fmt: skip
            raise NotApplicable(
                self.key, f"objective '{kind}' has no classes of which a row has one. {remedy}."
            )
        self._table = None
        if self._weighs and self.weights is None:
            self._known = frequencies.counted(run, self.key, self.counts)

    def gradients(self, run: Training, window: Window, inner: InnerWindow) -> None:
        """The window's sum of weights is known before any forward, from the targets."""
        if self._weighs:
            self._factor = self._over_sum(run, window)
        inner(window)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward = inner(batch)
        if not self._weighs or batch.targets is None or self._table is None:
            return forward
        weights = item_weights(batch.targets, self._table) * self._factor
        return forward.replace(losses=forward.losses * weights.to(forward.losses))

    def _over_sum(self, run: Training, window: Window) -> Tensor | float:
        """`items / sum of w`: with it a mean over items is the weighted mean."""
        known = [b for b in window.batches if b.size and b.targets is not None and not b.spare]
        if self._table is None and known:
            self._table = self._made(run.objective.width(run, known[0]), known[0])
        total: Tensor | float = 0.0
        for batch in known:
            total = total + self._sum(run, batch)
        if run.world.size > 1:
            [total] = run.world.sums(float(total))
        if isinstance(total, Tensor):  # a device is not waited for
            return torch.where(total > 0, window.items / total, 0.0)
        return window.items / total if total else 0.0

    def _sum(self, run: Training, batch: Batch) -> Tensor:
        assert batch.targets is not None
        assert self._table is not None
        weights, mask = item_weights(batch.targets, self._table).double(), run.objective.mask(batch)
        return (weights if mask is None else torch.where(mask, weights, 0.0)).sum()

    def _made(self, width: int, like: Batch) -> Tensor:
        """The weights of as many classes as the model has outputs."""
        if self.weights is not None:
            weights = torch.tensor(self.weights, dtype=torch.float64)
            if len(weights) != width:
                raise InputError(
                    f"{self.key}: there are weights of {len(weights)} classes, and the model has "
                    f"{width} outputs; give one for each."
                )
        else:
            assert self._known is not None
            counts = self._known.for_width(width, self.key)
            inverse = self.by == "inverse"
            weights = inverse_weights(counts) if inverse else effective_weights(counts, self.beta)
        return weights.to(like.device, torch.get_default_dtype())
