"""Optimizers, their parameter groups, and schedules: thin over torch.optim."""

from whet.optim.depth import layers
from whet.optim.factory import optimizer, rate, with_rate
from whet.optim.groups import check_holds, decay_groups, load_state, parameter_groups, table
from whet.optim.rates import borrowed_rates, move_to, rates_of, set_rates
from whet.optim.scaling import backward, enabled, step, unscale
from whet.optim.schedules import Plateau, is_relative, schedule, schedule_name, shares

__all__ = [
    "Plateau",
    "backward",
    "borrowed_rates",
    "check_holds",
    "decay_groups",
    "enabled",
    "is_relative",
    "layers",
    "load_state",
    "move_to",
    "optimizer",
    "parameter_groups",
    "rate",
    "rates_of",
    "schedule",
    "schedule_name",
    "set_rates",
    "shares",
    "step",
    "table",
    "unscale",
    "with_rate",
]
