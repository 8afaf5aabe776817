"""The training in progress, as the methods see it: model, position, randomness, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from whet import modes, seeding, sharding
from whet.batch import Batch
from whet.drawing import Draws
from whet.errors import InputError, MissingResource
from whet.forward import Forward, Window
from whet.loading import Epochs
from whet.world import World

if TYPE_CHECKING:
    from whet.method import Method
    from whet.objectives.objective import Objective

Optimizer = torch.optim.Optimizer


class Training:
    """What a method may ask of the run it takes part in.

    Args:
        model: the user's module.
        objective: the innermost method.
        seed: the run's seed; everything random is a function of it and of the position.
        stage: number of the stage in its recipe.
        updates: how many updates the stage lasts, None where nobody knows.
        resources: unlabelled data, views, teacher and whatever else methods name in `needs`.
        train: a function from a purpose to a loader of the training data.
        world: the processes that train together.
    """

    def __init__(
        self, model: nn.Module, objective: Objective, *, seed: int = 0, stage: int = 0,
        updates: int | None = None, resources: Mapping[str, Any] | None = None,
        train: Callable[[str], Epochs] | None = None, world: World | None = None,
    ) -> None:  # fmt: skip
        self.module = model
        self.model: Callable[..., Any] = model  # the callable: compiled, or wrapped for a device
        self.outline: nn.Module | None = None  # a sharded model's, without weights
        self.objective = objective
        self.world = World() if world is None else world
        self.seed, self.stage_number, self.rank = seed, stage, self.world.rank
        self.total = updates
        self.resources = dict(resources or {})
        self.train = train
        self.heads = nn.ModuleDict()
        self.optimizer: Optimizer | None = None
        self.make_optimizer: Optimizer | Callable[[Any], Optimizer] | None = None
        self.scheduler: Any = None
        self.scaler: torch.amp.GradScaler | None = None
        self.autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.score: Callable[[Any], float] | None = None  # of a predictor on the select part
        self.window = self.updates = self.micros = self.micro = self.epoch = 0
        self.judging = self._lasting = self.stopped = False
        self.latest: float | None = None  # the deciding metric of the select part; more is better
        self.views: list[str] = []
        self.notes: list[str] = []  # what the user should know; in a Run its own
        self.beside: Sequence[Method] = ()  # all methods of the stack, also outside their spans
        self.current: Window | None = None
        self.mixture: Any = None  # a mixing.Mixture, while rows are mixed inside the model
        self.evaluating: Callable[[], AbstractContextManager[None]] = nullcontext
        self._batch: Batch | None = None
        self._forward: Callable[[Batch], Forward] | None = None
        self._staged: dict[tuple[str, int], Any] = {}
        self._holds, self._update_holds = ExitStack(), ExitStack()
        self._held: set[str] = set()
        self._loaders: dict[str, Epochs] = {}
        self._base = seeding.key(seed, stage, self.rank)
        self.draws = Draws(self._base)
        self._walked: list[nn.Parameter] | None = None
        self._unheld: list[nn.Parameter] = []

    @property
    def over(self) -> bool:
        """Whether the stage has no update left: its length is reached, or a method stopped it."""
        return self.stopped or (self.total is not None and self.updates >= self.total)

    # position and randomness -----------------------------------------------------------------
    @property
    def progress(self) -> float:
        """Fraction of the stage's updates that have happened."""
        return self.updates / self.total if self.total else 0.0

    def position(self) -> int:
        """The key of this micro-batch: seed, stage, rank, window, micro."""
        return seeding.mix(seeding.mix(self._base, self.window), self.micro)

    def key(self, method: Method, *more: int | str) -> int:
        """A seed of the method's own for this micro-batch; the same whenever it is replayed."""
        return seeding.key(self.position(), method.key, *more)

    def generator(self, method: Method, *more: int | str) -> torch.Generator:
        """A CPU generator of the method's own for this micro-batch."""
        return torch.Generator().manual_seed(self.key(method, *more))

    def note(self, told: str) -> None:
        """Tell the user something, once."""
        if told not in self.notes:
            self.notes.append(told)

    # passes ----------------------------------------------------------------------------------
    def open_window(self, window: Window) -> None:
        """Enter a window; the stack calls this."""
        self.current = window
        self.end_update()
        self.zero_grad()
        self.forget_staged()
        self.draws.open_window()

    def close_window(self) -> None:
        """Leave the window, whether its update happened or not."""
        assert self.current is not None
        self.window += 1
        self.micros += self.current.micros
        self.draws.close_window()

    def open_micro(self, number: int, batch: Batch, forward: Callable[[Batch], Forward]) -> None:
        """Enter a micro-batch; the stack calls this."""
        if number == 0:  # of a pass of the window: an update, or SAM, moved the weights
            modes.forget_casts()
        self.micro, self._batch, self._forward = number, batch, forward
        seeding.seed_default(self.position())

    def close_micro(self) -> None:
        """Leave the micro-batch: what `hold` entered ends here."""
        if self._held:
            self._held.clear()
            self._holds.close()
        self._batch = self._forward = None

    def again(self, *, fresh: bool = False) -> Forward:
        """Repeat this micro-batch's forward, with the same dropout masks unless `fresh`."""
        if self._batch is None or self._forward is None:
            raise InputError(
                "run.again() belongs inside a micro-batch: in a method's `backward`. In `forward`, "
                "call `inner` again."
            )
        if not fresh:
            seeding.seed_default(self.position())
        return self._forward(self._batch)

    def hold(self, method: Method, context: AbstractContextManager[Any]) -> None:
        """Enter a change to the model that ends after this micro-batch's backward.

        Activation checkpointing recomputes the forward in the backward, so a change made for the
        forward must still stand then. A method's second call within a micro-batch changes
        nothing: its draws are a function of position, so that it would hold the same again.
        """
        if method.key not in self._held:
            self._holds.enter_context(context)
            self._held.add(method.key)

    def hold_update(self, context: AbstractContextManager[Any]) -> None:
        """In `before_update`: enter a change that ends once the optimizer stepped, or skipped."""
        self._update_holds.enter_context(context)
        self._lasting = True

    def end_update(self) -> None:
        """End what `hold_update` entered; the stack calls this before a scheduler goes on."""
        if self._lasting:
            self._lasting = False
            self._update_holds.close()

    def stage(self, method: Method, value: Any) -> None:
        """Keep a change for `after_update`; replaying the micro-batch stages it anew, once."""
        self._staged[method.key, self.micro] = value

    def staged(self, method: Method) -> list[Any]:
        """What the method staged in this window, in order of the micro-batches."""
        return [self._staged[at] for at in sorted(self._staged) if at[0] == method.key]

    def staged_at(self, method: Method, micro: int) -> Any:
        """What the method staged in a micro-batch of this window; None where it staged nothing."""
        return self._staged.get((method.key, micro))

    def forget_staged(self) -> None:
        """Drop what is staged: a window begins, or its update was skipped."""
        if self._staged:
            self._staged.clear()

    def zero_grad(self) -> None:
        """Drop all gradients, also of parameters that no optimizer holds."""
        if self._walked is None:
            self.walk()
        if self.optimizer is not None:
            _drop_held(self.optimizer)
        for parameter in self._unheld:
            parameter.grad = None

    # model -----------------------------------------------------------------------------------
    def parameters(self) -> list[nn.Parameter]:
        """Everything trainable: the model's parameters and those that methods built."""
        return [*self.module.parameters(), *self.heads.parameters()]

    def walk(self) -> None:
        """Look for the parameters again; the stack calls this when an interval begins.

        Walking the modules costs as much as the forward of a small model, so a step does not.
        """
        self._walked = self.parameters()
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        held = {id(p) for group in groups for p in group["params"]}
        self._unheld = [p for p in self._walked if id(p) not in held]

    def open_optimizer(self) -> Optimizer:
        """The optimizer, made now where a function was given."""
        if self.optimizer is None:
            given = self.make_optimizer
            if given is None:
                raise InputError("the stack has no optimizer: pass optimizer= to Stack.")
            trainable = [p for p in self.parameters() if p.requires_grad]
            self.optimizer = given if isinstance(given, Optimizer) else given(trainable)
        return self.optimizer

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        first = self._walked[0] if self._walked else next(self.module.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    # data ------------------------------------------------------------------------------------
    def resource(self, name: str, method: Method) -> Any:
        """What the task supplies under a name."""
        if name not in self.resources:
            raise MissingResource(method.key, name, self.resources)
        return self.resources[name]

    def data(self, purpose: str, *, share: bool = False) -> Iterator[Batch]:
        """A pass of one's own over the training data, or this process's `share` of its rows."""
        if self.train is None:
            raise InputError(
                f"{purpose} reads the training data, and this stack was given none: pass "
                "data=(inputs, targets), a Dataset or a DataLoader to Stack."
            )
        if purpose not in self._loaders:
            every = self.train(purpose)
            self._loaders[purpose] = sharding.share(every, self.world) if share else every
        for batch in self._loaders[purpose].epoch(0):
            yield batch.to(self.device)

    def draw(self, name: str, rows: int, method: Method) -> Batch:
        """`rows` rows of a resource, in epochs without replacement; a replay gets the same ones."""
        return self.draws.rows(name, rows, self.micro, self.resource, method).to(self.device)

    # state -----------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        """Where training stands."""
        names = ("window", "updates", "micros", "epoch", "stopped")
        return {name: getattr(self, name) for name in names} | {"drawn": dict(self.draws.taken)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where the state says."""
        values = dict(state)
        self.draws.taken = dict(values.pop("drawn"))
        for name, value in values.items():
            setattr(self, name, value)


def _drop_held(optimizer: Optimizer) -> None:
    """What `optimizer.zero_grad()` does, without the profiler's range around it, or its own way."""
    if getattr(optimizer.zero_grad, "__func__", None) is not Optimizer.zero_grad:
        optimizer.zero_grad(set_to_none=True)
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
