"""Fast adversarial training: FGSM from a random start."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import attack, embedding, modes, seeding
from whet.attack import Blend, CatastrophicOverfitting, Inputs, attack_pass
from whet.ball import Ball
from whet.batch import Batch
from whet.embedding import Shift
from whet.errors import InputError
from whet.forward import Forward
from whet.method import (
    LATE,
    Card,
    InnerBackward,
    InnerForward,
    Layer,
    Method,
    Resource,
    by_settings,
    method,
)
from whet.settings import choice, number
from whet.training import Training

KEPT = ("best", "accuracy", "halved", "stopped")


def fast_fgsm(
    loss: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, step_size: float = 1.25, *,
    low: float | None = None, high: float | None = None, init: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Inputs moved up the loss by one step from a random start; put the loss in `attack_pass`.

    >>> x, y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    >>> model = nn.Linear(3, 2)
    >>> moved = fast_fgsm(lambda x: nn.functional.cross_entropy(model(x), y), x, 0.1, low=0, high=1)
    >>> bool((moved - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    sizes = (step_size,) if step_size > 0 else ()
    return attack.worst(loss, Ball.around(x, epsilon, low, high), sizes, init, generator)


@method
class FastFGSM(Method):
    r"""Fast adversarial training: learn inputs that one signed step made worse.

    $$\delta_0 \sim U(\pm\epsilon), \quad \delta = \Pi_{\pm\epsilon}\bigl(\delta_0 + \alpha\,
    \mathrm{sign}\,\nabla_x \ell(x + \delta_0, y)\bigr), \quad
    L = w\, \ell(x + \delta, y) + (1 - w)\, \ell(x, y)$$

    with α = step_size · ε, and x + δ clipped to the valid range where one is given; without one
    nothing is clipped, and `notes` says so. The attack is on the objective's own loss: what other
    methods add is learned at x + δ and not climbed. It has the dropout mask of the pass that
    learns, and moves neither gradients nor batch statistics. Where a gradient is 0, NaN or
    infinite there is no step, and rows without a target stay; so does a batch that calls no
    embedding (told in `run.notes`). In a blend (0 < w < 1) the clean pass alone moves statistics.

    Every `watch` updates the first batch is attacked by 5 steps of PGD, in evaluation mode. Where
    `accuracy` there falls more than `drop` below its `best`, one step is no attack any more: a
    CatastrophicOverfitting warning says so, and `on_drop` what is done.

    Args:
        epsilon: ε, from 0, in the units that `std` is of; 8/255 for images in [0, 1].
        step_size: α/ε. 0 makes no attack pass and no watch, and learns the noise δ_0: the control
            that every gain is to be compared with.
        init: size of δ_0 in units of ε; 0 with step_size=1 is plain FGSM.
        scope: `inputs`, or `embeddings`: what nn.Embedding returns, padding left alone.
        weight: w in [0, 1]; 0 is plain training.
        watch: updates between two looks, 0 for none. Reals have no accuracy and are not watched.
        drop: in [0, 1].
        on_drop: `halve` the step, each time again; or `stop` the attack and learn clean inputs.
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).
        at: which inputs (`*`: every floating one; a name, glob, position), or which embeddings.
        exclude: globs of embeddings to leave alone.

    Resources: `valid_range`, if there is one: `(low, high)` as the model sees the input, numbers
    or one per channel, so `((0 - mean) / std, (1 - mean) / std)`; or a mapping from inputs to such.

    Cost: 2 forward and backward passes (3 in a blend), 6 more every `watch` updates; a copy of the
    first batch, which checkpoints hold too. In the scope `embeddings` a compiled graph breaks.
    Activation checkpointing has to be non-reentrant.

    Raises:
        InputError: no floating input matches, `std` or the range fit no channels, or the first
            batch lies outside of the range.
        NotApplicable: the loss does not depend on what is to be moved, or there is no loss.

    Paper: Wong, Rice & Kolter 2020, arXiv:2001.03994. From a quarter on; `.during(0, 1)`: at once.

    >>> model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    >>> with attack_pass(model):
    ...     loss = lambda x: nn.functional.cross_entropy(model(x), y)
    ...     worse = fast_fgsm(loss, x, epsilon=8 / 255, low=0.0, high=1.0)
    >>> nn.functional.cross_entropy(model(worse), y).backward()
    """

    epsilon: float = number(8 / 255, 0.0)
    step_size: float = number(1.25, 0.0)
    init: float = number(1.0, 0.0, 1.0)
    scope: str = choice("inputs", "inputs", "embeddings")
    weight: float = number(1.0, 0.0, 1.0)
    watch: int = number(100, 0, whole=True)
    drop: float = number(0.2, 0.0, 1.0)
    on_drop: str = choice("halve", "halve", "stop")
    std: float | tuple[float, ...] | None = number(None, 0.0, open_low=True, several=True)
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS

    name: ClassVar[str] = "fast_fgsm"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = by_settings(
        lambda attack: frozenset(
            {Resource.SECOND_GRADIENT, *[Resource.MOVED_INPUTS][: attack.scope == "inputs"]}
        )
    )
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Fast adversarial training (FGSM)", paper="arXiv:2001.03994",
        cost="2 forward and backward passes", tier=1, phase="from a quarter on",
        data="floating inputs, or tokens that are embedded",
        avoid_when="at the very start, or where a small change of the input changes its class",
        zh={
            "title": "快速对抗训练（Fast FGSM）", "cost": "前向与反向传播各 2 次",
            "phase": "训练进行四分之一之后", "data": "浮点输入，或经嵌入层的词元",
            "avoid_when": "训练刚开始时，或输入的微小变化就会改变类别的任务",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self._forget()
        self._model: nn.Module | None = None
        self._embeddings: dict[str, nn.Module] = {}
        self._shift: Shift | None = None
        self.skipped: list[str] = []  # embeddings that some batch did not call
        self._blend = Blend()

    def _forget(self) -> None:
        self.accuracy: float | None = None  # under PGD, when it was last looked at
        self.best, self.halved, self.stopped = 0.0, 0, False
        self._inputs = Inputs()
        self._first: Batch | None = None  # one for all looks: of other rows accuracy differs anyway

    # the core: torch alone -------------------------------------------------------------------
    def begin(self, model: nn.Module) -> None:
        """Find the model's embeddings."""
        self._embeddings = embedding.modules(model, self.at, self.exclude, self.key)
        self._model, self.skipped = model, []

    @contextmanager
    def attack(self, model: nn.Module, loss: Callable[[], Tensor], seed: int = 0) -> Iterator[None]:
        """Embeddings at the point that raises `loss()`, for the length of a `with`."""
        if self._model is not model:
            self.begin(model)
        with self._shifted(model, seed):
            with attack_pass(model):
                self._climb(loss, self._sizes)
            yield

    def observe(self, accuracy: float) -> None:
        """Take note of an accuracy under PGD; where it fell too far the attack changes."""
        self.accuracy = accuracy
        if self.best - accuracy <= self.drop:
            self.best = max(self.best, accuracy)
            return
        best, self.best = self.best, accuracy
        if self.on_drop == "stop":
            self.stopped, act = True, "the attack ends, and clean inputs are learned from here on"
        else:
            self.halved += 1
            act = f"the step is {self._sizes[0]:g} times epsilon from here on"
        told = f"{self.key}: accuracy under PGD fell from {best:.2f} to {accuracy:.2f}; {act}."
        warnings.warn(told, CatastrophicOverfitting, stacklevel=2)

    @property
    def _sizes(self) -> tuple[float, ...]:
        return (self.step_size / 2**self.halved,) if self.step_size > 0 else ()

    @contextmanager
    def _shifted(self, model: nn.Module, key: int, rows: Tensor | None = None) -> Iterator[None]:
        """Embeddings at δ_0, from where `_climb` moves them."""
        self._rows: Tensor | None = rows
        start = attack.starting(self.epsilon, self.init, key, rows)
        with Shift(model, [*self._embeddings.values()], start) as self._shift:
            try:
                yield
                embedding.uncalled(self._embeddings, self._shift.calls, self.skipped)
            finally:
                self._shift = None

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        kind, inputs = run.objective.family.name, self.scope == "inputs"
        attack.check_loss(self.key, run)
        if not inputs:
            if self.std is not None:
                raise InputError(f"{self.key}: std is of inputs; leave it out for embeddings.")
            self.begin(run.module)
            embedding.make_ready(run.module, [*self._embeddings.values()])
        self.notes = attack.unclipped(run) if inputs else []
        if kind == "real" and self.watch > 0:
            self.notes.append("reals have no accuracy: overfitting is not watched")

    def start(self, run: Training) -> None:
        self._forget()
        if self.scope == "embeddings":
            self.begin(run.module)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if not self._blend.moves(batch, self._share):
            return inner(batch)
        if self.scope == "embeddings":
            run.hold(self, self._shifted(run.module, run.key(self), batch.mask))
        with attack_pass(run.module):
            worse = self._attacked(run, batch, self._sizes, run.key(self))
        # a batch without words shows no overfitting
        seen = not self._sizes or attack.called(self, run, self._shift)
        if seen and self._first is None and run.micro == 0 and self._watches(run):
            run.stage(self, batch)
        return inner(worse)

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        self._blend.backward(run, forward, inner, self._share)

    def after_update(self, run: Training) -> None:
        for skipped in self.skipped:
            run.note(embedding.stays(self.key, skipped))
        for batch in run.staged(self):
            self._first = batch.replace(indices=None).map(torch.clone)
        if self._watches(run) and not self.stopped and run.updates % self.watch == 0:
            here = math.nan if self._first is None else self._under_pgd(run, self._first)
            if math.isfinite(accuracy := run.world.leading(here)):
                self.observe(accuracy)

    @property
    def _share(self) -> float:
        return 0.0 if self.epsilon == 0.0 or self.stopped else self.weight

    def _attacked(self, run: Training, batch: Batch, sizes: Sequence[float], key: int) -> Batch:
        """The batch to learn: with its inputs moved, or as it is where a shift stands moved."""

        def loss(some: Batch) -> Tensor:
            # a sum: in half precision a mean's gradient may round to 0, which has no sign
            return attack.plain(run, some).kept().sum()

        if self.scope == "embeddings":
            self._climb(lambda: loss(batch), sizes)
            return batch
        around = self._inputs.balls(self, run, batch)
        points = attack.started(around, self.init, key)
        for size in sizes:
            points = attack.climbed(self, loss, batch, around, points, size)
        return attack.moved(batch, points)

    def _climb(self, loss: Callable[[], Tensor], sizes: Sequence[float]) -> None:
        """The shift that stands, from δ_0 up the loss."""
        assert self._shift is not None
        self._shift.rewind()
        for size in sizes:
            slopes = attack.slopes(self, loss(), [c.delta for c in self._shift.calls])
            for call, slope in zip(self._shift.calls, slopes, strict=True):
                here = attack.around(call, self.epsilon, self._rows)
                call.move(here.climbed(call.delta.detach(), slope, size))

    # the watch -------------------------------------------------------------------------------
    def _watches(self, run: Training) -> bool:
        return self.watch > 0 and self.step_size > 0 and run.objective.family.name != "real"

    def _under_pgd(self, run: Training, batch: Batch) -> float:
        """Accuracy in evaluation mode on a batch that PGD attacked."""
        batch = batch.to(run.device)
        key = seeding.key(run.seed, run.stage_number, run.rank, self.key)
        with modes.evaluation_mode(run.module), attack_pass(run.module), ExitStack() as shift:
            if self.scope == "embeddings":
                shift.enter_context(self._shifted(run.module, key, batch.mask))
            worse = self._attacked(run, batch, attack.PGD, key)
            with torch.no_grad():
                return attack.accuracy(attack.plain(run, worse), run.objective.family.name)

    def state_dict(self) -> dict[str, Any]:
        first = self._first and (self._first.inputs, self._first.targets, self._first.mask)
        return {"first": first} | {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__dict__.update({name: state[name] for name in KEPT})
        self._first = state["first"] and Batch(*state["first"])
