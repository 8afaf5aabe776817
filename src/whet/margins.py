"""Margin heads: the last layer gives `s cos(theta)`, and learning makes the target's harder.

In training and in evaluation the layer is a cosine head (`whet.cosine`). The margin is in the loss
alone: it moves the target's logit of the loss, and what the model gives, which divergences,
teachers and pseudo-labels go by, stays what is judged. A soft target has the margin in its shares:
a class that a row is by half has half of its margin,

    z_c = s (cos_c + y_c (harder(cos_c) - cos_c))

which for y in {0, 1} is the paper's, and moves with y without a jump.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import ClassVar

import torch
from torch import Tensor, nn

from whet import cosine
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, Resource
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
        cosines: of every class.
        targets: classes `(...)`, or probabilities `(..., C)`, which have the margin in their share.
        harder: from cosines to what is learned in their place.

    >>> with_margin(torch.tensor([[0.5, 0.25]]), torch.tensor([0]), lambda c: c - 0.5)
    tensor([[0.0000, 0.2500]])
    """
    if targets.is_floating_point():
        return torch.lerp(cosines, harder(cosines), targets.to(cosines))
    at = targets.long().clamp(min=0)[..., None]  # -100 is masked
    return cosines.scatter(-1, at, harder(cosines.gather(-1, at)))


class MarginHead(Method):
    """What the margin heads share: which layer is the head, and where the margin acts."""

    scale: float
    at: str | None

    layer: ClassVar[Layer] = Layer.OBJECTIVE
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.LAST_LAYER})
    neutral: ClassVar[str] = "it makes the last layer a cosine head, also without a margin"

    def __post_init__(self) -> None:
        self._head, self._agrees = "", False

    @abstractmethod
    def harder(self, run: Training, cosines: Tensor) -> Tensor:
        """What is learned in place of a target's cosine."""

    def build(self, run: Training) -> None:
        kind = run.objective.family.name
        if kind not in ("categorical", "tokens"):
            raise NotApplicable(
                self.key, f"objective '{kind}' has no one class to which an angle could be kept "
                "small. Leave it out, or use objective 'categorical' or 'tokens'."
            )  # fmt: skip
        self._head = self._found(run)
        self._agrees = False
        cosine.make_ready(run.module.get_submodule(self._head))

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        run.hold(self, self._standing(run))
        forward = inner(batch) if self._agrees else self._first(run, batch, inner)
        if forward.batch.targets is None:
            return forward

        def harder(cosines: Tensor) -> Tensor:
            return self.harder(run, cosines)

        cosines = forward.output.float() if _half(forward.output) else forward.output
        moved = with_margin(cosines / self.scale, forward.batch.targets, harder)
        return run.objective.moved(forward, self.scale * moved)

    def evaluating(self, run: Training) -> AbstractContextManager[None]:
        return self._standing(run)

    def _standing(self, run: Training) -> AbstractContextManager[None]:
        return cosine.applied(run.module, {self._head: self.scale})

    # the layer -------------------------------------------------------------------------------
    def _found(self, run: Training) -> str:
        """The name of the layer `at`, or of the last linear one with an output for each class."""
        linear = {
            name: module for name, module in run.module.named_modules()
            if isinstance(module, nn.Linear)
        }  # fmt: skip
        if self.at is not None:
            if self.at not in linear:
                raise InputError(
                    f"{self.key}: the model has no linear layer at={self.at!r}; it has "
                    f"{_listed(linear)}. Name the one that gives the logits."
                )
            return str(self.at)
        width = self._width(run) if linear else None
        fit: list[str] = [name for name, one in linear.items() if width in (None, one.out_features)]
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

    def _first(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        """The first forward shows whether the layer's output is what the model returns."""
        with cosine.watched(run.module.get_submodule(self._head)) as seen:
            forward = inner(batch)
        output = forward.output.detach()
        if not any(one.shape == output.shape and torch.equal(one.to(output), output)
                   for one in seen):  # fmt: skip
            linear = {n: m for n, m in run.module.named_modules() if isinstance(m, nn.Linear)}
            raise InputError(
                f"{self.key}: what the model returns, {tuple(output.shape)}, is not what its layer "
                f"{self._head!r} gives. Name with at= the layer whose output are the logits; there "
                f"are {_listed(linear)}."
            )
        self._agrees = True
        return forward


def _half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.float16, torch.bfloat16)


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
