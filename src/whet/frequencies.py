"""How often each class occurs in the training part, known before training and without samples.

Targets are counted where they lie in memory, or where a Dataset tells them (`targets`, `labels`);
nobody reads a stream, or every image of a folder, to learn how many there are of each kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from whet.batch import Batch
from whet.errors import InputError
from whet.rows import Arrays, Samples
from whet.training import Training

NAMES = ("targets", "labels", "label")


@dataclass(frozen=True, slots=True)
class Frequencies:
    """How often each class occurs.

    Args:
        counts: float64 `(C,)`; of soft targets the sums.
        total: of the items that were counted; classes exclude each other, so that it is their
            sum, and labels do not, so that it is the number of rows.
        given: whether they come from the user, who then knows the number of classes.
    """

    counts: Tensor
    total: float
    given: bool

    def for_width(self, width: int, key: str) -> Tensor:
        """The counts of as many classes as the model has outputs; those never seen have 0.

        Raises:
            InputError: the user's own are more or fewer.
        """
        missing = width - len(self.counts)
        if missing < 0 or (missing and self.given):
            raise InputError(
                f"{key}: there are counts of {len(self.counts)} classes, and the model has {width} "
                "outputs; give one for each."
            )
        return torch.cat([self.counts, self.counts.new_zeros(missing)])


def counted(run: Training, key: str, given: Sequence[float] | None) -> Frequencies:
    """The frequencies that a user gives, or those of the training part.

    Raises:
        InputError: they cannot be counted without reading all samples, or none has a target.
    """
    labels = run.objective.family.name == "multi-label"
    if given is not None:
        counts = torch.tensor(given, dtype=torch.float64)
        return Frequencies(counts[:-1] if labels else counts,
                           counts[-1 if labels else slice(None)].sum().item(), True)  # fmt: skip
    items, mask = _items(run, key)
    if mask is not None:
        items = items[mask]
    if items.is_floating_point() or labels:
        columns = items.double().reshape(-1, items.shape[-1])
        counts = columns.sum(0)
        total = float(len(columns)) if labels else counts.sum().item()
    else:
        counts = torch.bincount(items.flatten().long()).double()
        total = counts.sum().item()
    if not total:
        raise InputError(f"{key}: no row of the training data has a target to be counted.")
    return Frequencies(counts, total, False)


def _items(run: Training, key: str) -> tuple[Tensor, Tensor | None]:
    """All targets of the training part, and which of them count."""
    whole = None if run.train is None else _whole(getattr(run.train(key), "rows", None))
    if whole is None or whole.targets is None:
        raise InputError(
            f"{key}: how often each class occurs cannot be told without reading every sample. Give "
            "it, counts=(120, 30, 5), or train from arrays or from a Dataset with `targets`."
        )
    targets, mask = whole.targets, run.objective.mask(whole)
    if not targets.is_floating_point():
        kept = targets if mask is None else targets[mask]
        if kept.numel() and kept.min() < 0:
            raise InputError(
                f"{key}: targets out of range: classes are numbered from 0, and the training data "
                f"holds {int(kept.min())}."
            )
    return targets, mask


def _whole(rows: Any) -> Batch | None:
    if isinstance(rows, Arrays):
        return rows.whole
    found = known_targets(rows.seeded.dataset) if isinstance(rows, Samples) else None
    if found is None:
        return None
    values = torch.as_tensor(np.asarray(found.cpu() if isinstance(found, Tensor) else found))
    return Batch(torch.zeros(len(values)), values)


def known_targets(data: Any) -> Any:
    """What a Dataset says of its targets without its samples being read; None if nothing."""
    if isinstance(data, Subset):
        inner = known_targets(data.dataset)
        return None if inner is None else np.asarray(inner)[np.asarray(data.indices)]
    if isinstance(data, TensorDataset):
        return data.tensors[1] if len(data.tensors) == 2 else None
    if isinstance(data, list):  # of samples, in memory
        pairs = all(isinstance(each, tuple) and len(each) == 2 for each in data)
        return [each[1] for each in data] if pairs else None
    columns = getattr(data, "column_names", ())
    for name in NAMES:
        found = data[name] if name in columns else getattr(data, name, None)
        if found is not None and hasattr(found, "__len__") and len(found) == len(data):
            return found
    return None
