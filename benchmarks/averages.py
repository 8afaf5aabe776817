"""An update of whet's EMA against the usual snippet, torch's own class, and the memory's limit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_ema_multi_avg_fn

from benchmarks.timing import Chunk, timed
from whet.methods import EMA

DECAY = 0.999


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])


class Encoder(nn.Module):
    """The parameters of a BERT."""

    def __init__(self, words: int, width: int, layers: int) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(512, width)
        self.types, self.norm = nn.Embedding(2, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(layers)])
        self.pooler = nn.Linear(width, width)


@dataclass(frozen=True)
class Size:
    """Of an encoder: words of its vocabulary, width, layers."""

    words: int
    width: int
    layers: int

    def model(self) -> Encoder:
        torch.manual_seed(0)
        return Encoder(self.words, self.width, self.layers)


FULL = Size(30522, 384, 6)  # 22.7 million weights in 103 tensors


class CloneEMA:
    """The class that is passed around; its update makes four tensors for each parameter."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.shadow: dict[str, Tensor] = {}

    def register(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                self.shadow[name] = param.data.clone()

    def update(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad:
                assert name in self.shadow
                new = (1.0 - self.decay) * param.data + self.decay * self.shadow[name]
                self.shadow[name] = new.clone()


def with_whet(model: nn.Module) -> Chunk:
    ema = EMA(decay=DECAY, warmup="none")
    ema.begin(model)
    return timed(lambda: ema.update(model))


def clone(model: nn.Module) -> Chunk:
    ema = CloneEMA(model, DECAY)
    ema.register()
    return timed(ema.update)


def averaged_model(model: nn.Module) -> Chunk:
    averaged = AveragedModel(model, avg_fn=get_ema_avg_fn(DECAY))
    return timed(lambda: averaged.update_parameters(model))


def averaged_model_multi(model: nn.Module) -> Chunk:
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    return timed(lambda: averaged.update_parameters(model))


def limit(model: nn.Module) -> Chunk:
    """One lerp over as many floats in one piece: nothing that reads both can be faster."""
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    average = weights.clone()
    return timed(lambda: average.lerp_(weights, 1.0 - DECAY))
