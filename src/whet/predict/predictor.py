"""What every predictor promises: probabilities of a batch, its members, and a file of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whet import exported
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.families import Family

State = dict[str, Tensor]


class Predictor(ABC):
    """A function from a batch to probabilities (predictions, for reals)."""

    family: Family
    autocast: Callable[[], Any] = nullcontext

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        """Probabilities `(N, C)`; predictions `(N,)` or `(N, D)` for reals."""

    def traced(self, batch: Batch) -> Tensor:
        """The same with a gradient for the batch's inputs, which attacks climb.

        Raises:
            InputError: this predictor has none.
        """
        raise InputError(f"{type(self).__name__} gives no gradients of its inputs to attack along.")

    @abstractmethod
    def members(self) -> list[State]:
        """The weights it predicts with, one state per member."""

    def models(self) -> list[Predictor]:
        """The predictors of one model each, in the order of `members`."""
        return [self]

    def form(self) -> Any:
        """How the members make a prediction, in plain values; a list stands for their mean."""
        return {} if (count := len(self.members())) == 1 else [{}] * count

    def logits(self, batch: Batch) -> Tensor:
        """Numbers of which `family.probabilities` makes the prediction, at any temperature."""
        return as_logits(self(batch), self.family)

    def traced_logits(self, batch: Batch) -> Tensor:
        """The logits with a gradient for the batch's inputs."""
        return as_logits(self.traced(batch), self.family)

    def save(self, path: str | Path) -> None:
        """Write all members to one safetensors file; whole or not at all."""
        states, form = self.members(), self.form()
        about = {"family": self.family.name, "members": len(states)}
        plain = form in ({}, [{}] * len(states))
        exported.write(Path(path), about if plain else {**about, "form": form}, states)

    @staticmethod
    def load(
        path: str | Path, model: nn.Module | Sequence[nn.Module] | None = None,
        views: Mapping[str, Callable[[Any, torch.Generator], Any]] | None = None,
        trusted: Sequence[str] = (),
    ) -> Predictor:  # fmt: skip
        """A predictor from a file.

        Args:
            path: what `save` wrote.
            model: one of the same architecture; or several, where members are of different ones.
                Members that are scikit-learn estimators take none.
            views: functions that it averages over, by the names under which it was saved.
            trusted: types that its scikit-learn estimators may hold beside those that skops
                trusts, as `package.module.Class`: name only what you know, from files whose origin
                you know.

        Raises:
            CheckpointError: the file is none that whet saved, or fits another model, or holds types
                that are not trusted.
            InputError: it holds more or fewer models than are given.
        """
        from whet.predict import files  # knows every kind of predictor, and this module none

        return files.load(path, model, views, trusted)


def as_logits(p: Tensor, kind: Family) -> Tensor:
    """Logits of which the probabilities are the given ones; at any temperature they do as well."""
    tiny = torch.finfo(p.dtype).tiny
    if kind.name == "multi-label":
        return p.clamp(min=tiny).log() - (1.0 - p).clamp(min=tiny).log()
    return p if kind.name in ("real", "embedding") else p.clamp(min=tiny).log()
