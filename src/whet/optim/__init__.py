"""Optimizers, their parameter groups, and schedules: thin over torch.optim."""

from whet.optim.factory import optimizer, schedule
from whet.optim.groups import decay_groups

__all__ = ["decay_groups", "optimizer", "schedule"]
