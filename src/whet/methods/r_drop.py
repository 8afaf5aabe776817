"""R-Drop: two passes with different dropout masks should agree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from whet import modes, objectives
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.forward import Forward, Term
from whet.method import Card, InnerForward, Layer, Method, method
from whet.objectives.families import Family
from whet.settings import choice, number
from whet.training import Training

# attributes under which modules keep a dropout rate that no nn.Dropout shows (attention kernels)
RATES = ("dropout", "attention_dropout", "attn_dropout", "dropout_p", "dropout_prob", "drop_prob")


def symmetric_divergence(family: Family, one: Tensor, two: Tensor) -> Tensor:
    """Per-item (KL(p || q) + KL(q || p)) / 2, summed over classes.

    >>> from whet.objectives import family
    >>> z = torch.randn(4, 3)
    >>> symmetric_divergence(family("categorical"), z, z).abs().max().item() < 1e-6
    True
    """
    return 0.5 * (family.divergence(one, two) + family.divergence(two, one))


def r_drop_loss(
    logits_1: Tensor,
    logits_2: Tensor,
    targets: Tensor,
    alpha: float = 1.0,
    objective: str = "categorical",
) -> Tensor:
    """Mean over items of (l_1 + l_2)/2 + alpha (KL_12 + KL_21)/2.

    Args:
        logits_1: first pass, `(N, C)`.
        logits_2: second pass, `(N, C)`.
        targets: classes `(N,)`, or as the objective wants them.
        alpha: weight of the divergence, from 0.
        objective: name of an objective with targets.

    >>> z, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    >>> torch.allclose(r_drop_loss(z, z, y), nn.functional.cross_entropy(z, y))
    True
    """
    learned = objectives.make(objective)
    mask = learned.mask(Batch(logits_1, targets))
    losses = 0.5 * (learned.losses(logits_1, targets) + learned.losses(logits_2, targets))
    losses = losses + alpha * symmetric_divergence(learned.family, logits_1, logits_2)
    return losses.mean() if mask is None else losses[mask].mean()


@method
class RDrop(Method):
    r"""Two passes of each row under two dropout masks, learned together and drawn together.

    $$L = \tfrac12 (\ell_1 + \ell_2) + \alpha\, \tfrac12
    \bigl(\mathrm{KL}(p_1 \| p_2) + \mathrm{KL}(p_2 \| p_1)\bigr)$$

    per item, summed over classes, and the mean over the items that have a target; gradients flow
    through both sides.

    Args:
        alpha: α, from 0 (one plain pass); 1 for large tasks, up to 5 for small ones.
        passes: `two` forwards, of which the first moves batch statistics; `joined`, one forward of
            the batch beside itself, which is faster and makes batch statistics those of a doubled
            batch; `auto`, two where the model has batch normalisation, else joined.

    Shapes: outputs `(N, C)` or `(N, T, V)`; the divergence has a value per item.

    Cost: 2 forward and backward passes, or 1 of twice the rows.

    Raises:
        NotApplicable: the model has no dropout, so both passes are the same; or an objective
            whose outputs are no distribution.

    Paper: Liang et al. 2021, arXiv:2106.14448.

    >>> model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.1), nn.Linear(8, 3))
    >>> x, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
    >>> loss = r_drop_loss(model(x), model(x), y, alpha=1.0)
    """

    alpha: float = number(1.0, 0.0)
    passes: str = choice("auto", "auto", "two", "joined")

    name: ClassVar[str] = "r_drop"
    layer: ClassVar[Layer] = Layer.CONSISTENCY
    # these compare a pass with another of the same masks, and so take place within each of its own
    outside: ClassVar[tuple[str, ...]] = ("vat", "adversarial_consistency")
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}
    card: ClassVar[Card] = Card(
        title="R-Drop", paper="arXiv:2106.14448", cost="2 forward and backward passes", tier=1,
        phase="whole training", data="any, with dropout in the model",
        avoid_when="the model has no dropout: then it only doubles the time",
        zh={
            "title": "两次 dropout 一致性正则（R-Drop）", "cost": "2 次前向和反向传播",
            "phase": "整个训练过程", "data": "任意，模型须含 dropout",
            "avoid_when": "模型没有 dropout：此时只会使耗时加倍",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._joined = False

    def build(self, run: Training) -> None:
        if not any(_drops(run.module)):
            raise NotApplicable(
                self.key, "the model has no dropout above 0, so that two passes are the same. Add "
                "nn.Dropout(0.1) before its last layer, or leave r_drop out."
            )  # fmt: skip
        if run.objective.family.name == "embedding":
            raise NotApplicable(self.key, "embeddings are no distribution that could agree.")
        normed = any(isinstance(module, _BatchNorm) for module in run.module.modules())
        self._joined = self.passes == "joined" or (self.passes == "auto" and not normed)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.alpha == 0.0:
            return inner(batch)
        if self._joined:
            one, two = _halves(inner(Batch.join([batch, batch])), batch.size)
        else:
            one = inner(batch)
            run.hold(self, modes.kept_statistics(run.module))
            two = inner(batch)
        return self._agree(run, one, two)

    def _agree(self, run: Training, one: Forward, two: Forward) -> Forward:
        divergence = symmetric_divergence(run.objective.family, one.output, two.output)
        if one.mask is not None:
            divergence = torch.where(one.mask, divergence, divergence.new_zeros(()))
        mean = one.replace(
            losses=0.5 * (one.losses + two.losses),
            terms=tuple(_half(term) for term in (*one.terms, *two.terms)),
        )
        return mean.add(self.key, divergence, per="items", weight=self.alpha)


def _half(term: Term) -> Term:
    return Term(term.name, term.values, term.per, 0.5 * term.weight)


def _drops(model: nn.Module) -> Iterator[float]:
    """Rates above zero of everything in the model that drops; frozen parts do not."""
    for module in model.modules():
        if model.training and not module.training:
            continue
        kind = isinstance(module, nn.modules.dropout._DropoutNd)
        rates = [module.p] if kind else [getattr(module, name, 0.0) for name in RATES]
        yield from (rate for rate in rates if isinstance(rate, float) and rate > 0.0)


def _halves(forward: Forward, rows: int) -> tuple[Forward, Forward]:
    """The two passes of a joined forward; terms belong to both, and are kept with the first."""
    # a term per item or row has the values of both passes; one per micro-batch came once
    terms = tuple(
        Term(t.name, t.values, t.per, t.weight * (2.0 if t.per == "micros" else 1.0))
        for t in forward.terms
    )

    def part(first: bool) -> Forward:
        at = slice(0, rows) if first else slice(rows, 2 * rows)
        mask = None if forward.mask is None else forward.mask[at]
        return forward.replace(
            batch=forward.batch.take(at), output=forward.output[at], losses=forward.losses[at],
            mask=mask, terms=terms if first else (),
            logits=None if forward.logits is None else forward.logits[at],
        )  # fmt: skip

    return part(first=True), part(first=False)
