"""Watching the loss: a NaN is named with its step and rows, and repeated overflows end a run."""

from __future__ import annotations

import torch
from torch import Tensor

from whet import modes
from whet.errors import NonFiniteLoss
from whet.forward import Forward
from whet.training import Training

PATIENCE = 50  # a scaler that starts at 2**16 is down to 2**-34 after as many overflows


class LossWatch:
    """The losses of the last window, checked at once on a CPU and one step late elsewhere."""

    def __init__(self) -> None:
        self._seen: list[tuple[Forward, Tensor]] = []
        self._micros: set[int] = set()
        self._late: tuple[str, list[tuple[Forward, Tensor]]] | None = None
        self._skipped = 0
        self._buffers: list[tuple[Tensor, Tensor]] = []

    def begin(self, run: Training) -> None:
        """A window begins; on an accelerator the window before it is checked now."""
        if self._late is not None:
            where, seen = self._late
            self._late = None
            _check(seen, where)
        self._seen, self._micros = [], set()
        if run.scaler is not None:
            self._buffers = modes.copy_buffers(run.module)

    def saw(self, run: Training, forward: Forward, loss: Tensor) -> None:
        """A micro-batch's loss; replays and second passes are not counted again."""
        if run.micro not in self._micros:
            self._micros.add(run.micro)
            self._seen.append((forward, loss.detach()))

    def end(self, run: Training) -> None:
        """The window is through; its update has not happened."""
        if run.scaler is not None:
            return  # an overflow is the scaler's to handle; see `updated`
        where = f"stage {run.stage_number}, update {run.updates} (window {run.window})"
        if run.device.type == "cpu":
            _check(self._seen, where)
        else:
            self._late = (where, self._seen)

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
        """The window's loss."""
        return float(sum(loss.item() for _, loss in self._seen))


def _check(seen: list[tuple[Forward, Tensor]], where: str) -> None:
    if all(torch.isfinite(loss).item() for _, loss in seen):
        return
    bad = ", ".join(_rows(forward) for forward, loss in seen if not torch.isfinite(loss))
    raise NonFiniteLoss(
        f"the loss is not finite at {where}: {bad}. Look at these rows for NaN or extreme inputs; "
        "if they are sound, lower the learning rate or clip gradients (clip_grad_norm)."
    )


def _rows(forward: Forward) -> str:
    bad = ~torch.isfinite(forward.kept().detach())
    if bad.ndim > 1:
        bad = bad.flatten(1).any(1)
    if not bad.any():
        terms = [t.name for t in forward.terms if not torch.isfinite(t.values).all()]
        return f"term{'s' if len(terms) > 1 else ''} {', '.join(terms) or 'unknown'}"
    indices = forward.batch.indices
    names = (indices[bad] if indices is not None and len(indices) == len(bad) else bad.nonzero())
    shown = names.flatten().tolist()
    more = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    kind = "data set rows" if indices is not None else "rows of the batch"
    return f"{kind} {', '.join(map(str, shown[:10]))}{more}"
