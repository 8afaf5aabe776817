"""Rows compared with themselves, moved: what methods share that make a model smooth there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import attack, ball, embedding, modes, seeding
from whet.attack import Inputs, attack_pass
from whet.ball import Ball
from whet.batch import Batch
from whet.embedding import Call, Shift, sized
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, method
from whet.settings import choice, number
from whet.training import Training

Distance = Callable[[Tensor], Tensor]  # from an output to one number per item
States = tuple[Tensor, object, list[Tensor]]


class Places(ABC):
    """The points that a batch's rows stand at, and the model's output there.

    Every pass has the dropout masks of the pass over the batch as it is.
    """

    def __init__(self, who: Any, run: Training, batch: Batch, stood: States, key: int) -> None:
        self.who, self.run, self.batch, self.stood, self.key = who, run, batch, stood, key

    def output(self) -> Tensor:
        """What the model gives for the rows where they stand."""
        with seeding.replaying(self.stood):
            return modes.wide(self._forward().output)

    def climb(self, far: Distance, size: float, *, home: bool = False) -> None:
        """A step of `size` radii up a distance, from where the rows stand, or from `home`."""
        with attack_pass(self.run.module), seeding.replaying(self.stood):
            self._climb(lambda forward: far(modes.wide(forward.output)).sum(), size, home)

    @abstractmethod
    def start(self, size: float, *, rim: bool = False) -> None:
        """To random points, at most `size` radii away from home; l2 and `rim`: just so far."""

    @abstractmethod
    def _forward(self) -> Forward: ...

    @abstractmethod
    def _climb(self, up: Callable[[Forward], Tensor], size: float, home: bool) -> None: ...


class OfInputs(Places):
    """Floating inputs, each in its ball."""

    def __init__(self, *about: Any, around: Mapping[str, Ball]) -> None:
        super().__init__(*about)
        self.around = around
        self.points = {name: one.centre for name, one in around.items()}

    def start(self, size: float, *, rim: bool = False) -> None:
        for name, one in self.around.items():
            maker = seeding.generator(self.key, name)
            drawn = ball.noise(one.centre, maker, one.norm, rim=rim)
            self.points[name] = one.at(size * drawn)

    def _forward(self) -> Forward:
        return attack.plain(self.run, attack.moved(self.batch, self.points))

    def _climb(self, up: Callable[[Forward], Tensor], size: float, home: bool) -> None:
        leaves = {name: p.detach().clone().requires_grad_() for name, p in self.points.items()}
        # a copy: a model may change its inputs in place, which a leaf does not allow
        given = attack.moved(self.batch, {name: leaf.clone() for name, leaf in leaves.items()})
        slopes = attack.slopes(self.who, up(attack.plain(self.run, given)), [*leaves.values()])
        for (name, one), slope in zip(self.around.items(), slopes, strict=True):
            begin = one.centre if home else self.points[name]
            self.points[name] = one.climbed(begin, slope, size)


class OfEmbeddings(Places):
    """What embeddings return; padding stays."""

    def __init__(self, *about: Any, embeddings: Mapping[str, nn.Module], norm: str) -> None:
        super().__init__(*about)
        self.norm, self.embeddings = norm, embeddings
        self._begin = (0.0, False)
        self._shift = Shift(self.run.module, [*embeddings.values()], self._started)

    def start(self, size: float, *, rim: bool = False) -> None:
        self._begin = (size, rim)
        self._shift.rewind()

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Within, embeddings return their vectors where they stand."""
        with self._shift:
            yield
            skipped: list[str] = []
            embedding.uncalled(self.embeddings, self._shift.calls, skipped)
            for told in skipped:
                self.run.note(embedding.stays(self.who.key, told))

    def _forward(self) -> Forward:
        return attack.plain(self.run, self.batch)

    def _climb(self, up: Callable[[Forward], Tensor], size: float, home: bool) -> None:
        reached = up(self._forward())
        calls = self._shift.calls
        attack.called(self.who, self.run, self._shift)
        slopes = attack.slopes(self.who, reached, [call.delta for call in calls])
        for call, slope in zip(calls, slopes, strict=True):
            one = self._ball(call)
            call.move(one.climbed(one.centre if home else call.delta.detach(), slope, size))

    def _ball(self, call: Call) -> Ball:
        return attack.around(call, self.who.epsilon, None, self.norm)

    def _started(self, call: Call, at: int) -> Tensor:
        size, rim = self._begin
        if size == 0.0:
            return torch.zeros_like(call.delta)
        maker = seeding.generator(self.key, at)
        drawn = ball.noise(call.delta, maker, self.norm, rim=rim)
        if rim and self.norm == "l2":  # as long without its padding
            drawn = sized(call.silent(drawn), 1.0, each=True)
        return self._ball(call).at(size * drawn)


class Unrepeated(Shift):
    """Embeddings that must not be called again in the backward, where no delta stands any more."""

    def __init__(self, who: str, model: nn.Module, embeddings: Sequence[nn.Module]) -> None:
        super().__init__(model, embeddings)
        self.who = who

    def added(self, module: nn.Module, ids: Tensor, output: Tensor) -> Tensor:
        if torch._C._current_graph_task_id() != -1:
            raise NotApplicable(
                self.who, "the embedding is part of an activation checkpoint, which calls it again "
                "in the backward, where it is not moved any more. Leave the embedding out of the "
                "checkpoint (checkpoint the layers above it)."
            )  # fmt: skip
        return output


@method
class Consistency(Method):
    """A method that keeps a row's output where the row is moved; whereto it moves is open."""

    epsilon: float = number(1.0, 0.0)
    weight: float = number(1.0, 0.0)
    scope: str = choice("inputs", "inputs", "embeddings")
    unlabelled: int = number(1, 0, whole=True)
    std: float | tuple[float, ...] | None = number(None, 0.0, open_low=True, several=True)
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS

    layer: ClassVar[Layer] = Layer.CONSISTENCY
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self._inputs = Inputs()
        self._embeddings: dict[str, nn.Module] = {}

    # whereto ---------------------------------------------------------------------------------
    @property
    def shape(self) -> str:
        """The norm of the ball: `linf` or `l2`."""
        raise NotImplementedError

    def move(self, run: Training, places: Places, p: Tensor, far: Distance) -> None:
        """Move the rows; `far` is an output's divergence from p, the output at home."""
        raise NotImplementedError

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind == "embedding":
            raise NotApplicable(self.key, "embeddings are no distribution that could agree.")
        self.notes = attack.unclipped(run) if self.scope == "inputs" else []
        if kind == "tokens" and self.unlabelled > 0 and "unlabelled" in run.resources:
            self.notes.append("unlabelled rows are left out: nobody says which tokens count")
        if self.scope == "embeddings":
            if self.std is not None:
                raise InputError(f"{self.key}: std is of inputs; leave it out for embeddings.")
            self._embeddings = embedding.modules(run.module, self.at, self.exclude, self.key)
            embedding.make_ready(run.module, [*self._embeddings.values()])

    def start(self, run: Training) -> None:
        self._inputs = Inputs()

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.weight == 0.0 or self.epsilon == 0.0:
            return inner(batch)
        stood = seeding.states()
        clean = inner(batch)
        run.hold(self, self._standing(run))
        apart = self._apart(run, batch, clean.output, stood, 0)
        if run.objective.family.name == "tokens":
            if clean.mask is not None:
                apart = torch.where(clean.mask, apart, apart.new_zeros(()))
            return clean.add(self.key, apart, per="items", weight=self.weight)
        more = self._more(run, batch, stood)
        share = self.weight / (1 + (0 if more is None else self.unlabelled))
        together = apart if more is None else torch.cat([apart, more])
        return clean.add(self.key, together, per="rows", weight=share)

    def _more(self, run: Training, batch: Batch, stood: States) -> Tensor | None:
        """Divergences of unlabelled rows, unless the batch brings such rows itself."""
        if self.unlabelled == 0 or "unlabelled" not in run.resources or batch.mask is not None:
            return None
        drawn = run.draw("unlabelled", self.unlabelled * batch.size, self)
        with torch.no_grad(), modes.still_statistics(run.module), seeding.replaying(stood):
            output = attack.plain(run, drawn.replace(targets=None, mask=None)).output
        return self._apart(run, drawn, output, stood, 1)

    def _apart(
        self, run: Training, batch: Batch, output: Tensor, stood: States, number: int
    ) -> Tensor:
        """Divergence of each item, where its row is moved, from what it is at home."""
        rows = batch.replace(targets=None, mask=None, indices=None)  # all move, target or none
        p = modes.wide(output.detach())
        about = (self, run, rows, stood, run.key(self, number))

        def far(moved: Tensor) -> Tensor:
            return run.objective.family.divergence(p, moved)

        places: Places
        with ExitStack() as stack:
            if self.scope == "inputs":
                around = self._inputs.balls(self, run, rows, self.shape)
                places = OfInputs(*about, around=around)
            else:
                places = OfEmbeddings(*about, embeddings=self._embeddings, norm=self.shape)
                stack.enter_context(places.standing())
            self.move(run, places, p, far)
            return far(places.output())

    @contextmanager
    def _standing(self, run: Training) -> Iterator[None]:
        """From the pass over the batch as it is to the end of the backward.

        What follows it moves batch statistics, also where a checkpoint repeats it; they come back.
        """
        with modes.kept_statistics(run.module), ExitStack() as stack:
            if self.scope == "embeddings":
                stack.enter_context(Unrepeated(self.key, run.module, [*self._embeddings.values()]))
            yield
