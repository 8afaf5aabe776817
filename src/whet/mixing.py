"""What methods that mix rows share: which inputs, which rows, and the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whet import modes
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.training import Training


@dataclass(frozen=True, slots=True, eq=False)
class Mixture:
    """Which rows are mixed inside the model: `share * rows + (1 - share) * rows[permutation]`.

    >>> Mixture(torch.tensor([1, 0]), 0.7).partners(4, "manifold_mixup").tolist()
    [1, 0, 3, 2]
    """

    permutation: Tensor
    share: float

    def partners(self, rows: int, who: str) -> Tensor:
        """Each row's partner; in a batch that stands there several times, within its copy."""
        count = len(self.permutation)
        if rows == count:
            return self.permutation
        if rows % count:
            raise InputError(
                f"{who}: the model was given {rows} rows where a batch of {count} is mixed. Leave "
                "out the method that gives it others."
            )
        first = torch.arange(0, rows, count, device=self.permutation.device)
        return (first[:, None] + self.permutation).flatten()

    def blended(self, who: str, own: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
        """Values of mixed rows by what was made of single ones: the row's own and its partner's.

        Args:
            who: the method, for errors.
            own: by the row's own, `(N, ...)`.
            of: by those of other rows, whose numbers it is given.
        """
        return torch.lerp(of(self.partners(len(own), who)), own, self.share)


def check_targets(who: str, run: Training) -> None:
    """Refuse families whose targets cannot be mixed, before training.

    Raises:
        NotApplicable: the objective's targets have no mixture.
    """
    kind = run.objective.family.name
    if kind == "tokens":
        raise NotApplicable(who, "tokens of two sequences have no mixture. Leave it out.")
    if kind == "embedding":
        raise NotApplicable(who, "an objective without targets has none to mix. Leave it out.")


def permutation_of_known(batch: Batch, generator: torch.Generator) -> Tensor:
    """A permutation of the rows that have a target; the others stay where they are."""
    if batch.mask is None:
        return torch.randperm(batch.size, generator=generator).to(batch.device)
    rows = batch.mask.nonzero().flatten()
    permutation = torch.arange(batch.size, device=batch.device)
    permutation[rows] = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
    return permutation


def mixed_targets(run: Training, batch: Batch, permutation: Tensor, share: float) -> Tensor:
    """`share * targets + (1 - share) * targets[permutation]`, as the objective's family has it."""
    family, width = run.objective.family, run.objective.width(run, batch)
    targets = batch.known_targets()
    try:
        soft = family.soften(targets, width)
        return family.mix(soft, soft[permutation], share, width)
    except RuntimeError:
        run.objective.check_host(batch)  # a clearer error, where targets are the reason
        raise


def chosen(who: str, inputs: Any, at: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Every input by name, and those that `at` names: `*` for all, a name, a glob, a position.

    Raises:
        InputError: `at` matches none; the message lists what there is.
    """
    found = dict(named(inputs))
    names = list(found) if at == "*" else modes.match(list(found), at)
    if not names:
        there = ", ".join(found) if "" not in found else "one without a name, at='*'"
        raise InputError(f"{who}: no input matches at={at!r}; there are: {there}.")
    return found, {name: found[name] for name in names}


def named(nest: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """`(name, tensor)` of every leaf: keys and positions joined by dots."""
    if isinstance(nest, Tensor):
        return [(name, nest)]
    parts = nest.items() if isinstance(nest, Mapping) else enumerate(nest)
    return [pair for key, part in parts for pair in named(part, _join(name, key))]


def map_named(change: Callable[[str, Tensor], Tensor], nest: Any, name: str = "") -> Any:
    """The nest with `change(name, leaf)` for every leaf; mappings become plain dicts."""
    if isinstance(nest, Tensor):
        return change(name, nest)
    if isinstance(nest, Mapping):
        return {k: map_named(change, part, _join(name, k)) for k, part in nest.items()}
    return tuple(map_named(change, part, _join(name, k)) for k, part in enumerate(nest))


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)
