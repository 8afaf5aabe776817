"""How inputs are attacked before a model is judged by them: plain values, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from whet.errors import InputError


@dataclass(frozen=True)
class Attack:
    """How inputs are moved before a model is judged by them; plain values.

    Args:
        epsilon: how far, from 0, in the units that `std` is of; 8/255 for images in [0, 1].
        kind: `pgd`: steps up the loss from random starts, of which the worst counts, or `fgsm`: one
            step of epsilon from the input.
        norm: `linf`: epsilon bounds every number; `l2`: the length of a row.
        steps: of pgd, at least 1.
        step_size: of pgd, in units of epsilon; None for 2.5 / steps.
        restarts: of pgd, at least 1.
        std: what the inputs were divided by: a number, or one per channel (dim 1).
        valid_range: `(low, high)` as the model sees the input, numbers or one per channel; None
            clips nothing.
        at: which inputs: `*` for every floating one; a name, glob, position.
        seed: of the starts.

    Raises:
        InputError: a value lies outside its range.
    """

    epsilon: float = 8 / 255
    kind: str = "pgd"
    norm: str = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    std: float | tuple[float, ...] | None = None
    valid_range: tuple[Any, Any] | None = None
    at: str = "*"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, fits, said in (
            ("epsilon", self.epsilon >= 0, "at least 0"),
            ("kind", self.kind in ("pgd", "fgsm"), "'pgd' or 'fgsm'"),
            ("norm", self.norm in ("linf", "l2"), "'linf' or 'l2'"),
            ("steps", self.steps >= 1, "at least 1"),
            ("restarts", self.restarts >= 1, "at least 1"),
            ("step_size", self.step_size is None or self.step_size > 0, "above 0"),
        ):
            if not fits:
                raise InputError(f"attack: {name} is {getattr(self, name)!r}; it must be {said}.")

    @property
    def sizes(self) -> tuple[float, ...]:
        """Of each step, in units of epsilon."""
        if self.kind == "fgsm":
            return (1.0,)
        return (2.5 / self.steps if self.step_size is None else self.step_size,) * self.steps
