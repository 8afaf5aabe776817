"""Checkpoints with a right checksum and anything in them: an error, never code, never gigabytes."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.safety.mutations import changed, changed_bytes, changed_json, fuzz, only_whet_errors
from whet import checkpoint
from whet.errors import CheckpointError

STATE: dict[str, Any] = {
    "stage": 0, "updates": 3, "offset": 1, "seed": 0, "stages": 1, "history": [{"update": 1}],
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(2).half()},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "scaler": None,
}  # fmt: skip


class Evil:
    """What unpickling would do: make a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def saved(state: Any) -> bytes:
    kept = io.BytesIO()
    torch.save(state, kept)
    return kept.getvalue()


SAVED = saved(STATE)


def placed(folder: Path, data: bytes, number: int = 2) -> Path:
    """A checkpoint of these bytes whose manifest is right."""
    place = folder / f"{number:08d}"
    place.mkdir(parents=True)
    (place / "state.pt").write_bytes(data)
    manifest = {"format": checkpoint.FORMAT, "number": number, "bytes": len(data),
                "crc32": zlib.crc32(data), "torch": "2"}  # fmt: skip
    manifest["seal"] = checkpoint._seal(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))
    return place


def repacked(data: bytes, change: Callable[[str, bytes], bytes], **how: Any) -> bytes:
    """An archive with its members changed."""
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(kept, "w", **how) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return kept.getvalue()


def pickled(name: str, data: bytes, *, by: bytes) -> bytes:
    return by if name.endswith("data.pkl") else data


def read(data: bytes) -> None:
    """Both ways to read: by itself, and as the newest of two, where the older one is whole."""
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        checkpoint.save(folder, 1, {"updates": 1})
        place = placed(folder, data)
        with only_whet_errors():
            assert isinstance(checkpoint.load(place), dict)
        with only_whet_errors():
            state, notes = checkpoint.newest(folder)
            assert state is not None
            assert "updates" in state or not notes


@fuzz(60)
@given(changed_bytes(SAVED))
def test_changed_bytes(data: bytes) -> None:
    read(data)


with zipfile.ZipFile(io.BytesIO(SAVED)) as _archive:
    PICKLE = _archive.read(next(name for name in _archive.namelist() if name.endswith("data.pkl")))


@fuzz(100)
@given(changed_bytes(PICKLE))
def test_changed_pickles(data: bytes) -> None:
    read(repacked(SAVED, functools.partial(pickled, by=data)))


@fuzz(40)
@given(changed({key: value for key, value in STATE.items() if key != "model"}))
def test_other_values(state: Any) -> None:
    read(saved(state))


@fuzz(60)
@given(st.data())
def test_changed_manifests(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as home:
        place = checkpoint.save(Path(home), 1, STATE)
        path = place / "manifest.json"
        path.write_bytes(data.draw(changed_json(json.loads(path.read_text()))))
        with only_whet_errors():
            checkpoint.load(place)
        with only_whet_errors():
            checkpoint.newest(Path(home))
        with only_whet_errors():
            assert isinstance(checkpoint.about(place), dict | None)


@pytest.mark.parametrize("form", ["bare", "archive", "script"])
def test_nothing_in_a_pickle_is_run(form: str, tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    evil = pickle.dumps(Evil(proof), protocol=2)
    data = {
        "bare": evil,
        "archive": repacked(SAVED, functools.partial(pickled, by=evil)),
        "script": saved({"model": Evil(proof)}),
    }[form]
    with pytest.raises(CheckpointError, match=r"is damaged: state\.pt holds other things"):
        checkpoint.load(placed(tmp_path / "checkpoints", data))
    assert not proof.exists()
    pickle.loads(evil)  # noqa: S301 - the pickle does what this test believes
    assert proof.exists()


def test_a_packed_archive_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    bomb = repacked(saved({"model": torch.zeros(1 << 22)}), lambda _, data: data,
                    compression=zipfile.ZIP_DEFLATED)  # fmt: skip
    with pytest.raises(CheckpointError, match="unpack to more than its size"):
        checkpoint.load(placed(tmp_path, bomb))


def test_the_one_before_is_used_where_the_newest_cannot_be_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, {"updates": 1})
    placed(tmp_path, saved([1, 2]))
    state, (note,) = checkpoint.newest(tmp_path)
    assert state == {"updates": 1}
    assert "state.pt holds no state" in note


def test_a_folder_with_an_odd_number_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("²", "7", "٠٠٠٠٠٠٠٣", "000000001"):
        (tmp_path / name).mkdir()
    assert checkpoint.numbers(tmp_path) == []
