"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import fsdp, modes, reducing
from whet.forward import Window
from whet.method import Card, InnerWindow, Layer, Method, by_settings, method
from whet.settings import choice, number
from whet.training import Training


@method
class SAM(Method):
    r"""Sharpness-aware minimisation: the gradient at the worst point nearby, applied here.

    $$g_{\text{SAM}} = \nabla L(w + e), \quad e = \rho\, g / \|g\|_2, \quad g = \nabla L(w)$$

    and, `adaptive` (ASAM), $e = \rho\, w^2 g / \| |w|\, g \|_2$, which does not change when a
    layer is scaled up and the next one down. The norm is over all parameters that have a gradient,
    of the whole accumulation window, and the second pass repeats that window with the same
    dropout masks and leaves the batch statistics alone. Where the norm is zero, NaN or infinite
    nothing is moved, and the second pass is made all the same. Gradients may be scaled, as the norm
    takes the scale out: in a loop of your own unscale once, after the second pass.

    Args:
        rho: ρ, the radius, in units of the weights (0.05 is usual); with `adaptive` in units of
            their own size (0.5 to 2). 0 makes no second pass.
        adaptive: move each weight in proportion to its square.
        across: of several processes, `local`: each climbs the gradient of its own rows, as if its
            rows were a batch (m-sharpness), for one all-reduce a step. `global`: all climb that of
            the whole window, for one all-reduce a pass; equal to one process.

    Cost: 2 forward and backward passes; 1 copy of the weights, for a moment another of the
    largest one.

    Paper: Foret et al. 2021, arXiv:2010.01412; adaptive: Kwon et al. 2021, arXiv:2102.11600.

    >>> model = nn.Linear(2, 2)
    >>> x, y = torch.ones(1, 2), torch.tensor([0])
    >>> nn.functional.cross_entropy(model(x), y).backward()
    >>> with SAM(rho=0.05).ascend(model):      # gradients are dropped; weights return on exit
    ...     nn.functional.cross_entropy(model(x), y).backward()
    >>> model.weight.grad is not None          # now optimizer.step()
    True
    """

    rho: float = number(0.05, 0.0)
    adaptive: bool = choice(False, False, True)
    across: str = choice("local", "local", "global")

    name: ClassVar[str] = "sam"
    layer: ClassVar[Layer] = Layer.SHARPNESS
    whole_weights: ClassVar[bool | str] = by_settings(
        lambda sam: sam.across == "local" and "across='global'"
    )
    neutral: ClassVar[dict[str, Any]] = {"rho": 0.0}
    card: ClassVar[Card] = Card(
        title="Sharpness-aware minimisation", paper="arXiv:2010.01412",
        cost="2 forward and backward passes, +1 copy of the weights", tier=2,
        phase="whole training, or its end", data="any",
        avoid_when="time is what is short: the same time buys twice the updates without it",
        zh={
            "title": "锐度感知最小化（SAM）", "cost": "2 次前向和反向传播，多存一份权重",
            "phase": "整个训练过程，或仅在末段", "data": "任意",
            "avoid_when": "时间紧张：不用它，同样时间可以完成两倍的更新次数",
        },
    )  # fmt: skip

    # the core: torch alone -------------------------------------------------------------------
    @contextmanager
    def ascend(self, *modules: nn.Module) -> Iterator[None]:
        """The weights moved up their gradients, which are dropped, for the length of a `with`."""
        parameters = {id(p): p for module in modules for p in module.parameters()}.values()
        moving = [p for p in parameters if p.grad is not None]
        saved = [(p, p.detach().clone()) for p in moving]
        try:
            self._move(moving)
            modes.forget_casts()
            for parameter in moving:
                parameter.grad = None
            yield
        finally:
            # by copy: w + e - e is not w
            modes.put_back(saved)
            modes.forget_casts()

    @torch.no_grad()
    def _move(self, moving: list[nn.Parameter]) -> None:
        if not moving:
            return
        grads = [_wide(p.grad) for p in moving if p.grad is not None]
        if self.adaptive:
            grads = [g * p.abs() for g, p in zip(grads, moving, strict=True)]
        norm = fsdp.total_norm(*fsdp.apart(grads))
        useless = ~((norm > 0) & norm.isfinite())
        scale = self.rho / norm
        for parameter, grad in zip(moving, grads, strict=True):
            step = grad * scale.to(grad.device)
            if self.adaptive:
                step *= parameter.abs()
            # not by a branch, which would wait for the device; 0 * inf would be NaN
            parameter.add_(step.masked_fill_(useless.to(grad.device), 0.0))

    # the moments -----------------------------------------------------------------------------
    def gradients(self, run: Training, window: Window, inner: InnerWindow) -> None:
        inner(window)
        if self.rho > 0:
            if self.across == "global":
                reducing.add_gradients(run)
            with self.ascend(run.module, run.heads), modes.still_statistics(run.module):
                run.zero_grad()
                inner(window)


def _wide(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    return dense.float() if dense.dtype in (torch.float16, torch.bfloat16) else dense
