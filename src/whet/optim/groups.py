"""Parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from whet import fsdp
from whet.errors import CheckpointError, InputError


def decay_groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices decay; biases, norms' scales and shifts (below two dimensions) do not.

    >>> layer = nn.Linear(2, 3)
    >>> [len(group["params"]) for group in decay_groups(layer.parameters(), 0.1)]
    [1, 1]
    """
    wanted = list(parameters)
    matrices = [p for p in wanted if p.ndim >= 2]
    vectors = [p for p in wanted if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def check_holds(optimizer: torch.optim.Optimizer, module: nn.Module) -> None:
    """Refuse an optimizer that lacks what methods built."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    lost = [name for name, p in module.named_parameters() if id(p) not in known]
    if lost:
        raise InputError(
            f"methods built parameters that the optimizer does not hold: {', '.join(lost)}. "
            "Make it from stack.parameters(), or pass optimizer=lambda p: AdamW(p, lr=...)."
        )


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from an optimizer's state.

    Raises:
        CheckpointError: its groups are others.
    """
    try:
        optimizer.load_state_dict(fsdp.parted_optimizer(state, optimizer))
    except ValueError as error:
        raise CheckpointError(
            f"the checkpoint's optimizer holds other parameters: {error}. Train with the recipe "
            "that the checkpoint was made with, or use another folder."
        ) from error
