"""Predictors out of the files that `Predictor.save` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whet import cosine, exported, fsdp, settings
from whet.errors import CheckpointError, InputError
from whet.objectives.families import Family, family
from whet.predict.calibrated import Calibrated
from whet.predict.means import MeanPredictor
from whet.predict.models import ModelPredictor
from whet.predict.predictor import Predictor, State


def load(path: str | Path, model: nn.Module) -> Predictor:
    """What `Predictor.load` gives."""
    about, states = exported.read(path)
    for state in states:
        exported.check_architecture(model, state, path)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    placed = [{name: tensor.to(device) for name, tensor in state.items()} for state in states]
    left = iter(placed)
    try:
        form = about.get("form", {} if len(states) == 1 else [{}] * len(states))
        made = _formed(form, left, model, family(about["family"]))
        if next(left, None) is not None:
            raise ValueError("it holds more models than it uses")
    except (ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
        raise CheckpointError(f"{path} is no predictor that whet saved: {error}") from error
    return made


def _formed(form: Any, states: Iterator[State], model: nn.Module, kind: Family) -> Predictor:
    """The predictor that `form` describes, of the next members."""
    if isinstance(form, list):
        return MeanPredictor([_formed(one, states, model, kind) for one in form])
    if "temperature" in form:
        temperature = settings.positive(form["temperature"], "its temperature")
        return Calibrated(_formed(form["of"], states, model, kind), temperature)
    heads = cosine.checked(model, form.get("cosine", {}))
    return ModelPredictor(model, next(states), kind, heads=heads)


def take_weights(path: str | Path, model: nn.Module) -> None:
    """Begin from what `Predictor.save` wrote.

    Raises:
        CheckpointError, InputError: it fits another model, or holds several.
    """
    members = load(path, model).members()
    if len(members) > 1:
        raise InputError(f"{path} holds {len(members)} models; a stage starts from one.")
    model.load_state_dict(fsdp.parted(members[0], model))
