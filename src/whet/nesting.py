"""How methods nest: order by layer, clashes by resource, and the picture of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from whet import settings
from whet.errors import CheckpointError, Clash, NotApplicable
from whet.method import Method, Resource

Moment = Callable[..., Any]


def overrides(method: Method, moment: str) -> bool:
    """Whether a method changes a moment."""
    return getattr(type(method), moment) is not getattr(Method, moment)


def arrange(methods: Sequence[Method]) -> list[Method]:
    """The methods from outermost to innermost: by layer, then as listed.

    Raises:
        InputError: a setting lies outside its range.
        Clash: two methods claim one resource in the same interval, two have one identity, or
            `outside` declarations form a cycle.
    """
    for method in methods:
        settings.check(method, method.key)
    for a, b in combinations(methods, 2):
        if _overlap(a, b):
            _refuse(a, b)
    return _sorted(methods)


def clash(a: Method, b: Method) -> Resource | None:
    """The resource that two methods cannot share, if there is one."""
    contested = (a.owns & (b.owns | b.uses)) | (b.owns & a.uses)
    return min(contested, key=lambda resource: resource.value) if contested else None


def _overlap(a: Method, b: Method) -> bool:
    return a.span[0] < b.span[1] and b.span[0] < a.span[1]


def _refuse(a: Method, b: Method) -> None:
    if a.key == b.key:
        raise Clash(
            f"{a.key} stands twice in the same interval of training. Remove one, or give them "
            f"disjoint spans: {a.key}.during(0, 0.5) and {a.key}.during(0.5, 1)."
        )
    resource = clash(a, b)
    if resource is not None:
        raise Clash(
            f"{a.key} and {b.key} both claim the {resource.value}. Use one of them, or disjoint "
            f"spans: {a.key}.during(0, 0.5) and {b.key}.during(0.5, 1)."
        )


def brings_schedule(method: Method) -> bool:
    """Whether a method owns the learning rate instead of a schedule, and not over one."""
    return Resource.LEARNING_RATE in method.owns and not method.over_schedule


def check_schedule(methods: Sequence[Method]) -> None:
    """Refuse a schedule beside a method that brings its own."""
    owner = [method.key for method in methods if brings_schedule(method)]
    if owner:
        raise Clash(
            f"{owner[0]} and the stage's schedule both claim the learning rate. Leave the "
            f"schedule out (schedule=None), or train without {owner[0]}."
        )


def check_sharded(methods: Sequence[Method]) -> None:
    """Refuse what needs whole weights to train a model of which each process holds a part.

    Raises:
        NotApplicable: naming the method, and under which settings it would do, if there are any.
    """
    for method in methods:
        if method.whole_weights:
            way = method.whole_weights
            settings = f"Set {way}, use" if isinstance(way, str) else "Use"
            raise NotApplicable(
                method.key, "it reads or moves weights, gradients or buffers as whole tensors, and "
                "with strategy='fsdp' each process holds a part of them. "
                f"{settings} strategy='ddp', or leave it out."
            )  # fmt: skip


def check_same(saved: Sequence[str], here: Sequence[str]) -> None:
    """Refuse a state of other methods; both lists are named."""
    if sorted(saved) != sorted(here):
        raise CheckpointError(
            f"the checkpoint holds the methods [{', '.join(saved)}] and this stack "
            f"[{', '.join(here)}]. Continue with the same methods, or begin a new stage that "
            "starts from the checkpoint's weights."
        )


def _sorted(methods: Sequence[Method]) -> list[Method]:
    """By layer and as listed, except that what declares itself outside of another goes before it.

    Layers are a preference and `outside` is not, so a method may step over several layers.
    """
    ranked = sorted(methods, key=lambda method: method.layer)  # stable
    result: list[Method] = []
    entered: list[Method] = []

    def place(method: Method) -> None:
        if method in result:
            return
        if method in entered:
            stuck = ", ".join(m.key for m in entered[entered.index(method) :])
            raise Clash(f"{stuck} each want to stand outside the other: remove one `outside`.")
        entered.append(method)
        for other in ranked:
            if other is not method and method.name in other.outside:
                place(other)
        entered.pop()
        result.append(method)

    for method in ranked:
        place(method)
    return result


def wrap(run: Any, methods: Sequence[Method], moment: str, innermost: Moment) -> Any:
    """The moment as one callable, with every method that changes it around the innermost."""
    call = innermost
    for method in reversed(methods):
        if overrides(method, moment):
            call = bind(getattr(method, moment), run, call)
    return call


def bind(moment: Moment, run: Any, inner: Moment) -> Moment:
    """A moment of which only the batch, the forward or the window is still open."""

    # a closure of one positional call is the quickest that Python offers, and this is the hot path
    def bound(subject: Any) -> Any:
        return moment(run, subject, inner)

    return bound


class Interval:
    """The methods that take part between two cuts, every moment of theirs as one callable."""

    def __init__(
        self, run: Any, methods: Sequence[Method], *, forward: Moment, backward: Moment,
        gradients: Moment, step: Moment,
    ) -> None:  # fmt: skip
        self.forward = wrap(run, methods, "forward", forward)
        self.backward = wrap(run, methods, "backward", backward)
        self.gradients = wrap(run, methods, "gradients", gradients)
        self.step = wrap(run, methods, "step", step)
        self.methods = methods
        self.before_update = [m.before_update for m in methods if overrides(m, "before_update")]
        self.after_update = [m.after_update for m in methods if overrides(m, "after_update")]

    def micro(self, run: Any, batch: Any) -> None:
        """One micro-batch forward and back, or what stands in for it where it has no rows."""
        if batch.size:
            self.backward(self.forward(batch))
        else:
            for method in self.methods:
                method.absent(run)


def innermost(objective: Method, run: Any) -> Moment:
    """The objective's forward, which asks nobody."""

    def unreachable(batch: Any) -> Any:
        raise AssertionError("the objective is innermost")

    return bind(objective.forward, run, unreachable)


def explain(objective: Method, methods: Sequence[Method]) -> str:
    """The nesting in print, outermost first."""
    ordered = arrange(methods)

    def line(moment: str, last: str) -> str:
        names = [_label(m) for m in ordered if overrides(m, moment)]
        return " > ".join([*names, last])

    def listed(moment: str) -> list[str]:
        return [_label(m) for m in ordered if overrides(m, moment)]

    rows = [
        ("step", line("step", "gradients, update")),
        ("gradients", line("gradients", "every micro-batch")),
        ("  forward", line("forward", objective.name)),
        ("  backward", line("backward", "loss.backward()")),
        ("update", " > ".join([*listed("before_update"), "optimizer", *listed("after_update")])),
        ("evaluate", " > ".join([*listed("evaluating"), "model"])),
        ("predict", line("predictor", "evaluated model")),
    ]
    return "\n".join(f"{name:<11} {text}" for name, text in rows)


def _label(method: Method) -> str:
    a, b = method.span
    return method.key if method.span == (0.0, 1.0) else f"{method.key}[{a:g}..{b:g}]"
