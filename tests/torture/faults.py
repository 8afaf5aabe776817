"""What happens to a run: each fault waits for its event and then strikes."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet import checkpoint
from whet.errors import CheckpointError
from whet.resume import FOLDER
from whet.run import Run
from whet.stopping import CODE, Terminated

FINISHED, LOST = 0, 99


class Planted(RuntimeError):
    """What a loader or a model raises."""


class Events:
    """Counts what happens in a run, and strikes at one of it.

    Events: `fetch` of a sample, `forward` of the model, `update`, `write` to the disk.
    """

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.at: tuple[str, int] | None = None
        self.strike: Callable[[], None] = lambda: None
        self.struck = False

    def plant(self, event: str, number: int, strike: Callable[[], None]) -> None:
        self.seen.clear()
        self.at, self.strike, self.struck = (event, number), strike, False

    def happened(self, event: str) -> None:
        self.seen[event] += 1
        if self.at == (event, self.seen[event]):
            self.struck = True
            self.strike()


@contextmanager
def watched_disk(events: Events) -> Iterator[None]:
    """Every flush to disk is an event; it comes before the bytes are safe."""
    true = os.fsync

    def fsync(descriptor: int) -> None:
        events.happened("write")
        true(descriptor)

    os.fsync = fsync
    try:
        yield
    finally:
        os.fsync = true


def newest(folder: Path) -> int:
    """The number of the newest whole checkpoint; -1 where there is none."""
    place = folder / FOLDER
    there = [n for n in checkpoint.numbers(place) if checkpoint.damage(place / f"{n:08d}") is None]
    return max(there, default=-1)


class Interruption:
    """One session of a case that comes to a bad end.

    Args:
        make: a Run that goes on from the folder, whose model and data tell `events`.
        totals: how many events the uninterrupted run had, divided among the sessions.
    """

    def __init__(
        self, make: Callable[[], Run], events: Events, folder: Path, totals: Counter[str],
        dice: random.Random,
    ) -> None:  # fmt: skip
        self.make, self.events, self.folder = make, events, folder
        self.totals, self.dice = totals, dice

    def suffer(self, fault: str) -> bool:
        """Go through a fault; False where the run ended before it came."""
        before = newest(self.folder)
        struck = {
            "SIGKILL": self.killed, "SIGTERM": self.terminated,
            "exception in the loader": lambda: self.raising("fetch"),
            "exception in the model": lambda: self.raising("forward"),
            "full disk": self.without_room, "torn file": self.torn, "flipped bit": self.flipped,
        }[fault]()  # fmt: skip
        if fault not in ("torn file", "flipped bit"):
            assert newest(self.folder) >= before, f"{fault} cost a whole checkpoint"
        return struck

    def number(self, event: str) -> int:
        return self.dice.randint(1, max(1, self.totals[event]))

    # in a process of its own -----------------------------------------------------------------
    def forked(self, event: str, strike: Callable[[Run], None]) -> int:
        """How a child ended that trains on; negative where a signal ended it."""
        number = self.number(event)
        child = os.fork()
        if child == 0:
            code = LOST
            try:
                run = self.make()
                self.events.plant(event, number, lambda: strike(run))
                with watched_disk(self.events):
                    run.fit()
                code = FINISHED
            except Terminated as error:
                code = int(str(error.code))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def killed(self) -> bool:
        event = self.dice.choice(("forward", "update", "write"))
        code = self.forked(event, lambda run: os.kill(os.getpid(), signal.SIGKILL))
        assert code in (FINISHED, -signal.SIGKILL), f"ended with {code}"
        return code != FINISHED

    def terminated(self) -> bool:
        told = self.folder / "signalled"
        told.unlink(missing_ok=True)

        def strike(run: Run) -> None:
            told.write_text(str(run.updates))
            os.kill(os.getpid(), signal.SIGTERM)

        code = self.forked(self.dice.choice(("forward", "update", "write")), strike)
        assert code in (FINISHED, CODE), f"ended with {code}"
        assert (code == CODE) == told.exists(), f"ended with {code}"
        if code == CODE:
            steps = newest(self.folder) - int(told.read_text())
            assert steps in (0, 1), f"saved {steps} updates after SIGTERM"
        return code == CODE

    # in this process -------------------------------------------------------------------------
    def raising(self, event: str, least: int = 1) -> bool:
        run = self.make()
        self.events.plant(event, max(least, self.number(event)), _raise)
        return self._fails(run, Planted, "planted")

    def _fails(self, run: Run, kind: type[Exception], words: str) -> bool:
        """Whether the training ends with this error, and not before."""
        try:
            with watched_disk(self.events):
                run.fit()
        except kind as error:
            if words not in str(error):
                raise
            return True
        finally:
            self.events.at = None
        return False

    def without_room(self) -> bool:
        if self.dice.random() < 0.5:
            return self._really_without_room()
        run = self.make()
        self.events.plant("write", self.number("write"), _full)
        return self._fails(run, CheckpointError, "make room")

    def _really_without_room(self) -> bool:
        """No file may grow beyond a few kilobytes, so that torch's own writer fails."""
        run, (soft, hard) = self.make(), resource.getrlimit(resource.RLIMIT_FSIZE)
        number, saves = self.dice.randint(1, 2), 0
        true = checkpoint._write

        def write(*given: Any) -> None:
            nonlocal saves
            saves += 1
            if saves >= number:
                resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
            true(*given)

        checkpoint._write = write
        try:
            return self._fails(run, CheckpointError, "make room")
        finally:
            checkpoint._write = true
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def torn(self) -> bool:
        def tear(path: Path) -> None:
            content = path.read_bytes()
            if self.dice.random() < 0.2:
                path.unlink()
            else:
                path.write_bytes(content[: self.dice.randrange(len(content))])

        return self._damaged(tear)

    def flipped(self) -> bool:
        def flip(path: Path) -> None:
            content = bytearray(path.read_bytes())
            content[self.dice.randrange(len(content))] ^= 1 << self.dice.randrange(8)
            path.write_bytes(bytes(content))

        return self._damaged(flip)

    def _damaged(self, harm: Callable[[Path], None]) -> bool:
        stopped = self.raising("update", 2)  # the first update's checkpoint is there then
        place = self.folder / FOLDER / f"{newest(self.folder):08d}"
        if not stopped or not place.exists():
            return False
        state, manifest = place / "state.pt", place / "manifest.json"
        harm(self.dice.choice((state, state, manifest)))
        return True


def _raise() -> None:
    raise Planted("planted")


def _full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
