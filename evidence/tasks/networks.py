"""Small networks of the evidence's tasks, each seconds to train on one core."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from whet.data.vocabulary import PAD


def convolutional(channels: int, height: int, width: int, classes: int, size: int = 16
                  ) -> nn.Module:  # fmt: skip
    """Three convolutions, each of which halves the image, batch normalisation, a linear head.

    >>> import torch
    >>> convolutional(3, 32, 32, 10)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    layers: list[nn.Module] = []
    for a, b in pairwise([channels, size, 2 * size, 4 * size]):
        layers += [nn.Conv2d(a, b, 3, 2, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    left = -(-height // 8) * -(-width // 8)
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * size * left, classes)
    )


class Block(nn.Module):
    """A pre-activated residual block of two convolutions; the first one halves the image."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first_norm, self.norm = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.first = nn.Conv2d(before, after, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.across = nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(x).relu()
        inner: Tensor = self.second(self.norm(self.first(x)).relu())
        return inner + self.across(x)


def residual(classes: int, stride: int = 1, size: int = 16, blocks: int = 3) -> nn.Sequential:
    """A small residual network for colour images of any size, with a mean over places at its end.

    >>> import torch
    >>> residual(10)(torch.zeros(2, 3, 40, 24)).shape
    torch.Size([2, 10])
    """
    widths = [size * 2**n for n in range(blocks + 1)]
    net = nn.Sequential()
    net.add_module("stem", nn.Conv2d(3, size, 3, stride, 1, bias=False))
    for number, (before, after) in enumerate(pairwise(widths)):
        net.add_module(f"block{number}", Block(before, after))
    net.add_module("norm", nn.BatchNorm2d(widths[-1]))
    net.add_module("act", nn.ReLU())
    net.add_module("pool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flat", nn.Flatten())
    net.add_module("head", nn.Linear(widths[-1], classes))
    return net


class WordBag(nn.Module):
    """The mean of the words' embeddings, a hidden layer, a linear head.

    >>> import torch
    >>> WordBag(tokens=9, classes=2)(torch.tensor([[3, 4, 0]])).shape
    torch.Size([1, 2])
    """

    def __init__(self, tokens: int, classes: int, size: int = 64, hidden: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, size, padding_idx=PAD)
        nn.init.normal_(self.words.weight[PAD + 1 :], std=0.1)
        self.hidden, self.dropout = nn.Linear(size, hidden), nn.Dropout(0.3)
        self.head = nn.Linear(hidden, classes)

    def forward(self, tokens_NL: Tensor) -> Tensor:
        """Tokens, 0 for padding, to logits `(N, C)`."""
        true_NL1 = (tokens_NL != PAD).unsqueeze(2)
        mean_ND = (self.words(tokens_NL) * true_NL1).sum(1) / true_NL1.sum(1).clamp(min=1)
        logits: Tensor = self.head(self.dropout(self.hidden(mean_ND).relu()))
        return logits
