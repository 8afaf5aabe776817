"""Learning rates in the course of a stage, stepped once for each update that happens."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim import lr_scheduler

from whet import settings
from whet.errors import InputError, UnknownName
from whet.optim.factory import Spec, split

Shape = Callable[[float, float], float]  # of the progress in [0, 1] and the floor
WARMUP = {"warmup": 0.0, "floor": 0.0, "peak": 1.0}
OBJECTS = {  # of torch's, those that are made of functions, schedulers or a metric
    "LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau",
    "LRScheduler",
}  # fmt: skip


def _constant(progress: float, floor: float) -> float:
    return 1.0


def _cosine(progress: float, floor: float) -> float:
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def _polynomial(progress: float, floor: float, *, power: float) -> float:
    return float(floor + (1.0 - floor) * (1.0 - progress) ** power)


def _restarts(progress: float, floor: float, *, cycles: int, growth: float, decay: float) -> float:
    """Half a cosine from 1 to the floor, `cycles` times; the last one is always whole."""
    lengths = [growth**number for number in range(cycles)]
    at, number = progress * sum(lengths), 0
    while number + 1 < len(lengths) and at >= lengths[number]:
        at, number = at - lengths[number], number + 1
    return floor + (decay**number - floor) * 0.5 * (1.0 + math.cos(math.pi * at / lengths[number]))


def _steps(progress: float, floor: float, *, at: Any, factor: float) -> float:
    return float(max(floor, factor ** sum(progress >= each for each in at)))


def _stable(progress: float, floor: float, *, decay: float) -> float:
    """1, and then to the floor in a straight line over the last share `decay`."""
    return floor + (1.0 - floor) * min(1.0, (1.0 - progress) / decay)


@dataclass(frozen=True)
class Named:
    """A shape, its settings with their usual values, and what these must satisfy."""

    shape: Callable[..., Any]
    usual: Mapping[str, Any]
    allowed: Callable[..., bool] = lambda **_: True
    told: str = ""


_SHAPES = {
    "constant": Named(_constant, {}),
    "cosine": Named(_cosine, {}),
    "linear": Named(partial(_polynomial, power=1.0), {}),
    "polynomial": Named(_polynomial, {"power": 2.0}, lambda power: power > 0, "power lies above 0"),
    "cyclic": Named(
        _restarts, {"cycles": 3, "growth": 1.0, "decay": 1.0},
        lambda cycles, growth, decay: cycles >= 1 and cycles % 1 == 0 and growth > 0 < decay <= 1,
        "cycles is a whole number from 1, growth lies above 0 and decay in (0, 1]",
    ),
    "steps": Named(
        _steps, {"at": (0.5, 0.75), "factor": 0.1},
        lambda at, factor: all(0 < each < 1 for each in at) and 0 < factor < 1,
        "at holds shares of the stage in (0, 1), and factor lies in (0, 1)",
    ),
    "stable": Named(
        _stable, {"decay": 0.2}, lambda decay: 0 < decay <= 1, "decay lies in (0, 1]"
    ),
}  # fmt: skip


def schedule(spec: Spec, given: torch.optim.Optimizer, updates: int) -> Any:
    """A scheduler stepped per update, or None for a constant rate without warm-up.

    | name | share of the rate after a share p of what follows the warm-up |
    |---|---|
    | `constant` | 1 |
    | `cosine` | half a cosine from 1 to the floor |
    | `linear`, `polynomial` | (1 - p)^power from 1 to the floor; power 1, or 2 |
    | `cyclic` | `cycles` half cosines (3), each `growth` times as long and `decay` times as high |
    | `steps` | `factor` (0.1) at each share of `at` (0.5, 0.75) |
    | `stable` | 1, then a straight line to the floor over the last share `decay` (0.2) |
    | `plateau` | `factor` (0.1) whenever `patience` (3) evaluations brought nothing better |
    | `one_cycle` | torch's OneCycleLR: the optimizer's rate is its maximum; momentum cycles, too |
    | `StepLR`, ... | any of torch's, by its class and settings; steps are updates |

    Args:
        spec: a name, or settings: `{"name": "cosine", "warmup": 0.1, "floor": 0.01, "peak": 1.0}`
            with warm-up as a fraction of the stage, floor as a share of the rate, and peak the
            share of the optimizer's rate that it begins from; or a function of (optimizer,
            updates). `"part": [a, b]` is for a training in several stages: this one is the part
            from a to b of the whole shape, warm-up included. What torch or metrics decide has none.
        given: the optimizer.
        updates: length of the stage.

    Raises:
        UnknownName: no schedule, or no setting, of that name.
        InputError: a setting outside its range.
    """
    if spec is None:
        return None
    if callable(spec):
        return spec(given, updates)
    name, values = split(spec, "constant")
    part = values.pop("part", None)
    if part is not None and (name in ("plateau", "one_cycle") or name in _torchs()):
        raise InputError(f"schedule {name} has no parts; those of {', '.join(_SHAPES)} have.")
    if name in _torchs():
        return _of_torch(name, values, given)
    if name == "one_cycle":
        return _of_torch("OneCycleLR", {"max_lr": _rates(given), "total_steps": updates, **values},
                         given)  # fmt: skip
    if name != "plateau" and name not in _SHAPES:
        raise UnknownName("schedule", name, [*_SHAPES, "plateau", "one_cycle", *_torchs()])
    share, floor, peak = (float(values.pop(each, usual)) for each, usual in WARMUP.items())
    if not (0 <= share < 1 and 0 <= floor <= 1 and 0 < peak <= 1):
        raise InputError(
            f"schedule {name}: warmup lies in [0, 1), floor in [0, 1] and peak in (0, 1]."
        )
    first, whole = _whole(name, part, updates)
    warmup = round(share * whole)
    if name == "plateau":
        its = _checked(name, values, PLATEAU)
        return Plateau(given, warmup, floor=floor, peak=peak, **its)
    shape = partial(_SHAPES[name].shape, **_checked(name, values, _SHAPES[name]))
    if name == "constant" and warmup == 0 and peak == 1.0:
        return None
    factor = partial(
        _factor, shape=shape, warmup=warmup, updates=whole, floor=floor, peak=peak, first=first
    )
    return lr_scheduler.LambdaLR(given, factor)


def shares(spec: Spec, updates: int, rate: float = 1.0) -> list[float]:
    """The share of the optimizer's rate at each update, for a picture.

    What depends on metrics (`plateau`) is drawn as if each evaluation were better than the last.
    `rate` is the optimizer's own; schedules of torch's that name rates and not shares need it.

    >>> shares("linear", 4)
    [1.0, 0.75, 0.5, 0.25]
    """
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.9)
    made, found = schedule(spec, optimizer, updates), []
    if type(made) is lr_scheduler.LambdaLR:  # each by itself, without the steps up to it
        return [float(made.lr_lambdas[0](update)) for update in range(updates)]
    for _ in range(updates):
        found.append(float(optimizer.param_groups[0]["lr"]) / rate)
        optimizer.step()
        if made is not None:
            made.step()
    return found


def schedule_name(spec: Spec) -> str:
    """What a schedule is called; a function by its own name."""
    if callable(spec):
        return f"the function {getattr(spec, '__qualname__', type(spec).__name__)}"
    return split(spec or "constant", "constant")[0]


def is_relative(spec: Spec) -> bool:
    """Whether a schedule gives shares of whatever the optimizer's rate is."""
    return not callable(spec) and schedule_name(spec) not in _torchs()


class Plateau:
    """The rate times a factor whenever several evaluations in a row brought nothing better.

    Args:
        optimizer: whose rates they are.
        warmup: updates in which the rate grows to its height.
        floor: the least share of the rate.
        peak: the share that it begins from.
        factor: of the rate, in (0, 1).
        patience: evaluations without anything better that are borne.
        least: what counts as better: more than so much above the best so far.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, warmup: int, *, floor: float, peak: float,
        factor: float, patience: int, least: float,
    ) -> None:  # fmt: skip
        self._factor, self._patience, self._least = factor, patience, least
        self._height, self._floor = 1.0, floor
        self._best, self._waited = -math.inf, 0
        share = partial(
            _factor, shape=lambda progress, floor: self._height, warmup=warmup, updates=warmup,
            floor=0.0, peak=peak,
        )  # fmt: skip
        self._rates = lr_scheduler.LambdaLR(optimizer, share)

    def step(self) -> None:
        """An update happened."""
        self._rates.step()

    def evaluated(self, score: float) -> None:
        """The select part gave a score, of which more is better."""
        if score > self._best + self._least:
            self._best, self._waited = score, 0
            return
        self._waited += 1
        if self._waited > self._patience:
            self._height, self._waited = max(self._floor, self._height * self._factor), 0

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [float(rate) for rate in self._rates.get_last_lr()]

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which `load_state_dict` goes on."""
        best = None if self._best == -math.inf else self._best
        kept = {"height": self._height, "best": best, "waited": self._waited}
        return {**kept, "rates": self._rates.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._height, self._waited = state["height"], state["waited"]
        self._best = -math.inf if state["best"] is None else state["best"]
        self._rates.load_state_dict(state["rates"])


PLATEAU = Named(
    Plateau, {"factor": 0.1, "patience": 3, "least": 0.0},
    lambda factor, patience, least: 0 < factor < 1 and patience >= 0 and least >= 0,
    "factor lies in (0, 1), patience and least from 0 on",
)  # fmt: skip


def _checked(name: str, values: Mapping[str, Any], named: Named) -> dict[str, Any]:
    for each in values:
        if each not in named.usual:
            known = [*WARMUP, "part", *named.usual]
            raise UnknownName(f"setting of schedule {name}", each, known)
    found = {**named.usual, **values}
    try:
        right = named.allowed(**found)
    except TypeError:
        right = False
    if not right:
        raise InputError(f"schedule {name}: {named.told}.")
    return found


def _factor(
    update: int, *, shape: Shape, warmup: int, updates: int, floor: float, peak: float,
    first: int = 0,
) -> float:  # fmt: skip
    update += first
    if update < warmup:
        return peak * (update + 1) / (warmup + 1)
    return peak * shape(min(1.0, (update - warmup) / max(1, updates - warmup)), floor)


def _whole(name: str, part: Any, updates: int) -> tuple[int, int]:
    """The updates before a part, and of all parts, where a part has so many."""
    if part is None:
        return 0, updates
    begin, end = settings.pair(part, f"schedule {name}: part")
    if not 0 <= begin < end <= 1:
        raise InputError(f"schedule {name}: part is {part!r}; it lies in [0, 1] and grows.")
    whole = updates / (end - begin)
    return round(begin * whole), round(whole)


def _torchs() -> list[str]:
    return [
        name for name, kind in vars(lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, lr_scheduler.LRScheduler)
        and not name.startswith("_") and name not in OBJECTS
    ]  # fmt: skip


def _of_torch(name: str, values: Mapping[str, Any], given: torch.optim.Optimizer) -> Any:
    try:
        return getattr(lr_scheduler, name)(given, **values)
    except (TypeError, ValueError) as error:
        raise InputError(f"schedule {name}: {error}") from error


def _rates(given: torch.optim.Optimizer) -> list[float]:
    return [float(group["lr"]) for group in given.param_groups]
