"""The top layers of a pre-trained model begun anew."""

from __future__ import annotations

import tempfile
from typing import Any

import pytest
import torch
from torch import nn

import whet
from tests.contract.fixture import equal, weights
from tests.methods.traps import trap
from tests.preparing.networks import ResNet, bert, encoder, images
from whet.errors import InputError, NotApplicable
from whet.preparing import reinitialise_top


def changed(model: nn.Module, before: dict[str, Any]) -> set[str]:
    return {n for n, t in weights(model).items() if not torch.equal(t, before[n])}


def trained(model: nn.Module) -> nn.Module:
    """Every number moved, so that whatever is begun anew changes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=3.0)
    return model


def loaded() -> Any:
    """A model as from_pretrained gives it."""
    model = trained(bert(initializer_range=0.5))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return type(model).from_pretrained(folder)


def test_pooler_classifier_and_the_top_block() -> None:
    model = loaded()
    before = weights(model)
    names = reinitialise_top(model, 2)
    blocks = {name for name in before if name.startswith("bert.encoder.layer.2.")}
    head = {
        f"{at}.{kind}" for at in ("bert.pooler.dense", "classifier") for kind in ("weight", "bias")
    }
    assert set(names) == blocks | head == changed(model, before)
    layer = model.bert.encoder.layer[2]
    assert float(layer.intermediate.dense.weight.detach().std()) == pytest.approx(0.5, rel=0.1)
    assert not layer.intermediate.dense.bias.any()
    assert torch.equal(layer.output.LayerNorm.weight, torch.ones(16))


def test_by_name() -> None:
    model = loaded()
    before = weights(model)
    names = reinitialise_top(model, at=["bert.pooler", "*.layer.1.output.dense.weight"])
    assert names == ["bert.encoder.layer.1.output.dense.weight", "bert.pooler.dense.weight",
                     "bert.pooler.dense.bias"]  # fmt: skip
    assert changed(model, before) == set(names)  # the bias beside the first stays


def test_a_seed_decides_and_global_generators_stay() -> None:
    models = [trained(bert()) for _ in range(3)]
    state = torch.default_generator.get_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        reinitialise_top(model, 4, seed=seed)
    assert torch.equal(state, torch.default_generator.get_state())
    top = [{n: t for n, t in weights(m).items() if "embeddings" not in n} for m in models]
    assert equal(top[0], top[1])
    assert not equal(top[0], top[2])
    same = top[0]["bert.encoder.layer.0.attention.self.query.weight"]
    assert not torch.equal(same, top[0]["bert.encoder.layer.1.attention.self.query.weight"])


def test_modules_of_torch() -> None:
    """Attention begins its own weights, and sets the bias of what is within it."""
    model = trained(encoder(norm_first=True))
    before = weights(model)
    names = reinitialise_top(model, 1)
    assert changed(model, before) == set(names)
    assert all(name.startswith("layers.1.") for name in names)
    attention = model.layers[1].self_attn
    assert not attention.in_proj_bias.any()
    assert not attention.out_proj.bias.any()
    assert float(attention.in_proj_weight.detach().abs().max()) <= (6 / (8 + 24)) ** 0.5


def test_batch_statistics_begin_anew() -> None:
    model = ResNet()
    model(images() + 5.0)
    before = weights(model)
    reinitialise_top(model, 2)
    assert torch.equal(model.layer2[1].bn2.running_mean, torch.zeros(16))
    assert torch.equal(model.layer2[0].bn2.running_mean, before["layer2.0.bn2.running_mean"])


def test_frozen_stays_frozen_and_the_parameters_are_the_same_objects() -> None:
    model = trained(bert())
    model.classifier.weight.requires_grad_(False)
    objects = dict(model.named_parameters())
    reinitialise_top(model, 1)
    assert all(objects[name] is p for name, p in model.named_parameters())
    assert not model.classifier.weight.requires_grad


# traps ---------------------------------------------------------------------------------------


def by_apply(model: Any, k: int) -> None:
    """The usual lines, which transformers 5 ignores where weights were loaded."""
    model.bert.pooler.apply(model._init_weights)
    for layer in model.bert.encoder.layer[-(k - 1) :]:
        layer.apply(model._init_weights)


@trap(right=reinitialise_top, wrong=by_apply)
def test_loaded_weights_do_begin_anew(again: Any) -> None:
    model = loaded()
    before = weights(model)
    again(model, 2)
    assert "bert.encoder.layer.2.output.dense.weight" in changed(model, before)


def tied() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return trained(BertForMaskedLM(BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=12,
    )))  # fmt: skip


def head_by_apply(model: Any, k: int) -> None:
    model.cls.apply(model._init_weights)


@trap(right=reinitialise_top, wrong=head_by_apply)
def test_a_tied_table_stays(again: Any) -> None:
    """The decoder of a masked language model is the table of words."""
    model = tied()
    before = weights(model)
    again(model, 1)
    assert "cls.predictions.transform.dense.weight" in changed(model, before)
    assert torch.equal(
        model.bert.embeddings.word_embeddings.weight,
        before["bert.embeddings.word_embeddings.weight"],
    )


# refusals ------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((4,), 5.0))


def test_what_does_not_say_how_it_begins_is_named_and_nothing_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Own())
    before = weights(model)
    with pytest.raises(NotApplicable, match=r"Own, which holds 2\.scale, does not say"):
        reinitialise_top(model, at="*")
    assert equal(before, weights(model))


@pytest.mark.parametrize("k", [0, 4, 1.5, True, "2"])
def test_k_is_the_number_of_some_layers(k: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(InputError, match="has 3 layers"):
        reinitialise_top(model, k)
    with pytest.raises(InputError, match="no parameter matches 'encoder'; there are: 0, 1, 2"):
        reinitialise_top(model, at="encoder")


def test_public() -> None:
    assert whet.reinitialise_top is reinitialise_top
