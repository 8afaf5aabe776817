"""PGD on inputs; one step of it is FGSM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import attack
from whet.attack import Blend, Inputs, attack_pass
from whet.ball import Ball
from whet.batch import Batch
from whet.forward import Forward
from whet.method import LATE, Card, InnerBackward, InnerForward, Layer, Method, Resource, method
from whet.settings import choice, number
from whet.training import Training


def pgd_inputs(
    loss: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, step_size: float = 0.25,
    steps: int = 7, *, norm: str = "linf", low: float | None = None, high: float | None = None,
    init: float = 1.0, generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Inputs moved up the loss in steps of `step_size * epsilon`; put it in `attack_pass`.

    >>> from torch import nn
    >>> x, y = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    >>> model = nn.Linear(3, 2)
    >>> loss = lambda x: nn.functional.cross_entropy(model(x), y)
    >>> moved = pgd_inputs(loss, x, 0.1, norm="l2", low=0.0, high=1.0)
    >>> bool(((moved - x).norm(dim=1) <= 0.1 + 1e-6).all())
    True
    """
    around = Ball.around(x, epsilon, low, high, norm)
    return attack.worst(loss, around, (step_size,) * steps, init, generator)


@method
class PGDInputs(Method):
    r"""Adversarial training: learn inputs that K steps up the loss made worse.

    $$\min_w \mathbb E \max_{\|\delta\| \le \epsilon} \ell(x + \delta, y), \quad \delta \leftarrow
    \Pi_\epsilon\bigl(\delta + \alpha\, \mathrm{sign}\,\nabla_x \ell(x + \delta, y)\bigr)$$

    K times, with α = step_size · ε; with norm `l2` each row's $g / \|g\|_2$ in place of the sign.
    x + δ is clipped to the valid range where one is given; without one nothing is clipped, and
    `notes` says so. `steps=1, init=0, step_size=1` is FGSM. The attack is on the objective's own
    loss: what other methods add is learned at x + δ and not climbed. It has the dropout mask of
    the pass that learns, and moves neither gradients nor batch statistics. Where a gradient is 0,
    NaN or infinite there is no step (l2: for that row), and rows without a target stay as they
    are. In a blend the clean pass alone moves the batch statistics.

    Args:
        epsilon: ε, from 0, in the units that `std` is of; 8/255 for images in [0, 1], and 0.5 to
            3 for such images in l2.
        step_size: α/ε.
        steps: K, at least 1.
        norm: `linf`: ε bounds every number; `l2`: the length of a row, each input by itself.
        init: size of the random start δ_0 in units of ε; 0 begins at x.
        clean_weight: c in [0, 1]: learns (1 - c) ℓ(x + δ, y) + c ℓ(x, y). 1 is plain training.
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).
        at: which inputs: `*` for every floating one; a name, glob, position.

    Resources: `valid_range`, if there is one: `(low, high)` as the model sees the input, numbers
    or one per channel, so `((0 - mean) / std, (1 - mean) / std)`; or a mapping from inputs to such.

    Shapes: inputs `(N, ...)`.

    Cost: K + 1 forward and backward passes, one more in a blend. Activation checkpointing has to
    be non-reentrant.

    Raises:
        InputError: no floating input matches, `std` or the range fit no channels, or the first
            batch lies outside of the range.
        NotApplicable: the loss does not depend on the inputs, or there is no loss.

    Paper: Madry et al. 2018, arXiv:1706.06083; FGSM: Goodfellow et al. 2015, arXiv:1412.6572. It
    begins at a quarter of training; `.during(0, 1)` begins at once. `fast_fgsm` costs a quarter;
    `random_noise` is the control.

    >>> from torch import nn
    >>> model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    >>> with attack_pass(model):
    ...     loss = lambda x: nn.functional.cross_entropy(model(x), y)
    ...     worse = pgd_inputs(loss, x, epsilon=8 / 255, low=0.0, high=1.0)
    >>> nn.functional.cross_entropy(model(worse), y).backward()
    """

    epsilon: float = number(8 / 255, 0.0)
    step_size: float = number(0.25, 0.0)
    steps: int = number(7, 1, whole=True)
    norm: str = choice("linf", "linf", "l2")
    init: float = number(1.0, 0.0, 1.0)
    clean_weight: float = number(0.0, 0.0, 1.0)
    std: float | tuple[float, ...] | None = number(None, 0.0, open_low=True, several=True)
    at: str = "*"

    name: ClassVar[str] = "pgd_inputs"
    span = LATE
    scope: ClassVar[str] = "inputs"
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = frozenset(
        {Resource.SECOND_GRADIENT, Resource.MOVED_INPUTS}
    )
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"clean_weight": 1.0}
    card: ClassVar[Card] = Card(
        title="Adversarial training (PGD, FGSM)", paper="arXiv:1706.06083",
        cost="K + 1 forward and backward passes (8)", tier=2, phase="from a quarter on",
        data="floating inputs", avoid_when="accuracy on clean inputs is what counts",
        zh={
            "title": "对抗训练（PGD、FGSM，扰动输入）",
            "cost": "K + 1 次前向和反向传播（默认 8 次）",
            "phase": "训练进行四分之一之后", "data": "浮点输入",
            "avoid_when": "只看重干净样本上的准确率时",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self._blend, self._inputs = Blend(), Inputs()

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        attack.check_loss(self.key, run)
        self.notes = attack.unclipped(run)

    def start(self, run: Training) -> None:
        self._inputs = Inputs()

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        return inner(self._attacked(run, batch) if self._blend.moves(batch, self._share) else batch)

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        self._blend.backward(run, forward, inner, self._share)

    @property
    def _share(self) -> float:
        return 0.0 if self.epsilon == 0.0 else 1.0 - self.clean_weight

    def _attacked(self, run: Training, batch: Batch) -> Batch:
        def loss(some: Batch) -> Tensor:
            # a sum: in half precision a mean's gradient may round to 0, which has no sign
            return attack.plain(run, some).kept().sum()

        around = self._inputs.balls(self, run, batch, self.norm)
        points = attack.started(around, self.init, run.key(self))
        for _ in range(self.steps):
            with attack_pass(run.module):  # every step: all have one dropout mask
                points = attack.climbed(self, loss, batch, around, points, self.step_size)
        return attack.moved(batch, points)
