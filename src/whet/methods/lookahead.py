"""Lookahead: k steps forward, one step back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import fsdp, modes
from whet.method import Card, Layer, Method, method
from whet.settings import number
from whet.training import Training


@method
class Lookahead(Method):
    r"""Slow weights that follow the optimizer's fast weights every k updates.

    $$\phi \leftarrow \phi + \alpha(\theta - \phi), \quad \theta \leftarrow \phi \quad
    \text{every } k \text{ updates}$$

    Updates are those that really happened: micro-batches and skipped fp16 steps do not count. The
    optimizer's own state (momentum) goes on. Between two synchronisations the fast weights are
    what is judged; to judge the slow ones, train for a multiple of k updates.

    Args:
        k: updates between synchronisations, at least 1.
        alpha: share of the way that the slow weights go, in [0, 1].

    Cost: no pass; 1 copy of the weights, 2 memory transfers of it every k updates.

    Paper: Zhang et al. 2019, arXiv:1907.08610.

    >>> model = nn.Linear(2, 2)
    >>> lookahead = Lookahead(k=5)
    >>> lookahead.begin(model.named_parameters())
    >>> lookahead.update()              # after each optimizer.step()
    """

    k: int = number(5, 1, whole=True)
    alpha: float = number(0.5, 0.0, 1.0)

    name: ClassVar[str] = "lookahead"
    layer: ClassVar[Layer] = Layer.WEIGHTS
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 1.0}
    card: ClassVar[Card] = Card(
        title="Lookahead", paper="arXiv:1907.08610", cost="no pass, +1 copy of the weights",
        tier=2, phase="whole training", data="any",
        avoid_when="the run is a few multiples of k updates long",
        zh={
            "title": "前瞻优化（Lookahead）", "cost": "不增加前向或反向传播，多存一份权重",
            "phase": "整个训练过程", "data": "任意",
            "avoid_when": "训练总长只有 k 次更新的几倍",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._updates = 0
        self._fast: dict[str, nn.Parameter] = {}
        self._slow: dict[str, Tensor] = {}

    # the core: torch alone -------------------------------------------------------------------
    def begin(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Slow weights begin at the present ones of `(name, parameter)` pairs."""
        self._updates, self._fast = 0, dict(parameters)
        self._slow = {name: p.detach().clone() for name, p in self._fast.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count an update; synchronise at every k-th."""
        self._updates += 1
        if self._updates % self.k == 0 and self._fast:
            slow: list[Tensor] = list(self._slow.values())
            fast: list[Tensor] = list(self._fast.values())
            torch._foreach_lerp_(slow, fast, self.alpha)
            torch._foreach_copy_([*map(modes.here, fast)], [*map(modes.here, slow)])

    # the moments -----------------------------------------------------------------------------
    def start(self, run: Training) -> None:
        named = [*run.module.named_parameters()]
        named += [(f"heads.{name}", p) for name, p in run.heads.named_parameters()]
        self.begin((name, p) for name, p in named if p.requires_grad)

    def after_update(self, run: Training) -> None:
        self.update()

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self._updates, "slow": dict(self._slow)}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._updates = state["updates"]
        for name, slow in self._slow.items():  # in one order: processes wait for each other
            if name in state["slow"]:  # what a stage thaws begins where it is
                slow.copy_(fsdp.part(state["slow"][name], slow))
