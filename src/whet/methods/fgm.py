"""FGM on embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn

from whet import embedding, modes, reducing
from whet.batch import Batch
from whet.embedding import Shift, sized
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import (
    Card,
    InnerBackward,
    InnerForward,
    Layer,
    Method,
    Resource,
    by_settings,
    method,
)
from whet.settings import choice, number
from whet.training import Training
from whet.world import World


@method
class FGM(Method):
    r"""Fast gradient method: train on embeddings moved up the gradient, besides the clean ones.

    $$\nabla L(E) + \lambda \nabla L(E + r), \quad r = \epsilon\, g / \|g\|_2,
    \quad g = \nabla_E L$$

    g is this micro-batch's own gradient, also where `.grad` holds earlier ones. Where its norm is
    zero, NaN or infinite nothing is moved, and the second pass is made all the same: the number
    of passes never depends on the data. The second pass draws a new dropout mask and leaves the
    batch statistics alone. A table that is tied to the output layer moves there too.

    Args:
        epsilon: length of r, in the embedding's own units; 5 for Miyato's normalised embeddings.
        scope: `table`: E is the whole table, one norm for each. `example`: what the embedding
            returns, one norm for each example over time x dim. `output`: what it returns, one
            norm for each call. The last two leave padding alone and work on frozen tables.
        across: whose gradient moves a table in several processes. `local`: each process's own
            rows', for one all-reduce a step. `global`: the whole micro-batch's, for one more
            all-reduce of the tables a micro-batch; equal to one process. The other scopes move
            each row by its own (`output`: each process's rows by theirs).
        at: which nn.Embedding: a glob, a name, or the name of a module above them.
        exclude: globs of embeddings to leave alone.
        weight: λ, of the adversarial loss; 0 makes no second pass.

    Shapes: tables `(V, D)`; what an embedding returns `(N, T, D)` or `(N, D)`.

    Cost: 2 forward and backward passes; 2 copies of the tables, or of what they return. In the
    last two scopes a compiled graph breaks at the embedding.

    Raises:
        NotApplicable: no embedding matches, all tables are frozen and the scope is `table`, or
            the model reads the table without calling the embedding and the scope is not.
        InputError: used alone, `attack` outside of `watch` in the scopes that need it.

    Paper: Miyato, Dai & Goodfellow 2017, arXiv:1605.07725. It damages a model at the very start:
    `FGM().during(0.25, 1)`. Random noise of the same length is the control to compare it with.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([0])
    >>> fgm = FGM(epsilon=1.0)
    >>> with fgm.watch(model):          # may be left out for `table` without accumulation
    ...     nn.functional.cross_entropy(model(ids), labels).backward()
    ...     with fgm.attack(model):     # tables come back on exit, also after an error
    ...         nn.functional.cross_entropy(model(ids), labels).backward()
    """

    epsilon: float = number(1.0, 0.0)
    scope: str = choice("table", "table", "example", "output")
    across: str = choice("local", "local", "global")
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS
    weight: float = number(default=1.0, low=0.0)  # by keyword, for type checkers

    name: ClassVar[str] = "fgm"
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.SECOND_GRADIENT})
    whole_weights: ClassVar[bool | str] = by_settings(
        lambda fgm: (
            fgm.scope == "table"
            and fgm.across == "local"
            and "across='global', or scope='output' or 'example'"
        )
    )
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Adversarial embeddings (FGM)", paper="arXiv:1605.07725",
        cost="2 forward and backward passes", tier=1, phase="from a quarter on",
        data="tokens or categories that are embedded",
        avoid_when="at the very start, which it damages: use .during(0.25, 1)",
        zh={
            "title": "对抗训练（FGM，扰动词嵌入）", "cost": "2 次前向和反向传播",
            "phase": "训练进行到四分之一之后", "data": "经嵌入层输入的词元或类别特征",
            "avoid_when": "训练刚开始时使用会损害模型，应改用 .during(0.25, 1)",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.skipped: list[str] = []
        self._model: nn.Module | None = None
        self._tables: dict[str, nn.Parameter] = {}
        self._embeddings: dict[str, nn.Module] = {}
        self._shift: Shift | None = None

    # the core: torch alone -------------------------------------------------------------------
    def begin(self, model: nn.Module) -> None:
        """Find the model's embeddings."""
        about = (model, self.at, self.exclude, self.key)
        if self.scope == "table":
            self._tables, frozen = embedding.tables(*about)
            for name in frozen:
                self._skip(f"{name}: frozen")
        else:
            self._embeddings = embedding.modules(*about)
        self._model = model

    @contextmanager
    def watch(self, model: nn.Module) -> Iterator[None]:
        """Around the clean and the adversarial pass of one micro-batch: keep its own gradient."""
        if self._model is not model:
            self.begin(model)
        if self.scope != "table":
            with Shift(model, [*self._embeddings.values()]) as self._shift:
                try:
                    yield
                finally:
                    self._shift = None
            return
        earlier = [(table, table.grad) for table in self._tables.values()]
        for table, _ in earlier:
            table.grad = None
        try:
            yield
        finally:
            for table, grad in earlier:
                _add_back(table, grad)

    @contextmanager
    def attack(self, model: nn.Module, world: World | None = None) -> Iterator[None]:
        """Embeddings moved up the gradient of the clean pass, for the length of a `with`.

        In a `world` tables move up the gradient of all processes, each of which must call this.
        """
        if self._model is not model:
            self.begin(model)
        table = self.scope == "table"
        moved = self._tables_moved(self._climbed(world)) if table else self._outputs_moved()
        with modes.still_statistics(model), moved:
            yield

    def _climbed(self, world: World | None) -> dict[str, torch.Tensor]:
        """The tables' gradients that are climbed, by name; of all processes in a world."""
        grads = {name: table.grad for name, table in self._tables.items()}
        found = {name: _dense(grad) for name, grad in grads.items() if grad is not None}
        if world is None or world.size == 1 or world.sharded:  # by the backward itself
            return found
        tables = [*self._tables.values()]
        totals = reducing.added(world, [found.get(name) for name in self._tables], tables)
        return dict(zip(self._tables, totals, strict=True))

    @contextmanager
    def _tables_moved(self, climbed: dict[str, torch.Tensor]) -> Iterator[None]:
        saved = []
        with torch.no_grad():
            for name, table in self._tables.items():
                if name not in climbed:
                    self._skip(f"{name}: no gradient in some batch")
                    continue
                saved.append((table, table.detach().clone()))
        try:
            with torch.no_grad():
                for name, gradient in climbed.items():
                    self._tables[name].add_(sized(gradient, self.epsilon))
            yield
        finally:
            # in place and by copy: w + r - r is not w
            modes.put_back(saved)

    @contextmanager
    def _outputs_moved(self) -> Iterator[None]:
        if self._shift is None:
            raise InputError(
                f"{self.key}: scope={self.scope!r} needs the gradient of what the embedding "
                "returned: put the clean pass and attack() inside `with fgm.watch(model):`."
            )
        calls = self._shift.calls
        if not calls:
            raise NotApplicable(
                self.key, f"none of {', '.join(self._embeddings)} was called in the forward pass "
                "(the model reads the table itself, or was given embeddings): use scope='table'."
            )  # fmt: skip
        each = self.scope == "example"
        try:
            for call in calls:
                gradient = call.gradient()
                call.move(None if gradient is None else sized(gradient, self.epsilon, each=each))
            yield
        finally:
            self._shift.rewind()

    def _skip(self, what: str) -> None:
        if what not in self.skipped:
            self.skipped.append(what)

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        self.begin(run.module)
        if self.scope != "table":
            embedding.make_ready(run.module, [*self._embeddings.values()])

    def start(self, run: Training) -> None:
        self.begin(run.module)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.weight > 0:
            run.hold(self, self.watch(run.module))
        return inner(batch)

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        inner(forward)
        if self.weight > 0:
            with self.attack(run.module, run.world if self.across == "global" else None):
                again = run.again(fresh=True)
                inner(again.replace(scale=again.scale * self.weight))

    def absent(self, run: Training) -> None:
        if self.weight > 0 and self.scope == "table" and self.across == "global":
            reducing.added(run.world, [None] * len(self._tables), [*self._tables.values()])


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient


def _add_back(table: nn.Parameter, earlier: torch.Tensor | None) -> None:
    if table.grad is None:
        table.grad = earlier
    elif earlier is not None:
        table.grad = table.grad + earlier if earlier.is_sparse else table.grad.add_(earlier)
