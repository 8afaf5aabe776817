"""An optimizer's step in each of its implementations, on the weights of a BERT."""

from __future__ import annotations

import torch

from benchmarks.averages import Size
from benchmarks.timing import Chunk, timed
from whet import optim


def step(size: Size, name: str, implementation: str) -> Chunk:
    """Steps of an optimizer that a recipe names."""
    model = size.model()
    maker = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=maker) * 1e-3
    spec = {"name": name, "lr": 1e-4, "implementation": implementation}
    optimizer = optim.optimizer(spec, model.parameters(), model)
    return timed(optimizer.step)
