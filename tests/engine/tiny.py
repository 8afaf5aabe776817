"""Small models, data and methods for the engine's tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet.batch import Batch
from whet.method import Layer, Method
from whet.stack import Stack


def tiny(name: str = "tiny", layer: Layer = Layer.CONSISTENCY, **members: Any) -> Method:
    """A method made on the spot: class attributes and moments by name."""
    kind: type[Method] = type(name, (Method,), {"name": name, "layer": layer, **members})
    return kind()


def rows(count: int, seed: int = 0, classes: int = 3, dim: int = 5) -> Batch:
    maker = torch.Generator().manual_seed(seed)
    x = torch.randn(count, dim, generator=maker)
    return Batch(x, torch.randint(classes, (count,), generator=maker))


def linear(seed: int = 0, classes: int = 3, dim: int = 5) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(dim, classes)


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=0.1)


def stack(*methods: Method, model: nn.Module | None = None, **changes: Any) -> Stack:
    given: dict[str, Any] = {"optimizer": sgd} | changes
    return Stack(linear() if model is None else model, "categorical", methods, **given)


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
