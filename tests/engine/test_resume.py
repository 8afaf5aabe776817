"""A resumed run equals the uninterrupted one, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.fixture import make_run
from tests.contract.test_singles import same
from tests.engine import recipe
from whet import checkpoint, methods, whole
from whet.errors import CheckpointError
from whet.run import Run

ALL = sum(recipe.UPDATES)


@pytest.fixture(scope="module")
def through() -> Run:
    return recipe.make().fit()


def test_every_step_of_three_stages(through: Run, tmp_path: Path) -> None:
    """One run that stops after each update; each time another Run goes on from the files."""
    for stop in range(1, ALL + 1):
        run = recipe.make(tmp_path)
        assert run.updates == stop - 1
        run.fit(until=stop)
    assert run.stage_number == 2
    assert same(through.state_dict(), run.state_dict())
    assert through.evaluate() == run.evaluate()


@pytest.mark.parametrize("stop", range(1, ALL))
def test_one_stop_anywhere(through: Run, tmp_path: Path, stop: int) -> None:
    recipe.make(tmp_path).fit(until=stop)
    resumed = recipe.make(tmp_path).fit()
    assert same(through.state_dict(), resumed.state_dict())


def test_kill_9_at_five_points(through: Run, tmp_path: Path) -> None:
    """Each process is killed within an update, and a fresh one goes on from the last checkpoint."""
    for fatal in (1, 4, 7, 10, 13):
        command = [sys.executable, "-m", "tests.engine.recipe", str(tmp_path), str(fatal)]
        ended = subprocess.run(
            command, cwd=Path(__file__).parents[2], env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert max(checkpoint.numbers(tmp_path / "checkpoints"), default=0) == fatal - 1
    resumed = recipe.make(tmp_path).fit()
    assert same(through.state_dict(), resumed.state_dict())
    assert through.evaluate() == resumed.evaluate()


def test_a_damaged_checkpoint_is_named_and_passed_over(through: Run, tmp_path: Path) -> None:
    recipe.make(tmp_path).fit(until=6)
    newest = tmp_path / "checkpoints" / f"{6:08d}" / "state.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    resumed = recipe.make(tmp_path)
    assert resumed.updates == 5
    assert "00000006 is damaged" in resumed.notes[0]
    assert same(through.state_dict(), resumed.fit().state_dict())


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    make_run(folder=tmp_path).fit()
    path = tmp_path / "checkpoints" / f"{6:08d}" / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="checksum"):
        checkpoint.load(path.parent)


def test_a_checkpoint_of_other_methods_is_refused_with_both_lists(tmp_path: Path) -> None:
    make_run([methods.make("ema")], folder=tmp_path).fit(until=2)
    with pytest.raises(CheckpointError, match=r"\[ema\].*\[lookahead\]"):
        make_run([methods.make("lookahead")], folder=tmp_path)


def test_a_checkpoint_of_another_seed_is_refused(tmp_path: Path) -> None:
    make_run(folder=tmp_path).fit(until=2)
    with pytest.raises(CheckpointError, match="seed 0 and this run 1"):
        make_run(folder=tmp_path, seed=1)


def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(folder=tmp_path).fit(until=3)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*make room"):
        run.fit(until=4)
    monkeypatch.undo()
    assert checkpoint.numbers(tmp_path / "checkpoints") == [3]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    assert same(make_run().fit().state_dict()["model"],
                make_run(folder=tmp_path).fit().state_dict()["model"])  # fmt: skip


def test_a_really_full_disk(tmp_path: Path) -> None:
    """The writer itself fails: a limit on the size of files stands for the disk."""
    program = (
        "import resource, signal, sys, torch; from pathlib import Path;"
        "from whet import checkpoint; from whet.errors import CheckpointError;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); folder = Path(sys.argv[1]);"
        "checkpoint.save(folder, 1, {'w': torch.ones(10)});"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: checkpoint.save(folder, 2, {'w': torch.ones(1_000_000)})\n"
        "except CheckpointError as error: print('refused:', error)\n"
        "print(checkpoint.numbers(folder), checkpoint.load(folder / '00000001')['w'].sum())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "refused: could not save" in ended.stdout
    assert "[1] tensor(10.)" in ended.stdout
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (exec, ("raise SystemExit('unpickled')",))

    place = checkpoint.save(tmp_path, 1, {"w": torch.ones(1)})
    torch.save({"w": Evil()}, place / "state.pt")
    import json

    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["seal"]
    path = place / "state.pt"
    manifest |= {"bytes": path.stat().st_size, "crc32": whole.crc32(path)}
    manifest["seal"] = checkpoint._seal(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"holds other things than tensors"):
        checkpoint.load(place)
