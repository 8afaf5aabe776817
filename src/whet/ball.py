"""The ball that an attack keeps a point in, around each number or around each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from whet import mixing, modes
from whet.batch import Batch
from whet.embedding import sized
from whet.errors import InputError, NotApplicable

SLACK = 0.01  # of the range: so far beyond it the inputs of another scaling would not stay


def noise(
    like: Tensor, generator: torch.Generator | None, norm: str = "linf", *, rim: bool = False
) -> Tensor:
    """A random point of the ball of radius 1, drawn on the CPU: the same on every device.

    Args:
        like: whose shape, dtype and device it has.
        generator: torch's default one where it is None.
        norm: `linf`: uniform in [-1, 1]; `l2`: each row a random direction of uniform length.
        rim: l2 rows of length 1.
    """
    if norm == "linf":
        drawn = torch.rand(like.shape, generator=generator)
        return drawn.mul_(2.0).sub_(1.0).to(like)
    rows = torch.randn(like.shape, generator=generator).reshape(len(like), -1)
    rows = sized(rows, 1.0, each=True)
    if not rim:
        rows = rows * torch.rand((len(like), 1), generator=generator)
    return rows.view(like.shape).to(like)


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """Where a point may go: `radius` around `centre`, and the valid range.

    The norm is `linf`, of each number by itself, or `l2`, of each row. A radius for each channel
    scales its axis: steps and distances are measured in radii.

    >>> ball = Ball(torch.tensor([0.5, 0.9]), torch.tensor(0.2), high=torch.tensor(1.0))
    >>> ball.climbed(ball.centre, torch.tensor([-3.0, 7.0]), size=1.0)
    tensor([0.3000, 1.0000])
    >>> ball = Ball(torch.zeros(1, 2), torch.tensor(5.0), norm="l2")
    >>> ball.inside(torch.tensor([[30.0, 40.0]]))
    tensor([[3., 4.]])
    """

    centre: Tensor
    radius: float | Tensor
    low: Tensor | None = None
    high: Tensor | None = None
    norm: str = "linf"

    @classmethod
    def around(
        cls, x: Tensor, epsilon: float, low: float | None, high: float | None, norm: str = "linf"
    ) -> Self:
        """The ball around inputs, of numbers."""
        lowest, highest = (None if end is None else x.new_tensor(end) for end in (low, high))
        return cls(x.detach(), epsilon, lowest, highest, norm)

    def inside(self, point: Tensor) -> Tensor:
        """The nearest point of the ball, clipped to the valid range."""
        return self._inside(point - self.centre)

    def _inside(self, far: Tensor) -> Tensor:
        """The nearest point to the one that lies so far from the centre; `far` is used up."""
        near = self._shortened(far) if self.norm == "l2" else boxed(far, self.radius)
        return self.valid(near.add_(self.centre))

    def valid(self, point: Tensor) -> Tensor:
        """The point clipped to the valid range."""
        if self.low is None and self.high is None:
            return point
        return point.clamp(self.low, self.high)

    def _shortened(self, far: Tensor) -> Tensor:
        radius = torch.as_tensor(self.radius, dtype=far.dtype, device=far.device)
        some = radius > 0  # none in rows that stay
        radii = torch.where(some, modes.wide(far) / radius, 0.0)
        length = torch.linalg.vector_norm(_rows(radii), dim=1).view(-1, *[1] * (far.ndim - 1))
        return torch.where(some, far * (1.0 / length).clamp(max=1.0), 0.0).to(far.dtype)

    def at(self, noise: Tensor) -> Tensor:
        """The point that noise of radius 1 stands for."""
        return self.inside(self.centre + self.radius * noise)

    def drawn(self, size: float, generator: torch.Generator | None) -> Tensor:
        """A random point, at most `size` radii away from the centre."""
        return self.at(size * noise(self.centre, generator, self.norm))

    def climbed(self, point: Tensor, slope: Tensor | None, size: float) -> Tensor:
        """A step of `size` radii, along the gradient's sign or, in l2, up each row's gradient.

        There is none for a number, in l2 for a row, whose gradient is NaN or infinite.
        """
        if slope is None:
            return point
        if self.norm == "l2":
            steep = _rows(modes.wide(slope) * self.radius)
            step = sized(steep, size, each=True).view(slope.shape).to(slope.dtype)
            return self.inside(point + self.radius * step)
        step = signs(slope).mul_(size * self.radius)
        return self._inside(step.add_(point).sub_(self.centre))


def signs(slope: Tensor, out: Tensor | None = None) -> Tensor:
    """The sign of each number, 0 where it is NaN or infinite; in `out`, if there is one."""
    return torch.nan_to_num(slope, 0.0, 0.0, 0.0, out=out).sign_()


def boxed(far: Tensor, radius: float | Tensor) -> Tensor:
    """Each number kept within ±radius, in place."""
    if not isinstance(radius, Tensor):
        return far.clamp_(-radius, radius)
    # on a CPU `clamp_` takes four times as long with a tensor
    return torch.maximum(torch.minimum(far, radius, out=far), -radius, out=far)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(len(tensor), -1)


def balls(
    who: str, batch: Batch, at: str, epsilon: float, std: Any = None, valid_range: Any = None,
    norm: str = "linf",
) -> dict[str, Ball]:  # fmt: skip
    """A ball around each floating input that `at` names; of radius 0 in rows without a target.

    Args:
        who: the method, for errors.
        batch: whose inputs are meant.
        at: `*` for every floating input, or a name, glob or position.
        epsilon: the radius, in the units of `std`.
        std: what the inputs were divided by: a number, or one for each channel (dim 1).
        valid_range: `(low, high)`, numbers or one for each channel; or a mapping from names.
        norm: of the ball.
    """
    _, chosen = mixing.chosen(who, batch.inputs, at)
    floating = {name: leaf for name, leaf in chosen.items() if leaf.is_floating_point()}
    if not floating:
        raise NotApplicable(
            who, f"none of the inputs that at={at!r} matches is floating; numbers that stand for "
            "things cannot be moved. What embeddings return can: by fgm, pgd, or fast_fgsm with "
            "scope='embeddings'.",
        )  # fmt: skip
    found = {}
    for name, leaf in floating.items():
        radius: float | Tensor = epsilon  # quicker than a tensor of one number
        if std is not None:
            radius = leaf.new_tensor(epsilon) / _along_channels(who, "std", std, name, leaf)
        if batch.mask is not None:
            radius = radius * batch.mask.view(-1, *[1] * (leaf.ndim - 1)).to(leaf.dtype)
        found[name] = Ball(leaf.detach(), radius, *_ends(who, valid_range, name, leaf), norm)
    return found


def check_range(who: str, found: Mapping[str, Ball]) -> None:
    """Refuse a valid range that the inputs themselves leave: they were scaled otherwise."""
    for name, ball in found.items():
        if ball.low is None or ball.high is None:
            continue
        slack = SLACK * (ball.high - ball.low)
        x = ball.centre
        if bool(((x < ball.low - slack) | (x > ball.high + slack)).any()):
            what = f"input {name!r}" if name else "the input"
            raise InputError(
                f"{who}: {what} goes from {x.min().item():g} to {x.max().item():g}, outside of the "
                f"valid_range {ball.low.min().item():g} to {ball.high.max().item():g}. Give the "
                "range as the model sees the input: ((0 - mean) / std, (1 - mean) / std)."
            )


def _ends(who: str, given: Any, name: str, leaf: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if isinstance(given, Mapping):
        given = given.get(name)
    if given is None:
        return None, None
    if not isinstance(given, Sequence | Tensor) or len(given) != 2:
        raise InputError(f"{who}: valid_range is {given!r}; it is a pair (low, high).")
    low, high = (_along_channels(who, "valid_range", end, name, leaf) for end in given)
    return low, high


def _along_channels(who: str, what: str, value: Any, name: str, leaf: Tensor) -> Tensor:
    """A number, or one for each channel, in the shape that goes with an input `(N, C, ...)`."""
    found = torch.as_tensor(value, dtype=leaf.dtype, device=leaf.device)
    if found.ndim == 0:
        return found
    if found.ndim > 1 and found.ndim <= leaf.ndim:
        return found  # as the user shaped it
    if leaf.ndim < 2 or found.shape[0] not in (1, leaf.shape[1]):
        raise InputError(
            f"{who}: {what} has shape {tuple(found.shape)} and input {name!r} "
            f"{tuple(leaf.shape)}; give a number, or one for each channel (dim 1)."
        )
    return found.view(1, -1, *[1] * (leaf.ndim - 2))
