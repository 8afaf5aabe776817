"""What a machine says of itself when `whet doctor` sends it a job."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.study import files
from whet.study.executors.executor import cores
from whet.study.executors.job import differences, same

ANSWER = "answer-"  # how an answer's name begins
SKEW = 5.0  # seconds that clocks may differ by: beyond, times in logs and files mislead


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: what was found and, where it is wrong, the remedy."""

    where: str
    what: str
    found: str
    remedy: str = ""

    @property
    def fine(self) -> bool:
        """Whether nothing needs to be done."""
        return not self.remedy


@contextmanager
def asked(folder: Path) -> Iterator[Path]:
    """A question in the shared folder, and its answers beside it; both are removed afterwards."""
    place = folder.resolve() / f".doctor-{secrets.token_hex(4)}"
    question = place / "question.json"
    there = folder.is_dir()
    try:
        files.write(question, files.to_json({"token": secrets.token_hex(8)}))
        yield question
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if not there:
            with suppress(OSError):
                folder.rmdir()


def answer(path: str) -> str:
    """What this machine is and sees, as JSON; also written beside the question, if that is seen."""
    question = files.read_json(Path(path)) or {}
    found = {
        "token": question.get("token"), "same": same(), "cores": cores(), "gpus": _gpus(),
        "time": time.time(), "machine": os.uname().nodename, "process": os.getpid(),
    }  # fmt: skip
    text = files.to_json(found)
    if question:
        files.write(_place(path, found), text)
    return text


def first_answer(question: Path) -> str | None:
    """What a machine wrote beside the question; None as long as no answer is whole.

    An answer that is being written stands there under another name, all of it while the disk is
    waited for: who takes that one finds no answer in its place afterwards.
    """
    names = [name for name in os.listdir(question.parent) if name.startswith(ANSWER)]
    return files.read_text(question.with_name(names[0])) if names else None


def _place(path: str, found: dict[str, Any]) -> Path:
    return Path(path).with_name(f"{ANSWER}{found['machine']}-{found['process']}.json")


def _gpus() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_name(number) for number in range(count)]


def judged(text: str, path: Path, sent: float, cuda: bool) -> Iterator[Check]:
    """The checks that an answer comes to.

    Args:
        text: the answer.
        path: the question's file.
        sent: when it was asked, in seconds.
        cuda: whether runs train on CUDA.
    """
    found, question = json.loads(text), files.read_json(path) or {}
    here, where = time.time(), found["machine"]
    os.listdir(path.parent)
    yield _shared(where, path, found["token"] == question["token"],
                  files.read_text(_place(str(path), found)) == text)  # fmt: skip
    wrong = differences(same(), found["same"])
    versions = ", ".join(f"{n} {found['same'].get(n)}" for n in ("python", "torch", "whet"))
    yield Check(where, "versions and code", "; ".join(wrong) or versions,
                "install the same there as here" if wrong else "")  # fmt: skip
    yield Check(where, "cores", str(found["cores"]))
    missing = cuda and not found["gpus"]
    yield Check(where, "GPUs", ", ".join(found["gpus"]) or "none",
                "runs train on CUDA: ask for a GPU, and install a CUDA build of torch"
                if missing else "")  # fmt: skip
    skew = max(0.0, sent - found["time"], found["time"] - here)
    yield Check(where, "clock", f"{skew:.1f} s apart",
                "synchronise the clocks (NTP)" if skew > SKEW else "")  # fmt: skip


def _shared(where: str, path: Path, there: bool, back: bool) -> Check:
    """Whether the question was read there, and the answer came back by the folder."""
    found = {"our file is not seen there": there, "its file is not seen here": back}
    lacks = [what for what, fine in found.items() if not fine]
    remedy = f"let all machines share {path.parent.parent} under that path, or choose another --out"
    told = f"not shared: {', '.join(lacks)}" if lacks else "read and written"
    return Check(where, "shared folder", told, remedy if lacks else "")
