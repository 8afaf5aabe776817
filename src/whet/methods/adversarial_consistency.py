"""Adversarial consistency: a row and what an attack made of it should be told alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from whet import attack
from whet.agreement import Consistency, Distance, Places
from whet.ball import Ball
from whet.errors import NotApplicable
from whet.method import LATE, Card, method
from whet.objectives.families import Family
from whet.settings import choice, number
from whet.training import Training


def farthest_point(
    far: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, sizes: Sequence[float] = (0.5,) * 3,
    norm: str = "linf", *, init: float = 1.0, low: float | None = None, high: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Inputs moved up a distance from a random start; put it in `attack_pass`.

    Args:
        far: from inputs to each row's divergence from the output at x, which has no gradient.
        x: inputs `(N, ...)`.
        epsilon: radius of the ball that a row is kept in.
        sizes: of the steps, in units of epsilon.
        norm: `linf`, of each number, or `l2`, of each row.
        init: size of the start in units of epsilon; from x itself a divergence has no gradient.
        low: least value that a number may take.
        high: greatest.
        generator: of the start.

    >>> from torch import nn
    >>> from whet.attack import attack_pass
    >>> from whet.objectives import family
    >>> kl, model, x = family("categorical").divergence, nn.Linear(3, 2), torch.rand(4, 3)
    >>> p = model(x).detach()
    >>> with attack_pass(model):
    ...     moved = farthest_point(lambda x: kl(p, model(x)), x, 0.1, low=0.0, high=1.0)
    >>> bool((moved - x).abs().max() <= 0.1 + 1e-6)
    True
    """
    around = Ball.around(x, epsilon, low, high, norm)
    return attack.worst(lambda point: far(point).sum(), around, sizes, init, generator)


def told(kind: Family, output: Tensor) -> Tensor:
    """What an output says of each item, as a target: its most probable class, its labels.

    >>> from whet.objectives import family
    >>> told(family("categorical"), torch.tensor([[0.1, 2.0, -1.0]])).tolist()
    [1]
    """
    return (output > 0).to(output.dtype) if kind.name == "multi-label" else output.argmax(-1)


@method
class AdversarialConsistency(Consistency):
    r"""Rows keep their prediction where an attack, or chance, moves them.

    $$L + w\,\frac1N \sum_x \mathrm{KL}\bigl(\bar p(x) \,\|\, p(x + r)\bigr)$$

    with p̄ the prediction of the pass over the batch as it is, which gets no gradient from this
    term, and r by `attack`:

    - `pgd`: K steps up the divergence itself, from a random point of the ball, for at x it has no
      gradient;
    - `fgsm`, `fgm`: one step of length ε from x up the loss of what the model itself says (its most
      probable class, its labels), along the gradient's sign, or up each row's gradient;
    - `noise`: a random point of the ball, in l2 of its rim; the control.

    No target is asked: the mean is over all rows of the batch, those without a target included,
    and, where the task has the resource `unlabelled` and the batch brings no such rows itself,
    over as many of these. All passes have one dropout mask, and only the first over the batch moves
    batch statistics. Where a gradient is 0, NaN or infinite there is no step (l2: for that row).
    The divergence is the family's, as in `vat`; tokens count where they have a target.

    Args:
        epsilon: ε, from 0 (off), in the units that `std` is of (of an embedding, in its own);
            8/255 for images in [0, 1] in linf.
        weight: w, from 0 (off); TRADES has 6, and a gradient for both sides.
        scope: `inputs`, or `embeddings`: what nn.Embedding returns, padding left alone.
        unlabelled: rows of the resource for each row of the batch, from 0.
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).
        at: which inputs (`*`: every floating one; a name, glob, position), or which embeddings.
        exclude: globs of embeddings to leave alone.
        attack: `pgd`, `fgsm`, `fgm` or `noise`.
        norm: of pgd and noise: `linf`: ε bounds every number; `l2`: the length of a row.
        steps: K of pgd, at least 1.
        step_size: of pgd, in units of ε.

    Resources: `unlabelled`, if there is one; `valid_range`, if there is one, as in `pgd_inputs`.

    Shapes: inputs `(N, ...)`; outputs `(N, C)` or `(N, T, V)`.

    Cost: K + 2 forward and backward passes of pgd, 3 of fgsm and fgm, 2 of noise, the attack's
    without gradients of weights; as many more of the unlabelled rows, one forward only. The
    activations of those with, and 2 more copies of a weight's gradient for a moment, where theirs
    are added up. Activation checkpointing has to be non-reentrant. In the scope `embeddings` a
    compiled graph breaks.

    Raises:
        InputError: no floating input matches, or `std` or the range fit no channels.
        NotApplicable: an objective whose outputs are no distribution; fgsm or fgm for reals, whose
            prediction is a target that has no gradient; no embedding matches; or the output does
            not depend on what is to be moved.

    Paper: Zhang et al. 2019 (TRADES), arXiv:1901.08573. It begins at a quarter of
    training; `.during(0, 1)` begins at once.

    >>> from torch import nn
    >>> from whet.attack import attack_pass
    >>> from whet.objectives import family
    >>> kl, model, x = family("categorical").divergence, nn.Linear(3, 2), torch.rand(4, 3)
    >>> z = model(x)
    >>> with attack_pass(model):
    ...     moved = farthest_point(lambda x: kl(z.detach(), model(x)), x, epsilon=0.1)
    >>> loss = nn.functional.cross_entropy(z, torch.tensor([0, 1, 1, 0]))
    >>> (loss + kl(z.detach(), model(moved)).mean()).backward()
    """

    epsilon: float = number(8 / 255, 0.0)
    attack: str = choice("pgd", "pgd", "fgsm", "fgm", "noise")  # type: ignore[misc]
    norm: str = choice("linf", "linf", "l2")  # type: ignore[misc]  # both have a default
    steps: int = number(default=3, low=1, whole=True)
    step_size: float = number(default=0.5, low=0.0)

    name: ClassVar[str] = "adversarial_consistency"
    span = LATE
    card: ClassVar[Card] = Card(
        title="Adversarial consistency", paper="arXiv:1901.08573",
        cost="K + 2 forward and backward passes (5); as many more for unlabelled rows", tier=2,
        phase="from a quarter on", data="floating inputs, or tokens that are embedded",
        avoid_when="at the very start, or where a small change of the input changes its class",
        zh={
            "title": "对抗一致性正则",
            "cost": "K + 2 次前向和反向传播（默认 5 次）；无标签样本再加同样次数",
            "phase": "训练进行四分之一之后", "data": "浮点输入，或经嵌入层的词元",
            "avoid_when": "训练刚开始时，或输入的微小变化就会改变类别的任务",
        },
    )  # fmt: skip

    @property
    def shape(self) -> str:
        return {"fgsm": "linf", "fgm": "l2"}.get(self.attack, self.norm)

    def build(self, run: Training) -> None:
        if self.attack in ("fgsm", "fgm") and run.objective.family.name == "real":
            raise NotApplicable(
                self.key, f"attack={self.attack!r} climbs the loss of what the model itself says, "
                "and a real prediction is a target without a gradient. Use attack='pgd' or 'noise'."
            )  # fmt: skip
        super().build(run)

    def move(self, run: Training, places: Places, p: Tensor, far: Distance) -> None:
        if self.attack == "pgd":
            places.start(1.0)
            for _ in range(self.steps):
                places.climb(far, self.step_size)
        elif self.attack == "noise":
            places.start(1.0, rim=True)
        else:
            kind = run.objective.family
            says = told(kind, p)
            places.climb(lambda output: kind.losses(output, says), 1.0, home=True)
