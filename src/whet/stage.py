"""A span of training, and a list of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet import methods as catalogue
from whet import microbatches, nesting, patience, settings
from whet.errors import InputError
from whet.method import Method
from whet.microbatches import MicroBatch

MethodLike = Method | str | Mapping[str, Any]


@dataclass(frozen=True)
class Stage:
    """A span of training with its data, optimizer, schedule, frozen parts and methods.

    Args:
        updates: length in updates that happen; or give `epochs`.
        epochs: length in passes over the training data.
        methods: Methods, names, or settings; their state begins anew with the stage.
        optimizer: `"adamw"`, `{"name": "sgd", "lr": 0.1, "momentum": 0.9}`, or a function.
        schedule: `"cosine"`, `{"name": "cosine", "warmup": 0.1}`, a function, or None.
        batch_size: rows per micro-batch.
        micro_batch: rows at most that are forwarded at a time, where that is fewer; the batch is
            then cut, and its items weigh the same. `auto` finds the number by running out of
            memory; see `whet.microbatches.MicroBatches`.
        accumulate: micro-batches per update; the last window of an epoch may be shorter.
        freeze: parameters (names, globs, or modules) that stand still, in evaluation mode.
        objective: where it differs from the task's.
        data: where it differs from the task's training data.
        starts_from: `training` weights of the stage before, its `evaluation` weights, or the path
            of a file that `Predictor.save` wrote.
        drop_last: leave out an epoch's last batch where it is not full.
        workers: processes that fetch samples of a map-style Dataset.
        prefetch: batches that each worker keeps ready.
        pin_memory: on CUDA, workers' batches go by way of page-locked memory.
        early_stopping: `{"patience": 5, "least": 0.0, "restore": True}` ends the stage when so many
            evaluations of the select part in a row brought nothing better, and has the best one's
            weights judged; see `whet.patience.EarlyStopping`. The schedule is of the whole length.
    """

    updates: int | None = None
    epochs: float | None = None
    methods: Sequence[MethodLike] = ()
    optimizer: Any = "adamw"
    schedule: Any = None
    batch_size: int = 64
    accumulate: int = 1
    freeze: Sequence[str] = ()
    objective: Any = None
    data: Any = None
    starts_from: str = "training"
    drop_last: bool = False
    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = True
    micro_batch: MicroBatch = None
    early_stopping: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if (self.updates is None) == (self.epochs is None):
            raise InputError("a Stage is `updates` or `epochs` long: give exactly one of them.")
        length = self.updates if self.updates is not None else self.epochs
        if length is None or length <= 0:
            raise InputError(f"a Stage's length is {length}; it must be above 0.")
        settings.at_least_one(
            batch_size=self.batch_size, accumulate=self.accumulate, prefetch=self.prefetch
        )
        microbatches.check(self.micro_batch)
        object.__setattr__(self, "early_stopping", patience.settled(self.early_stopping))
        _listed(methods=self.methods, freeze=self.freeze)

    def length(self, batches: int | None) -> int:
        """Length in updates, over an epoch of so many batches.

        Raises:
            InputError: it is given in epochs, and nobody knows how long one is.
        """
        if self.updates is not None:
            return self.updates
        assert self.epochs is not None
        if batches is None:
            raise InputError(
                "the training data does not say how long an epoch is: give Stage(updates=N) "
                "instead of epochs."
            )
        return max(1, round(self.epochs * -(-batches // self.accumulate)))


@dataclass(frozen=True)
class Recipe:
    """Stages in order; methods listed here keep their state across them.

    >>> Recipe([Stage(updates=10)], methods=["ema"]).methods
    ['ema']
    """

    stages: Sequence[Stage]
    methods: Sequence[MethodLike] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("a Recipe needs at least one Stage.")
        _listed(methods=self.methods)

    def check(self, sharded: bool = False) -> None:
        """Refuse, before the first stage is trained, what a later one could not be trained with.

        Raises:
            Clash, InputError: methods, their order, a schedule beside its owner, or a copy of the
                best weights, where the model is `sharded`.
            NotApplicable: a method that needs whole weights, where the model is `sharded`.
        """
        for stage in self.stages:
            methods = nesting.arrange(self.methods_of(stage))
            if stage.schedule is not None:
                nesting.check_schedule(methods)
            if sharded:
                nesting.check_sharded(methods)
                patience.check_sharded(stage.early_stopping)

    def methods_of(self, stage: Stage) -> list[Method]:
        """Fresh copies of the methods that take part in a stage."""
        return [catalogue.make(spec) for spec in (*self.methods, *stage.methods)]

    def kept(self) -> list[str]:
        """Identities of the methods whose state lives across stages."""
        return [catalogue.make(spec).key for spec in self.methods]


def _listed(**several: object) -> None:
    for name, value in several.items():
        if isinstance(value, str):  # its letters would be taken one by one
            raise InputError(f"{name} is a list: write {name}=[{value!r}].")
