"""Classifiers side by side: their encoders under one head, of all or of every two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import nn

from whet.ensembles.concatenation import Concatenation, check_apart, named, own_inputs, two_rows
from whet.ensembles.encoders import Classifier, cut
from whet.errors import InputError, UnknownName


def concatenated(
    models: Mapping[str, Classifier] | Sequence[Classifier], example: Any, *,
    classes: int | None = None, norm: bool = True, own_heads: bool = False,
    at: str | Mapping[str, str] | None = None, seed: int = 0,
) -> Concatenation:  # fmt: skip
    r"""The encoders of several classifiers under one head.

    Each classifier is copied, and its last linear layer cut off: the one whose output it returns.

    With `own_heads` the head begins from the heads that were cut off, and the model says the mean
    of what the classifiers said, from where it is trained on:

    $$W = \frac1K [W_1, \ldots, W_K], \quad b = \frac1K \sum_k b_k, \quad
    z = \frac1K \sum_k z_k$$

    Args:
        models: classifiers, or predictors of single models (`run.predictor()`), whose weights are
            those that are judged; by name, or in order.
        example: as for `Concatenation`.
        classes: None for the classifiers' own; a number where they were trained for others.
        norm: as for `Concatenation`.
        own_heads: begin with the mean of the classifiers' logits; only with `norm=False`.
        at: the name of the layer that gives the logits, where it is not found; for all of them, or
            by the classifier's name.
        seed: as for `Concatenation`.

    Raises:
        InputError: as `Concatenation`; or a classifier's head is not found, or heads are of
            different classes, or own heads are asked for and cannot stand there.

    >>> a, b = (nn.Sequential(nn.Linear(4, w), nn.ReLU(), nn.Linear(w, 3)) for w in (8, 16))
    >>> model = concatenated({"a": a, "b": b}, torch.ones(2, 4), norm=False, own_heads=True)
    >>> x = torch.randn(5, 4)
    >>> torch.allclose(model(x), (a(x) + b(x)) / 2, atol=1e-6)
    True
    """
    given = named(models)
    check_apart(given)
    if own_heads:
        _check_own(given, norm, classes)
    batch, layers = two_rows(example), _layers(at, given)
    encoders, heads = {}, {}
    for name, one in given.items():
        inputs = (own_inputs(given, batch.inputs) or {name: batch.inputs})[name]
        encoders[name], heads[name] = cut(one, inputs, layers.get(name), f"classifier {name!r}")
    made = Concatenation(encoders, classes or _classes(heads), batch, norm=norm, seed=seed)
    if own_heads:
        _begin(made.head, [*heads.values()])
    return made


def pairs(
    models: Mapping[str, Classifier] | Sequence[Classifier], example: Any, *,
    classes: int | None = None, norm: bool = True, own_heads: bool = False,
    at: str | Mapping[str, str] | None = None, seed: int = 0,
) -> dict[str, Concatenation]:  # fmt: skip
    """Every two of several classifiers under one head, each pair with encoders of its own.

    They are trained one by one, and `ensembles.mean` makes one predictor of theirs.

    Args:
        models: two or more, as for `concatenated`; and so for the rest.
        example: with inputs for all of them.
        classes: as for `concatenated`.
        norm: as for `concatenated`.
        own_heads: as for `concatenated`.
        at: as for `concatenated`.
        seed: as for `concatenated`; each pair has a head of its own under it.

    Returns:
        The models by name: `a+b` of the classifiers `a` and `b`.

    Cost: of K classifiers K (K - 1) / 2 models, with K - 1 copies of each encoder.

    Raises:
        InputError: there are fewer than two; or as `concatenated`.

    >>> models = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(3)]
    >>> list(pairs(models, torch.ones(2, 4)))
    ['0+1', '0+2', '1+2']
    """
    given = named(models)
    if len(given) < 2:
        raise InputError("there are fewer than two models, which make no pair.")
    layers = _layers(at, given)
    return {
        f"{a}+{b}": concatenated(
            {a: given[a], b: given[b]}, example, classes=classes, norm=norm, own_heads=own_heads,
            at={name: layers[name] for name in (a, b) if name in layers}, seed=seed,
        )
        for a, b in combinations(given, 2)
    }  # fmt: skip


def _layers(at: str | Mapping[str, str] | None, given: Mapping[str, Any]) -> dict[str, str]:
    if at is None or isinstance(at, str):
        return {} if at is None else dict.fromkeys(given, at)
    for name in at:
        if name not in given:
            raise UnknownName("classifier in at=", name, given)
    return dict(at)


def _classes(heads: Mapping[str, nn.Linear]) -> int:
    found = {name: one.out_features for name, one in heads.items()}
    if len({*found.values()}) > 1:
        raise InputError(f"the classifiers are of different classes ({found}): give classes=.")
    return next(iter(found.values()))


def _check_own(given: Mapping[str, Any], norm: bool, classes: int | None) -> None:
    why = None
    if norm:
        why = "they are for features as they are: norm=False"
    elif classes is not None:
        why = "they are for the classifiers' own classes: leave out classes="
    elif cosine := [name for name, one in given.items() if getattr(one, "heads", None)]:
        why = f"that of {cosine[0]!r} gives cosines, which is no linear layer: own_heads=False"
    if why:
        raise InputError(f"the head cannot begin from own heads; {why}.")


@torch.no_grad()
def _begin(head: nn.Linear, own: Sequence[nn.Linear]) -> None:
    """The mean of the heads, each on its encoder's features."""
    biases = [bias for one in own if (bias := getattr(one, "bias", None)) is not None]
    head.weight.copy_(torch.cat([one.weight.to(head.weight) for one in own], 1) / len(own))
    head.bias.zero_()
    for bias in biases:
        head.bias.add_(bias.to(head.bias), alpha=1.0 / len(own))
