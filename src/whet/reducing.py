"""What the processes of a run add up: a window's totals, gradients, loss and batch statistics.

Gradients are summed once the whole window has gone back, and not in the backward as
DistributedDataParallel does: methods call backward several times, set `.grad` aside and take
gradients of their own in between, and which backward is the last nobody knows before it is over.
The totals that weigh a loss are those of all processes, so that the sum is the window's gradient
itself; where the rows fall changes nothing, nor does a process that has none. Sharded weights are
the exception (`whet.fsdp`): theirs are summed by each backward, and add up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from whet import fsdp, modes
from whet import world as processes
from whet.errors import InputError
from whet.forward import Window
from whet.training import Training
from whet.world import World

if TYPE_CHECKING:
    from whet.method import Method
    from whet.run import Run
    from whet.trouble import LossWatch

TERMS = 16  # of methods; where rows fall short a process has none, and must send as many


def join(device: torch.device, model: nn.Module) -> World:
    """The processes that torchrun started this one among, if it did.

    Raises:
        InputError: somebody else adds up the model's gradients.
    """
    check_model(model)
    return processes.join(device)


def placed(run: Run) -> tuple[nn.Module, nn.Module | None]:
    """The run's model on its device; or this process's part of it, and its outline."""
    model, world = run.task.model, run.world
    if run.strategy == "fsdp" and world.size > 1:
        world.copy([*model.parameters(), *model.buffers()])
        return model, fsdp.shard(model, world)
    if run.strategy == "fsdp":
        run.notes.append(fsdp.ALONE)
    return model.to(run.device), None


def begin(run: Training, micro_batch: object) -> None:
    """Every process begins with the first one's weights, whatever it drew by itself.

    Raises:
        InputError: batches are to be cut by what memory holds.
    """
    if run.world.size > 1 and micro_batch is not None:
        raise InputError(
            f"micro_batch={micro_batch!r} cuts what each process has by itself, and the processes "
            "would wait for each other in different micro-batches: give batch_size, which is that "
            "of all processes together, and accumulate."
        )
    held = [t for m in (run.module, run.heads) for t in (*m.parameters(), *m.buffers())]
    run.world.copy([tensor for tensor in held if not modes.is_part(tensor)])


def check_model(model: nn.Module) -> None:
    """Refuse a model whose gradients somebody else adds up.

    Raises:
        InputError: it is wrapped in DistributedDataParallel, or its parameters are sharded.
    """
    name = type(model).__name__
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise InputError(
            f"the model is wrapped in {name}; give the module itself: whet adds up the gradients "
            "of the processes that torchrun started."
        )
    if sharded := modes.sharded(model):
        raise InputError(
            f"the model's parameters are sharded (FSDP2 fully_shard, or a parallel plan: "
            f"{sharded[0]}, ...). Methods move, average and copy whole weights, call backward "
            "several times in a step, and checkpoints hold whole weights: give the module itself. "
            "Each process then holds a copy of it, or its part with Run(strategy='fsdp')."
        )


def totals(window: Window, world: World) -> Window:
    """The window with the totals of all processes; its batches stay this process's."""
    if world.size == 1:
        return window
    forwards = sum(batch.size > 0 and not batch.spare for batch in window.batches)
    items, rows, micros = world.sums(window.items, window.rows, forwards)
    return replace(window, items=items, rows=int(rows), micros=int(micros))


def add_gradients(run: Training) -> None:
    """Sum the gradients over the processes; one all-reduce, of what is not summed already."""
    if run.world.size > 1:
        _add(run.world, _trainable(run), [])


def finish(run: Training, watch: LossWatch) -> None:
    """Sum a window's gradients and loss, and average batch statistics; one all-reduce."""
    world = run.world
    if world.size == 1:
        return
    norms = [norm for norm in modes.batch_norms(run.module).values() if norm.training]
    statistics = [b for n in norms for b in (n.running_mean, n.running_var) if b is not None]
    loss, terms = watch.parts()
    told = torch.zeros(1 + TERMS)
    told[0] = loss
    for place, value in enumerate([*terms.values()][:TERMS], 1):
        told[place] = value
    means = [statistic / world.size for statistic in statistics]
    told, *means = _add(world, _trainable(run), [told, *means])
    modes.put_back(list(zip(statistics, means, strict=True)))
    watch.replace(told[0], dict(zip(terms, told[1:], strict=False)))


def _trainable(run: Training) -> list[nn.Parameter]:
    # a part has its gradient from all processes as soon as a backward is through
    return [p for p in run.parameters() if p.requires_grad and not modes.is_part(p)]


def _add(world: World, parameters: Sequence[nn.Parameter], extra: Sequence[Tensor]) -> list[Tensor]:
    """Sum gradients in place, and return the sums of other tensors.

    How many processes have a gradient travels along: where none has, it stays None, for to an
    optimizer a gradient of zeros is something else.
    """
    if any(p.grad is not None and p.grad.is_sparse for p in parameters):
        raise InputError(
            "the model has sparse gradients (nn.Embedding(sparse=True)), which several processes "
            "cannot add up: make the embedding with sparse=False, or train in one process."
        )
    wide = torch.float64 if any(p.dtype is torch.float64 for p in parameters) else torch.float32
    have = torch.tensor([float(p.grad is not None) for p in parameters])
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    pieces += [have, *extra]
    buffer = torch.cat([piece.detach().to(world.device, wide).flatten() for piece in pieces])
    for hook in world.hooks:
        hook(buffer)
    parts = world.add(buffer).split([piece.numel() for piece in pieces])
    known = parts[len(parameters)].tolist()
    for parameter, part, count in zip(parameters, parts, known, strict=False):
        if count:
            _put(parameter, part)
    after = parts[len(parameters) + 1 :]
    return [part.view(old.shape).to(old.dtype) for part, old in zip(after, extra, strict=True)]


def _put(parameter: nn.Parameter, total: Tensor) -> None:
    shaped = total.view(parameter.shape)
    if parameter.grad is None:
        parameter.grad = shaped.to(parameter, copy=True)
    else:
        parameter.grad.copy_(shaped)


def added(world: World, tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    """Several tensors summed over the processes in one all-reduce; None counts as zeros."""
    pieces = [torch.zeros_like(b) if a is None else a for a, b in zip(tensors, like, strict=True)]
    if world.size == 1:
        return pieces
    buffer = torch.cat([p.detach().to(world.device, torch.float32).flatten() for p in pieces])
    for hook in world.hooks:
        hook(buffer)
    parts = world.add(buffer).split([p.numel() for p in pieces])
    return [part.view(old.shape).to(old) for part, old in zip(parts, pieces, strict=True)]


def gathered(run: Training, method: Method) -> list[Any]:
    """What a method staged as tensors `(N, ...)` in this window: of all processes, by micro-batch.

    The same in every process, so that a queue that takes it in stays one queue.
    """
    window = run.current
    assert window is not None
    return run.world.joined([run.staged_at(method, at) for at in range(len(window.batches))])


def states(run: Training) -> dict[str, list[int]]:
    """How many rows of each resource every process has drawn: what differs between them."""
    names = sorted(run.resources)
    here = torch.tensor([run.draws.taken.get(name, 0) for name in names], dtype=torch.int64)
    every = torch.stack(run.world.each(here)).T.tolist() if names else []
    return {name: taken for name, taken in zip(names, every, strict=True) if any(taken)}


def take_state(run: Training, drawn: dict[str, list[int]]) -> None:
    """Go on drawing where this process stood; one that is new draws on where the furthest did."""
    rank = run.world.rank
    run.draws.taken = {
        name: taken[rank] if rank < len(taken) else max(taken) for name, taken in drawn.items()
    }
