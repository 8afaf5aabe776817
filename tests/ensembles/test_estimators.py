"""Estimators as predictors: columns under their classes, files without pickle, refusals."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skops.io
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from tests.ensembles.tiny import predictor
from tests.methods.traps import trap
from whet import ensembles, exported, hub, seeding
from whet.batch import Batch
from whet.errors import CheckpointError, InputError
from whet.objectives.families import family
from whet.predict import (
    EstimatorPredictor,
    Predictor,
    Stacked,
    take_weights,
)

TREE = "sklearn.tree._tree.Tree"
X = torch.randn(60, 4, generator=seeding.generator(3))
Y = X[:, :3].argmax(1)
ROWS, BATCH = X.double().numpy(), Batch(X)
RAN: list[str] = []


class Planted(LogisticRegression):
    """Code that runs while it is made from a file."""

    def __setstate__(self, state: Any) -> None:
        RAN.append("run")
        super().__setstate__(state)


def of(estimator: Any, kind: str = "categorical", classes: int = 3, **given: Any) -> Any:
    return EstimatorPredictor(estimator, family(kind), classes, **given)


def fitted() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, Y.numpy())


# what is predicted ----------------------------------------------------------------------------
def test_says_what_the_estimator_says() -> None:
    wanted = torch.from_numpy(fitted().predict_proba(ROWS)).float()
    found = of(fitted())
    assert torch.equal(found(BATCH), wanted)
    assert found(BATCH).dtype == torch.float32
    assert torch.allclose(found.logits(BATCH).softmax(1), wanted, atol=1e-6)
    with pytest.raises(InputError, match="gives no gradients"):
        found.traced(BATCH)


@trap(
    right=lambda one: of(one)(BATCH),
    wrong=lambda one: torch.from_numpy(one.predict_proba(ROWS)),
)
def test_columns_stand_under_their_classes(answers: Any) -> None:
    """A part of the rows without class 1: its second column is the third class."""
    chosen = (Y != 1).numpy()
    one = GaussianNB().fit(ROWS[chosen], Y.numpy()[chosen])
    said = answers(one).argmax(1)
    assert np.array_equal(said.numpy(), one.predict(ROWS))


def test_a_class_never_seen_has_no_probability() -> None:
    chosen = (Y != 1).numpy()
    found = of(GaussianNB().fit(ROWS[chosen], Y.numpy()[chosen]), classes=5)(BATCH)
    assert found.shape == (60, 5)
    assert (found[:, [1, 3, 4]] == 0).all()
    assert torch.allclose(found.sum(1), torch.ones(60))


LABELS = torch.stack([X[:, 0] > 0, X[:, 1] > 0.5], 1).long().numpy()


@pytest.mark.parametrize(
    "made",
    [OneVsRestClassifier(LogisticRegression()), KNeighborsClassifier(algorithm="brute"),
     RandomForestClassifier(5, random_state=0)],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
def test_labels_come_as_one_table(made: Any) -> None:
    """Some give a table, some a list with one for each label."""
    made.fit(ROWS, LABELS)
    raw = made.predict_proba(ROWS)
    wanted = np.stack([p[:, 1] for p in raw], 1) if isinstance(raw, list) else raw
    assert np.allclose(of(made, "multi-label", 2)(BATCH), wanted, atol=1e-6)
    single = made.fit(ROWS, LABELS[:, 0])
    found = of(single, "multi-label", 1)(BATCH)
    assert np.allclose(found, single.predict_proba(ROWS)[:, 1:], atol=1e-6)


def test_a_label_that_is_the_same_in_all_rows() -> None:
    constant = np.stack([LABELS[:, 0], np.zeros(60, int), np.ones(60, int)], 1)
    made = KNeighborsClassifier(algorithm="brute").fit(ROWS, constant)
    found = of(made, "multi-label", 3)(BATCH)
    assert (found[:, 1] == 0).all()
    assert (found[:, 2] == 1).all()


def test_reals() -> None:
    made = Ridge().fit(ROWS, ROWS[:, :2])
    assert np.allclose(of(made, "real")(BATCH), made.predict(ROWS), atol=1e-6)


def test_inputs_become_a_table() -> None:
    found = of(fitted(), at="numbers")
    several = Batch({"text": torch.zeros(60, 7), "numbers": X.view(60, 2, 2)})
    assert torch.equal(found(several), of(fitted())(BATCH))
    assert torch.equal(of(fitted(), at="1")(Batch((torch.zeros(60), X))), of(fitted())(BATCH))
    with pytest.raises(InputError, match="'text', 'numbers', and at='' is none"):
        of(fitted())(several)
    with pytest.raises(InputError, match="at='numbers' is none"):
        found(BATCH)
    with pytest.raises(InputError, match="Pipeline cannot predict for these rows of 3 numbers"):
        of(fitted())(Batch(X[:, :3]))


# what cannot be ------------------------------------------------------------------------------
def test_refusals() -> None:
    with pytest.raises(InputError, match=r"RidgeClassifier has no predict_proba.*Calibrated"):
        of(RidgeClassifier().fit(ROWS, Y))
    with pytest.raises(InputError, match="no 'tokens'"):
        of(fitted(), "tokens")
    with pytest.raises(InputError, match="classes is 0"):
        of(fitted(), classes=0)
    with pytest.raises(InputError, match="must be whole numbers from 0 to 2"):
        of(LogisticRegression().fit(ROWS, np.array(["a", "b"] * 30)))(BATCH)
    with pytest.raises(InputError, match="whole numbers from 0 to 1"):
        of(fitted(), classes=2)(BATCH)
    with pytest.raises(InputError, match="skl2onnx"):
        ensembles.export_onnx(of(fitted()), "never.onnx", X[:4])


# files ---------------------------------------------------------------------------------------
def test_saves_and_loads_without_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, one = tmp_path / "one.safetensors", of(fitted(), at="")
    one.save(path)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for again in (Predictor.load(path), Predictor.load(path, ()), Predictor.load(path, [])):
        assert torch.equal(again(BATCH), one(BATCH))
        assert again.form() == one.form()


@pytest.mark.parametrize("planted", ["class", "function"])
def test_a_planted_type_is_refused_and_never_run(planted: str, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    if planted == "class":
        name, made = f"{__name__}.Planted", Planted().fit(ROWS, Y)
    else:
        name = f"{os.system.__module__}.system"
        made = make_pipeline(FunctionTransformer(), LogisticRegression()).fit(ROWS, Y)
        made[0].func = os.system
    of(made).save(path)
    RAN.clear()
    with pytest.raises(CheckpointError, match=f"nobody said to trust: {name}"):
        Predictor.load(path)
    assert RAN == []
    if planted == "class":  # what was refused would have run
        sys.modules.setdefault(__name__, sys.modules[Planted.__module__])
        assert torch.equal(Predictor.load(path, trusted=[name])(BATCH), of(made)(BATCH))
        assert RAN == ["run"]


def test_trees_take_trust(tmp_path: Path) -> None:
    path = tmp_path / "forest.safetensors"
    one = of(RandomForestClassifier(5, random_state=0).fit(ROWS, Y))
    one.save(path)
    with pytest.raises(CheckpointError, match=rf"{path}: .*trusted=\['{TREE}'\]"):
        Predictor.load(path)
    assert torch.equal(Predictor.load(path, trusted=[TREE])(BATCH), one(BATCH))
    with pytest.raises(InputError, match="give a list of names"):
        Predictor.load(path, trusted=TREE)


def test_blobs_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    about = {"family": "categorical", "members": 1, "form": of(fitted()).form()}
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(skops.io.dumps(fitted()))) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for part in old.namelist():
            new.writestr(part, old.read(part))
    blobs = {b"nothing": "damaged", skops.io.dumps({"a": 1}): "no predict_proba",
             packed.getvalue(): "it is compressed"}  # fmt: skip
    for blob, told in blobs.items():
        tensor = torch.frombuffer(bytearray(blob), dtype=torch.uint8)
        exported.write(path, about, [{"skops": tensor}])
        with pytest.raises(CheckpointError, match=told):
            Predictor.load(path)
    for state in ({"skops": torch.zeros(3)}, {"other": torch.zeros(3, dtype=torch.uint8)}):
        exported.write(path, about, [state])
        with pytest.raises(CheckpointError, match="no predictor that whet saved"):
            Predictor.load(path)


def test_models_and_estimators_in_one_file(tmp_path: Path) -> None:
    """`model` is for the members that are models, in their order."""
    path, kind = tmp_path / "whole.safetensors", family("categorical")
    pixels = torch.rand(6, 1, 8, 8, generator=seeding.generator(2))
    rows = pixels.flatten(1).double().numpy()
    one = of(GaussianNB().fit(rows, [0, 1, 2] * 2))
    narrow = predictor(1, width=2)
    meta = EstimatorPredictor(GaussianNB().fit(np.eye(6), [0, 1, 2] * 2), kind, 3)
    inner = ensembles.mean([one, narrow], [1, 2])
    whole = ensembles.mean(
        [ensembles.tta(Stacked([predictor(0), inner], meta), ["flip"]), predictor(2)]
    )
    whole.save(path)
    models = [predictor(0).model, narrow.model, predictor(2).model]
    again = Predictor.load(path, models)
    assert torch.equal(again(Batch(pixels)), whole(Batch(pixels)))
    assert len(whole.models()) == len(whole.members()) == 5
    with pytest.raises(InputError, match="holds 3 models and 5 are given"):
        Predictor.load(path, [*models, *models[:2]])
    with pytest.raises(InputError, match="holds 3 models and 0 are given"):
        Predictor.load(path)
    with pytest.raises(CheckpointError, match="fits another model"):
        Predictor.load(path, models[::-1][:1] * 3)


def test_as_a_hub_holds_it(tmp_path: Path) -> None:
    one = of(RandomForestClassifier(5, random_state=0).fit(ROWS, Y))
    hub.save_pretrained(one, tmp_path)
    assert torch.equal(hub.from_pretrained(tmp_path, trusted=[TREE])(BATCH), one(BATCH))
    with pytest.raises(CheckpointError, match="nobody said to trust"):
        hub.from_pretrained(tmp_path)


def test_no_stage_begins_from_an_estimator(tmp_path: Path) -> None:
    of(fitted()).save(tmp_path / "one")
    with pytest.raises(InputError, match="a stage starts from a model"):
        take_weights(tmp_path / "one", nn.Linear(4, 3))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, one = tmp_path / "one", of(fitted())
    one.save(path)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    for ask in (one.save, Predictor.load):
        with pytest.raises(InputError, match=r"pip install 'whet\[stacking\]'"):
            ask(path)
