"""Watching the loss: a NaN is named with its step and rows, and repeated overflows end a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from whet import modes
from whet.batch import Batch, leaves
from whet.errors import NonFiniteLoss
from whet.forward import Forward
from whet.training import Training

PATIENCE = 50  # a scaler that starts at 2**16 is down to 2**-34 after as many overflows


def at_once(loss: Tensor) -> bool:
    """Whether looking at a loss costs no waiting."""
    return loss.is_cpu


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is kept of a pass: enough to name bad rows, and neither its output nor its graph."""

    loss: Tensor
    losses: Tensor
    mask: Tensor | None
    terms: Sequence[tuple[str, Tensor]]
    batch: Batch

    @classmethod
    def of(cls, forward: Forward, loss: Tensor) -> Seen:
        """A pass, detached."""
        terms = [(term.name, term.values.detach()) for term in forward.terms]
        return cls(loss.detach(), forward.losses.detach(), forward.mask, terms, forward.batch)


class LossWatch:
    """The losses of the last window, checked at once on a CPU and one step late elsewhere."""

    def __init__(self) -> None:
        self._seen: list[Seen] = []  # passes that may not be finite
        self._first: dict[int, float | Tensor] = {}  # each micro-batch's first loss
        self._terms: list[tuple[str, Tensor, float]] = []  # and what methods added to it
        self._late: tuple[tuple[int, int, int], list[Seen]] | None = None
        self._skipped = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, run: Training) -> None:
        """A window begins; on an accelerator the window before it is checked now."""
        self.settle()
        self._seen, self._first, self._terms = [], {}, []
        if run.scaler is not None:
            both = (run.module, run.heads)
            self._buffers = [pair for module in both for pair in modes.copy_buffers(module)]

    def saw(self, run: Training, forward: Forward, loss: Tensor) -> None:
        """A pass of a micro-batch: its first one, a replay, or a method's second."""
        value: float | Tensor = loss.item() if at_once(loss) else loss.detach()
        if run.micro not in self._first:
            self._first[run.micro] = value
            if forward.terms:
                self._keep_terms(run, forward)
        if isinstance(value, Tensor) or not math.isfinite(value):
            self._seen.append(Seen.of(forward, loss))

    def _keep_terms(self, run: Training, forward: Forward) -> None:
        # not summed here: that would cost each update what is wanted of few
        assert run.current is not None
        for term in forward.terms:
            share = term.weight * forward.scale / run.current.total(term.per)
            self._terms.append((term.name, term.values.detach(), share))

    def end(self, run: Training) -> None:
        """The window is through; its update has not happened."""
        if run.scaler is not None:
            return  # an overflow is the scaler's to handle; see `updated`
        if self._seen:
            self._late = ((run.stage_number, run.updates, run.window), self._seen)
            if at_once(self._seen[0].loss):
                self.settle()

    def settle(self) -> None:
        """Check what is not checked yet; an accelerator is waited for.

        Raises:
            NonFiniteLoss: naming the step and the rows.
        """
        if self._late is not None:
            (position, seen), self._late = self._late, None
            _check(seen, position)

    def updated(self, run: Training, happened: bool) -> None:
        """Undo what a skipped update's forward moved, and count such updates in a row."""
        if not happened:
            modes.put_back(self._buffers)
            run.forget_staged()
        self._skipped = 0 if happened else self._skipped + 1
        if self._skipped >= PATIENCE:
            raise NonFiniteLoss(
                f"{PATIENCE} updates in a row overflowed and were skipped: the loss is no longer "
                "finite at any scale. Lower the learning rate, clip gradients (clip_grad_norm), "
                "or train in bf16."
            )

    @property
    def value(self) -> float:
        """The window's loss, of the first pass over each micro-batch."""
        return float(sum(float(loss) for loss in self._first.values()))

    def parts(self) -> tuple[float | Tensor, dict[str, Tensor]]:
        """The window's loss and what methods added to it; an accelerator is not waited for."""
        added: dict[str, Tensor] = {}
        for name, values, share in self._terms:
            added[name] = values.sum() * share + added.get(name, 0.0)
        return sum(self._first.values()), added

    def replace(self, loss: float | Tensor, added: Mapping[str, Tensor]) -> None:
        """Of all processes, in place of this one's; or of the window before a resume."""
        self._first = {0: loss}
        self._terms = [(name, value, 1.0) for name, value in added.items()]

    def terms(self, objective: str) -> dict[str, float]:
        """The parts of `value`: the terms by name, and before them the objective's own losses."""
        parts: dict[str, float] = {}
        for name, values, share in self._terms:
            parts[name] = parts.get(name, 0.0) + float(values.sum()) * share
        return {objective: self.value - sum(parts.values())} | parts


def _check(window: Sequence[Seen], position: tuple[int, int, int]) -> None:
    if all(torch.isfinite(seen.loss).item() for seen in window):
        return
    bad = dict.fromkeys(_what(seen) for seen in window if not torch.isfinite(seen.loss))
    raise NonFiniteLoss(
        "the loss is not finite at stage {}, update {} (window {}): ".format(*position)
        + f"{', '.join(bad)}. Look at these rows for NaN or "
        "extreme inputs; if they are sound, lower the learning rate or clip gradients "
        "(clip_grad_norm)."
    )


def _what(seen: Seen) -> str:
    bad = ~torch.isfinite(seen.losses)
    if seen.mask is not None:
        bad &= seen.mask
    if bad.ndim > 1:
        bad = bad.flatten(1).any(1)
    if not bad.any():
        terms = [name for name, values in seen.terms if not torch.isfinite(values).all()]
        return f"term{'s' if len(terms) > 1 else ''} {', '.join(terms)}" if terms else "its sum"
    of_inputs = bad & _ill(seen.batch) if len(bad) == seen.batch.size else ~bad
    if of_inputs.any():  # batch normalisation spreads one such row over all the others
        bad = of_inputs
    indices = seen.batch.indices
    known = indices is not None and len(indices) == len(bad)
    names = indices[bad.to(indices.device)] if indices is not None and known else bad.nonzero()
    shown = names.flatten().tolist()
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    kind = "data set rows" if known else "rows of the batch"
    kind = f"inputs of {kind}" if of_inputs.any() else kind
    return f"{kind} {', '.join(map(str, shown[:10]))}{more}"


def _ill(batch: Batch) -> Tensor:
    """Rows whose own inputs hold a NaN or an infinite number."""
    ill = torch.zeros(batch.size, dtype=torch.bool, device=batch.device)
    for _, leaf in leaves(batch.inputs):
        if leaf.is_floating_point():
            ill |= (
                ~leaf.detach().flatten(1).isfinite().all(1) if leaf.ndim > 1 else ~leaf.isfinite()
            )
    return ill
