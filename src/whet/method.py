"""One training method: what it declares and the moments it may change."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar, dataclass_transform

from whet import settings
from whet.batch import Batch
from whet.errors import InputError, UnknownName
from whet.forward import Forward, Window

if TYPE_CHECKING:
    from whet.predict import Predictor
    from whet.training import Training

InnerForward = Callable[[Batch], Forward]
InnerBackward = Callable[[Forward], None]
InnerWindow = Callable[[Window], None]


class Layer(IntEnum):
    """Where a method stands in the nesting: a smaller layer is further outside."""

    BATCH_SOURCE = 1
    INPUT_MIXING = 2
    TARGET_TRANSFORM = 3
    ADVERSARIAL_INPUT = 4
    CONSISTENCY = 5
    TEACHER = 6
    MODEL_NOISE = 7
    OBJECTIVE = 8
    SHARPNESS = 9
    GRADIENT = 10
    WEIGHTS = 11
    AVERAGE = 12
    STATISTICS = 13
    PREDICTION = 14


class Resource(Enum):
    """What a method may claim: `owns` excludes every other claim, `uses` shares with users."""

    EVALUATION_WEIGHTS = "evaluation weights"
    OBJECTIVE = "objective"
    HARD_TARGETS = "hard targets"
    INPUT_MIXING = "input mixing"
    MOVED_INPUTS = "moved inputs"
    UNLABELLED_STREAM = "unlabelled stream"
    SECOND_GRADIENT = "second gradient"
    BACKWARD = "backward"
    BATCH_STATISTICS = "batch statistics"
    LEARNING_RATE = "learning rate"
    LAST_LAYER = "last layer"


class Placement(Enum):
    """When a method may begin."""

    ANYTIME = "anytime"
    START = "from the start only"
    OBSERVER = "observer"


@dataclass(frozen=True, slots=True)
class Card:
    """A method's line in the catalogue."""

    title: str
    paper: str
    cost: str
    tier: int
    phase: str
    data: str
    avoid_when: str
    status: str = "stable"
    zh: Mapping[str, str] = field(default_factory=dict)  # title, cost, phase, data, avoid_when


M = TypeVar("M", bound="Method")


class _BySettings:
    """A declaration that depends on settings; asked of the class, it is that of the defaults."""

    def __init__(self, of: Callable[[Any], Any]) -> None:
        self.of = of

    def __get__(self, method: object | None, kind: type) -> Any:
        return self.of(kind if method is None else method)  # a class holds its fields' defaults


def by_settings(of: Callable[[Any], Any]) -> Any:
    """A method's declaration (`owns`, `placements`) as a function of its settings."""
    return _BySettings(of)


LATE = (0.25, 1.0)  # the part of training of what damages a network that knows nothing yet


class Method:
    """A training method; a subclass overrides only the moments it changes.

    Subclasses are dataclasses whose fields are plain values. The constructor only stores; state
    is made in `start`. Every moment that wraps calls `inner` as often as its paper says and
    restores what it changed in `finally`.
    """

    name: ClassVar[str]
    layer: ClassVar[Layer]
    owns: ClassVar[frozenset[Resource]] = frozenset()
    uses: ClassVar[frozenset[Resource]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()
    placements: ClassVar[Placement] = Placement.ANYTIME
    neutral: ClassVar[Mapping[str, Any] | str]
    outside: ClassVar[tuple[str, ...]] = ()
    companions: ClassVar[frozenset[str]] = frozenset()  # must stand beside it where they apply
    over_schedule: ClassVar[bool] = False  # the rates it owns lie over a schedule that goes on
    looks_ahead: ClassVar[bool] = False  # what it does depends on where its span ends
    # whether it needs weights, gradients or buffers as whole tensors, so that it cannot train a
    # sharded model; a text names settings under which it does not
    whole_weights: ClassVar[bool | str] = True
    card: ClassVar[Card]

    span: tuple[float, float] = (0.0, 1.0)  # where the user says nothing: a subclass may differ
    label: str | None = None

    # moments ---------------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        """Make trainable modules and hook points, before the optimizer, DDP and compile."""

    def start(self, run: Training) -> None:
        """Entering the span."""

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        """Wrap one micro-batch's forward; may be replayed, so it moves no state."""
        return inner(batch)

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        """Wrap one micro-batch's backward."""
        inner(forward)

    def absent(self, run: Training) -> None:
        """In place of forward and backward, where other processes have the micro-batch's rows.

        Who adds something up over the processes in those moments adds nothing to it here.
        """

    def gradients(self, run: Training, window: Window, inner: InnerWindow) -> None:
        """Wrap the whole accumulation window."""
        inner(window)

    def step(self, run: Training, window: Window, inner: InnerWindow) -> None:
        """Wrap gradients and update."""
        inner(window)

    def before_update(self, run: Training) -> None:
        """Gradients are whole and unscaled; the optimizer has not stepped."""

    def rate_share(self, updates: int, total: int) -> float | None:
        """The share of the optimizer's rate that a method which owns the rate gives an update.

        It is the one that follows so many of `total`; None where the schedule's rate stands.
        """
        return None

    def after_update(self, run: Training) -> None:
        """An update really happened."""

    def evaluated(self, run: Training, metrics: Mapping[str, float]) -> None:
        """The select part was evaluated."""

    def end_epoch(self, run: Training) -> None:
        """The training data was gone through once."""

    def evaluating(self, run: Training) -> AbstractContextManager[None]:
        """Put the weights and buffers that are judged in place; undone on exit."""
        return nullcontext()

    def predictor(self, run: Training, inner: Callable[[], Predictor]) -> Predictor:
        """What is judged and exported."""
        return inner()

    def readings(self) -> Mapping[str, float]:
        """Numbers of the last update for the log, by name; may wait for the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues to the bit."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state; called after `start`."""

    # identity and settings -------------------------------------------------------------------
    @property
    def key(self) -> str:
        """Name plus optional label: the identity within a stack."""
        return f"{self.name}:{self.label}" if self.label else self.name

    @property
    def view(self) -> str:
        """Names the weights that `evaluating` puts in place, for what is cached by them."""
        return self.key

    def during(self, start: float, end: float = 1.0) -> Self:
        """A copy that takes part from fraction `start` to `end` of the stage's updates."""
        if not 0.0 <= start < end <= 1.0:
            raise InputError(
                f"{self.key}.during({start}, {end}): fractions of a stage must satisfy "
                "0 <= start < end <= 1."
            )
        if self.placements is Placement.START and start > 0:
            raise InputError(
                f"{self.key} changes model, optimizer or data from the start and cannot begin at "
                f"{start:g} of a stage. Use during(0, {end:g}), or give it a stage of its own."
            )
        return self._copy(span=(float(start), float(end)))

    def labelled(self, label: str) -> Self:
        """A copy under another identity, so that a method may stand twice on disjoint spans."""
        return self._copy(label=label)

    def _copy(self, **changes: Any) -> Self:
        twin = self.clone()
        twin.__dict__.update({"span": self.span, "label": self.label} | changes)
        return twin

    def clone(self) -> Self:
        """A method with the same settings and no state."""
        given = {f.name: copy.deepcopy(getattr(self, f.name)) for f in settings.fields(type(self))}
        twin = type(self)(**given)
        twin.span, twin.label = self.span, self.label
        return twin

    def settings(self) -> dict[str, Any]:
        """Plain values (JSON) from which `whet.methods.make` builds the method again."""
        values = {f.name: getattr(self, f.name) for f in settings.fields(type(self))}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        extra: dict[str, Any] = {}
        if self.span != type(self).span:
            extra["during"] = list(self.span)
        if self.label:
            extra["label"] = self.label
        return {"name": self.name, **plain, **extra}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The method from its settings; lists stand for tuples."""
        values = {k: v for k, v in given.items() if k not in ("name", "during", "label")}
        known = [field.name for field in settings.fields(cls)]
        for name in values:
            if name not in known:
                raise UnknownName(f"setting of {cls.name}", name, known)
        plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        method = cls(**plain)
        settings.check(method, method.key)
        if given.get("label"):
            method = method.labelled(settings.text(given["label"], f"{cls.name}: label"))
        span = given.get("during")
        return method.during(*settings.pair(span, f"{cls.name}: during")) if span else method

    def __repr__(self) -> str:
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in settings.fields(type(self))
            if getattr(self, field.name) != field.default
        ]
        text = f"{self.key}({', '.join(shown)})"
        a, b = self.span
        return text if self.span == type(self).span else f"{text}.during({a:g}, {b:g})"


@dataclass_transform(
    eq_default=False, field_specifiers=(dataclasses.field, settings.number, settings.choice)
)
def method(kind: type[M]) -> type[M]:
    """Make a subclass a dataclass whose identity is the object, as every method is."""
    return dataclasses.dataclass(eq=False, repr=False)(kind)
