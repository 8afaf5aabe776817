"""Learning rates as shares of the optimizer's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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
