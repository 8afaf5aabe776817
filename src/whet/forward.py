"""What one micro-batch's forward gives: output, per-item losses, and named terms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from whet.batch import Batch

Per = Literal["items", "rows", "micros"]


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The micro-batches of one update, and the totals that make their weights exact.

    Args:
        batches: the micro-batches, in order.
        items: number of items with a target in the window (examples, or tokens).
        rows: number of rows in the window.
        micros: number of micro-batches.
    """

    batches: tuple[Batch, ...]
    items: float
    rows: int
    micros: int

    @classmethod
    def of(cls, batches: Sequence[Batch], count: Callable[[Batch], float]) -> Window:
        """A window with `items` counted by the objective, before any forward."""
        items, rows = 0.0, 0
        for batch in batches:
            if not batch.spare:
                items += count(batch)
                rows += batch.size
        return cls(tuple(batches), items, rows, len(batches))

    def to(self, device: torch.device) -> Window:
        """The window on a device."""
        return replace(self, batches=tuple(batch.to(device) for batch in self.batches))

    def total(self, per: Per) -> float:
        """The normaliser `per`; at least one, so that an empty window has a loss of zero."""
        return max(float(getattr(self, per)), 1.0)


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """A named addition to the loss: `weight * values.sum() / window.total(per)`."""

    name: str
    values: Tensor
    per: Per
    weight: float


@dataclass(frozen=True, slots=True, eq=False)
class Forward:
    """One micro-batch's forward.

    Args:
        batch: the batch as the objective saw it.
        output: logits `(N, C)`, `(N, T, V)`, or predictions.
        losses: per-item losses, `(N,)` or `(N, T)`.
        mask: bool like `losses`; None where every item counts.
        terms: what methods add, each with its own normaliser.
        scale: factor on the whole loss (FreeLB's 1/K).
        logits: what the losses are of, where methods moved it for the loss alone (a margin, a
            temperature, a prior); None where that is the output. For methods of the objective's
            layer: those further out see the output, as the model is judged by it.
        moves: how `logits` were made of the output, in order.
    """

    batch: Batch
    output: Tensor
    losses: Tensor
    mask: Tensor | None = None
    terms: tuple[Term, ...] = ()
    scale: float = 1.0
    logits: Tensor | None = None
    moves: tuple[Callable[[Tensor], Tensor], ...] = ()

    @property
    def learned(self) -> Tensor:
        """What the losses are of."""
        return self.output if self.logits is None else self.logits

    def as_learned(self, outputs: Tensor) -> Tensor:
        """Other outputs for the same rows, such as members' ones, moved as the output was."""
        for move in self.moves:
            outputs = move(outputs)
        return outputs

    def add(self, name: str, values: Tensor, per: Per = "items", weight: float = 1.0) -> Forward:
        """A forward with one more term."""
        return replace(self, terms=(*self.terms, Term(name, values, per, weight)))

    def replace(self, **changes: object) -> Forward:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def kept(self) -> Tensor:
        """Per-item losses, zero where the mask leaves an item out."""
        if self.mask is None:
            return self.losses
        return torch.where(self.mask, self.losses, self.losses.new_zeros(()))

    def total(self, window: Window) -> Tensor:
        """The scalar this micro-batch contributes to the window's loss."""
        items = window.total("items")
        if self.mask is None and self.scale == 1.0 and self.losses.dtype is torch.float32:
            # one operation each way; a sum that is divided takes two, a quarter of the loss's time.
            # Of a scaled loss the gradient would differ in its last bit: s/n is not s * (1/n)
            losses = self.losses.flatten()
            loss = losses.dot(losses.new_full(losses.shape, 1.0 / items))
        else:
            loss = self.kept().sum() / items
        for term in self.terms:
            loss = loss + term.values.sum() * (term.weight / window.total(term.per))
        return loss if self.scale == 1.0 else loss * self.scale
