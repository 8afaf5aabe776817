"""Several models' answers as one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from whet.objectives.families import Family, family

MEANS = ("probabilities", "outputs")


def pooled(
    outputs_K: Tensor,
    kind: Family | None = None,
    weights: Sequence[float] | None = None,
    mean: str = "probabilities",
) -> Tensor:
    """One output of which the probabilities are the weighted mean of the models' ones.

    Args:
        outputs_K: `(K, N, ...)`: logits, or reals, of K models.
        kind: the family (None: categorical).
        weights: K numbers from 0, which are divided by their sum; None for a plain mean.
        mean: `probabilities`; or `outputs`, the mean of the logits themselves (the normalised
            geometric mean of the probabilities). For reals and embeddings they are the same.

    >>> z = torch.tensor([[[0.0, 0.0]], [[9.0, -9.0]]])
    >>> pooled(z).softmax(-1)
    tensor([[0.7500, 0.2500]])
    """
    kind = kind or family("categorical")
    outputs_K = outputs_K.to(torch.promote_types(outputs_K.dtype, torch.float32))
    log_share = _log_shares(outputs_K, weights)
    if mean == "outputs" or kind.name in ("real", "embedding"):
        return (outputs_K * log_share.exp()).sum(0)
    if kind.name == "multi-label":
        yes = (F.logsigmoid(outputs_K) + log_share).logsumexp(0)
        return yes - (F.logsigmoid(-outputs_K) + log_share).logsumexp(0)
    return (outputs_K.log_softmax(-1) + log_share).logsumexp(0)


def _log_shares(outputs_K: Tensor, weights: Sequence[float] | None) -> Tensor:
    """`(K, 1, ...)`, beside the outputs."""
    count = len(outputs_K)
    shape = (count, *[1] * (outputs_K.ndim - 1))
    if weights is None:
        return outputs_K.new_full(shape, -math.log(count))
    shares = torch.tensor([float(one) for one in weights], dtype=outputs_K.dtype)
    return (shares / shares.sum()).log().view(shape).to(outputs_K.device, non_blocking=True)
