"""Embeddings that are moved for one more pass, and put back: whole tables, or what they return."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from whet import embedding, modes, reducing
from whet.batch import Batch
from whet.embedding import Call, Shift
from whet.errors import InputError
from whet.forward import Forward
from whet.method import InnerForward, Method, by_settings, method
from whet.settings import choice, number
from whet.training import Training
from whet.world import World

Move = Callable[[Sequence[Tensor | None]], None]


class Vectors(ABC):
    """The places that move: each has a gradient, and a distance from where it was."""

    skipped: list[str]  # places that do not move, each with the reason

    @abstractmethod
    def told(self, who: str, skipped: str) -> str:
        """What the user should know of such a place."""

    @abstractmethod
    def watch(self) -> AbstractContextManager[None]:
        """Around all passes of one micro-batch: its gradient is told from earlier ones."""

    @abstractmethod
    def gradients(self, world: World | None = None) -> list[Tensor | None]:
        """What the last pass left at each place; the sum over the processes of a world."""

    @abstractmethod
    def moving(self) -> AbstractContextManager[Move]:
        """Gives what moves every place to a distance from where it was; all return on exit."""


class Tables(Vectors):
    """Trainable tables; a row moves wherever its word stands."""

    def __init__(self, model: nn.Module, at: str, exclude: Sequence[str], who: str) -> None:
        self._tables, frozen = embedding.tables(model, at, exclude, who)
        self.skipped = [f"{name}: frozen" for name in frozen]

    def told(self, who: str, skipped: str) -> str:
        return f"{who}: a table stays where it is ({skipped}). `at` says which ones move."

    @contextmanager
    def watch(self) -> Iterator[None]:
        earlier = [(table, table.grad) for table in self._tables.values()]
        for table, _ in earlier:
            table.grad = None
        try:
            yield
        finally:
            for table, grad in earlier:
                _add_back(table, grad)

    def gradients(self, world: World | None = None) -> list[Tensor | None]:
        grads = [table.grad for table in self._tables.values()]
        found = [None if grad is None else _dense(grad) for grad in grads]
        if world is not None and world.size > 1 and not world.sharded:  # else by the backward
            return [*reducing.added(world, found, [*self._tables.values()])]
        for name, grad in zip(self._tables, found, strict=True):
            if grad is None and (told := f"{name}: no gradient in some batch") not in self.skipped:
                self.skipped.append(told)
        return found

    def absent(self, world: World) -> None:
        """Add nothing to the gradients of all processes."""
        reducing.added(world, [None] * len(self._tables), [*self._tables.values()])

    @contextmanager
    def moving(self) -> Iterator[Move]:
        saved: dict[nn.Parameter, Tensor] = {}

        @torch.no_grad()
        def move(deltas: Sequence[Tensor | None]) -> None:
            for table, delta in zip(self._tables.values(), deltas, strict=True):
                if delta is not None and table in saved:
                    table.copy_(saved[table] + delta)
                elif delta is not None:
                    saved[table] = table.detach().clone()
                    table.add_(delta)
            modes.forget_casts()  # of a table that is tied to the output layer

        try:
            yield move
        finally:
            # in place and by copy: w + r - r is not w
            modes.put_back([*saved.items()])
            modes.forget_casts()


class Outputs(Vectors):
    """What embeddings return: each call moves by itself, without padding."""

    def __init__(self, model: nn.Module, found: dict[str, nn.Module], who: str) -> None:
        self.model, self.who, self.skipped = model, who, []
        self._embeddings = found
        self._shift: Shift | None = None

    def told(self, who: str, skipped: str) -> str:
        return embedding.stays(who, skipped)

    def make_ready(self) -> None:
        """Make the hook points, also in a model that was compiled before."""
        embedding.make_ready(self.model, [*self._embeddings.values()])

    @contextmanager
    def watch(self) -> Iterator[None]:
        with Shift(self.model, [*self._embeddings.values()]) as self._shift:
            try:
                yield
            finally:
                self._shift = None

    def gradients(self, world: World | None = None) -> list[Tensor | None]:
        calls = self._calls()
        embedding.uncalled(self._embeddings, calls, self.skipped)
        return [call.gradient() for call in calls]

    @contextmanager
    def moving(self) -> Iterator[Move]:
        self._calls()

        def move(deltas: Sequence[Tensor | None]) -> None:
            for call, delta in zip(self._calls(), deltas, strict=True):
                call.move(delta)

        try:
            yield move
        finally:
            if self._shift is not None:
                self._shift.rewind()

    def _calls(self) -> list[Call]:
        if self._shift is None:
            raise InputError(
                f"{self.who}: this scope needs the gradient of what the embedding returned: put "
                f"the clean pass and attack() inside `with {self.who}.watch(model):`."
            )
        return self._shift.calls


@method
class Perturbation(Method):
    """A method that learns moved embeddings besides the clean ones; whereto they move is open."""

    epsilon: float = number(1.0, 0.0)
    scope: str = choice("table", "table", "example", "output")
    across: str = choice("local", "local", "global")
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS
    weight: float = number(default=1.0, low=0.0)  # by keyword, for type checkers

    whole_weights: ClassVar[bool | str] = by_settings(
        lambda moved: (
            moved.scope == "table"
            and moved.across == "local"
            and "across='global', or scope='output' or 'example'"
        )
    )

    def __post_init__(self) -> None:
        self._model: nn.Module | None = None
        self._found: Vectors | None = None

    # the core: torch alone -------------------------------------------------------------------
    @property
    def skipped(self) -> list[str]:
        """Embeddings that do not move, or not in some batch, each with the reason."""
        return [] if self._found is None else self._found.skipped

    @property
    def each(self) -> bool:
        """Whether a norm is one example's."""
        return self.scope == "example"

    def begin(self, model: nn.Module) -> None:
        """Find the model's embeddings."""
        about = (model, self.at, self.exclude, self.key)
        if self.scope == "table":
            self._found = Tables(*about)
        else:
            self._found = Outputs(model, embedding.modules(*about), self.key)
        self._model = model

    def vectors(self, model: nn.Module) -> Vectors:
        """What moves in the model."""
        if self._model is not model:
            self.begin(model)
        assert self._found is not None
        return self._found

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Around the clean and the moved passes of one micro-batch: keep its own gradient."""
        with self.vectors(model).watch():
            yield

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        self.begin(run.module)
        if isinstance(self._found, Outputs):
            self._found.make_ready()

    def start(self, run: Training) -> None:
        self.begin(run.module)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.weight > 0:
            run.hold(self, self._watching(run))
        return inner(batch)

    @contextmanager
    def _watching(self, run: Training) -> Iterator[None]:
        with self.watch(run.module):
            yield
        vectors = self.vectors(run.module)
        for skipped in vectors.skipped:
            run.note(vectors.told(self.key, skipped))

    def world(self, run: Training) -> World | None:
        """Over whose processes gradients are added up before anything moves."""
        return run.world if self.across == "global" else None

    def absent(self, run: Training) -> None:
        if self.weight > 0 and self.across == "global" and isinstance(self._found, Tables):
            self._found.absent(run.world)


def _dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _add_back(table: nn.Parameter, earlier: Tensor | None) -> None:
    if table.grad is None:
        table.grad = earlier
    elif earlier is not None:
        table.grad = table.grad + earlier if earlier.is_sparse else table.grad.add_(earlier)
