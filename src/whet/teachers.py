"""Teachers: models that are asked and do not learn.

A teacher is no part of the model that learns. It is a resource of the task: in no optimizer, no
checkpoint, no export and none of the engine's wrappers, wherever the student goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from whet import modes, objectives, seeding
from whet.batch import Batch, map_leaves
from whet.errors import InputError
from whet.forward import Forward
from whet.predict import Predictor
from whet.training import Training


def listed(given: Any) -> list[Any]:
    """A resource that may be one teacher, or a list of them."""
    return list(given) if isinstance(given, list | tuple) else [given]


def check(run: Training, who: str, teachers: Sequence[Any]) -> None:
    """Refuse what cannot be asked, and what would teach itself.

    Raises:
        InputError: there is nothing to call, or a teacher shares parameters with the model.
    """
    if not teachers:
        raise InputError(f"{who}: resource 'teacher' is an empty list; give at least one teacher.")
    for teacher in teachers:
        if isinstance(teacher, nn.Module):
            _check_apart(run, who, teacher)
        elif not callable(teacher):
            raise InputError(
                f"{who}: resource 'teacher' is a {type(teacher).__name__}; give an nn.Module, "
                "a whet Predictor, or a function from a Batch to logits, or a list of such."
            )


def _check_apart(run: Training, who: str, teacher: nn.Module) -> None:
    learned = {id(parameter) for parameter in run.module.parameters()}
    shared = [name for name, p in teacher.named_parameters() if id(p) in learned]
    if shared or teacher is run.module:
        raise InputError(
            f"{who}: the teacher shares parameters with the model that learns "
            f"({', '.join(shared[:5]) or 'it is the same module'}), so it would teach itself. "
            "Give a copy: copy.deepcopy(model)."
        )


def place(teachers: Sequence[Any], device: torch.device) -> None:
    """Move the teachers that are modules to a device."""
    for teacher in teachers:
        if isinstance(teacher, nn.Module):
            teacher.to(device)


@contextmanager
def asking(run: Training, teacher: nn.Module, seed: int) -> Iterator[Callable[[Any], Any]]:
    """A function from inputs to the teacher's output: in evaluation mode, without gradient.

    The student's generators and modes do not notice; the teacher goes back to the mode it was in.
    """
    with (
        seeding.borrowed(seed), torch.no_grad(), modes.evaluation_mode(teacher), run.autocast(),
    ):  # fmt: skip
        yield lambda inputs: objectives.call(teacher, map_leaves(_fitting(teacher), inputs))


def answer(run: Training, teacher: Any, batch: Batch, seed: int) -> Tensor:
    """A teacher's logits for a batch, on the batch's device."""
    if isinstance(teacher, nn.Module):
        with asking(run, teacher, seed) as ask:
            return objectives.logits(ask(batch.inputs)).to(batch.device)
    with seeding.borrowed(seed), torch.no_grad():
        if isinstance(teacher, Predictor):
            return teacher.logits(batch).to(batch.device)
        return objectives.logits(teacher(batch)).to(batch.device)


def _fitting(teacher: nn.Module) -> Callable[[Tensor], Tensor]:
    """Inputs where the teacher is, the floating ones in its dtype."""
    weights = [*teacher.parameters(), *teacher.buffers()]
    device = weights[0].device if weights else None
    dtype = next((w.dtype for w in weights if w.is_floating_point()), None)
    return lambda leaf: leaf.to(device, dtype if leaf.is_floating_point() else None)


def added(forward: Forward, name: str, values: Tensor, weight: float) -> Forward:
    """A forward with what a teacher teaches: per row, or per token that has a target."""
    if values.ndim == 1:
        return forward.add(name, values, per="rows", weight=weight)
    if forward.batch.targets is None:
        values = torch.zeros_like(values)  # which of these tokens are padding nobody says
    elif forward.mask is not None:
        values = torch.where(forward.mask, values, values.new_zeros(()))
    return forward.add(name, values, per="items", weight=weight)


@torch.no_grad()
def follow(slow: nn.Module, fast: nn.Module, momentum: float) -> None:
    """Move parameters to `momentum * slow + (1 - momentum) * fast`; copy the buffers."""
    targets: list[Tensor] = list(slow.parameters())
    sources: list[Tensor] = list(fast.parameters())
    if targets:
        torch._foreach_lerp_(targets, sources, 1.0 - momentum)
    for target, source in zip(slow.buffers(), fast.buffers(), strict=True):
        target.copy_(source)
