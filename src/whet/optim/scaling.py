"""One optimizer step, with or without a loss scaler."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller

import torch
from torch import Tensor

Optimizer = torch.optim.Optimizer
Scaler = torch.amp.GradScaler


def backward(scaler: Scaler | None) -> Callable[[Tensor], None]:
    """The backward pass of a loss, scaled where there is a scaler."""
    if scaler is None:
        return methodcaller("backward")
    return lambda loss: scaler.scale(loss).backward()


def unscale(optimizer: Optimizer, scaler: Scaler) -> None:
    """Bring gradients back to their true size."""
    if _has_gradients(optimizer):
        scaler.unscale_(optimizer)


def step(optimizer: Optimizer, scaler: Scaler | None) -> bool:
    """Step; False where the scaler found an overflow and skipped."""
    if scaler is None or not _has_gradients(optimizer):
        optimizer.step()
        return True
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= scale


def _has_gradients(optimizer: Optimizer) -> bool:
    # a window in which no row has a target has none, and a scaler knows no answer to that
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
