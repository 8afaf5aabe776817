"""A prediction averaged over views of the same rows: test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from whet import seeding
from whet.augmenting import fixed
from whet.batch import Batch, join_leaves
from whet.errors import InputError, UnknownName
from whet.objectives.pooling import pooled
from whet.predict.predictor import Predictor, State

Function = Callable[[Any, torch.Generator], Any]


@dataclass(frozen=True)
class Views:
    """Views of the same rows, the rows as they are first.

    Args:
        names: of `whet.augmenting.fixed`, with amounts (`flip`, `shift=0.1`), and of functions. A
            function that stands k times is drawn k times.
        functions: `(inputs, generator) -> inputs` by name; the generator is the same in each call.
        at: which inputs the fixed views change.

    Raises:
        UnknownName, InputError: a name that is none, or a fixed view that stands twice.

    >>> [view.tolist() for view in Views(["flip"])(torch.tensor([[[[1.0, 2.0]]]]))]
    [[[[[1.0, 2.0]]]], [[[[2.0, 1.0]]]]]
    """

    names: Sequence[str]
    functions: Mapping[str, Function] = field(default_factory=dict)
    at: str = "*"

    def __post_init__(self) -> None:
        if len(self.names) > fixed.MOST:
            raise InputError(f"{len(self.names)} views are too many; at most {fixed.MOST} are.")
        for name in self.names:
            if name in self.functions:
                if name.partition("=")[0] in fixed.FIXED:
                    raise InputError(f"whet has a view {name!r}: give the function another name.")
                if not callable(self.functions[name]):
                    raise InputError(f"view {name!r} is no function (inputs, generator) -> inputs.")
            elif name.partition("=")[0] not in fixed.FIXED:
                raise UnknownName("view", name, [*fixed.FIXED, *self.functions])
            elif [*self.names].count(name) > 1:
                raise InputError(f"the view {name!r} stands twice, and would count twice.")
            else:
                fixed.read(name)

    def __call__(self, inputs: Any) -> list[Any]:
        """The inputs as they are, and each view of them.

        Raises:
            InputError: a view has other shapes, other parts or other rows than the inputs.
        """
        found = [inputs]
        for number, name in enumerate(self.names):
            if name in self.functions:
                drawn = [*self.names[:number]].count(name)
                made = self.functions[name](inputs, seeding.generator(0, "view", name, drawn))
                found.append(_alike(name, made, inputs))
            else:
                found += fixed.made(name, inputs, self.at)
        return found

    def moving(self) -> list[str]:
        """Those that move what stands in the inputs to other places."""
        return [name for name in self.names if name not in self.functions]


class Viewed(Predictor):
    """The mean of another's probabilities over views of a batch.

    Args:
        inner: who predicts for each view.
        views: which.
        batched: whether all views go through the model as one batch, in that many times the memory
            of one; otherwise one after another.

    Raises:
        InputError: a view moves what has a target of its own.
    """

    def __init__(self, inner: Predictor, views: Views, *, batched: bool = True) -> None:
        self.inner, self.family, self.views, self.batched = inner, inner.family, views, batched
        moving = views.moving()
        if self.family.name == "tokens" and moving:
            raise InputError(
                f"the view {moving[0]!r} moves what the targets of objective 'tokens' belong to: "
                "the mean would be of answers for other places. Give a function that keeps them."
            )

    def members(self) -> list[State]:
        return self.inner.members()

    def models(self) -> list[Predictor]:
        return self.inner.models()

    def form(self) -> Any:
        about = {"views": [*self.views.names], "at": self.views.at, "batched": self.batched}
        return {**about, "of": self.inner.form()}

    def __call__(self, batch: Batch) -> Tensor:
        return self._asked(self.inner, batch).mean(0)

    def logits(self, batch: Batch) -> Tensor:
        return pooled(self._asked(self.inner.logits, batch), self.family)

    def traced(self, batch: Batch) -> Tensor:
        return self._asked(self.inner.traced, batch).mean(0)

    def traced_logits(self, batch: Batch) -> Tensor:
        return pooled(self._asked(self.inner.traced_logits, batch), self.family)

    def _asked(self, ask: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """The answers `(K, N, ...)` to the batch and its views."""
        views = self.views(batch.inputs)
        if self.batched:
            answers: Tensor = ask(Batch(join_leaves(views)))
            return answers.view(len(views), batch.size, *answers.shape[1:])
        return torch.stack([ask(Batch(one)) for one in views])


def _alike(view: str, made: Any, inputs: Any) -> Any:
    """What a function made, where it has the shapes of the inputs."""
    told = _shapes(made)
    if told != (wanted := _shapes(inputs)):
        raise InputError(
            f"view {view!r} gave {told} for {wanted}. A view changes the inputs alone: it keeps "
            "rows, shapes and kinds of numbers, and gives no targets; what changes targets "
            "(mixing, a mirrored digit) is no view."
        )
    return made


def _shapes(nest: Any) -> Any:
    if isinstance(nest, Tensor):
        return f"{str(nest.dtype).removeprefix('torch.')} {tuple(nest.shape)}"
    if isinstance(nest, Mapping):
        return {key: _shapes(part) for key, part in nest.items()}
    if isinstance(nest, list | tuple):
        return [_shapes(part) for part in nest]
    return type(nest).__name__
