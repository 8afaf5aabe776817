"""Clipping the norm of the gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import fsdp
from whet.method import Card, Layer, Method, method
from whet.settings import number
from whet.training import Training


@torch.no_grad()
def clip_grad_norm(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale the gradients to a norm of at most `max_norm` and give the norm they had.

    As `torch.nn.utils.clip_grad_norm_`, but gradients whose norm is NaN or infinite are left as
    they are, where torch's turns every one of them into NaN or zero. Does not wait for the
    accelerator.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    both = fsdp.apart(held)
    norm = fsdp.total_norm(*([p.grad for p in some if p.grad is not None] for some in both))
    # a norm of zero has the factor one: such gradients are multiplied by one, NaN stays NaN
    factor_of = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))
    for some in filter(None, both):
        nn.utils.clip_grads_with_norm_(some, max_norm, factor_of)
    return norm


@method
class ClipGradNorm(Method):
    r"""Clip the norm of the gradients, all together, before the optimizer's step.

    $$g \leftarrow g \cdot \min(1, c / (\|g\|_2 + 10^{-6}))$$

    over everything that the optimizer holds, with what methods built, once per window, after
    accumulation and after fp16 gradients are brought back to their true size. A norm that is NaN
    or infinite changes nothing: the scaler skips such a step, and without one the loss watch
    speaks.

    Args:
        max_norm: c > 0, in the gradients' own units; `inf` clips nothing. `norm` reads the norm
            before clipping: choose c near its usual value.

    Cost: no pass; 2 memory transfers of the gradients per update.

    Paper: Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063.

    >>> model = nn.Linear(2, 2)
    >>> model(torch.ones(1, 2)).square().sum().backward()
    >>> norm = clip_grad_norm(model.parameters(), 0.1)      # before optimizer.step()
    >>> round(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item(), 3)
    0.1
    """

    max_norm: float = number(1.0, 0.0, open_low=True)

    name: ClassVar[str] = "clip_grad_norm"
    layer: ClassVar[Layer] = Layer.GRADIENT
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"max_norm": math.inf}
    card: ClassVar[Card] = Card(
        title="Gradient norm clipping", paper="arXiv:1211.5063", cost="no pass", tier=1,
        phase="whole training", data="any",
        avoid_when="the optimizer normalises its steps itself (LARS, LAMB, signs)",
        zh={
            "title": "梯度范数裁剪", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "任意",
            "avoid_when": "优化器自身已对步长做归一化（LARS、LAMB、符号类优化器）",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._norm: Tensor | None = None

    @property
    def norm(self) -> float:
        """The gradients' norm before the last clipping; NaN before the first."""
        return math.nan if self._norm is None else self._norm.item()

    def readings(self) -> dict[str, float]:
        return {"norm": self.norm}

    def start(self, run: Training) -> None:
        self._norm = None

    def before_update(self, run: Training) -> None:
        assert run.optimizer is not None
        held = [p for group in run.optimizer.param_groups for p in group["params"]]
        self._norm = clip_grad_norm(held, self.max_norm)
