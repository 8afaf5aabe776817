"""Predictors out of the files that `Predictor.save` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from whet import cosine, exported, fsdp, settings
from whet.augmenting import fixed
from whet.errors import CheckpointError, InputError
from whet.objectives.families import Family, family
from whet.predict import skops_bytes
from whet.predict.calibrated import Calibrated
from whet.predict.estimators import BYTES, EstimatorPredictor
from whet.predict.means import MeanPredictor
from whet.predict.models import ModelPredictor
from whet.predict.predictor import Predictor, State
from whet.predict.stacked import Stacked
from whet.predict.viewed import Function, Viewed, Views

ODD = (ValueError, TypeError, LookupError, AttributeError, StopIteration)


@dataclass(frozen=True)
class _Reading:
    """What is left of a file, and what its caller gave.

    Args:
        states: of the members, in the order in which the form names them.
        models: for those that are models.
        kind: the family.
        views: functions by name.
        trusted: types that estimators may hold.
    """

    states: Iterator[State]
    models: Iterator[nn.Module]
    kind: Family
    views: Mapping[str, Function]
    trusted: Sequence[str]


def load(
    path: str | Path, model: nn.Module | Sequence[nn.Module] | None = None,
    views: Mapping[str, Function] | None = None, trusted: Sequence[str] = (),
) -> Predictor:  # fmt: skip
    """What `Predictor.load` gives."""
    about, states = exported.read(path)
    form = about.get("form", {} if len(states) == 1 else [{}] * len(states))
    try:
        of_models = [state for state, leaf in zip(states, _leaves(form), strict=True) if leaf]
        kind = family(about["family"])
    except ODD as error:
        raise _no_predictor(path, error) from error
    if len(of_models) < len(states):
        skops_bytes.ready(trusted)
    models = _models(model, len(of_models), path)
    for one, state in zip(models, of_models, strict=True):
        exported.check_architecture(one, state, path)
    reading = _Reading(iter(states), iter(models), kind, views or {}, trusted)
    try:
        return _formed(form, reading)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except ODD as error:
        raise _no_predictor(path, error) from error


def _no_predictor(path: object, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is no predictor that whet saved: {error}")


def _models(
    given: nn.Module | Sequence[nn.Module] | None, count: int, path: object
) -> list[nn.Module]:
    models = [given] * count if isinstance(given, nn.Module) else list(given or ())
    if len(models) != count:
        raise InputError(
            f"{path} holds {count} models and {len(models)} are given for them. Give one for "
            "each in their order, or a single one where they are of one architecture."
        )
    return models


def _leaves(form: Any) -> Iterator[bool]:
    """In the order of a file's members, which are models; the others are estimators."""
    several = form if isinstance(form, list) else form.get("mean")
    if several is None and "stacked" in form:
        several = [*form["stacked"], form["by"]]
    if several is not None:
        for one in several:
            yield from _leaves(one)
    elif "temperature" in form or "views" in form:
        yield from _leaves(form["of"])
    else:
        yield "estimator" not in form


def _placed(state: State, model: nn.Module) -> State:
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return {name: tensor.to(device) for name, tensor in state.items()}


def _formed(form: Any, left: _Reading) -> Predictor:
    """The predictor that `form` describes, of the next members."""
    if isinstance(form, list):
        return MeanPredictor([_formed(one, left) for one in form])
    if "mean" in form:
        return MeanPredictor([_formed(one, left) for one in form["mean"]], form["weights"])
    if "stacked" in form:
        each = [_formed(one, left) for one in form["stacked"]]
        return Stacked(each, _formed(form["by"], left), form["features"], form["least"])
    if "temperature" in form:
        temperature = settings.positive(form["temperature"], "its temperature")
        return Calibrated(_formed(form["of"], left), temperature)
    if "views" in form:
        return _viewed(form, _formed(form["of"], left), left.views)
    state = next(left.states)
    if "estimator" in form:
        return EstimatorPredictor.read(state, form, left.kind, left.trusted)
    model = next(left.models)
    heads = cosine.checked(model, form.get("cosine", {}))
    return ModelPredictor(model, _placed(state, model), left.kind, heads=heads)


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
    if [*members[0]] == [BYTES]:
        raise InputError(f"{path} holds a scikit-learn estimator; a stage starts from a model.")
    exported.check_architecture(model, members[0], path)
    model.load_state_dict(fsdp.parted(members[0], model))
