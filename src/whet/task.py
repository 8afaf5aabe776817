"""What a user's file gives for one seed: model, data, objective, metrics, resources."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from whet.errors import InputError, UnknownName
from whet.objectives import Objective


@dataclass(frozen=True)
class Task:
    """One learning problem under one seed.

    Args:
        model: a module, freshly initialised.
        train: data to train on: `(inputs, targets)`, a Dataset, a DataLoader, ...
        select: data that stopping, choosing and calibrating may look at.
        judge: data that nothing but the final judgement looks at.
        objective: `categorical`, `multi-label`, `real`, `tokens`, `masked_tokens`,
            `contrastive`, or an Objective.
        metrics: names, callables or torchmetrics; None for the family's defaults. The first is
            the one that decides.
        resources: what methods name in `needs`: `unlabelled` data, `weak`, `strong` and `view`
            functions `(inputs, generator) -> inputs`, a `teacher`. A run adds `select`, its part.
        collate: from a list of a Dataset's samples to a batch.
        classes: names of the classes in the order of their numbers, for reports.
        name: shown in reports.
        identities: by part, what each row is recognised by wherever a split puts it: numbers,
            texts, or columns of them. For `--hold-out`, where inputs are encoded differently for
            every seed or read by a Dataset; rows that belong together (a patient's) share one.
    """

    model: nn.Module
    train: Any
    select: Any = None
    judge: Any = None
    objective: Objective | str = "categorical"
    metrics: Sequence[str | Callable[..., float]] | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    collate: Callable[[list[Any]], Any] | None = None
    classes: Sequence[str] | None = None
    name: str = "task"
    identities: Mapping[str, Any] | None = None

    def part(self, name: str) -> Any:
        """The data of a part: `train`, `select` or `judge`.

        Raises:
            InputError: the task has no such part.
        """
        parts = {"train": self.train, "select": self.select, "judge": self.judge}
        if name not in parts:
            raise UnknownName("part of a task", name, parts)
        if parts[name] is None:
            raise InputError(f"the task has no {name} part to evaluate on: give it {name}=.")
        return parts[name]
