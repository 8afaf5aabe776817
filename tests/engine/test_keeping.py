"""When a run is saved, what that costs, and which checkpoints stay."""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from pickle import PicklingError
from typing import Any, ClassVar

import pytest
import torch

from tests.contract.fixture import make_task
from whet import checkpoint, keeping, whole
from whet.errors import CheckpointError, InputError
from whet.keeping import GAP, SHARE, Pace
from whet.run import Run
from whet.stage import Recipe, Stage


class Clock:
    """Time that goes by when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def spaced(step: float, save: Callable[[int], float], steps: int) -> tuple[list[float], Clock]:
    """When saves happened in a training of equal steps; each takes what `save` says."""
    clock, saved = Clock(), []
    pace = Pace(clock)
    with pace.training():
        for _ in range(steps):
            clock.now += step
            if pace.due():
                with pace.measured():
                    clock.now += save(len(saved))
                saved.append(clock.now)
    return saved, clock


class TestTheCost:
    @pytest.mark.parametrize("seconds", [0.01, 1.0, 3.0, 30.0, 200.0])
    def test_saving_stays_within_its_share(self, seconds: float) -> None:
        saved, clock = spaced(1.0, lambda _: seconds, 20_000)
        saving = len(saved) * seconds
        assert saving <= SHARE * (clock.now - saving)
        assert len(saved) >= 0.9 * min(20_000 / GAP, SHARE * 20_000 / seconds) - 1

    def test_a_disk_that_becomes_slow_is_spared(self) -> None:
        saved, clock = spaced(1.0, lambda number: 0.1 if number < 5 else 60.0, 20_000)
        saving = 0.5 + (len(saved) - 5) * 60.0
        assert saving <= SHARE * (clock.now - saving)
        assert len(saved) > 12

    def test_the_first_comes_after_a_minute(self) -> None:
        saved, _ = spaced(1.0, lambda _: 0.1, 200)
        assert saved[0] == pytest.approx(60.1)

    def test_time_between_two_fits_is_no_training(self) -> None:
        clock = Clock()
        pace = Pace(clock)
        with pace.training(), pace.measured():
            clock.now += 10.0
        clock.now += 1e6
        with pace.training():
            clock.now += 100.0
            assert not pace.due()
            clock.now += 400.0
            assert pace.due()

    def test_a_run_is_saved_at_that_pace(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Updates of 10 s, saves of 20 s: at 60 s, and then when 5 % are there for both of them."""
        clock, true, saved = Clock(), checkpoint.save, []

        def slow(folder: Path, number: int, *given: Any) -> Path:
            clock.now += 20.0
            saved.append(number)
            return true(folder, number, *given)

        def step(run: Run) -> None:
            clock.now += 10.0

        monkeypatch.setattr(checkpoint, "save", slow)
        stage = Stage(updates=200, batch_size=20)
        run = Run(make_task(), stage, folder=tmp_path, device="cpu", callbacks=[step], log=None)
        run.keeper.pace = Pace(clock)
        run.fit()
        assert saved == [6, 80, 120, 160, 200]

    def test_a_number_and_none_are_taken_at_their_word(self, tmp_path: Path) -> None:
        stage = Stage(updates=6, batch_size=20)
        for every, there in ((2, [2, 4, 6]), (None, [6])):
            folder = tmp_path / str(every)
            Run(make_task(), stage, folder=folder, device="cpu", checkpoint_every=every, keep=9,
                log=None).fit()  # fmt: skip
            assert checkpoint.numbers(folder / "checkpoints") == there


def told(*ranks: float | None, higher: bool = True, stays: Sequence[int] = ()) -> dict[int, Any]:
    def judged(value: float | None) -> Any:
        return None if value is None else {
            "metric": "m", "value": value, "higher_is_better": higher
        }  # fmt: skip

    return {
        number: {"judged": judged(value), "stays": number in stays}
        for number, value in enumerate(ranks)
    }


class TestWhatStays:
    def test_the_newest_and_the_best(self) -> None:
        found = told(0.1, 0.9, 0.3, 0.8, None, 0.2)
        assert keeping.stays(found, 2, 0) == {4, 5}
        assert keeping.stays(found, 1, 2) == {1, 3, 5}
        assert keeping.stays(told(0.1, 0.9, 0.3, higher=False), 1, 1) == {0, 2}

    def test_the_first_of_equals_and_no_nan(self) -> None:
        assert keeping.stays(told(math.nan, 0.5, 0.5, 0.1), 1, 1) == {1, 3}

    def test_ends_of_stages_and_beginnings_of_branches(self) -> None:
        assert keeping.stays(told(None, None, None, None, stays=[1]), 1, 0) == {1, 3}

    def test_what_is_damaged_takes_no_place(self) -> None:
        assert keeping.stays({**told(None, None), 2: None}, 1, 0) == {1}

    def test_of_a_run(self, tmp_path: Path) -> None:
        """Two stages of four updates; update 2 is where a branch begins."""
        recipe = Recipe([Stage(updates=4, batch_size=10), Stage(updates=4, batch_size=10)])
        run = Run(make_task(), recipe, folder=tmp_path, device="cpu", checkpoint_every=1, keep=2,
                  keep_at=[2], log=None).fit()  # fmt: skip
        assert checkpoint.numbers(tmp_path / "checkpoints") == [2, 4, 7, 8]
        assert run.updates == 8

    def test_the_best_of_a_run(self, tmp_path: Path) -> None:
        """Saved whenever they are among the best, however seldom a checkpoint is due."""
        stage = Stage(updates=12, batch_size=10, optimizer={"name": "sgd", "lr": 0.3})
        run = Run(make_task(), stage, folder=tmp_path, device="cpu", checkpoint_every=None, keep=1,
                  keep_best=2, evaluate_every=1, log=None).fit()  # fmt: skip
        values = {row["update"]: row["metrics"]["accuracy"] for row in run.history}
        best = sorted(values, key=lambda update: (-values[update], update))[:2]
        assert len(set(values.values())) > 2
        assert checkpoint.numbers(tmp_path / "checkpoints") == sorted({*best, 12})
        about = checkpoint.about(tmp_path / "checkpoints" / f"{best[0]:08d}")
        assert about is not None
        assert about["judged"]["value"] == max(values.values())

    def test_a_branch_begins_where_it_was_kept(self, tmp_path: Path) -> None:
        def stages(rate: float) -> Recipe:
            later = Stage(updates=3, batch_size=10, optimizer={"name": "sgd", "lr": rate})
            return Recipe([Stage(updates=3, batch_size=10), later])

        trunk = tmp_path / "trunk"
        Run(make_task(), stages(0.1), folder=trunk, device="cpu", log=None).fit()
        branch = Run(make_task(), stages(0.5), folder=tmp_path / "branch", device="cpu",
                     on_change="continue", log=None)  # fmt: skip
        branch.load_state_dict(checkpoint.load(trunk / "checkpoints" / f"{3:08d}"))
        branch.fit()
        whole = Run(make_task(), stages(0.5), device="cpu", log=None).fit()
        state, wanted = branch.module.state_dict(), whole.module.state_dict()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)

    def test_a_damaged_one_is_no_reason_to_remove_a_whole_one(self, tmp_path: Path) -> None:
        def go(until: int) -> None:
            stage = Stage(updates=8, batch_size=10)
            Run(make_task(), stage, folder=tmp_path, device="cpu", checkpoint_every=3, keep=2,
                log=None).fit(until)  # fmt: skip

        go(4)
        folder = tmp_path / "checkpoints"
        (folder / f"{4:08d}" / "state.pt").write_bytes(b"torn")
        go(5)  # from 3, and past the damaged one
        shutil.rmtree(folder / f"{4:08d}", ignore_errors=True)
        assert checkpoint.numbers(folder) == [3, 5]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"checkpoint_every": "often"}, "'often'"), ({"keep_best": -1}, "keep_best is -1"),
     ({"on_change": "maybe"}, "on_change is 'maybe'"), ({"keep": 0}, "keep is 0"),
     ({"checkpoint_every": 0}, "checkpoint_every is 0")],
)  # fmt: skip
def test_mistakes(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Run(make_task(), Stage(updates=1), device="cpu", **given)


class TestReplacing:
    """A checkpoint of a number that is there already."""

    def save(self, folder: Path, value: float) -> None:
        checkpoint.save(folder, 3, {"w": torch.full((50,), value)})

    def value(self, folder: Path) -> float:
        state, notes = checkpoint.newest(folder)
        assert state is not None
        assert not notes
        return float(state["w"][0])

    def test_the_new_one_is_there(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1.0)
        self.save(tmp_path, 2.0)
        assert self.value(tmp_path) == 2.0
        assert [path.name for path in tmp_path.iterdir()] == ["00000003"]

    def test_a_full_disk_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At whichever flush or rename the disk refuses."""
        self.save(tmp_path, 1.0)
        for call in ("fsync", "replace"):
            true = getattr(os, call)
            for fatal in range(9):
                calls = iter(range(99))

                def refuse(
                    *given: Any, true: Any = true, calls: Any = calls, at: int = fatal
                ) -> Any:
                    if next(calls) == at:
                        raise OSError(28, "No space left on device")
                    return true(*given)

                monkeypatch.setattr(os, call, refuse)
                try:
                    self.save(tmp_path, 2.0)
                    break
                except CheckpointError:
                    pass
                finally:
                    monkeypatch.undo()
                assert self.value(tmp_path) in (1.0, 2.0)
                assert not list(tmp_path.glob(".*.tmp"))
                if self.value(tmp_path) == 2.0:
                    self.save(tmp_path, 1.0)
            assert fatal > 1

    def test_killed_between_two_renames_the_old_one_comes_back(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1.0)
        os.replace(tmp_path / "00000003", tmp_path / ".00000003.old")
        assert self.value(tmp_path) == 1.0
        assert [path.name for path in tmp_path.iterdir()] == ["00000003"]

    def test_killed_after_both_the_new_one_stays(self, tmp_path: Path) -> None:
        self.save(tmp_path, 2.0)
        shutil.copytree(tmp_path / "00000003", tmp_path / ".00000003.old")
        assert self.value(tmp_path) == 2.0
        assert [path.name for path in tmp_path.iterdir()] == ["00000003"]

    def test_what_is_told_about_one_is_under_a_checksum(self, tmp_path: Path) -> None:
        place = checkpoint.save(tmp_path, 1, {"w": torch.ones(1)}, {"stays": True})
        manifest = place / "manifest.json"
        manifest.write_text(manifest.read_text().replace("true", "false"))
        assert checkpoint.about(place) is None
        assert checkpoint.damage(place) == "manifest.json fails its checksum"


class TestTheChecksum:
    """Of what passes while it is written; the file is not read again."""

    STATE: ClassVar[dict[str, Any]] = {"w": torch.arange(5.0), "n": 3, "t": ["a", None]}

    def test_a_flipped_bit_in_any_byte_is_found(self, tmp_path: Path) -> None:
        path = checkpoint.save(tmp_path, 1, self.STATE) / "state.pt"
        content = path.read_bytes()
        for at in range(len(content)):
            flipped = bytearray(content)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            assert checkpoint.damage(path.parent) == "state.pt fails its checksum"
        path.write_bytes(content)
        assert checkpoint.damage(path.parent) is None

    def test_a_flipped_bit_in_the_manifest_is_found(self, tmp_path: Path) -> None:
        """But for one that changes no value: of a blank between two of them."""
        path = checkpoint.save(tmp_path, 1, self.STATE, {"stays": False}) / "manifest.json"
        content = path.read_bytes()
        for at in range(len(content)):
            flipped = bytearray(content)
            flipped[at] ^= 1 << at % 8
            path.write_bytes(flipped)
            if checkpoint.damage(path.parent) is None:
                assert json.loads(flipped) == json.loads(content)
                assert content[at : at + 1].isspace()

    @pytest.mark.parametrize(
        ("name", "harm"),
        [
            ("zeros as long", lambda content: bytes(len(content))),
            ("the last sector is zeros", lambda content: content[:-512] + bytes(512)),
            ("two sectors changed places", lambda c: c[512:1024] + c[:512] + c[1024:]),
            ("a sector stands twice", lambda c: c[:512] * 2 + c[1024:]),
        ],
    )
    def test_what_disks_do(self, tmp_path: Path, name: str, harm: Callable[[bytes], bytes]) -> None:
        path = checkpoint.save(tmp_path, 1, {"w": torch.randn(3000)}) / "state.pt"
        content = path.read_bytes()
        path.write_bytes(harm(content))
        assert path.stat().st_size == len(content)
        assert checkpoint.damage(path.parent) == "state.pt fails its checksum"

    def test_it_is_that_of_the_file(self, tmp_path: Path) -> None:
        place = checkpoint.save(tmp_path, 1, {"w": torch.randn(200_000)})
        content = (place / "state.pt").read_bytes()
        manifest = json.loads((place / "manifest.json").read_text())
        assert len(content) > 2 * whole.PIECE  # read in several pieces
        assert (manifest["bytes"], manifest["crc32"]) == (len(content), zlib.crc32(content))
        assert whole.crc32(place / "state.pt") == zlib.crc32(content)

    @pytest.mark.parametrize("written", [1, 3])
    def test_another_version_is_refused_and_not_passed_over(
        self, tmp_path: Path, written: int
    ) -> None:
        """Or the run would begin anew and remove what the other version had trained."""
        place = checkpoint.save(tmp_path, 1, self.STATE)
        manifest = json.loads((place / "manifest.json").read_text()) | {"format": written}
        del manifest["seal"]
        manifest["about_sha256" if written == 1 else "seal"] = checkpoint._seal(manifest)
        (place / "manifest.json").write_text(json.dumps(manifest))
        for read in (lambda: checkpoint.newest(tmp_path), lambda: checkpoint.load(place)):
            with pytest.raises(
                CheckpointError, match=f"has format {written} and this whet reads 2"
            ):
                read()
        assert checkpoint.about(place) is None

    def test_other_saves_keep_theirs(self, tmp_path: Path) -> None:
        assert torch.serialization.get_crc32_options()
        with pytest.raises((AttributeError, PicklingError), match="lambda"):
            checkpoint.save(tmp_path, 1, {"w": lambda: 0})
        checkpoint.save(tmp_path, 1, self.STATE)
        assert torch.serialization.get_crc32_options()
