"""Margin heads: the last layer gives `s cos(theta)`, and learning makes the target's harder.

In training and in evaluation the layer is a cosine head (`whet.cosine`). The margin is in the loss
alone: it moves the target's logit of the loss, and what the model gives, which divergences,
teachers and pseudo-labels go by, stays what is judged. A soft target of the data has the margin in
its shares: a class that a row is by half has half of its margin,

    z_c = s (cos_c + y_c (harder(cos_c) - cos_c))

which for y in {0, 1} is the paper's, and moves with y without a jump. What makes targets soft for
the loss's sake (mixing, smoothing) is refused: with cross-entropy the loss at the mean of targets
is the mean of losses; with a margin it is another one, and neither paper says which is meant.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import ClassVar

import torch
from torch import Tensor, nn

from whet import cosine, members, modes
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward, Window
from whet.members import Members
from whet.method import InnerForward, InnerWindow, Layer, Method, Resource
from whet.training import Training

NEAR = 1e-7  # arccos has no finite slope at 1, and rounding carries cosines beyond it


def angles(cosines: Tensor) -> Tensor:
    """Angles in radians; the slope is finite everywhere, and 0 beyond the ends.

    >>> angles(torch.tensor([0.0]))
    tensor([1.5708])
    """
    return cosines.clamp(NEAR - 1.0, 1.0 - NEAR).acos()


def with_margin(cosines: Tensor, targets: Tensor, harder: Callable[[Tensor], Tensor]) -> Tensor:
    """The cosines `(..., C)` with those of the targets made harder.

    Args:
        cosines: of every class; `(K, ..., C)` of K members.
        targets: classes `(...)`, or probabilities `(..., C)`, which have the margin in their share.
        harder: from cosines to what is learned in their place.

    >>> with_margin(torch.tensor([[0.5, 0.25]]), torch.tensor([0]), lambda c: c - 0.5)
    tensor([[0.0000, 0.2500]])
    """
    if targets.is_floating_point():
        return torch.lerp(cosines, harder(cosines), targets.to(cosines))
    at = targets.long().clamp(min=0)[..., None]  # -100 is masked
    at = at.expand(*cosines.shape[:-1], 1)
    return cosines.scatter(-1, at, harder(cosines.gather(-1, at)))


class MarginHead(Method):
    """What the margin heads share: which layer is the head, and where the margin acts.

    Of a model that ends in `Members` each member has its head, and learns with the margin; their
    joint answer is made of what they give with it.
    """

    scale: float
    at: str | None

    layer: ClassVar[Layer] = Layer.OBJECTIVE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS, Resource.LAST_LAYER})
    neutral: ClassVar[str] = "it makes the last layer a cosine head, also without a margin"

    def __post_init__(self) -> None:
        self._heads: tuple[str, ...] = ()
        self._group: tuple[str, Members] | None = None
        self._agrees = False

    @abstractmethod
    def harder(self, run: Training, cosines: Tensor) -> Tensor:
        """What is learned in place of a target's cosine."""

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "tokens"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no one class to which an angle could be kept "
                "small. Leave it out, or use objective 'categorical' or 'tokens'."
            )  # fmt: skip
        self._agrees = False
        head = self._found(run)
        self._group, self._heads = _of_members(run.module, head)
        for name in self._heads:
            cosine.make_ready(run.module.get_submodule(name))
        if self._group is not None:
            members.prepare(self._group[1])

    def gradients(self, run: Training, window: Window, inner: InnerWindow) -> None:
        """Whoever asks the model, before its forward too (attacks, teachers), meets the head."""
        with self._standing(run):
            inner(window)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        forward, outputs_K = self._heard(run, batch, inner)
        targets = forward.batch.targets
        if targets is None:
            return forward

        def move(output: Tensor) -> Tensor:
            cosines = modes.wide(output) / self.scale
            return self.scale * with_margin(cosines, targets, lambda c: self.harder(run, c))

        if self._group is None:
            return run.objective.moved(forward, move)
        _, group = self._group
        return run.objective.moved(forward, move, group.joint.forward(move(outputs_K)))

    def evaluating(self, run: Training) -> AbstractContextManager[None]:
        return self._standing(run)

    def _standing(self, run: Training) -> AbstractContextManager[None]:
        return cosine.applied(run.module, dict.fromkeys(self._heads, self.scale))

    # the layer -------------------------------------------------------------------------------
    def _found(self, run: Training) -> str:
        """The name of the layer `at`, or of the last linear one with an output for each class."""
        linear = _linear(run.module)
        if self.at is not None:
            if self.at not in linear:
                raise InputError(
                    f"{self.key}: the model has no linear layer at={self.at!r}; it has "
                    f"{_listed(linear)}. Name the one that gives the logits."
                )
            return self.at
        width = self._width(run) if linear else None
        fit = [name for name, one in linear.items() if width in (None, one.out_features)]
        if not fit:
            each = "each class" if width is None else f"each of its {width} classes"
            raise NotApplicable(
                self.key, f"the model has no nn.Linear with an output for {each}; it has "
                f"{_listed(linear)}. Name with at= the one that gives the logits."
            )  # fmt: skip
        return fit[-1]

    def _width(self, run: Training) -> int | None:
        """The number of classes; None where it costs more than a batch to know it now."""
        loader = None if run.train is None else run.train(self.key)
        if getattr(loader, "rows", None) is None:
            return None
        return run.objective.width(run, next(run.data(self.key)))

    def _heard(
        self, run: Training, batch: Batch, inner: InnerForward
    ) -> tuple[Forward, Tensor]:  # fmt: skip
        """The forward, and what each of the heads gave, `(K, N, ...)`."""
        with ExitStack() as stack:
            seen = [] if self._agrees else [
                stack.enter_context(cosine.watched(run.module.get_submodule(name)))
                for name in self._heads
            ]  # fmt: skip
            name, heard = self._group and self._group[0], []
            if name is not None:
                heard = stack.enter_context(members.hearing(run.module, name))
            forward = inner(batch)
        outputs_K = forward.output[None]
        if name is not None:
            outputs_K = members.outputs(heard, forward.output, self.key)
        for given, output in zip(seen, outputs_K, strict=not self._agrees):
            self._check(run, given, output.detach())
        self._agrees = True
        return forward, outputs_K

    def _check(self, run: Training, given: list[Tensor], output: Tensor) -> None:
        """The first forward shows whether the layer's output is what the model returns."""
        if not any(one.shape == output.shape and torch.equal(one.to(output), output)
                   for one in given):  # fmt: skip
            raise InputError(
                f"{self.key}: what the model returns, {tuple(output.shape)}, is not what its layer "
                f"{self._heads[-1]!r} gives. Name with at= the layer whose output are the logits; "
                f"there are {_listed(_linear(run.module))}."
            )


def _of_members(model: nn.Module, head: str) -> tuple[tuple[str, Members] | None, tuple[str, ...]]:
    """The members that a layer is of, if it is, and the layers of that name in all of them."""
    for name, group in model.named_modules():
        inside = f"{name}.members." if name else "members."
        if isinstance(group, Members) and head.startswith(inside):
            _, _, rest = head.removeprefix(inside).partition(".")
            each = (f"{inside}{at}.{rest}".rstrip(".") for at in range(len(group.members)))
            return (name, group), tuple(each)
    return None, (head,)


def _linear(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}


def _listed(linear: dict[str, nn.Linear]) -> str:
    told = [f"{name or '(the model itself)'} ({one.out_features})" for name, one in linear.items()]
    return ", ".join(told[-20:]) or "no linear layer"


# what the papers make of a target's cosine --------------------------------------------------------
def additive_cosine(cosines: Tensor, margin: float) -> Tensor:
    """`cos(theta) - m` (CosFace)."""
    return cosines - margin


def additive_angle(cosines: Tensor, margin: float) -> Tensor:
    """`cos(theta + m)` (ArcFace), and `cos(theta) - m sin(m)` where that would turn up again.

    >>> additive_angle(torch.tensor([0.0, -1.0]), math.pi / 6)
    tensor([-0.5000, -1.2618])
    """
    theta = angles(cosines)
    over = cosines - margin * math.sin(margin)
    return torch.where(theta + margin <= math.pi, (theta + margin).cos(), over)


def multiplied_angle(cosines: Tensor, times: int, blend: float = 0.0) -> Tensor:
    """`(l cos(theta) + psi(theta)) / (1 + l)`, with `psi = (-1)^k cos(m theta) - 2 k` (SphereFace).

    cos(m theta) is Chebyshev's polynomial of the cosine, whose slope is finite everywhere.

    >>> multiplied_angle(torch.tensor([1.0, 0.5, -1.0]), times=4)
    tensor([ 1.0000, -1.5000, -7.0000])
    """
    before, now = torch.ones_like(cosines), cosines
    for _ in range(times - 1):
        before, now = now, 2.0 * cosines * now - before
    with torch.no_grad():  # which arc of length pi/m: a step, without a slope of its own
        k = (cosines.clamp(-1.0, 1.0).acos() * (times / math.pi)).floor().clamp(max=times - 1)
    psi = (1.0 - 2.0 * (k % 2)) * now - 2.0 * k
    return (blend * cosines + psi) / (1.0 + blend)
