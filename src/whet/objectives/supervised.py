"""Learning from targets, of any family."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from whet.method import Card, method
from whet.objectives.families import Family, family
from whet.objectives.objective import Objective
from whet.settings import choice


@method
class Supervised(Objective):
    """Mean per-item loss over the items that have a target.

    $$L = \\frac{1}{|M|} \\sum_{i \\in M} \\ell(f(x_i), y_i)$$

    with cross-entropy for `categorical` and `tokens`, the mean of binary cross-entropies for
    `multi-label`, squared error for `real`.

    Args:
        family_name: categorical, multi-label, real or tokens.

    Cost: 1 forward, 1 backward.
    """

    family_name: str = choice("categorical", "categorical", "multi-label", "real", "tokens")

    name: ClassVar[str] = "supervised"
    card: ClassVar[Card] = Card(
        title="Supervised", paper="-", cost="1 pass", tier=1, phase="objective",
        data="targets", avoid_when="there are no targets",
    )  # fmt: skip

    @cached_property
    def family(self) -> Family:
        return family(self.family_name)
