"""SWA: the equal-weight mean of the weights along the end of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import fsdp, modes, seeding, spans
from whet.errors import InputError
from whet.method import Card, Layer, Method, Placement, Resource, by_settings, method
from whet.optim import borrowed_rates
from whet.predict import MeanPredictor, Predictor
from whet.settings import number
from whet.training import Training


def cycle_share(place: int, length: int, high: float, low: float) -> float:
    """The rate at step `place` (from 1) of a cycle, which falls linearly and ends at `low`.

    >>> [round(cycle_share(place, 4, 0.5, 0.1), 3) for place in (1, 2, 3, 4)]
    [0.4, 0.3, 0.2, 0.1]
    """
    t = place / length
    return (1.0 - t) * high + t * low


@method
class SWA(Method):
    r"""Equal-weight mean of the weights along the end of training, judged instead of the last.

    $$\bar w_n = \bar w_{n-1} + \frac{w - \bar w_{n-1}}{n}$$

    collected every c updates that really happened, counted back from the end: so the last weights
    are always in the mean, and those before training never. Until something is collected the
    weights themselves are judged. Half-precision weights are averaged in float32.

    While weights are collected the learning rate may be held constant or go in cycles, so that
    they explore what they are averaged over. The user's schedule goes on beneath, and its rates
    stand again after each update.

    Batch statistics belong to no weights but those they were made with. SWA leaves them alone and
    asks for PreciseBN beside it, which computes them for the mean; in a plain loop,
    `precise_statistics` does (below). SWALP, which averages quantised weights, is not here.

    Args:
        after: fraction of the stage (of the method's span) from which on weights are collected, in
            [0, 1).
        every: c, from 1; None for the end of each epoch (in a plain loop: `stack.end_epoch()`),
            and the last update.
        lr: the rate while weights are collected, as a share of each group's initial one; a pair
            (high, low) to fall from one to the other in every cycle of c updates (c >= 2); None to
            leave the rate to the user's schedule.
        swag: number of models K to draw in prediction from N(mean, variance of the collected
            weights), whose probabilities are averaged (SWAG-diagonal); 0 judges the mean.

    Cost: no pass; 1 copy of the weights, 3 memory transfers of it per collection. With `swag`
    1 copy more, and in prediction K copies and K forwards (and passes of PreciseBN).

    Raises:
        InputError: the number of updates is unknown; batch normalisation without PreciseBN; a pair
            `lr` without a cycle; used alone, `average` before `collect`.
        NotApplicable: the weights are sharded (FSDP) otherwise than by `Run(strategy="fsdp")`.

    Paper: Izmailov et al. 2018, arXiv:1803.05407; SWAG: Maddox et al. 2019, arXiv:1902.02476.

    >>> from whet.methods.precise_bn import applied, precise_statistics
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> data = [torch.randn(8, 2), torch.randn(8, 2)]
    >>> swa = SWA()
    >>> swa.collect(model)              # after an optimizer.step() in the last quarter
    >>> with swa.average(model):        # weights come back on exit, also after an error
    ...     with applied(model, precise_statistics(model, data)):   # the statistics of the mean
    ...         predicted = model.eval()(torch.ones(1, 2))
    """

    after: float = number(0.75, 0.0, 1.0, open_high=True)
    # not by epochs: a stage may hold few of them, and a plain loop need not announce any
    every: int | None = number(1, 1, whole=True, optional=True)
    # A schedule that has decayed leaves weights that hardly move, whose mean is the last of them.
    # `whet study digits --methods swa:lr=null,swa:lr=0.15,swa:lr=0.5` compares.
    lr: float | tuple[float, ...] | None = number(
        0.5, 0.0, open_low=True, several=True, optional=True
    )
    swag: int = number(0, 0, whole=True)

    name: ClassVar[str] = "swa"
    layer: ClassVar[Layer] = Layer.AVERAGE
    owns: ClassVar[frozenset[Resource]] = by_settings(
        lambda swa: (
            frozenset({Resource.EVALUATION_WEIGHTS})
            | (frozenset() if swa.lr is None else {Resource.LEARNING_RATE})
        )
    )
    placements: ClassVar[Placement] = by_settings(
        lambda swa: Placement.OBSERVER if swa.lr is None else Placement.ANYTIME
    )
    companions: ClassVar[frozenset[str]] = frozenset({"precise_bn"})
    over_schedule: ClassVar[bool] = True
    looks_ahead: ClassVar[bool] = True
    whole_weights: ClassVar[bool | str] = by_settings(lambda swa: swa.swag and "swag=0")
    # collected at the end alone, the mean is the last weights
    neutral: ClassVar[dict[str, Any]] = {"lr": None, "every": 1_000_000}
    card: ClassVar[Card] = Card(
        title="Stochastic weight averaging", paper="arXiv:1803.05407",
        cost="no pass, +1 copy of the weights", tier=1, phase="last quarter of training",
        data="any", avoid_when="training is too short to settle before the last quarter",
        zh={
            "title": "随机权重平均（SWA）", "cost": "不增加前向或反向传播，多存一份权重",
            "phase": "训练的最后四分之一", "data": "任意",
            "avoid_when": "训练太短，到最后四分之一时仍未趋于收敛",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._first = self._end = self._member = 0
        self._forget()

    def _forget(self) -> None:
        self._count, self._taken = 0, [-1, -1]
        self._model: nn.Module | None = None
        self._names: list[str] = []
        self._sources: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._squares: list[Tensor] = []

    @property
    def view(self) -> str:
        return f"{self.key}[{self._count}, {self._member}]"

    # the core: torch alone -------------------------------------------------------------------
    @torch.no_grad()
    def collect(self, model: nn.Module) -> None:
        """Take the model's weights into the mean; call it after an optimizer's step."""
        self._attach(model)
        self._count += 1
        sources = [modes.wide(tensor.detach()) for tensor in self._sources]
        if self._count == 1:
            self._mean = [tensor.clone() for tensor in sources]
            self._squares = [torch.zeros_like(tensor) for tensor in sources if self.swag]
            return
        before = torch._foreach_sub(sources, self._mean) if self.swag else ()
        torch._foreach_lerp_(self._mean, sources, 1.0 / self._count)
        if self.swag:  # Welford: the mean of squares less the square of the mean is mostly rounding
            torch._foreach_addcmul_(self._squares, before, torch._foreach_sub(sources, self._mean))

    def average(self, model: nn.Module) -> AbstractContextManager[None]:
        """The mean in the model's place, for the length of a `with`."""
        self._check_collected()
        self._attach(model)
        return modes.standing_in(self._sources, self._mean)

    def sample(self, model: nn.Module, generator: torch.Generator) -> AbstractContextManager[None]:
        """Weights drawn from N(mean, variance) in the model's place; needs `swag` of 1 or more."""
        self._check_collected()
        self._attach(model)
        return modes.standing_in(self._sources, self._drawn(generator))

    def _drawn(self, generator: torch.Generator) -> Iterator[Tensor]:
        for mean, squares in zip(self._mean, self._squares, strict=True):
            # on the CPU, so that every device draws the same
            noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
            yield mean + (squares / self._count).clamp(min=0.0).sqrt() * noise

    def _attach(self, model: nn.Module) -> None:
        """Point at the weights of the model; a copy of it may be given the mean too."""
        if model is self._model:
            return
        named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        if self._count and list(named) != self._names:
            raise InputError(
                f"{self.key} averages another model: the parameters' names differ. Make a new SWA "
                "to average this one."
            )
        modes.check_whole(model, self.key)
        self._model, self._names, self._sources = model, list(named), list(named.values())

    def _check_collected(self) -> None:
        if not self._count:
            raise InputError(
                f"{self.key}: nothing is collected yet; call collect(model) after an optimizer's "
                "step, in the last part of training."
            )

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        if run.total is None:
            raise InputError(
                f"{self.key} collects from a fraction of training on and at its last update, so "
                "its length must be known: pass updates=N to Stack."
            )
        if not isinstance(self.lr, list | tuple):
            return
        if len(self.lr) != 2 or self.every is None or self.every < 2:
            raise InputError(
                f"{self.key}: lr={self.lr!r} with every={self.every}. A cycle falls from a high "
                "rate to a low one over `every` updates: give lr=(high, low) and every of 2 or "
                "more, or one number for a constant rate."
            )

    def start(self, run: Training) -> None:
        assert run.total is not None
        self._first, self._end = self._ends(run.total)
        self._forget()
        self._attach(run.module)
        self._check_statistics(run, self._begins())

    def _begins(self) -> float:
        a, b = self.span
        return a + self.after * (b - a)

    def _ends(self, total: int) -> tuple[int, int]:
        """The updates between which weights are collected."""
        end = spans.cut(self.span[1], total)
        return min(spans.cut(self._begins(), total), end - 1), end

    def _check_statistics(self, run: Training, begins: float) -> None:
        norms = [norm for norm in modes.batch_norms(run.module).values() if norm.training]
        there = [m for m in run.beside if m.name in self.companions]
        if norms and not any(m.span[0] <= begins and self.span[1] <= m.span[1] for m in there):
            lasting = f" to stand beside it from {begins:g} to {self.span[1]:g}" if there else ""
            raise InputError(
                f"{self.key}: batch normalisation (layers: {len(norms)}) keeps statistics of the "
                "weights that are trained, and the mean of weights needs its own. Add "
                f'"precise_bn" to the methods{lasting}; it computes them for what is judged.'
            )

    def before_update(self, run: Training) -> None:
        assert run.total is not None
        share = self.rate_share(run.updates, run.total)
        if share is not None:
            run.hold_update(borrowed_rates(run.open_optimizer(), share))

    def rate_share(self, updates: int, total: int) -> float | None:
        first, end = self._ends(total)
        if self.lr is None or not first <= updates < end:
            return None
        if isinstance(self.lr, int | float):
            return self.lr
        assert self.every is not None
        ahead = (end - updates - 1) % self.every  # cycles end where weights are collected
        return cycle_share(self.every - ahead, self.every, *self.lr)

    def after_update(self, run: Training) -> None:
        ahead = self._end - run.updates
        if ahead == 0 or (self.every is not None and ahead % self.every == 0):
            self._take(run)

    def end_epoch(self, run: Training) -> None:
        if self.every is None:
            self._take(run)

    def _take(self, run: Training) -> None:
        here = [run.stage_number, run.updates]
        if self._first < run.updates <= self._end and here != self._taken:
            self._taken = here
            self.collect(run.module)

    def evaluating(self, run: Training) -> AbstractContextManager[None]:
        if not self._count:
            return nullcontext()
        if self._member:
            position = (run.seed, run.stage_number, self.key, self._count, self._member)
            return self.sample(run.module, seeding.generator(*position))
        return self.average(run.module)

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        if not (self.swag and self._count):
            return inner()
        members = []
        try:
            for place in range(1, self.swag + 1):
                self._member = place
                members.append(inner())
        finally:
            self._member = 0
        return MeanPredictor(members)

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self._count, "taken": list(self._taken),
            "mean": dict(zip(self._names, self._mean, strict=False)),
            "squares": dict(zip(self._names, self._squares, strict=False)),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._count, self._taken = state["count"], list(state["taken"])
        self._mean, self._squares = self._here(state["mean"]), self._here(state["squares"])

    def _here(self, saved: dict[str, Tensor]) -> list[Tensor]:
        if not saved:
            return []
        pairs = zip(self._names, self._sources, strict=True)
        return [fsdp.part(saved[n].to(p.device, copy=True), p) for n, p in pairs]
