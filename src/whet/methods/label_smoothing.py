"""Label smoothing."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from whet.batch import Batch
from whet.errors import NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.objectives.families import family
from whet.settings import number
from whet.training import Training


def smooth(targets: Tensor, epsilon: float, classes: int) -> Tensor:
    """`(1 - epsilon) * onehot + epsilon / K` of classes `(N,)` or probabilities `(N, K)`."""
    return family("categorical").smooth(targets, epsilon, classes)


@method
class LabelSmoothing(Method):
    r"""Targets that leave a little probability to every class.

    $$\tilde y = (1 - \epsilon)\, y + \epsilon / K$$

    over all K classes, the true one among them, which so keeps $1 - \epsilon + \epsilon/K$.
    Multi-label targets go towards 1/2. It changes the targets and nothing else, so it composes
    with mixup (soft targets are smoothed too), with focal and distillation losses, and with class
    weights: those weigh a row's loss and leave its target alone, where `F.cross_entropy(weight=,
    label_smoothing=)` moves the optimum towards heavy classes.

    Args:
        epsilon: ε in [0, 1), the probability that is spread; 0 changes nothing.

    Shapes: targets `(N,)` become `(N, K)`; tokens `(N, T)` become `(N, T, V)`.

    Cost: no pass; targets of the size of the output.

    Raises:
        InputError: a class is out of range.
        NotApplicable: the targets are reals or embeddings.

    Paper: Szegedy et al. 2016, arXiv:1512.00567.

    >>> import torch
    >>> logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
    >>> smooth(labels, 0.1, 4)[0]
    tensor([0.9250, 0.0250, 0.0250, 0.0250])
    >>> loss = torch.nn.functional.cross_entropy(logits, smooth(labels, 0.1, 4))
    """

    epsilon: float = number(0.1, 0.0, 1.0, open_high=True)

    name: ClassVar[str] = "label_smoothing"
    layer: ClassVar[Layer] = Layer.TARGET_TRANSFORM
    uses: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS})
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"epsilon": 0.0}
    card: ClassVar[Card] = Card(
        title="Label smoothing", paper="arXiv:1512.00567", cost="no pass", tier=1,
        phase="whole training", data="classes",
        avoid_when="the model is to teach another one, or its confidence is used uncalibrated",
        zh={
            "title": "标签平滑", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "分类任务",
            "avoid_when": "模型要用作蒸馏的教师，或需要直接使用未校准的置信度",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind in ("real", "embedding"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no classes to spread a probability over. Leave "
                "it out, or use objective 'categorical', 'multi-label' or 'tokens'."
            )  # fmt: skip

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.epsilon == 0.0 or batch.targets is None:
            return inner(batch)
        width = run.objective.width(run, batch)
        try:
            soft = run.objective.family.smooth(batch.known_targets(), self.epsilon, width)
        except RuntimeError:
            run.objective.check_host(batch)  # a clearer error, where targets are the reason
            raise
        return inner(batch.replace(targets=soft))
