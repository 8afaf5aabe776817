"""ONNX files against the predictors that they are of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import data, make_model
from tests.ensembles.tiny import PIXELS, picture_model, predictor
from whet import ensembles, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.mixing import named
from whet.objectives.families import family
from whet.predict import Calibrated, ModelPredictor, Predictor, model_state

BATCH = Batch(PIXELS)
KIND = family("categorical")


def tables(coupled: bool = True, **given: Any) -> ModelPredictor:
    """Words, numbers and images by keyword, with normalisation and dropout."""
    model = make_model(3, coupled)
    return ModelPredictor(model, model_state(model), KIND, **given)


class Pair(nn.Module):
    """Two inputs by position; an answer with more beside its logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 1)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(torch.cat([a, b], 1)), "more": a}


def of_pairs() -> ModelPredictor:
    with seeding.borrowed(0):
        model = Pair()
    return ModelPredictor(model, model_state(model), family("real"))


def sequences() -> ModelPredictor:
    with seeding.borrowed(0):
        model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 3))
    return ModelPredictor(model, model_state(model), family("tokens"))


WORDS = Batch(torch.randint(0, 9, (4, 6), generator=seeding.generator(0)))
PAIRS = Batch((torch.randn(4, 2), torch.randn(4, 3)))
MIXED = Batch(Batch.of(data(8)).inputs)
MADE: dict[str, tuple[Any, Batch]] = {
    "model": (predictor, BATCH),
    "labels": (lambda: predictor(0, "multi-label"), BATCH),
    "reals by position": (of_pairs, PAIRS),
    "a class for each word": (sequences, WORDS),
    "by keyword": (tables, MIXED),
    "temperature": (lambda: Calibrated(predictor(), 2.5), BATCH),
    "mean": (lambda: ensembles.mean([predictor(0), predictor(1, width=2)]), BATCH),
    "weighted mean": (lambda: ensembles.mean([predictor(0), predictor(1)], [1, 3]), BATCH),
    "views": (lambda: ensembles.tta(predictor(), ["flip", "shift", "crop", "turn"]), BATCH),
    "all of it": (
        lambda: Calibrated(ensembles.mean([
            ensembles.tta(predictor(0), batched=False), Calibrated(predictor(1), 0.5),
        ], [0.2, 0.8]), 1.5), BATCH,
    ),
    "cosine head": (lambda: tables(heads={"head": 8.0}), MIXED),
    "labels of a mean": (
        lambda: ensembles.mean([predictor(n, "multi-label") for n in range(2)]), BATCH,
    ),
}  # fmt: skip


def session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    return runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def export(one: Predictor, path: Path, example: Any) -> None:
    pytest.importorskip("onnx", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    ensembles.export_onnx(one, path, example)


def fed(batch: Batch, names: list[str]) -> dict[str, Any]:
    leaves = [leaf.numpy() for _, leaf in named(batch.inputs)]
    return dict(zip(names, leaves, strict=True))


@pytest.mark.parametrize("name", MADE)
def test_gives_the_same_for_any_number_of_rows(name: str, tmp_path: Path) -> None:
    make, batch = MADE[name]
    one = make()
    export(one, tmp_path / "model.onnx", batch.take(slice(0, 3)))
    found = session(tmp_path / "model.onnx")
    names = [given.name for given in found.get_inputs()]
    for part in (batch, batch.take(slice(0, 1)), Batch.join([batch, batch])):
        [answer] = found.run(None, fed(part, names))
        wanted = one(part).numpy()
        assert answer.shape == wanted.shape
        np.testing.assert_allclose(answer, wanted, atol=1e-5)
    assert [given.name for given in found.get_outputs()] == ["probabilities"]


def test_names_of_the_inputs(tmp_path: Path) -> None:
    for number, (make, batch, wanted) in enumerate((
        (predictor, BATCH, ["inputs"]), (of_pairs, PAIRS, ["inputs_0", "inputs_1"]),
        (tables, MIXED, ["tokens", "floats", "image"]),
    )):  # fmt: skip
        export(make(), tmp_path / str(number), batch)
        assert [one.name for one in session(tmp_path / str(number)).get_inputs()] == wanted


def test_the_model_goes_on_training_untouched(tmp_path: Path) -> None:
    one = predictor()
    one.model.load_state_dict(picture_model(5).state_dict())  # it has trained on since
    before, drawn = model_state(one.model), torch.get_rng_state()
    export(one, tmp_path / "model.onnx", BATCH)
    assert one.model.training
    assert all(torch.equal(before[k], v) for k, v in one.model.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    [answer] = session(tmp_path / "model.onnx").run(None, {"inputs": PIXELS.numpy()})
    np.testing.assert_allclose(answer, one(BATCH).numpy(), atol=1e-5)


# refused -------------------------------------------------------------------------------------
def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return inputs + torch.randn(inputs.shape, generator=generator)


def test_functions_and_unknown_kinds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the views noisy are functions"):
        ensembles.export_onnx(ensembles.tta(predictor(), [noisy]), tmp_path / "m", BATCH)

    class Other(Predictor):
        family = KIND

        def __call__(self, batch: Batch) -> Tensor:
            return batch.inputs

        def members(self) -> list[dict[str, Tensor]]:
            return []

    with pytest.raises(InputError, match="a Other is none that can be exported"):
        ensembles.export_onnx(Other(), tmp_path / "m", BATCH)
    with pytest.raises(InputError, match="fewer than two rows"):
        ensembles.export_onnx(predictor(), tmp_path / "m", PIXELS[:1])
    assert not [*tmp_path.iterdir()]


class Deciding(nn.Module):
    """Does one thing or another, by what it sees."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_decides_by_its_inputs(tmp_path: Path) -> None:
    one = ModelPredictor(Deciding(), {}, KIND)
    with pytest.raises(InputError, match="cannot be exported to ONNX: "):
        export(one, tmp_path / "model.onnx", torch.randn(4, 3))
    assert not [*tmp_path.iterdir()]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"pip install 'whet\[onnx\]'"):
        ensembles.export_onnx(predictor(), tmp_path / "m", BATCH)
