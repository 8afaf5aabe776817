"""Processes that are measured from outside, or that train together.

`python -m benchmarks.children WHAT WIDTHS BATCH STEPS` makes a contender, and runs a chunk of it
for each line that it reads; it answers with the chunk's seconds and the most memory it ever held.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks import engines
from benchmarks.engines import Rows, Setting, adamw, mlp
from benchmarks.timing import Chunk, timed

ROOT = Path(__file__).parents[1]
DECAY = 0.999
# glibc's heap keeps what is freed; not in children, whose memory is measured
KEEPING = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), "4000000000")


# what a child does ---------------------------------------------------------------------------
def averaged(setting: Setting) -> Chunk:
    """The hand loop with torch's average of the weights."""
    batches, model = Rows(setting), mlp(setting)
    optimizer = adamw(model.parameters())
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            average.update_parameters(model)

    return timed(epoch)


def parallel(setting: Setting) -> Chunk:
    """The hand loop under torch's own data parallelism; each process has its part of the rows."""
    torch.distributed.init_process_group("gloo")
    part = setting.batch // torch.distributed.get_world_size()
    batches, plain = Rows(replace(setting, batch=part)), mlp(setting)
    optimizer, model = adamw(plain.parameters()), nn.parallel.DistributedDataParallel(plain)

    def epoch() -> None:
        for x, y in batches:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return timed(epoch)


DOING: Mapping[str, Callable[[Setting], Chunk]] = {
    "hand": engines.hand,
    "hand-ema": averaged,
    "hand-ddp": parallel,
    "whet": engines.with_whet,
    "whet-ema": lambda setting: engines.with_whet(setting, "ema"),
}


def peak() -> float:
    """Bytes of memory that this process held at most.

    Not ru_maxrss: a process inherits that of the one that started it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(float(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) * 1024


def main(doing: str, widths: str, batch: str, steps: str) -> None:
    """Answer each line with what a chunk took."""
    torch.set_num_threads(1)
    logging.disable(logging.INFO)  # who joins whom is no news
    setting = Setting(tuple(map(int, widths.split("-"))), int(batch), int(steps))
    chunk = DOING[doing](setting)
    if doing.startswith("hand") and "whet" in sys.modules:
        raise AssertionError("the hand loop's process holds whet, too")
    for _ in sys.stdin:
        print(chunk(), peak(), flush=True)


# what the parent does ------------------------------------------------------------------------
class Children:
    """Some processes that run chunks at the same time, and wait without a load in between.

    Args:
        doing: what each of them does.
        together: they know each other as processes do that `torchrun` starts.
    """

    def __init__(
        self, setting: Setting, doing: str, count: int = 1, together: bool = False
    ) -> None:
        words = doing, "-".join(map(str, setting.widths)), str(setting.batch), str(setting.steps)
        port = str(_free_port())
        self.all = [
            subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-m", "benchmarks.children", *words],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
                env=_environment(rank, count, port) if together else _environment(),
            )
            for rank in range(count)
        ]  # fmt: skip
        weakref.finalize(self, _end, self.all)

    def run(self) -> list[tuple[float, float]]:
        """A chunk in each: its seconds, and the bytes that the process held at most."""
        for child in self.all:
            child.stdin.write("\n")
            child.stdin.flush()
        answers = [child.stdout.readline().split() for child in self.all]
        if not all(answers):
            raise RuntimeError("a process that was to be measured has ended; it says why above")
        return [(float(seconds), float(held)) for seconds, held in answers]

    def seconds(self) -> float:
        """Of the slowest."""
        return max(seconds for seconds, _ in self.run())


def _environment(rank: int = 0, count: int = 0, port: str = "") -> dict[str, str]:
    path = f"{ROOT / 'src'}:{ROOT}"
    ours = {name: value for name, value in os.environ.items() if name not in KEEPING}
    plain = {**ours, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    if not count:
        return plain
    numbers = dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), str(rank))
    sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), str(count))
    return {
        **plain, **numbers, **sizes, "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "benchmarks",
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _end(children: list[subprocess.Popen[str]]) -> None:
    for child in children:
        child.communicate()  # its lines end here, and with them the process


def at_once(setting: Setting, doing: str, count: int = 1, together: bool = False) -> Chunk:
    """The seconds of a chunk in so many processes."""
    return Children(setting, doing, count, together).seconds


def memory(setting: Setting, doing: str) -> Chunk:
    """The most memory of a process that trains: a new one for each chunk."""

    def chunk() -> float:
        [(_, held)] = Children(setting, doing).run()
        return held

    return chunk


if __name__ == "__main__":
    main(*sys.argv[1:])
