"""Batch statistics: what batch normalisation should know of the data, under the weights of now.

The running averages of batch normalisation mix statistics of many past weights. What evaluation
wants are mean and variance of each layer's input over the data, under the weights of now. Per
channel, a set of n values with mean m and M = sum (x - m)^2 is merged with another by

    n = n_a + n_b,  d = m_b - m_a,  m = m_a + d n_b / n,  M = M_a + M_b + d^2 n_a n_b / n

(Chan, Golub & LeVeque 1979) in float64, so batches of any size weigh as they should and nothing
is subtracted from something nearly equal. While the passes are made, each layer normalises by its
batch, as in training; layers behind it then see what they were trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from whet import compiling, modes, seeding
from whet.errors import InputError
from whet.world import World

Statistics = dict[str, tuple[Tensor, Tensor]]


class PooledMoments:
    """Mean and population variance per channel of all values seen, merged in float64.

    >>> moments = PooledMoments()
    >>> moments.update(torch.tensor([[1.0], [2.0]]))
    >>> moments.update(torch.tensor([[6.0]]))
    >>> moments.mean.item(), round(moments.variance.item(), 4)
    (3.0, 4.6667)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros(())
        self._squares: Tensor = torch.zeros(())

    @torch.no_grad()
    def update(self, values: Tensor) -> None:
        """Take in `(N, C, ...)` values."""
        flat = values.detach().transpose(0, 1).flatten(1).double()
        count, mean = flat.shape[1], flat.mean(1)
        self.merge(count, mean, (flat - mean[:, None]).square().sum(1))

    def merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Take in so many values of this mean, with this sum of squared distances from it."""
        if count == 0:
            return
        if self.count == 0:
            self.count, self.mean, self._squares = count, mean, squares
            return
        total, delta = self.count + count, mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self._squares = self._squares + squares + delta.square() * (self.count * count / total)
        self.count = total

    def pooled(self, world: World, channels: int) -> PooledMoments:
        """Of the values that all processes have seen."""
        here = torch.zeros(1 + 2 * channels, dtype=torch.float64, device=self.mean.device)
        if self.count:
            here = torch.cat([here.new_tensor([self.count]), self.mean, self._squares])
        whole = PooledMoments()
        for one in world.each(here):
            whole.merge(int(one[0]), one[1 : 1 + channels], one[1 + channels :])
        return whole

    @property
    def variance(self) -> Tensor:
        """Population variance: divided by n, as it is the data's own and no estimate of it."""
        return self._squares / self.count


def precise_statistics(
    model: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None = None,
    norms: Mapping[str, _BatchNorm] | None = None,
    world: World | None = None,
) -> Statistics:
    """Mean and variance of the input of every batch normalisation, by name.

    Args:
        model: its weights, modes, buffers and the random generators stay as they are.
        batches: what the model is called on, one after another.
        forward: from a batch to an output; the model itself by default.
        norms: the layers; those in training mode by default, or all where the model is judged
            (in evaluation mode as a whole).
        world: processes that each have a share of the data.

    Layers that the model does not call in evaluation mode (auxiliary heads) have no entry.

    Raises:
        InputError: there is no batch, no layer is called, a batch is too small to normalise, or a
            statistic is not finite; names the layer.
    """
    if norms is None:
        norms = modes.batch_norms(model)
        if model.training:  # then a layer that is not is frozen
            norms = {name: norm for name, norm in norms.items() if norm.training}
    moments = {name: PooledMoments() for name in norms}
    with ExitStack() as stack:
        stack.enter_context(seeding.borrowed())
        stack.enter_context(torch.no_grad())
        stack.enter_context(compiling.as_written())  # a graph would not call the hooks
        stack.enter_context(modes.evaluation_mode(model))  # dropout off, as when it is judged
        for name, norm in norms.items():
            stack.enter_context(_collecting(name, norm, moments[name]))
        call, seen = forward or model, False
        for batch in batches:
            call(batch)
            seen = True
    if world is not None and world.size > 1:
        moments = {name: m.pooled(world, norms[name].num_features) for name, m in moments.items()}
    called = {name: found for name, found in moments.items() if found.count}
    if not called:
        why = "the model calls none of them" if seen else "the loader is empty"
        raise InputError(f"precise_bn: {', '.join(moments)} saw no data: {why}.")
    for name, found in called.items():
        if not (found.mean.isfinite().all() and found.variance.isfinite().all()):
            raise InputError(
                f"precise_bn: the statistics of {name} are not finite. Look for NaN or infinite "
                "inputs in the training data, or for weights that have diverged."
            )
    return {name: (found.mean, found.variance) for name, found in called.items()}


@contextmanager
def _collecting(name: str, norm: _BatchNorm, moments: PooledMoments) -> Iterator[None]:
    """The layer normalises by its batch, its running statistics stand still, its input is seen."""

    def see(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].numel() == args[0].shape[1]:
            raise InputError(
                f"precise_bn: a batch has one value per channel for {name}, which cannot be "
                "normalised by itself. Choose a batch_size that leaves no batch of one row."
            )
        moments.update(args[0])

    handle = norm.register_forward_pre_hook(see)
    norm.training = True
    try:
        with modes.still_statistics(norm):
            yield
    finally:
        norm.training = False
        handle.remove()


@contextmanager
@torch.no_grad()
def applied(model: nn.Module, statistics: Statistics) -> Iterator[None]:
    """Statistics in the buffers of a model, for the length of a `with`."""
    norms = modes.batch_norms(model)
    buffers = [b for name in statistics for b in norms[name].buffers()]
    saved = [(buffer, buffer.clone()) for buffer in buffers]
    try:
        put(model, statistics)
        with torch.enable_grad():
            yield
    finally:
        modes.put_back(saved)


@torch.no_grad()
def put(model: nn.Module, statistics: Statistics) -> None:
    """Write statistics into the buffers of a model, to stay."""
    norms = modes.batch_norms(model)
    for name, (mean, variance) in statistics.items():
        running_mean, running_var = norms[name].running_mean, norms[name].running_var
        assert running_mean is not None
        assert running_var is not None
        running_mean.copy_(mean)
        running_var.copy_(variance)
