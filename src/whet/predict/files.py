"""Predictors out of the files that `Predictor.save` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whet import cosine, exported, fsdp, settings
from whet.augmenting import fixed
from whet.errors import CheckpointError, InputError
from whet.objectives.families import Family, family
from whet.predict.calibrated import Calibrated
from whet.predict.means import MeanPredictor
from whet.predict.models import ModelPredictor
from whet.predict.predictor import Predictor, State
from whet.predict.viewed import Function, Viewed, Views

Left = Iterator[tuple[State, nn.Module]]


def load(
    path: str | Path, model: nn.Module | Sequence[nn.Module],
    views: Mapping[str, Function] | None = None,
) -> Predictor:  # fmt: skip
    """What `Predictor.load` gives."""
    about, states = exported.read(path)
    models = [model] * len(states) if isinstance(model, nn.Module) else list(model)
    if len(models) != len(states):
        raise InputError(
            f"{path} holds {len(states)} models and {len(models)} are given for them. Give one for "
            "each in their order, or a single one where they are of one architecture."
        )
    for one, state in zip(models, states, strict=True):
        exported.check_architecture(one, state, path)
    left = iter([(_placed(state, one), one) for one, state in zip(models, states, strict=True)])
    try:
        form = about.get("form", {} if len(states) == 1 else [{}] * len(states))
        made = _formed(form, left, family(about["family"]), views or {})
        if next(left, None) is not None:
            raise ValueError("it holds more models than it uses")
    except (ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
        raise CheckpointError(f"{path} is no predictor that whet saved: {error}") from error
    return made


def _placed(state: State, model: nn.Module) -> State:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {name: tensor.to(device) for name, tensor in state.items()}


def _formed(form: Any, left: Left, kind: Family, views: Mapping[str, Function]) -> Predictor:
    """The predictor that `form` describes, of the next members."""
    given = (left, kind, views)
    if isinstance(form, list):
        return MeanPredictor([_formed(one, *given) for one in form])
    if "mean" in form:
        return MeanPredictor([_formed(one, *given) for one in form["mean"]], form["weights"])
    if "temperature" in form:
        temperature = settings.positive(form["temperature"], "its temperature")
        return Calibrated(_formed(form["of"], *given), temperature)
    if "views" in form:
        return _viewed(form, _formed(form["of"], *given), views)
    state, model = next(left)
    return ModelPredictor(model, state, kind, heads=cosine.checked(model, form.get("cosine", {})))


def _viewed(form: Any, inner: Predictor, views: Mapping[str, Function]) -> Predictor:
    names, at, batched = form["views"], form["at"], form["batched"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its views are no list of names")
    if not isinstance(at, str) or not isinstance(batched, bool):
        raise ValueError("it does not say how its views are made")
    own = [name for name in names if name.partition("=")[0] not in fixed.FIXED]
    for name in own:
        if name not in views:
            raise ValueError(
                f"it averages over the view {name!r}, which is none of whet's. If that is a "
                f"function of yours, give Predictor.load(..., views={{{name!r}: ...}})"
            )
    functions = {name: views[name] for name in own}
    return Viewed(inner, Views(names, functions, at), batched=batched)


def take_weights(path: str | Path, model: nn.Module) -> None:
    """Begin from what `Predictor.save` wrote.

    Raises:
        CheckpointError, InputError: it fits another model, or holds several.
    """
    _, members = exported.read(path)
    if len(members) > 1:
        raise InputError(f"{path} holds {len(members)} models; a stage starts from one.")
    exported.check_architecture(model, members[0], path)
    model.load_state_dict(fsdp.parted(members[0], model))
