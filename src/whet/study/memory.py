"""Peak memory of one training: of the accelerator's allocator, else of the process on Linux."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """Bytes that were in use at most since this was made, beyond what stood then.

    On Linux the process's own high-water mark is set back first, so that a worker that trains one
    node after another tells each by itself. Elsewhere nothing is known of a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before: int | None = torch.cuda.memory_allocated(self._cuda)
            return
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what an earlier training freed
        try:
            CLEAR.write_text("5")
            self._before = _status("VmRSS")
        except OSError:
            self._before = None

    def bytes(self) -> int | None:
        """The peak so far; None where it cannot be known."""
        if self._before is None:
            return None
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) - self._before
        peak = _status("VmHWM")
        return None if peak is None else max(0, peak - self._before)


@contextmanager
def apart() -> Iterator[None]:
    """Take a training's garbage away with it, and look through nothing that was there before.

    What libraries hold is most of a process, and to look through that takes longer than some
    trainings do.
    """
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()


def _status(name: str) -> int | None:
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
