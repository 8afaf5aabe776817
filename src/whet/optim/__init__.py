"""Optimizers, their parameter groups, and schedules: thin over torch.optim."""

from whet.optim.factory import optimizer, rate, schedule, with_rate
from whet.optim.groups import check_holds, decay_groups, load_state
from whet.optim.rates import borrowed_rates, move_to, rates_of, set_rates
from whet.optim.scaling import backward, enabled, step, unscale

__all__ = [
    "backward",
    "borrowed_rates",
    "check_holds",
    "decay_groups",
    "enabled",
    "load_state",
    "move_to",
    "optimizer",
    "rate",
    "rates_of",
    "schedule",
    "set_rates",
    "step",
    "unscale",
    "with_rate",
]
