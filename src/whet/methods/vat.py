"""Virtual adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from whet import seeding
from whet.agreement import Consistency, Distance, Places
from whet.ball import Ball, noise
from whet.method import LATE, Card, method
from whet.settings import number
from whet.training import Training


def virtual_point(
    far: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, xi: float = 1.0,
    iterations: int = 1, *, low: float | None = None, high: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Inputs moved by `epsilon` to where a distance grows fastest; put it in `attack_pass`.

    Args:
        far: from inputs to each row's divergence from the output at x, which has no gradient.
        x: inputs `(N, ...)`.
        epsilon: length of each row's step.
        xi: how far from x the distance is looked at; at most epsilon.
        iterations: of the power iteration.
        low: least value that a number may take.
        high: greatest.
        generator: of the direction that the iteration begins with.

    >>> from torch import nn
    >>> from whet.attack import attack_pass
    >>> from whet.objectives import family
    >>> kl, model, x = family("categorical").divergence, nn.Linear(3, 2), torch.randn(4, 3)
    >>> p = model(x).detach()
    >>> with attack_pass(model):
    ...     moved = virtual_point(lambda x: kl(p, model(x)), x, epsilon=0.5)
    >>> torch.allclose((moved - x).norm(dim=1), torch.tensor(0.5))
    True
    """
    around, short = Ball.around(x, epsilon, low, high, "l2"), min(xi / epsilon, 1.0)
    point = around.at(short * noise(x, generator, "l2", rim=True))
    for left in reversed(range(iterations)):
        point.requires_grad_()
        with seeding.borrowed():  # each looks at the network of the next pass's dropout
            [slope] = torch.autograd.grad(far(point).sum(), point)
        point = around.climbed(around.centre, slope, short if left else 1.0)
    return point


@method
class VAT(Consistency):
    r"""Virtual adversarial training: rows keep their prediction where they would lose it first.

    $$L + w\,\frac1N \sum_x \mathrm{KL}\bigl(\bar p(x) \,\|\, p(x + r)\bigr), \quad
    r = \epsilon\, g / \|g\|_2, \quad g = \nabla_r \mathrm{KL}\bigl(\bar p(x) \,\|\, p(x + r)
    \bigr)\Big|_{r = \xi d}$$

    with d a random direction, and p̄ the prediction of the pass over the batch as it is, which gets
    no gradient from this term. No target is asked: the mean is over all rows of the batch, those
    without a target included, and, where the task has the resource `unlabelled` and the batch
    brings no such rows itself, over as many of these. All passes have one dropout mask, and only
    the first over the batch moves batch statistics. A row whose gradient is 0, NaN or infinite
    stays, as do all of a batch that calls no embedding in that scope (told once in `run.notes`).

    The divergence is the family's: of classes and tokens, the mean over labels, or half the squared
    difference of reals. Tokens count where they have a target.

    Args:
        epsilon: ε, length of r of each row, in the units that `std` is of (of an embedding, in its
            own): what decides most; as far as a row may move without changing its class.
        weight: w, from 0 (off).
        xi: ξ in [0.001, 10], cut to ε: how far from x the gradient is taken. The paper's 1e-6
            drowns in float32's rounding; bf16 wants about 1.
        iterations: of the power iteration, at least 1.
        scope: `inputs`, or `embeddings`: what nn.Embedding returns, padding left alone.
        unlabelled: rows of the resource for each row of the batch, from 0.
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).
        at: which inputs (`*`: every floating one; a name, glob, position), or which embeddings.
        exclude: globs of embeddings to leave alone.

    Resources: `unlabelled`, if there is one; `valid_range`, if there is one: `(low, high)` as the
    model sees the input, numbers or one per channel, or a mapping from inputs to such. Without one
    nothing is clipped, and `notes` says so.

    Shapes: inputs `(N, ...)`, the norm over all but N; outputs `(N, C)` or `(N, T, V)`.

    Cost: 3 forward and backward passes, of which one has no gradients of weights; 3 more of the
    unlabelled rows, one forward only. The activations of all that have, and 2 more copies of a
    weight's gradient for a moment, where theirs are added up. Activation checkpointing has to be
    non-reentrant. In the scope `embeddings` a compiled graph breaks.

    Raises:
        InputError: no floating input matches, or `std` or the range fit no channels.
        NotApplicable: an objective whose outputs are no distribution; no embedding matches; or the
            output does not depend on what is to be moved.

    Paper: Miyato et al. 2018, arXiv:1704.03976. It begins at a quarter of training;
    `.during(0, 1)` begins at once. `adversarial_consistency` with attack="noise" is its control.

    >>> from torch import nn
    >>> from whet.attack import attack_pass
    >>> from whet.objectives import family
    >>> kl, model, x = family("categorical").divergence, nn.Linear(3, 2), torch.randn(4, 3)
    >>> z = model(x)
    >>> with attack_pass(model):
    ...     moved = virtual_point(lambda x: kl(z.detach(), model(x)), x, epsilon=0.5)
    >>> loss = nn.functional.cross_entropy(z, torch.tensor([0, 1, 1, 0]))
    >>> (loss + kl(z.detach(), model(moved)).mean()).backward()
    """

    xi: float = number(default=1.0, low=1e-3, high=10.0)
    iterations: int = number(default=1, low=1, whole=True)

    name: ClassVar[str] = "vat"
    span = LATE
    outside: ClassVar[tuple[str, ...]] = ("adversarial_consistency",)  # terms in one order
    card: ClassVar[Card] = Card(
        title="Virtual adversarial training (VAT)", paper="arXiv:1704.03976",
        cost="3 forward and backward passes; 3 more for unlabelled rows", tier=1,
        phase="from a quarter on", data="floating inputs, or tokens that are embedded",
        avoid_when="at the very start, or where rows of two classes lie closer than epsilon",
        zh={
            "title": "虚拟对抗训练（VAT）", "cost": "3 次前向和反向传播；无标签样本再加 3 次",
            "phase": "训练进行四分之一之后", "data": "浮点输入，或经嵌入层的词元",
            "avoid_when": "训练刚开始时，或不同类别样本的距离小于 epsilon 时",
        },
    )  # fmt: skip

    @property
    def shape(self) -> str:
        return "l2"

    def move(self, run: Training, places: Places, p: Tensor, far: Distance) -> None:
        short = min(self.xi / self.epsilon, 1.0)
        places.start(short, rim=True)
        for left in reversed(range(self.iterations)):
            places.climb(far, short if left else 1.0, home=True)
