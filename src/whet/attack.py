"""What attacks share: the ball a point may move in, and a pass that leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from whet import mixing, modes, seeding
from whet.batch import Batch
from whet.embedding import Call, Start
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.training import Training

SLACK = 0.01  # of the range: so far beyond it the inputs of another scaling would not stay
PGD = (0.25,) * 5  # steps in units of epsilon, by which the code of arXiv:2001.03994 watches


class CatastrophicOverfitting(UserWarning):
    """The model resists the attack it is trained with and no longer a stronger one."""


class Attacker(Protocol):
    """What an error says of a method: its name, and what it moves."""

    @property
    def key(self) -> str: ...
    @property
    def scope(self) -> str: ...
    @property
    def at(self) -> str: ...


@contextmanager
def attack_pass(model: nn.Module) -> Iterator[None]:
    """A pass that moves no batch statistics and after which dropout draws the same masks."""
    with modes.still_statistics(model), seeding.borrowed(), torch.enable_grad():
        yield


def noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Uniform in [-1, 1], drawn on the CPU: the same on every device."""
    drawn = torch.rand(like.shape, generator=generator)
    return drawn.mul_(2.0).sub_(1.0).to(like)


@dataclass(frozen=True, slots=True, eq=False)
class Ball:
    """Where a point may go: `radius` around each number of `centre`, and the valid range.

    >>> ball = Ball(torch.tensor([0.5, 0.9]), torch.tensor(0.2), high=torch.tensor(1.0))
    >>> ball.climbed(ball.centre, torch.tensor([-3.0, 7.0]), size=1.0)
    tensor([0.3000, 1.0000])
    """

    centre: Tensor
    radius: Tensor
    low: Tensor | None = None
    high: Tensor | None = None

    def inside(self, point: Tensor) -> Tensor:
        """The nearest point of the ball, clipped to the valid range."""
        near = self.centre + (point - self.centre).clamp(-self.radius, self.radius)
        return near if self.low is None and self.high is None else near.clamp(self.low, self.high)

    def at(self, noise: Tensor) -> Tensor:
        """The point that noise in [-1, 1] stands for."""
        return self.inside(self.centre + self.radius * noise)

    def climbed(self, point: Tensor, slope: Tensor | None, size: float) -> Tensor:
        """A step of `size` radii along the gradient's sign; none where it is NaN or infinite."""
        if slope is None:
            return point
        sign = slope.sign().masked_fill_(~slope.isfinite(), 0.0)
        return self.inside(point + size * self.radius * sign)


def balls(
    who: str, batch: Batch, at: str, epsilon: float, std: Any = None, valid_range: Any = None
) -> dict[str, Ball]:
    """A ball around each floating input that `at` names; of radius 0 in rows without a target.

    Args:
        who: the method, for errors.
        batch: whose inputs are meant.
        at: `*` for every floating input, or a name, glob or position.
        epsilon: the radius, in the units of `std`.
        std: what the inputs were divided by: a number, or one for each channel (dim 1).
        valid_range: `(low, high)`, numbers or one for each channel; or a mapping from names.
    """
    _, chosen = mixing.chosen(who, batch.inputs, at)
    floating = {name: leaf for name, leaf in chosen.items() if leaf.is_floating_point()}
    if not floating:
        raise InputError(
            f"{who}: none of the inputs that at={at!r} matches is floating; numbers that stand for "
            "things cannot be moved. Use scope='embeddings', which moves what embeddings return."
        )
    found = {}
    for name, leaf in floating.items():
        radius = leaf.new_tensor(epsilon)
        if std is not None:
            radius = radius / _along_channels(who, "std", std, name, leaf)
        if batch.mask is not None:
            radius = radius * batch.mask.view(-1, *[1] * (leaf.ndim - 1))
        found[name] = Ball(leaf.detach(), radius, *_ends(who, valid_range, name, leaf))
    return found


def moved(batch: Batch, points: Mapping[str, Tensor]) -> Batch:
    """The batch with these points in place of its inputs; rows without a target keep theirs."""

    def change(name: str, leaf: Tensor) -> Tensor:
        if name not in points or batch.mask is None:
            return points.get(name, leaf)
        return torch.where(batch.mask.view(-1, *[1] * (leaf.ndim - 1)), points[name], leaf)

    return batch.replace(inputs=mixing.map_named(change, batch.inputs))


def started(around: Mapping[str, Ball], size: float, key: int) -> dict[str, Tensor]:
    """A random point of each ball, at most `size` radii away from its centre."""
    return {
        name: ball.at(size * noise(ball.centre, seeding.generator(key, name)))
        for name, ball in around.items()
    }


def climbed(
    who: Attacker, loss: Callable[[Batch], Tensor], batch: Batch,
    around: Mapping[str, Ball], points: Mapping[str, Tensor], size: float,
) -> dict[str, Tensor]:  # fmt: skip
    """The points after one step of `size` radii up the loss of the batch that holds them."""
    leaves = {name: point.detach().requires_grad_() for name, point in points.items()}
    # a copy: a model may change its inputs in place, which a leaf does not allow
    given = moved(batch, {name: leaf.clone() for name, leaf in leaves.items()})
    found = slopes(who, loss(given), [*leaves.values()])
    pairs = zip(leaves.items(), found, strict=True)
    return {name: around[name].climbed(leaf.detach(), slope, size) for (name, leaf), slope in pairs}


def slopes(who: Attacker, loss: Tensor, leaves: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Gradients of a loss; no `.grad` is touched.

    Raises:
        NotApplicable: it depends on none of the leaves, or goes through reentrant checkpoints.
    """
    found: Sequence[Tensor | None] = ()
    if loss.requires_grad and leaves:
        try:
            found = torch.autograd.grad(loss, leaves, allow_unused=True)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise NotApplicable(
                who.key, "the model checkpoints its activations in the older way, which has no "
                "gradient of an input by itself: call checkpoint(..., use_reentrant=False)."
            ) from error  # fmt: skip
    if all(slope is None for slope in found):
        raise NotApplicable(
            who.key, f"the loss does not depend on the {who.scope} that at={who.at!r} names: the "
            "model does not use them, or detaches them. Name others."
        )  # fmt: skip
    return found


def plain(run: Training, batch: Batch) -> Forward:
    """The objective's own forward, without the methods around it.

    The module itself is called: Fabric's wrapper around it lets nobody but Fabric's own backward
    through, and an attack asks for gradients of its inputs.
    """

    def innermost(batch: Batch) -> Forward:
        raise AssertionError("the objective asks nobody")

    # not through a wrapper for devices: that would refuse a gradient which is none of the update's
    wrapped, run.model = run.model, run.module
    try:
        with run.autocast():
            return run.objective.forward(run, batch, innermost)
    finally:
        run.model = wrapped


def starting(epsilon: float, size: float, key: int, rows: Tensor | None) -> Start:
    """Random deltas for a `Shift`, at most `size` times epsilon."""

    def start(call: Call, at: int) -> Tensor:
        drawn = noise(call.delta, seeding.generator(key, at))
        return around(call, epsilon, rows).at(size * drawn)

    return start


def around(call: Call, epsilon: float, rows: Tensor | None) -> Ball:
    """The ball of what an embedding's output is shifted by; padding and rows left out stay."""
    radius = call.mask.unsqueeze(-1) * call.delta.detach().new_tensor(epsilon)
    if rows is not None and len(rows) == len(radius):
        radius = radius * rows.view(-1, *[1] * (radius.ndim - 1))
    return Ball(torch.zeros_like(call.delta), radius)


def accuracy(forward: Forward, kind: str) -> float:
    """Share of items (multi-label: of labels) that are right; NaN where there is none."""
    output, targets = forward.output, forward.batch.targets
    assert targets is not None
    if kind == "multi-label":
        right = (output > 0) == (targets > 0.5)
    else:
        soft = targets.is_floating_point()
        right = output.argmax(-1) == (targets.argmax(-1) if soft else targets)
    kept = right if forward.mask is None else right[forward.mask]
    return float(kept.float().mean().item())


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
