"""Targets that do not fit an output, named by their rows."""

from __future__ import annotations

import torch
from torch import Tensor

from whet.batch import Batch
from whet.errors import InputError


def rows_text(bad: Tensor, batch: Batch) -> str:
    """The bad rows in words, by their place in the data set where it is known."""
    bad = bad if bad.ndim == 1 else bad.flatten(1).any(1)
    known = batch.indices is not None
    names = (batch.indices[bad] if batch.indices is not None else bad.nonzero()).flatten().tolist()
    shown = ", ".join(map(str, names[:8])) + (", ..." if len(names) > 8 else "")
    return f"{'data set rows' if known else 'rows of the batch'} {shown}"


def check_classes(batch: Batch, output: Tensor, ignore: int | None) -> None:
    """Refuse targets that are no class of the output; `ignore` is a target that stands for none."""
    targets, width = batch.targets, output.shape[-1]
    assert targets is not None
    if targets.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise InputError(
            f"targets have dtype {targets.dtype} and shape {tuple(targets.shape)}; classes are "
            f"integers, probabilities have one column for each of the {width} outputs. For "
            "continuous targets use objective='real'."
        )
    bad = (targets < 0) | (targets >= width)
    if ignore is not None:
        bad &= targets != ignore
    rows = batch.mask
    if rows is not None:
        bad &= rows.view(-1, *[1] * (bad.ndim - 1))
    if bad.any():
        found = sorted(set(targets[bad].tolist()))[:8]
        raise InputError(
            f"targets out of range: the model has {width} outputs, so classes are 0 to "
            f"{width - 1}; found {', '.join(map(str, found))} in {rows_text(bad, batch)}. Widen "
            "the model's last layer, or number the classes from 0."
        )
