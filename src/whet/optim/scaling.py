"""One optimizer step, with or without a loss scaler."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller

import torch
from torch import Tensor

Optimizer = torch.optim.Optimizer
Scaler = torch.amp.GradScaler


def enabled(scaler: Scaler | None) -> Scaler | None:
    """No scaler where it is switched off: nobody then handles what is not finite."""
    return None if scaler is None or not scaler.is_enabled() else scaler


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
    scale, known = scaler.get_scale(), set(optimizer.state)
    scaler.step(optimizer)
    scaler.update()
    happened = scaler.get_scale() >= scale
    if not happened:
        # a fused one has made its state by then, and SGD's first momentum is whatever lay in memory
        for parameter in [one for one in optimizer.state if one not in known]:
            del optimizer.state[parameter]
    return happened


def _has_gradients(optimizer: Optimizer) -> bool:
    # a window in which no row has a target has none, and a scaler knows no answer to that
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
