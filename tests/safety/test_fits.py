"""A model's `fit.json` with anything in it: an error, or facts of the kinds that they must be."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from hypothesis import given
from torch import nn

from tests.safety.mutations import changed_bytes, changed_json, fuzz, only_whet_errors
from whet.fit.folder import ABOUT, About, Folder
from whet.objectives.families import family
from whet.predict import ModelPredictor, model_state

WHOLE = {
    "format": 1, "status": "done", "seed": 3, "precision": "bf16", "batch_size": 256,
    "task": {"name": "rows", "title": "Rows", "code": "0123", "data": "4567"},
    "methods": [{"name": "ema", "decay": 0.9}], "metrics": {"judge": {"accuracy": 0.5}},
    "command": "whet fit rows.py",
}  # fmt: skip


def read(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Folder(Path(home))
        model = nn.Linear(2, 2)
        ModelPredictor(model, model_state(model), family("categorical")).save(folder.model)
        (Path(home) / ABOUT).write_bytes(data)
        with only_whet_errors():
            about = folder.finished()
            assert 0 <= about.seed < 2**53
            assert 0 < about.batch_size < 2**31
            torch.manual_seed(about.seed)
        with only_whet_errors():
            folder.claim({"task": "rows", "seed": 3, "precision": "bf16", "code": "", "data": ""})


def test_the_whole_one_is_read() -> None:
    assert About.model_validate(WHOLE).identity() == {
        "task": "rows", "kind": "of one training", "seed": 3, "start": 0, "precision": "bf16",
        "code": "0123", "data": "4567",
    }  # fmt: skip
    read(json.dumps(WHOLE).encode())


@fuzz(80)
@given(changed_json(WHOLE))
def test_changed_values(data: bytes) -> None:
    read(data)


@fuzz(40)
@given(changed_bytes(json.dumps(WHOLE).encode()))
def test_changed_bytes(data: bytes) -> None:
    read(data)
