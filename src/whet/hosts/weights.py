"""The weights that are trained, beside those that a host's checkpoint shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whet import checkpoint
from whet.errors import CheckpointError

FOLDER = "whet"  # within the host's checkpoint


def moving(model: nn.Module) -> dict[str, Tensor]:
    """What training changes: trained parameters and all buffers; adapters need no more."""
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    return {**trained, **dict(model.named_buffers())}


@torch.no_grad()
def put(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Write saved weights into a model.

    Raises:
        CheckpointError: they belong to another model, or to other parameters of it.
    """
    held = moving(model)
    shapes = {name: tuple(tensor.shape) for name, tensor in held.items()}
    saved = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    if shapes != saved:
        odd = sorted(n for n in shapes | saved if shapes.get(n) != saved.get(n))
        raise CheckpointError(
            f"the checkpoint was trained with other parameters: {', '.join(odd[:8])}. Build and "
            "freeze the model as it was."
        )
    for name, tensor in held.items():
        tensor.copy_(weights[name])


def read(place: Path) -> dict[str, Any]:
    """What whet wrote into a checkpoint of the host.

    Raises:
        CheckpointError: there is nothing, or it is damaged.
    """
    numbers = checkpoint.numbers(place / FOLDER)
    if not numbers:
        raise CheckpointError(
            f"{place} holds no state of the methods: a plain Trainer wrote it, or "
            "save_only_model=True did. Begin anew from its weights (from_pretrained)."
        )
    return checkpoint.load(place / FOLDER / f"{numbers[-1]:08d}")
