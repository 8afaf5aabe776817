"""Families of targets: what a loss, a divergence, mixing and smoothing mean for each.

Methods call these and never a softmax of their own, so that one method works for classes, labels,
reals and tokens alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from whet.batch import Batch
from whet.errors import InputError, UnknownName
from whet.objectives.checks import check_classes, rows_text

IGNORE = -100
_NO_CLASS = torch.iinfo(torch.int64).min


class Family(ABC):
    """How outputs and targets of one kind are compared."""

    name: ClassVar[str]

    @abstractmethod
    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        """Per-item losses, not reduced."""

    @abstractmethod
    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        """Per-item Kullback-Leibler divergence KL(p || q) of two outputs."""

    @abstractmethod
    def probabilities(self, output: Tensor) -> Tensor:
        """What is judged: probabilities, or predictions for reals."""

    def align(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Output and targets in shapes that can be compared."""
        return output, targets

    def item_mask(self, targets: Tensor) -> Tensor | None:
        """Bool per item, False where the target says to ignore; None where all count."""
        return None

    def items(self, targets: Tensor, rows: Tensor | None) -> float:
        """Number of items with a target; `rows` marks the rows that have one."""
        return len(targets) if rows is None else float(rows.sum())

    def soften(self, targets: Tensor, width: int) -> Tensor:
        """Targets as probabilities over `width` classes."""
        return targets

    def mix(self, targets: Tensor, others: Tensor, share: float, width: int) -> Tensor:
        """`share * targets + (1 - share) * others`, as soft targets."""
        return torch.lerp(self.soften(others, width), self.soften(targets, width), share)

    def smooth(self, targets: Tensor, epsilon: float, width: int) -> Tensor:
        """`(1 - epsilon) * targets + epsilon / width`, as soft targets."""
        soft = self.soften(targets, width)
        return soft * (1.0 - epsilon) + epsilon / width

    @abstractmethod
    def check(self, batch: Batch, output: Tensor) -> None:
        """Raise an InputError that names rows and remedy where targets do not fit the output."""


def one_hot(targets: Tensor, width: int) -> Tensor:
    """1 for the class, 0 for the others; torch's own looks for the range of the targets first."""
    soft = torch.zeros(*targets.shape, width, device=targets.device)
    return soft.scatter_(-1, targets.long().unsqueeze(-1), 1.0)


class Categorical(Family):
    """One class per row: targets `(N,)` or probabilities `(N, C)`, outputs logits `(N, C)`."""

    name = "categorical"

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        if not targets.is_floating_point():
            targets = targets.long()
        # torch ignores -100 in silence, where the row would still be counted
        return F.cross_entropy(output, targets, ignore_index=_NO_CLASS, reduction="none")

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    def probabilities(self, output: Tensor) -> Tensor:
        return output.softmax(-1)

    def soften(self, targets: Tensor, width: int) -> Tensor:
        if targets.is_floating_point():
            return targets
        return one_hot(targets, width)

    def check(self, batch: Batch, output: Tensor) -> None:
        targets = batch.targets
        assert targets is not None
        if output.ndim != 2:
            raise InputError(
                f"the model's output has shape {tuple(output.shape)}; objective 'categorical' "
                "wants logits (N, C). For one class per token use objective='tokens'."
            )
        if targets.shape == output.shape and targets.is_floating_point():
            return
        if targets.ndim != 1:
            raise InputError(
                f"targets have shape {tuple(targets.shape)} and the output {tuple(output.shape)};"
                " objective 'categorical' wants classes (N,) or probabilities (N, C)."
            )
        check_classes(batch, output, None)


class MultiLabel(Family):
    """Any number of labels per row: targets 0/1 `(N, C)`, outputs logits `(N, C)`.

    Loss and divergence are means over the labels of a row.
    """

    name = "multi-label"

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(output, targets.to(output), reduction="none")
        return each.flatten(1).mean(1)

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        yes = F.logsigmoid(p) - F.logsigmoid(q)
        no = F.logsigmoid(-p) - F.logsigmoid(-q)
        return (p.sigmoid() * yes + (-p).sigmoid() * no).flatten(1).mean(1)

    def probabilities(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def soften(self, targets: Tensor, width: int) -> Tensor:
        return targets if targets.is_floating_point() else targets.to(torch.get_default_dtype())

    def smooth(self, targets: Tensor, epsilon: float, width: int) -> Tensor:
        return self.soften(targets, width) * (1.0 - epsilon) + epsilon / 2.0

    def check(self, batch: Batch, output: Tensor) -> None:
        targets = batch.targets
        assert targets is not None
        if targets.shape != output.shape:
            raise InputError(
                f"targets have shape {tuple(targets.shape)} and the output {tuple(output.shape)};"
                " objective 'multi-label' wants a 0/1 column for every output."
            )
        bad = ((targets < 0) | (targets > 1)).flatten(1).any(1)
        if batch.mask is not None:
            bad &= batch.mask
        if bad.any():
            raise InputError(
                f"targets out of range: labels lie in [0, 1], and {rows_text(bad, batch)} do not."
            )


class Real(Family):
    """Real numbers: targets and outputs `(N,)` or `(N, D)`; squared error, unit variance."""

    name = "real"

    def align(self, output: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        # (N, 1) against (N,) would broadcast to (N, N), the best-known silent bug of regression
        if output.ndim == targets.ndim + 1 and output.shape[-1] == 1:
            output = output.squeeze(-1)
        elif targets.ndim == output.ndim + 1 and targets.shape[-1] == 1:
            targets = targets.squeeze(-1)
        return output, targets.to(output.dtype)

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        output, targets = self.align(output, targets)
        each = (output - targets).square()
        return each if each.ndim == 1 else each.flatten(1).mean(1)

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        each = 0.5 * (p - q).square()
        return each if each.ndim == 1 else each.flatten(1).mean(1)

    def probabilities(self, output: Tensor) -> Tensor:
        return output.squeeze(-1) if output.ndim == 2 and output.shape[1] == 1 else output

    def soften(self, targets: Tensor, width: int) -> Tensor:
        return targets if targets.is_floating_point() else targets.to(torch.get_default_dtype())

    def smooth(self, targets: Tensor, epsilon: float, width: int) -> Tensor:
        raise InputError("label smoothing has no meaning for objective 'real': leave it out.")

    def check(self, batch: Batch, output: Tensor) -> None:
        assert batch.targets is not None
        shaped, targets = self.align(output, batch.targets)
        if shaped.shape != targets.shape:
            raise InputError(
                f"targets have shape {tuple(batch.targets.shape)} and the output "
                f"{tuple(output.shape)}; objective 'real' wants one output for every target."
            )
        bad = ~targets.isfinite()
        bad = bad if bad.ndim == 1 else bad.flatten(1).any(1)
        if batch.mask is not None:
            bad &= batch.mask
        if bad.any():
            raise InputError(
                f"targets are NaN or infinite in {rows_text(bad, batch)}. Drop these rows, or "
                "mark them as having no target (Batch.mask)."
            )


class Tokens(Categorical):
    """One class per token: targets `(N, T)` with -100 to ignore, outputs logits `(N, T, V)`."""

    name = "tokens"

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return -(targets * output.log_softmax(-1)).sum(-1)
        flat = F.cross_entropy(
            output.flatten(0, -2), targets.long().flatten(), ignore_index=IGNORE, reduction="none"
        )
        return flat.view(targets.shape)

    def item_mask(self, targets: Tensor) -> Tensor | None:
        return targets.sum(-1) > 0 if targets.is_floating_point() else targets != IGNORE

    def items(self, targets: Tensor, rows: Tensor | None) -> float:
        mask = self.item_mask(targets)
        assert mask is not None
        return float((mask if rows is None else mask & rows[:, None]).sum())

    def soften(self, targets: Tensor, width: int) -> Tensor:
        if targets.is_floating_point():
            return targets
        kept = targets != IGNORE
        soft = one_hot(targets.clamp(min=0), width)
        return soft * kept[..., None]

    def mix(self, targets: Tensor, others: Tensor, share: float, width: int) -> Tensor:
        raise InputError("tokens of two sequences have no mixture: leave input mixing out.")

    def smooth(self, targets: Tensor, epsilon: float, width: int) -> Tensor:
        soft = self.soften(targets, width)
        kept = (soft.sum(-1, keepdim=True) > 0).to(soft.dtype)
        return soft * (1.0 - epsilon) + kept * (epsilon / width)

    def check(self, batch: Batch, output: Tensor) -> None:
        assert batch.targets is not None
        targets = batch.targets
        soft = targets.is_floating_point() and targets.shape == output.shape
        if not soft and output.shape[:-1] != targets.shape:
            raise InputError(
                f"targets have shape {tuple(targets.shape)} and the output {tuple(output.shape)};"
                " objective 'tokens' wants targets (N, T) and logits (N, T, V)."
            )
        if not soft:
            check_classes(batch, output, IGNORE)


class Embedding(Family):
    """Outputs `(N, D)` that stand for no target: what contrastive training makes."""

    name = "embedding"

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        return output.new_zeros(len(output))

    def items(self, targets: Tensor, rows: Tensor | None) -> float:
        return float(len(targets))

    def divergence(self, p: Tensor, q: Tensor) -> Tensor:
        raise InputError("embeddings are no distribution: consistency methods do not apply.")

    def mix(self, targets: Tensor, others: Tensor, share: float, width: int) -> Tensor:
        raise InputError("a contrastive objective has no targets to mix: leave input mixing out.")

    def smooth(self, targets: Tensor, epsilon: float, width: int) -> Tensor:
        raise InputError("a contrastive objective has no targets to smooth: leave it out.")

    def probabilities(self, output: Tensor) -> Tensor:
        return output

    def check(self, batch: Batch, output: Tensor) -> None:
        if output.ndim != 2:
            raise InputError(f"embeddings are (N, D); the model gave {tuple(output.shape)}.")


FAMILIES: dict[str, Family] = {
    kind.name: kind() for kind in (Categorical, MultiLabel, Real, Tokens, Embedding)
}


def family(name: str) -> Family:
    """The family of a name."""
    if name not in FAMILIES:
        raise UnknownName("family", name, FAMILIES)
    return FAMILIES[name]
