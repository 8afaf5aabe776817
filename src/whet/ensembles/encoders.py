"""Classifiers cut into an encoder and its linear head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from whet import seeding
from whet.batch import map_leaves
from whet.errors import InputError
from whet.modes import evaluation_mode
from whet.objectives import call, logits
from whet.predict import ModelPredictor, Predictor

Classifier = nn.Module | Predictor
NEAR = 1e-3  # relative: the same sums in another order, in half precision too


def cut(
    classifier: Classifier, inputs: Any, at: str | None, who: str
) -> tuple[nn.Module, nn.Linear]:  # fmt: skip
    """A copy of a classifier that returns its features, and the linear layer they were for.

    The layer is the one whose output the classifier returns. What makes it a head is checked on
    the inputs: of the features it gives the logits, so that nothing else follows it.

    Args:
        classifier: a model that ends in a linear layer, or its predictor.
        inputs: two rows, as the model takes them.
        at: the layer's name, where it is not found.
        who: what the model is called in errors.

    Raises:
        InputError: it is no single model, or has no such layer, or several.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> encoder, head = cut(model, torch.randn(2, 4), at=None, who="the model")
    >>> encoder(torch.randn(5, 4)).shape, head.out_features
    (torch.Size([5, 8]), 3)
    """
    model = _copied(classifier, who)
    device = next((one.device for one in model.parameters()), torch.device("cpu"))
    inputs = map_leaves(lambda leaf: leaf.to(device), inputs)
    with evaluation_mode(model), seeding.borrowed(), torch.no_grad():
        said, given = _heard(model, inputs)
        name = _head(model, said, given, at, who)
        head = model.get_submodule(name)
        assert isinstance(head, nn.Linear)
        encoder = _without(model, name)
        _check(encoder, head, inputs, said, f"{who}, cut at {_called(name)},")
    return encoder, head


def _copied(classifier: Classifier, who: str) -> nn.Module:
    if isinstance(classifier, nn.Module):
        return copy.deepcopy(classifier)
    if not isinstance(classifier, ModelPredictor):
        raise InputError(
            f"{who} is a {type(classifier).__name__}, which has no encoder. Give models, or "
            "predictors of single ones, as run.predictor() of a run without tta or snapshots."
        )
    model = copy.deepcopy(classifier.model)
    model.load_state_dict(classifier.state)  # the weights that are judged: averaged ones, say
    return model


def _heard(model: nn.Module, inputs: Any) -> tuple[Tensor, dict[str, list[Tensor]]]:
    """What a model says, and what each of its linear layers gave, in order."""
    with _listening(model) as given:
        return logits(call(model, inputs)), given


@contextmanager
def _listening(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    linear = {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    given: dict[str, list[Tensor]] = {name: [] for name in linear}

    def hearer(name: str) -> Any:
        return lambda module, args, output: given[name].append(output)

    handles = [one.register_forward_hook(hearer(name)) for name, one in linear.items()]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def _head(
    model: nn.Module, said: Tensor, given: dict[str, list[Tensor]], at: str | None, who: str
) -> str:  # fmt: skip
    """The name of the layer that gives the logits."""
    if at is not None:
        if at not in given:
            raise InputError(f"{who} has no linear layer at={at!r}; {_listed(model, given)}.")
        return at
    found = [name for name, outputs in given.items() if any(one is said for one in outputs)]
    found = found or [
        name for name, outputs in given.items()
        if any(one.shape == said.shape and torch.equal(one.to(said), said) for one in outputs)
    ]  # fmt: skip
    if len(found) != 1:
        which = f"several that do ({', '.join(map(_called, found))})" if found else "none that does"
        raise InputError(
            f"{who} returns {tuple(said.shape)}, and of its linear layers there is {which}. Name "
            f"by at= the one that gives the logits; {_listed(model, given)}. Of a model that has "
            "none, give what returns its features to Concatenation."
        )
    return found[0]


def _without(model: nn.Module, name: str) -> nn.Module:
    if not name:
        return nn.Identity()
    owner, _, last = name.rpartition(".")
    setattr(model.get_submodule(owner), last, nn.Identity())
    return model


def _check(encoder: nn.Module, head: nn.Linear, inputs: Any, said: Tensor, who: str) -> None:
    """Of the encoder's features the head gives what the classifier said."""
    remedy = (
        "Name another layer by at=, or give Concatenation a module of your own that returns "
        "features."
    )
    try:
        again = head(logits(call(encoder, inputs)))
    except (RuntimeError, IndexError, TypeError, ValueError, InputError) as error:
        told = str(error).split("\n")[0]
        raise InputError(f"{who} returns no features of that layer: {told}. {remedy}") from error
    near = again.shape[0] == said.shape[0] and again.numel() == said.numel()
    if not near or not torch.allclose(
        again.flatten(), said.flatten(), NEAR, NEAR * float(said.abs().max())
    ):
        raise InputError(
            f"{who} does not give its logits again when that layer is put on what is left: "
            f"something after the layer changes them, or it is called elsewhere too. {remedy}"
        )


def _called(name: str) -> str:
    return name or "(the model itself)"


def _listed(model: nn.Module, given: dict[str, list[Tensor]]) -> str:
    told = []
    for name in given:
        one = model.get_submodule(name)
        assert isinstance(one, nn.Linear)
        told.append(f"{_called(name)} ({one.in_features} to {one.out_features})")
    return f"it has {', '.join(told[-20:]) or 'no linear layer'}"
