"""Channels innermost: the same numbers in another order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import whet
from tests.contract.fixture import equal, weights
from tests.methods.traps import trap
from tests.preparing.networks import ResNet, images
from whet.errors import InputError, NotApplicable
from whet.preparing import channels_last

LAST = torch.channels_last


def test_says_the_same_and_which_profit() -> None:
    model = ResNet()
    before, said = weights(model), model.eval()(images())
    model.train()
    names = channels_last(model, images())
    assert names == [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)
                     and m.weight[0, 0].numel() > 1]  # fmt: skip
    assert all(model.get_submodule(n).weight.is_contiguous(memory_format=LAST) for n in names)
    assert equal(before, weights(model))  # statistics, too
    assert all(module.training for module in model.modules())
    assert torch.allclose(model.eval()(images().contiguous(memory_format=LAST)), said, atol=1e-5)


def test_what_follows_is_in_that_order_too() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
    channels_last(model)
    assert model(images()).is_contiguous(memory_format=LAST)


def test_checkpoints_go_both_ways() -> None:
    one, other = ResNet(), ResNet()
    channels_last(one)
    one.load_state_dict(other.state_dict())
    assert one.conv1.weight.is_contiguous(memory_format=LAST)
    assert equal(weights(one), weights(other))


def test_training_is_the_same_to_rounding() -> None:
    one, other = ResNet(), ResNet()
    other.load_state_dict(one.state_dict())
    channels_last(other)
    for model in (one, other):
        optimizer = torch.optim.AdamW(model.parameters())
        for _ in range(2):
            optimizer.zero_grad()
            model(images()).square().sum().backward()
            optimizer.step()
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


class Viewed(nn.Module):
    """As much old code ends: by `view`, which asks for rows in one piece."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(len(x), -1))


class Stored(Viewed):
    """Reads what lies there, whatever its order."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).as_strided((len(x), 256), (256, 1)))


def moved(model: nn.Module, inputs: Tensor) -> None:
    """The usual line."""
    model.to(memory_format=LAST)


@trap(right=channels_last, wrong=moved)
def test_a_model_that_cannot_is_as_before(convert: Any) -> None:
    for kind, told in ((Viewed, "flatten"), (Stored, "outputs differ")):
        model = kind()
        said, refused = model(images()), ""
        try:
            convert(model, images())
        except (NotApplicable, InputError) as error:
            refused = str(error)
        assert told in refused
        assert model.conv.weight.is_contiguous()
        assert torch.equal(model(images()), said)


def test_what_has_no_convolution_is_told() -> None:
    with pytest.raises(NotApplicable, match="no 2-d convolution"):
        channels_last(nn.Linear(2, 2))


def test_a_mapping_of_arguments() -> None:
    assert channels_last(ResNet(), {"x": images()})


def test_public() -> None:
    assert whet.channels_last is channels_last
