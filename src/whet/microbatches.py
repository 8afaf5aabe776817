"""How many rows go through the model at a time, found by running out of memory.

A window's totals are known before any forward, so that cutting its batches finer changes no
weight: each item counts 1 / (items of the window), however many micro-batches it is read in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch

from whet import modes
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Window
from whet.training import Training

if TYPE_CHECKING:
    from whet.trouble import LossWatch

MicroBatch = int | Literal["auto"] | None
LOG = logging.getLogger("whet")
# what libraries say in a plain RuntimeError where torch has a kind of its own
_SAID = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory")


def check(micro_batch: object) -> None:
    """Refuse what is no size.

    Raises:
        InputError: naming what it may be.
    """
    if micro_batch is None or micro_batch == "auto":
        return
    if isinstance(micro_batch, int) and not isinstance(micro_batch, bool) and micro_batch >= 1:
        return
    raise InputError(
        f"micro_batch is {micro_batch!r}; it is a number of rows of at least 1, 'auto', or None."
    )


class MicroBatches:
    """Cuts a window's batches to the rows that memory holds.

    With `auto`, a window that runs out of memory before its update is tried again in micro-batches
    of half the rows, and so are all after it. The failed try leaves nothing behind: no gradients,
    no staged changes, no batch statistics; what methods changed they restore themselves. An update
    that has begun is not tried again, for nobody could say how far it came.

    Every method means what it says under accumulation, so none is refused. But what is per
    micro-batch - a draw of mixup, batch statistics - sees fewer rows than it would with more
    memory, exactly as if `micro_batch` had been that number from the start.

    Args:
        micro_batch: rows at most, `auto`, or None for batches as they come.
    """

    def __init__(self, micro_batch: MicroBatch = None) -> None:
        check(micro_batch)
        self.auto = micro_batch == "auto"
        self.size: int | None = micro_batch if isinstance(micro_batch, int) else None
        self.notes: list[str] = []

    def gradients(
        self, run: Training, watch: LossWatch, window: Window, inner: Callable[[Window], None]
    ) -> None:
        """Open the window, and fill the gradients from it in micro-batches that fit."""
        while not self._fits(run, watch, self.cut(window), inner):
            pass

    def _fits(
        self, run: Training, watch: LossWatch, window: Window, inner: Callable[[Window], None]
    ) -> bool:
        kept = [pair for part in (run.module, run.heads) for pair in modes.copy_buffers(part)
                ] if self.auto else []  # fmt: skip
        try:
            run.open_window(window)
            watch.begin(run)
            inner(window)
            watch.end(run)
            return True
        except RuntimeError as error:
            if not self.auto or not out_of_memory(error):
                raise
            smaller = self._halve(run, window, error)
        # beyond `except`: the traceback's frames hold the tensors that filled the memory
        modes.put_back(kept)
        run.zero_grad()
        run.forget_staged()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self.size = smaller
        return False

    def _halve(self, run: Training, window: Window, error: RuntimeError) -> int:
        rows = max(batch.size for batch in window.batches)
        norms = bool(modes.batch_norms(run.module))
        fewest = 3 if norms else 1  # cut to 3, no batch leaves a row without others to normalise by
        if rows <= fewest:
            error.add_note(
                f"micro_batch='auto' has come down to {rows} rows at a time, and memory does not "
                "hold them: use a smaller model or shorter inputs, activation checkpointing, or "
                "bf16."
            )
            raise error
        smaller = max((rows + 1) // 2, fewest)
        told = (
            f"out of memory with {rows} rows at a time in window {run.window}: from here on "
            f"micro-batches of at most {smaller}. Items weigh what they did; what is drawn "
            f"{'or normalised ' if norms else ''}per micro-batch sees fewer rows. "
            f"micro_batch={smaller} begins with this size."
        )
        self.notes.append(told)
        LOG.warning(told)
        return smaller

    def cut(self, window: Window) -> Window:
        """The window in micro-batches of at most `size` rows; its items and rows are the same."""
        size = self.size
        if size is None or all(batch.size <= size for batch in window.batches):
            return window
        parts = tuple(part for batch in window.batches for part in _even(batch, size))
        return replace(window, batches=parts, micros=len(parts))


def _even(batch: Batch, size: int) -> list[Batch]:
    """Parts that differ by a row at most: a last part of one row has no batch statistics."""
    count = -(-batch.size // size)
    if count <= 1:
        return [batch]
    cuts = [batch.size * n // count for n in range(count + 1)]
    return [batch.take(slice(a, b)) for a, b in pairwise(cuts)]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    return isinstance(error, torch.OutOfMemoryError) or any(said in str(error) for said in _SAID)
