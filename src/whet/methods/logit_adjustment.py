"""Logit adjustment."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from whet import frequencies, modes
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.frequencies import Frequencies
from whet.method import Card, InnerForward, Layer, Method, method
from whet.settings import number
from whet.training import Training


def log_prior(counts: Tensor, total: float | None = None) -> Tensor:
    """`log pi` of classes with these counts; with a `total`, the log odds of each label.

    >>> import torch
    >>> log_prior(torch.tensor([3.0, 1.0]))
    tensor([-0.2877, -1.3863])
    """
    if total is None:
        return counts.log() - counts.sum().log()
    return counts.log() - (total - counts).log()


@method
class LogitAdjustment(Method):
    r"""Learn with the classes' prior added to the logits, so that they need not hold it.

    $$\ell = -\log \frac{\exp(z_y + \tau \log \pi_y)}{\sum_c \exp(z_c + \tau \log \pi_c)}$$

    in training only: what is judged is the plain $z$, which at τ = 1 stands for classes that are
    equally frequent, so that a rare class is predicted as soon as it is likelier than chance
    would have it. Accuracy on data as skewed as the training part falls; balanced accuracy is
    what is won. Probabilities are those of a balanced world, too.

    The output stays as the model gives it, and the loss alone sees the prior: focal loss, label
    smoothing, mixup and class weights work on the adjusted loss, and the divergences of R-Drop or
    a teacher are between plain outputs. For labels that do not exclude each other the log odds
    $\log \pi_c / (1 - \pi_c)$ of each are added.

    Args:
        tau: τ, from 0; 1 is the consistent choice, 0 changes nothing.
        counts: how often each class occurs; None counts the training part. For `multi-label` one
            for each label and, last, the number of rows.

    Shapes: logits `(N, C)`, or `(N, T, V)` for tokens.

    Cost: no pass; a copy of the logits.

    Raises:
        InputError: the classes cannot be counted without reading all samples, or one of the
            model's never occurs.
        NotApplicable: the targets are reals or embeddings.

    Paper: Menon et al. 2021, arXiv:2007.07314.

    >>> import torch
    >>> logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    >>> prior = log_prior(torch.tensor([90.0, 10.0]))
    >>> loss = torch.nn.functional.cross_entropy(logits + 1.0 * prior, labels)
    """

    tau: float = number(1.0, 0.0)
    counts: tuple[float, ...] | None = number(None, 0.0, several=True)

    name: ClassVar[str] = "logit_adjustment"
    layer: ClassVar[Layer] = Layer.OBJECTIVE
    outside: ClassVar[tuple[str, ...]] = ("arcface", "cosface", "sphereface", "temperature")
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"tau": 0.0}
    card: ClassVar[Card] = Card(
        title="Logit adjustment", paper="arXiv:2007.07314", cost="no pass", tier=1,
        phase="whole training", data="classes, some of them rare, that matter alike",
        avoid_when="what is judged is as skewed as the training data, and by plain accuracy",
        zh={
            "title": "对数几率调整（Logit Adjustment）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "类别不平衡、且各类同等重要的分类任务",
            "avoid_when": "评估数据与训练数据同样偏斜，且按普通准确率评判",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._known: Frequencies | None = None
        self._prior: Tensor | None = None

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "multi-label", "tokens"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no classes, and so no prior of them. Leave it "
                "out, or use objective 'categorical', 'multi-label' or 'tokens'."
            )  # fmt: skip
        self._prior = None
        if self.tau:
            self._known = frequencies.counted(run, self.key, self.counts)
            self._check(self._known.counts)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward = inner(batch)
        if self.tau == 0.0 or forward.batch.targets is None:
            return forward

        def adjusted(z: Tensor) -> Tensor:
            z = modes.wide(z)
            return z + self._shift(run, z)

        return run.objective.moved(forward, adjusted)

    def _shift(self, run: Training, z: Tensor) -> Tensor:
        """`tau * log pi`, made at the first forward, which tells the number of classes."""
        if self._prior is None:
            assert self._known is not None
            counts = self._known.for_width(z.shape[-1], self.key)
            labels = run.objective.family.name == "multi-label"
            self._check(counts, self._known.total if labels else None)
            self._prior = self.tau * log_prior(counts, self._known.total if labels else None)
        self._prior = self._prior.to(z)  # a move once, where training goes to a device
        return self._prior

    def _check(self, counts: Tensor, total: float | None = None) -> None:
        never = (counts <= 0).nonzero().flatten().tolist()
        always = [] if total is None else (counts >= total).nonzero().flatten().tolist()
        if never or always:
            raise InputError(
                f"{self.key}: class {', '.join(map(str, never or always))} "
                f"{'never' if never else 'always'} occurs, so that its prior has no logarithm. "
                "Leave it out of the model, or say with counts= how often it is to be expected."
            )
