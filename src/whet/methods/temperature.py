"""A temperature in the training loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from whet.batch import Batch
from whet.errors import NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.predict import Calibrated, Predictor
from whet.settings import choice, number
from whet.training import Training


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """`z / T` in single precision at least, of which a softmax is the tempered probability.

    >>> import torch
    >>> tempered(torch.tensor([2.0, 0.0]), 2.0)
    tensor([1., 0.])
    """
    half = logits.is_floating_point() and logits.element_size() < 4
    return (logits.float() if half else logits) / temperature


@method
class Temperature(Method):
    r"""Learn at a temperature: the loss is of the logits divided by T.

    $$\ell = -\log \mathrm{softmax}(z / T)_y$$

    T > 1 asks for larger logits before a row is sure, so that more rows keep a gradient; its size
    is divided by T as well. T < 1 lets rows be sure early. It is the logits that are divided: a
    softmax of $p / T$ is another thing, nearly flat whatever p is.

    The output stays as the model gives it, so that divergences (R-Drop, a teacher with its own T)
    are between plain outputs; focal loss and logit adjustment are of the divided logits.

    Args:
        temperature: T, above 0; 1 changes nothing.
        judged: `plain`, softmax(z), which training at T leaves T times as sharp as what was
            learned; or `tempered`, softmax(z/T), the learned probabilities (of an ensemble the
            mean, tempered). The likeliest class is the same.

    Shapes: logits as the objective has them.

    Cost: no pass; a copy of the logits.

    Raises:
        NotApplicable: the targets are reals or embeddings.

    Paper: Hinton et al. 2015, arXiv:1503.02531; Agarwala et al. 2020, arXiv:2010.07344.

    >>> import torch
    >>> logits, labels = torch.tensor([[4.0, 0.0]]), torch.tensor([0])
    >>> torch.nn.functional.cross_entropy(tempered(logits, 4.0), labels)
    tensor(0.3133)
    """

    temperature: float = number(2.0, 0.0, open_low=True)
    judged: str = choice("plain", "plain", "tempered")

    name: ClassVar[str] = "temperature"
    layer: ClassVar[Layer] = Layer.OBJECTIVE
    outside: ClassVar[tuple[str, ...]] = ("arcface", "cosface", "sphereface")
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"temperature": 1.0}
    card: ClassVar[Card] = Card(
        title="Temperature", paper="arXiv:2010.07344", cost="no pass", tier=1,
        phase="whole training", data="classes",
        avoid_when="the learning rate is tuned already: the gradient's size changes with T",
        zh={
            "title": "训练温度（Temperature）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "分类任务",
            "avoid_when": "学习率已经调好：梯度大小会随温度改变",
        },
    )  # fmt: skip

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind in ("real", "embedding"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no probabilities to temper. Leave it out, or "
                "use objective 'categorical', 'multi-label' or 'tokens'."
            )  # fmt: skip

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward = inner(batch)
        if self.temperature == 1.0 or forward.batch.targets is None:
            return forward
        return run.objective.moved(forward, lambda z: tempered(z, self.temperature))

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        plain = self.judged == "plain" or self.temperature == 1.0
        return inner() if plain else Calibrated(inner(), self.temperature)
