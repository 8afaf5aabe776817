"""Small networks in the forms of torchvision, timm and others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def conv(inside: int, out: int, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inside, out, kernel, stride, kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """As in torchvision: the shortcut is registered last, and absent where none is needed."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inside, out, stride), nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(out, out), nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        if stride > 1 or inside != out:
            self.downsample = nn.Sequential(conv(inside, out, stride, 1), nn.BatchNorm2d(out))

    def shortcut_of(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(branch + self.shortcut_of(x))


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc = conv(width, width, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(x.mean((2, 3), keepdim=True)).sigmoid()


class GatedBlock(BasicBlock):
    """As in timm: a gate after the last norm."""

    def __init__(self, inside: int, out: int, stride: int = 1) -> None:
        super().__init__(inside, out, stride)
        self.se = Gate(out)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.se(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        return self.relu(branch + self.shortcut_of(x))


class PreActivation(nn.Module):
    """Norm and activation come first, and the branch ends in a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), conv(width, width)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), conv(width, width)
        self.shortcut = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.shortcut(x)
        return x + self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())


class ResNet(nn.Module):
    """A stem, four blocks of which the third halves the image, and a head."""

    def __init__(self, block: Any = BasicBlock, classes: int = 3) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(3, 8), nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(block(8, 8), block(8, 8))
        self.layer2 = nn.Sequential(block(8, 16, 2), block(16, 16))
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.fc(x.mean((2, 3)))


def encoder(norm_first: bool, layers: int = 2) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)


def images(rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def bert(**changes: Any) -> Any:
    """A small BertForSequenceClassification."""
    from transformers import BertConfig, BertForSequenceClassification

    given = {
        "vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 24, "max_position_embeddings": 12,
    } | changes  # fmt: skip
    return BertForSequenceClassification(BertConfig(**given))
