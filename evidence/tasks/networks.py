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
