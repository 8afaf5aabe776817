"""Residual branches that begin at zero."""

from __future__ import annotations

import fnmatch
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import whet
from tests.methods.traps import trap
from tests.preparing.networks import (
    BasicBlock,
    GatedBlock,
    PreActivation,
    ResNet,
    bert,
    encoder,
    images,
)
from whet import residual
from whet.errors import InputError, NotApplicable
from whet.preparing import zero_init_residual

SCALES = [f"layer{n}.{m}.bn2.weight" for n in (1, 2) for m in (0, 1)]


def inputs_of(model: nn.Module, at: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """What goes into a module and what comes out."""
    seen: list[Tensor] = []
    module = model.get_submodule(at)
    handle = module.register_forward_hook(
        lambda m, args, out: seen.extend([args[0].clone(), out.clone()])
    )
    model(x)
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize("block", [BasicBlock, GatedBlock])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_begins_as_its_shortcut(block: Any, training: bool) -> None:
    model = ResNet(block).train(training)
    assert zero_init_residual(model) == SCALES
    for at in ("layer1.0", "layer1.1", "layer2.1"):  # what comes in is a relu's: 0 at least
        given, found = inputs_of(model, at, images())
        assert torch.equal(given, found)
    given, found = inputs_of(model, "layer2.0", images())
    assert torch.equal(model.layer2[0].shortcut_of(given).relu(), found)


def test_the_branch_learns_all_the_same() -> None:
    """The scale has a gradient at once, and what stands before it once the scale has moved."""
    model = ResNet()
    zero_init_residual(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        assert model.layer1[0].bn2.weight.grad.any()
        assert bool(model.layer1[0].conv2.weight.grad.any()) == (step == 1)
        optimizer.step()


def test_other_parameters_stay() -> None:
    model, other = ResNet(), ResNet()
    other.load_state_dict(model.state_dict())
    zero_init_residual(model)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(a, b) == (name not in SCALES)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_residual_networks_of_transformers(kind: str) -> None:
    from transformers import ResNetConfig, ResNetModel

    model = ResNetModel(ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 2], layer_type=kind
    ))  # fmt: skip
    last = 1 if kind == "basic" else 2
    assert zero_init_residual(model) == [
        f"encoder.stages.{n}.layers.{m}.layer.{last}.normalization.weight"
        for n in (0, 1) for m in (0, 1)
    ]  # fmt: skip
    given, found = inputs_of(model, "encoder.stages.1.layers.1", images(2).repeat(1, 1, 4, 4))
    assert torch.equal(given, found)


class Norms(nn.Module):
    """A branch that ends in a norm, in a form that is not known."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4, elementwise_affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.linear(x))


def test_norms_by_name() -> None:
    model, x = nn.Sequential(Norms(), Norms()), torch.randn(3, 4)
    with pytest.raises(NotApplicable, match="at="):
        zero_init_residual(model)
    assert zero_init_residual(model, at="*.norm") == ["0.norm.weight", "1.norm.weight"]
    assert torch.equal(model(x), x)
    assert zero_init_residual(model, at=["0.norm", "1.norm"])  # twice is once
    with pytest.raises(InputError, match=r"no module matches 'norm'.*0\.norm"):
        zero_init_residual(model, at="norm")
    with pytest.raises(InputError, match="is no norm with a scale"):
        zero_init_residual(model, at="*.linear")
    with pytest.raises(InputError, match="is no norm with a scale"):
        zero_init_residual(nn.Sequential(Norms(affine=False)), at="*.norm")


# traps ---------------------------------------------------------------------------------------


def every_last_norm(model: nn.Module) -> list[str]:
    """The usual loop: of each module with bn2, or norm2, that one."""
    with torch.no_grad():
        found = [n for n, _ in model.named_parameters() if fnmatch.fnmatch(n, "*[nm]2.weight")]
        for name in found:
            model.get_parameter(name).zero_()
    return found


@trap(right=zero_init_residual, wrong=every_last_norm)
def test_no_branch_is_dead(zero: Any) -> None:
    """Before a relu, scale 0 and shift 0 have no gradient: such a branch never learns."""
    model = nn.Sequential(PreActivation(8), PreActivation(8))
    try:
        zero(model)
    except NotApplicable as refused:
        assert "0 (PreActivation) goes on after its last norm, with conv2" in str(refused)  # noqa: PT017
        return
    for _ in range(3):
        model(torch.randn(2, 8, 4, 4)).square().sum().backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
    assert model[0].bn2.weight.any()


@trap(right=zero_init_residual, wrong=every_last_norm)
def test_a_post_norm_transformer_keeps_its_input(zero: Any) -> None:
    model, x = encoder(norm_first=False), torch.randn(2, 5, 8)
    try:
        zero(model)
    except NotApplicable as refused:
        assert "layers.0 (TransformerEncoderLayer) is post-norm" in str(refused)  # noqa: PT017
    assert model(x).any()


def test_other_transformers_are_refused_by_name() -> None:
    with pytest.raises(NotApplicable, match=r"layers\.0 .* is pre-norm"):
        zero_init_residual(encoder(norm_first=True))
    with pytest.raises(NotApplicable, match=r"bert\.encoder\.layer\.0 \(BertLayer\)"):
        zero_init_residual(bert())


def forgets_what_was_learned(model: nn.Module) -> None:
    with torch.no_grad():
        for name in SCALES:
            model.get_parameter(name).zero_()


@trap(right=zero_init_residual, wrong=forgets_what_was_learned)
def test_a_trained_branch_is_not_lost(zero: Any) -> None:
    model = ResNet()
    with torch.no_grad():
        model.layer1[0].bn2.weight[0] = 1.25
    try:
        zero(model)
    except InputError as refused:
        assert "layer1.0.bn2.weight is not 1 any more" in str(refused)  # noqa: PT017
    assert model.layer1[0].bn2.weight[0] == 1.25
    assert model.layer2[0].bn2.weight.all()  # all or none


# which blocks there are ------------------------------------------------------------------------


def test_blocks_that_may_be_left_out() -> None:
    assert list(residual.skippable(ResNet())) == ["layer1.0", "layer1.1", "layer2.1"]
    assert list(residual.skippable(encoder(norm_first=True))) == ["layers.0", "layers.1"]
    assert list(residual.skippable(bert())) == [f"bert.encoder.layer.{n}" for n in range(3)]
    assert list(residual.skippable(nn.Sequential(PreActivation(8), PreActivation(8)))) == ["0", "1"]
    assert not residual.skippable(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))


def test_a_block_of_several_lists_is_one() -> None:
    from transformers import T5Config, T5EncoderModel

    model = T5EncoderModel(T5Config(
        vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2
    ))  # fmt: skip
    assert list(residual.skippable(model)) == ["encoder.block.0", "encoder.block.1"]


def test_public() -> None:
    assert whet.zero_init_residual is zero_init_residual
