"""Cosine heads: a linear layer that gives `s cos(theta)` while its model is trained or judged so.

The weights stay the layer's own, normalised in each forward, so that optimizer, averages,
checkpoints and exports know of nothing new. The layer's bias is left out. A hook point in the way
of `whet.compiling` stands in the layer; what it does is looked up by module, so that weights that
are put in the model's place for a prediction are those that are met.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once
from torch.nn import functional as F

from whet import compiling, settings

Heads = Mapping[str, float]  # the scale of each, by the layer's name


def cosines(features: Tensor, weight: Tensor, scale: float = 1.0) -> Tensor:
    """`s cos(theta)` `(N, C)` of features `(N, D)` and the rows of a weight `(C, D)`.

    In single precision at least, also under autocast. A row of zeros has no angle: its cosines and
    its gradient are 0.

    >>> cosines(torch.tensor([[3.0, 4.0]]), torch.eye(2))
    tensor([[0.6000, 0.8000]])
    """
    with torch.autocast(features.device.type, enabled=False):
        x, w = _unit(features), _unit(weight)
        return scale * F.linear(x, w.to(x))


def _unit(rows: Tensor) -> Tensor:
    rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
    norm: Tensor = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    # not by F.normalize, which divides zeros by 1e-12 and multiplies their gradient by 1e12
    return rows / norm.masked_fill(norm == 0.0, torch.inf)


_STANDING: WeakKeyDictionary[nn.Module, list[float]] = WeakKeyDictionary()
_WATCHED: WeakKeyDictionary[nn.Module, list[list[Tensor]]] = WeakKeyDictionary()


@contextmanager
def applied(model: nn.Module, heads: Heads) -> Iterator[None]:
    """The named layers give scaled cosines, for the length of a `with`.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False))
    >>> with applied(model, {"0": 5.0}):
    ...     bool(model(torch.randn(3, 2)).abs().max() <= 5.0)
    True
    """
    modules = [(model.get_submodule(name), scale) for name, scale in heads.items()]
    handles = [_hook_point(module) for module, _ in modules]
    for module, scale in modules:
        _STANDING.setdefault(module, []).append(scale)
    try:
        yield
    finally:
        for module, _ in modules:
            _STANDING[module].pop()
        for handle in handles:
            if handle is not None:
                handle.remove()


def standing(model: nn.Module) -> dict[str, float]:
    """The layers that give scaled cosines now, and their scales."""
    if not any(_STANDING.values()):
        return {}
    return {name: _STANDING[m][-1] for name, m in model.named_modules() if _STANDING.get(m)}


def checked(model: nn.Module, heads: Any) -> dict[str, float]:
    """Layers and scales as a file tells them.

    Raises:
        ValueError, AttributeError: the model has no such linear layer, or a scale is no number.
    """
    for name in heads:
        if not isinstance(model.get_submodule(name), nn.Linear):
            raise ValueError(f"its cosine head {name!r} is no linear layer of the model")
    return {name: settings.positive(scale, "its scale") for name, scale in heads.items()}


@contextmanager
def watched(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the layer gives, call by call, for the length of a `with`."""
    seen: list[Tensor] = []
    _WATCHED.setdefault(module, []).append(seen)
    try:
        yield seen
    finally:
        _WATCHED[module].pop()


def make_ready(module: nn.Module) -> None:
    """A hook point that stays, also in a model that was compiled, and called, before."""
    if _hook_point(module) is not None:
        compiling.forget_graphs()


def _hook_point(module: nn.Module) -> Any:
    if _returned in module._forward_hooks.values():
        return None
    # first, so that others who look at what leaves the layer see the cosines
    return module.register_forward_hook(_returned, with_kwargs=True, prepend=True)


@_disable_dynamo
def _returned(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    scales = _STANDING.get(module)
    if scales:
        features, weight = args[0] if args else kwargs["input"], module.weight
        assert isinstance(weight, Tensor)
        output = cosines(features, weight, scales[-1])
    for seen in _WATCHED.get(module, ()):
        seen.append(output)
    return output
