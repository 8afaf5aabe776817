"""Contrastive training: the loss is what its methods (MoCo) add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Forward
from whet.method import Card, InnerForward, Method, method
from whet.objectives.families import Family, family
from whet.objectives.objective import Objective, call, logits
from whet.training import Training


def info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """Per-query InfoNCE loss against one positive key and a bank of negatives.

    $$\\ell_i = -\\log \\frac{\\exp(q_i k_i / T)}{\\exp(q_i k_i / T) + \\sum_j \\exp(q_i n_j / T)}$$

    Args:
        queries: unit vectors `(N, D)`.
        keys: unit vectors `(N, D)`, the positives.
        negatives: unit vectors `(Q, D)`.
        temperature: T, above 0.

    Returns:
        losses `(N,)`.

    >>> q = torch.eye(2)
    >>> info_nce(q, q, -q, temperature=1.0).shape
    torch.Size([2])
    """
    positive = (queries * keys).sum(1, keepdim=True)
    scores = torch.cat([positive, queries @ negatives.T], dim=1) / temperature
    return scores.logsumexp(1) - scores[:, 0]


@method
class Contrastive(Objective):
    """An objective without targets: rows are embedded, and methods such as MoCo add the loss.

    Cost: 1 forward, 1 backward, and what its methods add.

    Raises:
        InputError: no method adds a contrastive loss.
    """

    name: ClassVar[str] = "contrastive"
    card: ClassVar[Card] = Card(
        title="Contrastive", paper="arXiv:1807.03748", cost="1 pass", tier=1,
        phase="pre-training", data="views", avoid_when="no views of a row exist",
    )  # fmt: skip

    @property
    def family(self) -> Family:
        return family("embedding")

    def count(self, batch: Batch) -> float:
        return float(batch.size)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        output = logits(call(run.model, batch.inputs))
        return Forward(batch, output, output.new_zeros(batch.size))

    def conclude(self, run: Training, methods: Sequence[Method]) -> None:
        if not any(getattr(one, "contrasts", False) for one in methods):
            raise InputError(
                "objective 'contrastive' learns only from what a method adds: put MoCo among the "
                "methods, or use an objective with targets."
            )
