"""SIGTERM: the update in progress ends, a checkpoint is written, the process ends with 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from tests.contract.test_singles import same
from tests.engine import recipe
from tests.engine.tiny import linear
from whet import checkpoint
from whet.run import Run
from whet.stage import Stage
from whet.stopping import CODE, Terminated, listening
from whet.task import Task


def terminate(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_training(run: Run) -> None:
    """The process is asked to stop in the course of the next forward that trains."""

    def ask(module: torch.nn.Module, *_: Any) -> None:
        if module.training:
            handle.remove()
            terminate()

    handle = run.module.register_forward_hook(ask)


def after(update: int) -> Any:
    """A callback: the process is asked to stop in the course of the update after this one."""
    return lambda run: in_training(run) if run.updates == update else None


def test_the_update_in_progress_is_saved_and_nothing_is_lost(tmp_path: Path) -> None:
    """In every update of three stages; each Run that follows goes on where the last one ended."""
    through = recipe.make(log=None).fit()
    for at in range(1, sum(recipe.UPDATES) + 1):
        run = recipe.make(tmp_path, log=None)
        run.checkpoint_every = None
        in_training(run)
        with pytest.raises(Terminated) as stopped:
            run.fit()
        assert stopped.value.code == CODE == 143
        assert checkpoint.numbers(tmp_path / "checkpoints")[-1] == at
    assert same(through.state_dict(), recipe.make(tmp_path, log=None).state_dict())


def test_the_process_ends_with_the_documented_code(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from tests.engine import recipe\n"
        "def ask(run):\n"
        "    if run.updates == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "recipe.make(Path(sys.argv[1]), callbacks=[ask], log=None).fit(); print('went on')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (143, "", "")
    assert checkpoint.numbers(tmp_path / "checkpoints")[-1] == 3


def run_of(callback: Any = None, data: Any = None, folder: Path | None = None) -> Run:
    rows = (torch.randn(8, 5), torch.zeros(8, dtype=torch.long)) if data is None else data
    stage = Stage(updates=6, batch_size=4)
    callbacks = [] if callback is None else [callback]
    return Run(Task(linear(), rows), stage, device="cpu", folder=folder, callbacks=callbacks,
               log=None)  # fmt: skip


def test_without_a_folder_it_ends_as_soon() -> None:
    run = run_of(after(2))
    with pytest.raises(Terminated):
        run.fit()
    assert run.updates == 3


def test_with_the_last_update_the_program_ends_too(tmp_path: Path) -> None:
    run = run_of(lambda run: run.updates == 6 and terminate(), folder=tmp_path)
    with pytest.raises(Terminated):
        run.fit()
    assert checkpoint.numbers(tmp_path / "checkpoints") == [6]


def test_a_loader_that_dies_of_the_same_signal_costs_nothing(tmp_path: Path) -> None:
    class Rows(Dataset[Any]):
        fetched = 0

        def __len__(self) -> int:
            return 8

        def __getitem__(self, number: int) -> Any:
            self.fetched += 1
            if self.fetched == 14:  # the fourth window of two batches an epoch
                terminate()
                raise RuntimeError("DataLoader worker was killed by signal: Terminated")
            return torch.ones(5) * number, torch.tensor(0)

    run = run_of(data=Rows(), folder=tmp_path)
    with pytest.raises(Terminated):
        run.fit()
    assert checkpoint.numbers(tmp_path / "checkpoints") == [3]


def test_a_loader_that_fails_by_itself_is_told() -> None:
    class Rows(Dataset[Any]):
        def __len__(self) -> int:
            return 8

        def __getitem__(self, number: int) -> Any:
            raise KeyError("no such file")

    with pytest.raises(KeyError, match="no such file"):
        run_of(data=Rows()).fit()


class TestTheHandler:
    def test_stands_only_while_training(self) -> None:
        seen = []
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        run_of(lambda run: seen.append(signal.getsignal(signal.SIGTERM))).fit()
        assert all(handler is not signal.SIG_DFL for handler in seen)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_goes_when_training_fails(self) -> None:
        def fail(run: Run) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run_of(fail).fit()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_leaves_the_programs_own_in_charge(self) -> None:
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        try:
            assert run_of(after(2)).fit().updates == 6
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert asked == [True]

    def test_is_not_wanted_in_another_thread(self) -> None:
        ended: list[int] = []
        thread = threading.Thread(target=lambda: ended.append(run_of().fit().updates))
        thread.start()
        thread.join()
        assert ended == [6]

    def test_takes_a_second_signal_for_the_same_request(self) -> None:
        with listening() as asked:
            terminate()
            terminate()
            assert asked.to_stop
            asked.to_stop = False
        with pytest.raises(Terminated), listening():
            terminate()
