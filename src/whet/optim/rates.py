"""Learning rates as shares of the optimizer's own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Optimizer = torch.optim.Optimizer


def set_rates(optimizer: Optimizer, share: float) -> None:
    """Set every group's rate to a share of its first one, which the group keeps as `initial_lr`."""
    for group in optimizer.param_groups:
        rate = group.setdefault("initial_lr", float(group["lr"])) * share
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)  # a captured optimizer reads this tensor
        else:
            group["lr"] = float(rate)


@contextmanager
def borrowed_rates(optimizer: Optimizer, share: float) -> Iterator[None]:
    """A share of each group's first rate, for the length of a `with`; then the schedule's again.

    Many schedulers compute the next rate from the present one, so the optimizer must hold what
    they wrote whenever they step.
    """
    kept = [float(group["lr"]) for group in optimizer.param_groups]
    try:
        set_rates(optimizer, share)
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, kept, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def rates_of(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of every group: rate, momentum, decay and whatever else is no parameter."""
    return [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]


def move_to(
    optimizer: Optimizer, settings: Sequence[Mapping[str, Any]], scheduler: Any, updates: int
) -> None:
    """Go on with other settings than the loaded state's: its moments stay, these rates hold.

    Args:
        optimizer: with its state loaded.
        settings: of every group, as they were when optimizer and scheduler were made.
        scheduler: as it was made, or None; it is moved to where it would stand.
        updates: that have happened.
    """
    for group, wanted in zip(optimizer.param_groups, settings, strict=True):
        for name in group.keys() - {"params"}:
            del group[name]
        group.update(wanted)
    if scheduler is None:
        return
    with warnings.catch_warnings():  # of a scheduler that steps without its optimizer: it is meant
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(updates):
            scheduler.step()
