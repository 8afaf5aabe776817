"""A headless Chromium over its DevTools pipe: what a page looks like, asks for and complains of."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install chromium, or set WHET_BROWSER to a Chromium"
# Chromium reads commands from descriptor 3 and answers on descriptor 4.
LAUNCH = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE = 60.0


def program() -> str | None:
    """The browser: the one that WHET_BROWSER names, which must exist then, or one that is there."""
    asked = os.environ.get("WHET_BROWSER")
    found = shutil.which(asked) if asked else next(filter(None, map(shutil.which, NAMES)), None)
    if asked and not found:
        raise FileNotFoundError(f"WHET_BROWSER is {asked!r}, which is no program: {INSTALL}")
    return found


class Page:
    """One tab."""

    def __init__(self, commands: int, answers: int) -> None:
        self.commands, self.answers, self.session = commands, answers, ""
        self.buffer, self.number = b"", 0
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", offline=True, latency=0,
                  downloadThroughput=-1, uploadThroughput=-1)  # fmt: skip

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self.number:
                self.events.append(answer)
                continue
            assert "error" not in answer, f"{method}: {answer['error']}"
            return dict(answer["result"])

    def open(self, file: Path, width: int, dark: bool) -> None:
        """Show a file in a window of this width, and wait until it stands."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=file.as_uri())
        while not self.named("Page.loadEventFired"):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; the page's own policy does not bind it."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key where the focus is."""
        text = {"text": "\r"} if key == "Enter" else {}
        which = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", **which, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **which)

    def printed(self) -> bytes:
        """The page as a PDF file."""
        return base64.b64decode(self.call("Page.printToPDF")["data"])

    def named(self, *methods: str) -> list[dict[str, Any]]:
        """What events of these kinds said since the page was opened."""
        return [each["params"] for each in self.events if each.get("method") in methods]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            part = os.read(self.answers, 1 << 20)
            if not part:
                raise EOFError("Chromium closed its pipe; its last words are in browser.log")
            self.buffer += part
        first, _, self.buffer = self.buffer.partition(b"\0")
        return dict(json.loads(first))


@contextmanager
def opened(folder: Path, path: str) -> Iterator[Page]:
    """A browser that keeps its profile in `folder` and ends with the block."""
    theirs_in, commands = _above(*os.pipe())
    answers, theirs_out = _above(*os.pipe())
    words = [path, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    launch = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), *words]
    with (folder / "browser.log").open("wb") as log:
        process = subprocess.Popen(launch, pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    until = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if process.poll() is None:
        process.kill()
        process.wait()


def _above(*descriptors: int) -> list[int]:
    """The same pipe at numbers that Chromium's own two do not take away."""
    moved = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in descriptors]
    for each in descriptors:
        os.close(each)
    return moved
