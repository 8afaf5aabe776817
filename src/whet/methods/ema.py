"""EMA of the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import device as devices
from whet import fsdp, modes
from whet.errors import InputError
from whet.method import Card, Layer, Method, Placement, Resource, by_settings, method
from whet.predict import Predictor
from whet.settings import choice, number
from whet.training import Training

DECAY = 0.999


def decay_at(update: int, decay: float, warmup: str) -> float:
    """The decay of update number `update` (from 1).

    `none`: d; `ratio`: min(d, (1+t)/(10+t)); `power`: min(d, 1-(1+t)^(-2/3)).
    """
    if warmup == "ratio":
        return min(decay, (1 + update) / (10 + update))
    if warmup == "power":
        return min(decay, 1.0 - float((1 + update) ** (-2 / 3)))
    return decay


@method
class EMA(Method):
    """Exponential moving average of the weights, judged instead of the weights themselves.

    $$s_t = d_t s_{t-1} + (1 - d_t) w_t$$

    after each update that really happened: accumulation and skipped fp16 steps do not count.
    Integer buffers are copied; float buffers are copied, or averaged by choice. Half-precision
    weights are averaged in float32.

    Args:
        decay: d in [0, 1); or several, of which the one that is best on the select part is
            judged (the first, where there is no select part).
        half_life: N above 0, in rows, in place of `decay`: an update over n rows decays by
            $d = 2^{-n/N}$, so that after N rows half of the old average is left, however large the
            batches are or grow. A decay that stays forgets fewer updates and so ever more rows.
        warmup: `none`, `ratio` min(d, (1+t)/(10+t)), `power` min(d, 1-(1+t)^(-2/3)), or
            `debias`: the average starts at zero and is divided by 1-d^t.
        buffers: `copy` or `average` the float buffers (batch statistics).
        device: where the averages stand, such as `cpu`; None for the model's device.

    Cost: no pass; 1 copy of the weights per decay, 3 memory transfers of it per update; on another
    device each update waits for the weights to get there.

    Raises:
        InputError: decay and half-life are both given, a host does not say how many rows an update
            has, or torch knows no such device; used alone, `average` or `load_state_dict` before
            `begin` or `update`.
        NotApplicable: the weights are sharded (FSDP) otherwise than by `Run(strategy="fsdp")`.

    Paper: Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv:1703.01780.

    >>> model = nn.Linear(2, 2)
    >>> ema = EMA(decay=0.99)
    >>> ema.begin(model)
    >>> ema.update(model)               # after each optimizer.step()
    >>> with ema.average(model):        # weights come back on exit, also after an error
    ...     predicted = model(torch.ones(1, 2))
    """

    decay: float | tuple[float, ...] = number(DECAY, 0.0, 1.0, open_high=True, several=True)
    half_life: float | None = number(None, 0.0, open_low=True, open_high=True)
    warmup: str = choice("ratio", "none", "ratio", "power", "debias")
    buffers: str = choice("copy", "copy", "average")
    device: str | None = None

    name: ClassVar[str] = "ema"
    layer: ClassVar[Layer] = Layer.AVERAGE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.EVALUATION_WEIGHTS})
    placements: ClassVar[Placement] = Placement.OBSERVER
    whole_weights: ClassVar[bool | str] = by_settings(
        lambda ema: (
            (not isinstance(ema.decay, int | float) and "one decay")
            or (ema.device is not None and "device=None")
        )
    )
    neutral: ClassVar[dict[str, Any]] = {"decay": 0.0}
    card: ClassVar[Card] = Card(
        title="Exponential moving average", paper="arXiv:1703.01780",
        cost="no pass, +1 copy of the weights", tier=1, phase="whole training", data="any",
        avoid_when="training is so short that the average lags (1/(1-decay) updates)",
        zh={
            "title": "权重的指数移动平均（EMA）", "cost": "不增加前向或反向传播，多存一份权重",
            "phase": "整个训练过程", "data": "任意",
            "avoid_when": "训练太短，平均值来不及跟上（约需 1/(1-decay) 次更新）",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.half_life is not None and self.decay != DECAY:
            raise InputError(
                f"ema: decay={self.decay} and half_life={self.half_life} both say how fast the "
                "average forgets; give one of them."
            )
        self._updates = self._chosen = 0
        self._products: list[float] = []
        self._model: nn.Module | None = None
        self._names: list[str] = []
        self._sources: list[Tensor] = []
        self._shadows: list[list[Tensor]] = []

    @property
    def decays(self) -> tuple[float, ...]:
        """All decays that are averaged with."""
        return (self.decay,) if isinstance(self.decay, int | float) else tuple(self.decay)

    @property
    def view(self) -> str:
        return f"{self.key}[{self._chosen}]"

    # the core: torch alone -------------------------------------------------------------------
    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        """Average from the model's present weights on."""
        self._shadows = []
        self._attach(model)
        self._updates, self._products = 0, [1.0] * len(self.decays)
        # with d = 0.999 a bf16 average would never move
        sources = self._seen()
        self._shadows = [[tensor.clone() for tensor in sources] for _ in self.decays]
        if self.warmup == "debias":
            for shadow in self._shadows:
                torch._foreach_zero_(shadow)

    def _attach(self, model: nn.Module) -> None:
        """Point at the tensors of the model; a copy of it may be given the average too."""
        if self._shadows and model is self._model:
            return
        found: list[tuple[str, Tensor]] = list(model.named_parameters())
        found += model.named_buffers() if self.buffers == "average" else ()
        named = {name: tensor for name, tensor in found if tensor.is_floating_point()}
        if self._shadows and list(named) != self._names:
            raise InputError(
                f"{self.key} averages another model: the parameters' names differ. Call "
                "begin(model) to average this one."
            )
        modes.check_whole(model, self.key)
        self._model, self._names, self._sources = model, list(named), list(named.values())

    def _seen(self) -> list[Tensor]:
        """What is averaged, where the averages stand."""
        device = devices.named(self.device, self.key)
        wide = [modes.wide(tensor) for tensor in self._sources]
        return wide if device is None else [tensor.to(device) for tensor in wide]

    @torch.no_grad()
    def update(self, model: nn.Module, rows: int = 0) -> None:
        """Take the model's weights into the average; call it after the optimizer's step.

        A half-life needs the update's rows, over all its micro-batches and processes.
        Without a `begin` before training, the first call begins from the weights it is given.
        """
        if not self._shadows:
            self.begin(model)
        self._attach(model)
        self._updates += 1
        sources = self._seen()
        for at, (decay, shadow) in enumerate(zip(self.decays, self._shadows, strict=True)):
            d = decay_at(self._updates, self._over(rows, decay), self.warmup)
            self._products[at] *= d
            torch._foreach_lerp_(shadow, sources, 1.0 - d)

    def _over(self, rows: int, decay: float) -> float:
        """The decay of an update over so many rows."""
        if self.half_life is None:
            return decay
        if rows < 1:
            raise InputError(
                f"{self.key}: half_life counts rows, and nobody says how many this update has. "
                "Call update(model, rows), or give decay where the host does not tell."
            )
        return float(2.0 ** (-rows / self.half_life))

    @contextmanager
    def average(self, model: nn.Module) -> Iterator[None]:
        """The averaged weights in the model's place, for the length of a `with`."""
        self._check_begun()
        self._attach(model)
        shadow: Iterable[Tensor] = self._shadows[self._chosen]
        if self.warmup == "debias":
            if self._updates == 0:
                yield
                return
            scale = 1.0 / (1.0 - self._products[self._chosen])
            shadow = (tensor * scale for tensor in self._shadows[self._chosen])
        with modes.standing_in(self._sources, shadow):
            yield

    def _check_begun(self) -> None:
        if not self._shadows:
            raise InputError(
                f"{self.key}: nothing is averaged yet; call begin(model) before training, or "
                "update(model) after an optimizer's step."
            )

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        devices.named(self.device, self.key)

    def start(self, run: Training) -> None:
        self.begin(run.module)

    def after_update(self, run: Training) -> None:
        self.update(run.module, 0 if run.current is None else run.current.rows)

    def evaluating(self, run: Training) -> AbstractContextManager[None]:
        return self.average(run.module)

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        if len(self.decays) > 1 and run.score is not None:
            scores = []
            for at in range(len(self.decays)):
                self._chosen = at
                score = run.score(inner())
                scores.append(-math.inf if math.isnan(score) else score)
            self._chosen = scores.index(max(scores))
        return inner()

    def state_dict(self) -> dict[str, Any]:
        return {
            "updates": self._updates, "chosen": self._chosen, "products": list(self._products),
            "shadows": [dict(zip(self._names, s, strict=True)) for s in self._shadows],
        }  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._check_begun()
        self._updates, self._chosen = state["updates"], state["chosen"]
        self._products = list(state["products"])
        for shadow, saved in zip(self._shadows, state["shadows"], strict=True):
            for name, tensor in zip(self._names, shadow, strict=True):
                tensor.copy_(fsdp.part(saved[name], tensor))
