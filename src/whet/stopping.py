"""Being asked to stop: SIGTERM, with which schedulers and launchers announce the end of a job.

While a run trains, SIGTERM ends nothing at once. The update in progress is finished, a checkpoint
is written and `Terminated` raised; where nobody catches it, the process ends with code 143.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CODE = 128 + signal.SIGTERM  # 143: what shells and launchers know as "ended by SIGTERM"


class Terminated(SystemExit):
    """SIGTERM came while a run was training; what was trained is saved where it has a folder.

    No error of the user's: like `sys.exit`, it ends the process without a traceback, with code 143.

    >>> Terminated("stopped after update 3").code
    143
    """

    def __init__(self, message: str = "stopped by SIGTERM") -> None:
        super().__init__(message)
        self.code = CODE

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args


class Asked:
    """Whether the process was asked to stop since the training began."""

    def __init__(self) -> None:
        self.to_stop = False

    def __call__(self, number: int, frame: Any) -> None:
        """The signal's handler: launchers send it twice, so a second one is the same request."""
        self.to_stop = True


@contextmanager
def listening() -> Iterator[Asked]:
    """Take note of SIGTERM instead of dying by it; the process's own ways return afterwards.

    Only in the main thread, where Python handles signals, and only where SIGTERM would end the
    process: a handler of the program's own, or its wish to ignore the signal, stays in charge.
    """
    asked = Asked()
    in_charge = threading.current_thread() is threading.main_thread()
    if not in_charge or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield asked
        return
    signal.signal(signal.SIGTERM, asked)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if asked.to_stop:  # it came with the last update: the program must not go on regardless
        raise Terminated
