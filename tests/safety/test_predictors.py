"""Exported predictors with anything in them: an error, or a predictor that predicts."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from hypothesis import given
from sklearn.naive_bayes import GaussianNB
from torch import nn

from tests.safety.mutations import changed_bytes, changed_json, fuzz, only_whet_errors
from whet import exported
from whet.batch import Batch
from whet.errors import CheckpointError
from whet.objectives.families import family
from whet.predict import (
    Calibrated,
    EstimatorPredictor,
    MeanPredictor,
    ModelPredictor,
    Predictor,
    Stacked,
    Viewed,
    Views,
    model_state,
    take_weights,
)
from whet.predict.estimators import MOST


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def written(members: int = 2) -> bytes:
    with tempfile.TemporaryDirectory() as home:
        one = ModelPredictor(model(), model_state(model()), family("categorical"))
        MeanPredictor([one] * members).save(Path(home) / "whole")
        return (Path(home) / "whole").read_bytes()


WHOLE = written()
LENGTH = int.from_bytes(WHOLE[:8], "little")
HEADER, BODY = json.loads(WHOLE[8 : 8 + LENGTH]), WHOLE[8 + LENGTH :]
ABOUT = json.loads(HEADER["__metadata__"]["whet"])


def composed() -> bytes:
    """A weighted mean, of views and at a temperature."""
    with tempfile.TemporaryDirectory() as home:
        one = ModelPredictor(model(), model_state(model()), family("categorical"))
        views = Views(["here", "here"], {"here": lambda inputs, generator: inputs})
        parts = [Viewed(one, views), Calibrated(MeanPredictor([one, one]), 2.0)]
        MeanPredictor(parts, [1.0, 3.0]).save(Path(home) / "composed")
        return (Path(home) / "composed").read_bytes()


COMPOSED = composed()
PREFIX = int.from_bytes(COMPOSED[:8], "little")
COMPOSED_HEADER, COMPOSED_BODY = json.loads(COMPOSED[8 : 8 + PREFIX]), COMPOSED[8 + PREFIX :]
COMPOSED_ABOUT = json.loads(COMPOSED_HEADER["__metadata__"]["whet"])


def stacked() -> bytes:
    """A model and an estimator, and an estimator over what they say."""
    x, y = np.eye(6)[:, :4], [0, 1, 2, 0, 1, 2]
    kind = family("categorical")
    with tempfile.TemporaryDirectory() as home:
        one = ModelPredictor(model(), model_state(model()), kind)
        other = EstimatorPredictor(GaussianNB().fit(x, y), kind, 3)
        over = EstimatorPredictor(GaussianNB().fit(np.eye(6), y), kind, 3)
        Stacked([one, other], over).save(Path(home) / "stacked")
        return (Path(home) / "stacked").read_bytes()


STACKED = stacked()
HEAD = int.from_bytes(STACKED[:8], "little")
STACKED_HEADER, STACKED_BODY = json.loads(STACKED[8 : 8 + HEAD]), STACKED[8 + HEAD :]
STACKED_ABOUT = json.loads(STACKED_HEADER["__metadata__"]["whet"])


with zipfile.ZipFile(
    io.BytesIO(skops.io.dumps(GaussianNB().fit(np.eye(4), [0, 1, 2, 0])))
) as archive:
    PARTS = {name: archive.read(name) for name in archive.namelist() if name != "schema.json"}
    SCHEMA = json.loads(archive.read("schema.json"))


def joined(header: bytes, body: bytes = BODY) -> bytes:
    return len(header).to_bytes(8, "little") + header + body


def about(text: str) -> bytes:
    return joined(json.dumps(HEADER | {"__metadata__": {"whet": text}}).encode())


def read(data: bytes, widths: Sequence[int] = (3,)) -> None:
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "model.safetensors"
        path.write_bytes(data)
        with only_whet_errors():
            found = Predictor.load(path, model(), {"here": lambda inputs, generator: inputs})
            rows, width = found(Batch(torch.zeros(2, 4))).shape
            assert rows == 2
            assert width in widths
        with only_whet_errors():
            take_weights(path, model())


@fuzz(60)
@given(changed_bytes(WHOLE))
def test_changed_bytes(data: bytes) -> None:
    read(data)


@fuzz(80)
@given(changed_json(HEADER))
def test_changed_headers(header: bytes) -> None:
    read(joined(header))


@fuzz(60)
@given(changed_json(ABOUT))
def test_changed_facts(text: bytes) -> None:
    read(about(text.decode("utf-8", "replace")))


@fuzz(120)
@given(changed_json(COMPOSED_ABOUT))
def test_changed_compositions(text: bytes) -> None:
    told = {"__metadata__": {"whet": text.decode("utf-8", "replace")}}
    read(joined(json.dumps(COMPOSED_HEADER | told).encode(), COMPOSED_BODY))


@fuzz(80)
@given(changed_json(STACKED_ABOUT))
def test_changed_stacks(text: bytes) -> None:
    told = {"__metadata__": {"whet": text.decode("utf-8", "replace")}}
    more = range(3, MOST + 1)  # an estimator may be said to know of classes that it never saw
    read(joined(json.dumps(STACKED_HEADER | told).encode(), STACKED_BODY), more)


@fuzz(80)
@given(changed_bytes(STACKED))
def test_changed_bytes_of_estimators(data: bytes) -> None:
    read(data)


@fuzz(120)
@given(changed_json(SCHEMA))
def test_changed_estimators(text: bytes) -> None:
    """What skops reads of an estimator: a schema of types and values."""
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w") as archive:
        for name, part in PARTS.items():
            archive.writestr(name, part)
        archive.writestr("schema.json", text)
    state = {"skops": torch.frombuffer(bytearray(blob.getvalue()), dtype=torch.uint8)}
    with tempfile.TemporaryDirectory() as home:
        path = Path(home) / "one"
        form = {"estimator": "skops", "classes": 3, "at": ""}
        exported.write(path, {"family": "categorical", "members": 1, "form": form}, [state])
        read(path.read_bytes())


@pytest.mark.parametrize(
    "facts",
    [
        {"family": "categorical", "members": 10**12}, {"family": "categorical", "members": -1},
        {"family": "categorical", "members": 1}, {"family": "categorical", "members": "2"},
        {"family": "numbers", "members": 2}, {"family": ["categorical"], "members": 2}, [], None,
    ],
)  # fmt: skip
def test_facts_that_do_not_fit_are_refused(facts: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(about(json.dumps(facts)))
    with pytest.raises(CheckpointError, match="no predictor that whet saved"):
        Predictor.load(path, model())


def test_every_member_is_held_against_the_model(tmp_path: Path) -> None:
    path, narrow = tmp_path / "model.safetensors", nn.Linear(4, 2)
    kind = family("categorical")
    mean = MeanPredictor([ModelPredictor(m, model_state(m), kind) for m in (model(), narrow)])
    mean.save(path)
    with pytest.raises(CheckpointError, match="fits another model"):
        Predictor.load(path, model())


def test_weights_of_another_kind_of_number_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "model.safetensors", model_state(model())
    whole["0.weight"] = whole["0.weight"].long()
    ModelPredictor(model(), whole, family("categorical")).save(path)
    with pytest.raises(CheckpointError, match=r"0\.weight \(3, 4\) torch\.int64 \(\(3, 4\)\)"):
        Predictor.load(path, model())


def test_no_weights_for_a_model_without_any(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ModelPredictor(nn.Identity(), {}, family("real")).save(path)
    assert Predictor.load(path, nn.Identity()).members() == [{}]
