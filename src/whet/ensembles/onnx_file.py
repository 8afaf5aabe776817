"""Predictors as ONNX files, which run without Python: models, views, means and temperatures."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whet import cosine, mixing, objectives
from whet.batch import Batch, join_leaves
from whet.checkpoint import write_whole
from whet.errors import InputError
from whet.objectives.families import Family
from whet.objectives.pooling import pooled
from whet.predict import (
    Calibrated,
    EstimatorPredictor,
    MeanPredictor,
    ModelPredictor,
    Predictor,
    Stacked,
    Viewed,
    Views,
)

OUTPUT = "probabilities"


def export_onnx(predictor: Predictor, path: str | Path, example: Any) -> None:
    """Write a predictor to one ONNX file; whole or not at all.

    The file takes what a batch's inputs are and gives `probabilities` (for reals, predictions), for
    any number of rows: of an ensemble for the whole of it, views and temperatures included. It
    holds single-precision weights as they are, below 2 GB, and is computed without autocast. Its
    inputs are called `inputs`, or by the keys of a mapping, or `inputs_0` and so on of a tuple.

    Args:
        predictor: any without functions of the user's own and without scikit-learn estimators.
        path: the file.
        example: a batch, or inputs, of two rows or more; other sizes than the rows' number are
            fixed.

    Cost: a copy of the weights, and a trace of the forward.

    Raises:
        InputError: the extra `onnx` is not installed, or the model cannot be exported.
    """
    batch = Batch.of(example)
    if batch.size < 2:
        raise InputError("the example has fewer than two rows: one row would fix their number.")
    graph = _Probabilities(_part(predictor), predictor.family, batch.inputs).eval()
    _check_installed()
    named = mixing.named(batch.inputs)
    names = [_called(name) for name, _ in named]
    rows = torch.export.Dim("rows", min=1)
    leaves = tuple(leaf.detach().cpu() for _, leaf in named)
    with _quiet():
        try:
            program = torch.onnx.export(
                graph, leaves, dynamo=True, input_names=names, output_names=[OUTPUT],
                dynamic_shapes=(tuple({0: rows} for _ in leaves),), verbose=False,
            )  # fmt: skip
            assert program is not None
            data = program.model_proto.SerializeToString()
        except Exception as error:  # torch's exporter raises errors of many kinds
            told = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"the predictor cannot be exported to ONNX: {told} What the forward does must not "
                "depend on values of its inputs, and keep to operations that ONNX has."
            ) from error
    write_whole(Path(path), data)


def _check_installed() -> None:
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            "to write ONNX takes onnx and onnxscript, which are not installed: "
            "pip install 'whet[onnx]'."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's talk of libraries that are absent."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _called(name: str) -> str:
    return f"inputs_{name}" if name[:1].isdigit() else name or "inputs"


class _Probabilities(nn.Module):
    """From the leaves of a batch's inputs to probabilities."""

    def __init__(self, logits: nn.Module, family: Family, inputs: Any) -> None:
        super().__init__()
        self.logits, self.family, self.inputs = logits, family, inputs

    def forward(self, *leaves: Tensor) -> Tensor:
        places = {name: at for at, (name, _) in enumerate(mixing.named(self.inputs))}
        inputs = mixing.map_named(lambda name, leaf: leaves[places[name]], self.inputs)
        return self.family.probabilities(self.logits(inputs))


def _part(predictor: Predictor) -> nn.Module:
    """The module that gives a predictor's logits of inputs."""
    if isinstance(predictor, Calibrated):
        return _AtTemperature(_part(predictor.inner), predictor.temperature)
    if isinstance(predictor, MeanPredictor):
        parts = [_part(one) for one in predictor.predictors]
        return _Mean(parts, predictor.family, predictor.weights)
    if isinstance(predictor, Viewed):
        if predictor.views.functions:
            raise InputError(
                f"the views {', '.join(predictor.views.functions)} are functions, which draw "
                "numbers that ONNX would draw otherwise. Average over views by name, or export "
                "the predictor without views."
            )
        return _OverViews(_part(predictor.inner), predictor.views, predictor.family)
    if isinstance(predictor, ModelPredictor):
        return _Model(predictor)
    if isinstance(predictor, EstimatorPredictor | Stacked):
        raise InputError(
            "a scikit-learn estimator is none that torch can export to ONNX, alone or in a stack. "
            "Export the members that are models, and the estimators by skl2onnx, one by one; or "
            "predict in Python with what Predictor.save writes."
        )
    raise InputError(f"a {type(predictor).__name__} is none that can be exported to ONNX.")


class _Model(nn.Module):
    def __init__(self, predictor: ModelPredictor) -> None:
        super().__init__()
        model = copy.deepcopy(predictor.model).cpu()
        model.load_state_dict(predictor.state)
        for name, scale in predictor.heads.items():
            model = _with_head(model, name, scale)
        self.model = model

    def forward(self, inputs: Any) -> Tensor:
        return objectives.logits(objectives.call(self.model, inputs)).float()


class _Cosines(nn.Module):
    """A cosine head as a layer of its own, where no hook is followed."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(weight.detach().clone()), scale

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as a linear layer calls it
        return cosine.cosines(input, self.weight, self.scale)


class _AtTemperature(nn.Module):
    def __init__(self, inner: nn.Module, temperature: float) -> None:
        super().__init__()
        self.inner, self.temperature = inner, temperature

    def forward(self, inputs: Any) -> Tensor:
        logits: Tensor = self.inner(inputs)
        return logits / self.temperature


class _Mean(nn.Module):
    def __init__(self, parts: list[nn.Module], family: Family, weights: list[float] | None) -> None:
        super().__init__()
        self.parts, self.family, self.weights = nn.ModuleList(parts), family, weights

    def forward(self, inputs: Any) -> Tensor:
        return pooled(torch.stack([one(inputs) for one in self.parts]), self.family, self.weights)


class _OverViews(nn.Module):
    def __init__(self, inner: nn.Module, views: Views, family: Family) -> None:
        super().__init__()
        self.inner, self.views, self.family = inner, views, family

    def forward(self, inputs: Any) -> Tensor:
        every = self.views(inputs)
        answers: Tensor = self.inner(join_leaves(every))
        return pooled(answers.unflatten(0, (len(every), -1)), self.family)


def _with_head(model: nn.Module, name: str, scale: float) -> nn.Module:
    head = model.get_submodule(name)
    assert isinstance(head.weight, Tensor)
    made = _Cosines(head.weight, scale)
    if not name:
        return made
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, made)
    return model
