"""Switches of a run for finding out what is wrong, or slow: overfit, profile, anomaly."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whet import settings, whole
from whet.callback import Callback
from whet.errors import InputError

if TYPE_CHECKING:
    from whet.run import Run

LEARNED = 0.05  # a loss below this share of the first one has gone to zero, as far as it matters
TRACE, TABLE = "trace.json", "profile.txt"
LOG = logging.getLogger("whet")


def made(run: Run, overfit: int | None, profile: int | None, anomaly: bool) -> list[Callback]:
    """The callbacks of the switches that are on.

    Raises:
        InputError: a trace has nowhere to go, or what is looked for is normal in fp16.
    """
    settings.at_least_one(overfit=overfit, profile=profile)
    if profile is not None and run.folder is None:
        raise InputError("profile writes a trace into the run's folder: pass folder= to Run.")
    if anomaly and run.precision == "fp16":
        raise InputError(
            "anomaly=True stops at the first NaN of a backward pass, and in fp16 overflows are "
            "normal: the scaler skips them. Look for it in 'bf16' or 'fp32'."
        )
    switched: list[Callback] = []
    if overfit is not None:
        switched.append(Overfit(overfit))
    if profile is not None and run.folder is not None:
        switched.append(Profile(run.folder, profile))
    return [*switched, Anomaly()] if anomaly else switched


class Overfit(Callback):
    """Reports whether the loss on a few fixed batches went to zero.

    A model that cannot learn two batches by heart will not learn the data: then its targets,
    optimizer or architecture are wrong, and this is the quickest way to see it.
    """

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.first: list[float] = []
        self.last: list[float] = []

    def updated(self, run: Run) -> None:
        """Keep the losses of the first pass over the batches, and of the newest one."""
        windows = -(-self.batches // run.stage.accumulate)
        if len(self.first) < windows:
            self.first.append(run.stack.loss)
        self.last = [*self.last, run.stack.loss][-windows:]

    def ended(self, run: Run, error: BaseException | None) -> None:
        """Say it in the run's notes and the log."""
        if error is None and self.last:
            told, learned = self.verdict(run)
            run.notes.append(told)
            LOG.log(logging.INFO if learned else logging.WARNING, told)

    def verdict(self, run: Run) -> tuple[str, bool]:
        """What is reported, and whether the loss went to zero."""
        first, last = (sum(losses) / len(losses) for losses in (self.first, self.last))
        learned = last <= LEARNED * first
        told = (
            f"overfit: the loss on {self.batches} fixed batches went from {first:.4g} to "
            f"{last:.4g} in {run.updates} updates"
        )
        if learned:
            return f"{told}: they are learned.", True
        beside = ", ".join(method.key for method in run.stack.methods)
        told += (
            ", and should come near 0. Train longer or with another learning rate "
            "(whet.find_lr); leave out what keeps it above 0 (dropout, weight decay"
            f"{f', and perhaps {beside}' if beside else ''}); then look for targets that do not "
            "belong to their inputs, for frozen parts, and for inputs that are all alike."
        )
        return told, False


class Profile(Callback):
    """Traces updates with torch's profiler, after two that are left out as warm-up.

    Writes `trace.json`, which Perfetto and chrome://tracing show, and `profile.txt`, the dearest
    operations in a table. `dearest` then holds them too: name, calls, and seconds of their own.
    """

    def __init__(self, folder: Path, updates: int) -> None:
        self.folder, self.updates = folder, updates
        self.dearest: list[tuple[str, int, float]] = []
        self._profiler: torch.profiler.profile | None = None
        self._written = False

    def began(self, run: Run) -> None:
        """Start; the schedule waits an update, warms up for one, and records."""
        active = torch.profiler.schedule(wait=1, warmup=1, active=self.updates, repeat=1)
        self._profiler = torch.profiler.profile(schedule=active, on_trace_ready=self._write)
        self._profiler.start()

    def updated(self, run: Run) -> None:
        """The next step of the profiler's schedule."""
        if self._profiler is not None:
            self._profiler.step()
            if self._written:
                self._stop()

    def ended(self, run: Run, error: BaseException | None) -> None:
        """Stop; a run that ended while recording is written as far as it came."""
        self._stop()
        if not self._written and error is None:
            run.notes.append("profile: nothing was traced, for two updates are its warm-up.")

    def _stop(self) -> None:
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.stop()

    def _write(self, profiler: torch.profiler.profile) -> None:
        with tempfile.TemporaryDirectory() as place:
            path = Path(place) / TRACE
            profiler.export_chrome_trace(str(path))
            whole.replace(self.folder / TRACE, path.read_bytes())
        found = profiler.key_averages()
        on = "device" if torch.cuda.is_available() else "cpu"
        by = f"self_{on}_time_total"
        table: str = found.table(sort_by=by, row_limit=30)
        own = (one for one in found if not one.key.startswith("ProfilerStep"))  # all but operations
        each = [(one.key, one.count, getattr(one, by) / 1e6) for one in own]
        self.dearest = sorted(each, key=lambda one: -one[2])
        whole.replace(self.folder / TABLE, table.encode())
        self._written = True


class Anomaly(Callback):
    """Names the forward operation whose backward gave the first NaN; several times slower."""

    def __init__(self) -> None:
        self._mode: Any = None

    def began(self, run: Run) -> None:
        """Switch autograd's anomaly detection on."""
        self._mode = torch.autograd.set_detect_anomaly(True)

    def ended(self, run: Run, error: BaseException | None) -> None:
        """Back to what it was."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
