"""Classifiers cut into encoders, and what cannot stand side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.ensembles.tiny import PIXELS, dense, drawn, made, tokens
from whet import ensembles
from whet.ensembles import Concatenation, concatenated, pairs
from whet.errors import InputError, UnknownName
from whet.objectives.families import family
from whet.predict import Calibrated, ModelPredictor, model_state

X = drawn(4, 4)


# where the head is ---------------------------------------------------------------------------
class Ending(nn.Module):
    """Two linear layers of as many outputs, and something after them."""

    def __init__(self, end: Callable[[Ending, Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.beside, self.head = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        self.beside(hidden)
        return self.end(self, hidden)


def log_softmax(model: Ending, hidden: Tensor) -> Tensor:
    return model.head(hidden).log_softmax(1)


def both(model: Ending, hidden: Tensor) -> Tensor:
    return model.head(hidden) + model.beside(hidden)


def twice(model: Ending, hidden: Tensor) -> Tensor:
    return model.head(hidden) + model.head(hidden * 2)


def test_the_layer_whose_output_is_returned() -> None:
    found = concatenated([Ending(lambda model, x: model.beside(x))], X)
    assert isinstance(found.encoders["0"].beside, nn.Identity)
    alike = Ending(lambda model, x: model.head(x))  # also where another says the same
    alike.beside.load_state_dict(alike.head.state_dict())
    assert isinstance(concatenated([alike], X).encoders["0"].head, nn.Identity)
    assert isinstance(found.encoders["0"].head, nn.Linear)


@pytest.mark.parametrize(("end", "told"), [
    (log_softmax, "does not give its logits again"), (twice, "does not give its logits again"),
    (both, "returns no features of that layer: The size of tensor"),
])  # fmt: skip
def test_something_after_the_head(end: Any, told: str) -> None:
    with pytest.raises(InputError, match=r"none that does.* it has body \(4 to 8\), beside"):
        concatenated([Ending(end)], X)
    with pytest.raises(InputError, match=f"cut at head, {told}"):
        concatenated([Ending(end)], X, at="head")


def test_several_heads_that_say_the_same() -> None:
    model = Ending(lambda model, x: model.head(x) + 0.0)
    model.beside.load_state_dict(model.head.state_dict())
    with pytest.raises(InputError, match=r"several that do \(beside, head\)"):
        concatenated([model, dense()], X)
    joint = concatenated([model, dense()], X, at={"0": "head"})
    assert isinstance(joint.encoders["0"].head, nn.Identity)
    assert len(pairs([model, dense(), dense(1)], X, at={"0": "head"})) == 3
    with pytest.raises(UnknownName, match="unknown classifier in at= '7'"):
        concatenated([model, dense()], X, at={"7": "head"})
    with pytest.raises(InputError, match="has no linear layer at='tail'; it has body"):
        concatenated([model], X, at="tail")
    with pytest.raises(InputError, match="cut at body, returns no features of that layer"):
        concatenated([model], X, at="body")
    with pytest.raises(InputError, match="it has no linear layer"):
        concatenated([conv(nn.Flatten())], PIXELS)


def test_logits_that_are_chosen_after_the_head() -> None:
    """The last word's: the head is linear, so that its features are chosen as well."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.score = nn.Embedding(9, 4), nn.Linear(4, 3, bias=False)

        def forward(self, ids: Tensor) -> Tensor:
            return self.score(self.words(ids))[:, -1]

    model, ids = Last(), tokens(9, 5)["ids"]
    joint = concatenated([model], ids, at="score", norm=False, own_heads=True)
    torch.testing.assert_close(joint(ids), model(ids))


# refused -------------------------------------------------------------------------------------
def test_encoders_that_an_earlier_run_froze() -> None:
    frozen = dense().requires_grad_(False)
    with pytest.raises(InputError, match="'0' has requires_grad=False in every parameter"):
        concatenated([frozen, dense(1)], X)
    part = dense()
    part[2].requires_grad_(False)  # and what stands still in part does so on
    joint = Concatenation([part], 2, X)
    assert [one.requires_grad for one in joint.encoders.parameters()] == [True, True, False, False]


def test_one_encoder_twice() -> None:
    one, other = dense(), dense(1)
    with pytest.raises(InputError, match=r"'a' and 'b' are one; .* copy\.deepcopy"):
        concatenated({"a": one, "b": one}, X)
    other[0].weight = one[0].weight
    with pytest.raises(InputError, match="'0' and '1' share parameters"):
        Concatenation([one, other], 2, X)
    assert concatenated([one, copy.deepcopy(one)], X).head.in_features == 16


def conv(*after: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *after)


@pytest.mark.parametrize(("encoder", "told"), [
    (conv(), r"'0' gives torch.float32 of shape \(2, 2, 6, 6\) for 2 rows.*Pool"),
    (conv(nn.Flatten(0)), r"of shape \(144,\)"),
    (conv(nn.Flatten(0, 1), nn.Flatten()), r"of shape \(4, 36\) for 2 rows"),
])  # fmt: skip
def test_what_are_no_features(encoder: nn.Module, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Concatenation([encoder], 2, PIXELS)


def test_features_of_other_items() -> None:
    pooled, each = made(0, lambda: nn.EmbeddingBag(9, 4)), made(1, lambda: nn.Embedding(9, 4))
    with pytest.raises(InputError, match=r"not of the same items \(.*'1': \(2, 5\)"):
        Concatenation([pooled, each], 2, tokens(9, 5)["ids"])


def test_names_and_numbers() -> None:
    with pytest.raises(InputError, match="at least one encoder"):
        Concatenation([], 2, X)
    with pytest.raises(InputError, match="classes is 0"):
        Concatenation([dense()], 0, X)
    for name in ("", "a.b", "keys", "training"):
        with pytest.raises(InputError, match=f"cannot be called {name!r}"):
            Concatenation({name: dense()}, 2, X)
    with pytest.raises(InputError, match="fewer than two"):
        pairs([dense()], X)
    with pytest.raises(InputError, match=r"different classes \(.'0': 3, '1': 4.\): give classes="):
        concatenated([dense(), dense(1, classes=4)], X)


def test_own_heads_that_cannot_stand_there() -> None:
    for given in ({}, {"norm": False, "classes": 3}):
        with pytest.raises(InputError, match="cannot begin from own heads"):
            concatenated([dense(), dense(1)], X, own_heads=True, **given)


def test_predictors_of_several_models() -> None:
    one = ModelPredictor(dense(), model_state(dense()), family("categorical"))
    for each in (ensembles.mean([one, one]), Calibrated(one, 2.0)):
        with pytest.raises(InputError, match=r"which has no encoder\. Give models"):
            concatenated([each], X)
