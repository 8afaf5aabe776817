"""What attacks share: steps up a loss, a pass that leaves no trace, and two passes in shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from whet import ball, mixing, modes, seeding
from whet.ball import Ball, noise
from whet.batch import Batch
from whet.embedding import Call, Shift, Start
from whet.errors import NotApplicable
from whet.forward import Forward
from whet.method import InnerBackward
from whet.training import Training

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


class InputAttacker(Protocol):
    """A method that moves inputs within a ball."""

    @property
    def key(self) -> str: ...
    @property
    def at(self) -> str: ...
    @property
    def epsilon(self) -> float: ...
    @property
    def std(self) -> float | tuple[float, ...] | None: ...


class Inputs:
    """The floating inputs of a run's batches, each with the ball that it may move in."""

    def __init__(self) -> None:
        self._looked = False

    def balls(
        self, who: InputAttacker, run: Training, batch: Batch, norm: str = "linf"
    ) -> dict[str, Ball]:
        """By name; whether the first batch lies in the valid range is looked at."""
        ends = run.resources.get("valid_range")
        found = ball.balls(who.key, batch, who.at, who.epsilon, who.std, ends, norm)
        if not self._looked:  # once: an accelerator is waited for
            ball.check_range(who.key, found)
            self._looked = True
        return found


@contextmanager
def attack_pass(model: nn.Module) -> Iterator[None]:
    """A pass that moves no batch statistics and after which dropout draws the same masks."""
    with modes.still_statistics(model), seeding.borrowed(), torch.enable_grad():
        yield


def moved(batch: Batch, points: Mapping[str, Tensor]) -> Batch:
    """The batch with these points in place of its inputs; rows without a target keep theirs."""

    def change(name: str, leaf: Tensor) -> Tensor:
        if name not in points or batch.mask is None:
            return points.get(name, leaf)
        return torch.where(batch.mask.view(-1, *[1] * (leaf.ndim - 1)), points[name], leaf)

    return batch.replace(inputs=mixing.map_named(change, batch.inputs))


def started(around: Mapping[str, Ball], size: float, key: int) -> dict[str, Tensor]:
    """A random point of each ball, at most `size` radii away from its centre."""
    return {name: ball.drawn(size, seeding.generator(key, name)) for name, ball in around.items()}


def worst(
    loss: Callable[[Tensor], Tensor], ball: Ball, sizes: Sequence[float], init: float,
    generator: torch.Generator | None,
) -> Tensor:  # fmt: skip
    """The point of one ball after steps of `sizes` radii from a random start; torch alone."""
    point = ball.drawn(init, generator)
    for size in sizes:
        point.requires_grad_()
        with seeding.borrowed():  # each step climbs the network with the next pass's dropout
            [gradient] = torch.autograd.grad(loss(point), point)
        point = ball.climbed(point.detach(), gradient, size)
    return point


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
    if not leaves:  # of embeddings, in a batch that calls none
        return ()
    found: Sequence[Tensor | None] = ()
    if loss.requires_grad:
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


def called(who: Attacker, run: Training, shift: Shift | None) -> bool:
    """Whether the pass up the loss had something to move: inputs (None), or an embedding's call.

    Raises:
        NotApplicable: it had nothing, and the weights are sharded: that pass has no backward, which
            the other processes wait for.
    """
    if shift is None or shift.calls:
        return True
    if run.world.sharded:
        raise NotApplicable(
            who.key, "a batch calls no embedding, and where weights are sharded all processes must "
            "make the same passes. Give every batch words, or train with strategy='ddp'."
        )  # fmt: skip
    return False


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


class Blend:
    """A share of the loss on a moved batch, and the rest on the batch as it is.

    A batch without targets is never moved. In a blend the first pass is over the batch as it is,
    and it alone moves batch statistics.
    """

    def __init__(self) -> None:
        self._second = False

    def moves(self, batch: Batch, share: float) -> bool:
        """Whether the pass that begins is over the moved batch."""
        return share > 0.0 and batch.targets is not None and (share == 1.0 or self._second)

    def backward(
        self, run: Training, forward: Forward, inner: InnerBackward, share: float
    ) -> None:  # fmt: skip
        """All passes, of which the first has been forwarded."""
        if share in (0.0, 1.0) or forward.batch.targets is None:
            inner(forward)
            return
        inner(forward.replace(scale=forward.scale * (1.0 - share)))
        self._second = True
        try:
            with modes.still_statistics(run.module):
                again = run.again()
                inner(again.replace(scale=again.scale * share))
        finally:
            self._second = False


def check_loss(who: str, run: Training) -> None:
    """Refuse objectives that have no loss of their own, before training.

    Raises:
        NotApplicable: the objective's loss is a method's.
    """
    if run.objective.family.name == "embedding":
        raise NotApplicable(who, "a contrastive objective has no loss of its own.")


def unclipped(run: Training) -> list[str]:
    """What is to be said where inputs have no valid range."""
    told = "no resource valid_range: x + delta is not clipped"
    return [] if "valid_range" in run.resources else [told]


def starting(epsilon: float, size: float, key: int, rows: Tensor | None) -> Start:
    """Random deltas for a `Shift`, at most `size` times epsilon."""

    def start(call: Call, at: int) -> Tensor:
        drawn = noise(call.delta, seeding.generator(key, at))
        return around(call, epsilon, rows).at(size * drawn)

    return start


def around(call: Call, epsilon: float, rows: Tensor | None, norm: str = "linf") -> Ball:
    """The ball of what an embedding's output is shifted by; padding and rows left out stay."""
    radius = call.mask.unsqueeze(-1) * call.delta.detach().new_tensor(epsilon)
    if rows is not None and len(rows) == len(radius):
        radius = radius * rows.view(-1, *[1] * (radius.ndim - 1))
    return Ball(torch.zeros_like(call.delta), radius, norm=norm)


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
