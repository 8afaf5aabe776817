"""Training, evaluation and frozen modes of modules, put in place and undone."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from whet.errors import CheckpointError, InputError, NotApplicable


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode; each goes back to the mode it had."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


def batch_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """The batch normalisations that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
        and module.running_mean is not None
    }  # fmt: skip


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation as in training, but its running statistics do not move."""
    norms = [norm for norm in batch_norms(model).values() if norm.training]
    for norm in norms:
        norm.track_running_stats = False
    buffers = [(norm, norm.running_mean, norm.running_var) for norm in norms]
    try:
        for norm in norms:
            norm.running_mean = norm.running_var = None
        yield
    finally:
        for norm, mean, var in buffers:
            norm.track_running_stats = True
            norm.running_mean, norm.running_var = mean, var


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Running statistics are on exit what they were on entering."""
    saved = [(b, b.clone()) for norm in batch_norms(model).values() for b in norm.buffers()]
    try:
        yield
    finally:
        put_back(saved)


def match(names: Sequence[str], pattern: str) -> list[str]:
    """Names that equal the pattern, match it as a glob, or lie below it (`encoder`)."""
    return [
        name for name in names
        if name == pattern or fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern + ".")
    ]  # fmt: skip


def same_depth(name: str, pattern: str) -> bool:
    """Whether a glob matches a dotted name, part by part: `*` stands for one part."""
    parts, globs = name.split("."), pattern.split(".")
    return len(parts) == len(globs) and all(map(fnmatch.fnmatchcase, parts, globs))


def freeze(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Stop the gradients of the parameters that match, and give the modules wholly frozen.

    Raises:
        InputError: a pattern matches no parameter; the message lists candidates.
    """
    named = dict(model.named_parameters(remove_duplicate=False))  # a tied weight has two names
    frozen: set[int] = set()
    for pattern in patterns:
        found = match(list(named), pattern)
        if not found:
            tops = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in named))
            raise InputError(
                f"freeze: no parameter matches {pattern!r}; there are: {', '.join(tops[:30])}"
            )
        frozen.update(id(named[name]) for name in found)
    for parameter in model.parameters():
        if id(parameter) in frozen:
            parameter.requires_grad_(False)
    return [module for module in model.modules() if _wholly(module, frozen)]


def frozen(model: nn.Module) -> list[nn.Module]:
    """The modules whose parameters all stand still, by whoever's hand."""
    still = {id(p) for p in model.parameters() if not p.requires_grad}
    return [module for module in model.modules() if _wholly(module, still)]


def _wholly(module: nn.Module, frozen: set[int]) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and all(id(p) in frozen for p in parameters)


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode for all but the frozen modules, whose dropout and statistics stand still."""
    model.train()
    for module in frozen:
        module.eval()


@contextmanager
def training_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> Iterator[None]:
    """Training mode for all but the frozen modules; each goes back to the mode it had."""
    before = [(module, module.training) for module in model.modules()]
    try:
        train_mode(model, frozen)
        yield
    finally:
        for module, training in before:
            module.training = training


def copy_buffers(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """`(buffer, copy)` of every buffer, for putting back after a skipped step."""
    return [(buffer, buffer.clone()) for buffer in model.buffers()]


@torch.no_grad()
def put_back(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write the copies back into their tensors."""
    for tensor, copy in pairs:
        tensor.copy_(copy)


def forget_casts() -> None:
    """Weights are others now: under autocast the next forward casts them anew.

    Autocast keeps the casts of weights until its block is left, also where weights change within.
    """
    torch.clear_autocast_cache()


def wide(tensor: Tensor) -> Tensor:
    """In float32 at least: the steps of an average are below half precision's resolution."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


RESHARDING: WeakSet[nn.Module] = WeakSet()  # keep nothing gathered between passes (whet.fsdp)


def is_part(tensor: object) -> bool:
    """Whether a process holds a part of this tensor (a DTensor, of FSDP2 or a parallel plan)."""
    return hasattr(tensor, "full_tensor")


def here(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory: the tensor itself unless it is a part."""
    if not is_part(tensor):
        return tensor
    local: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return local


def sharded(model: nn.Module) -> list[str]:
    """Names of the parameters of which each process holds a part (FSDP2, parallel plans)."""
    return [name for name, p in model.named_parameters() if is_part(p)]


def check_whole(model: nn.Module, who: str) -> None:
    """Refuse sharded weights to who puts others in their place.

    Raises:
        NotApplicable: the model's weights are sharded.
    """
    names = () if model in RESHARDING else sharded(model)
    if names:
        raise NotApplicable(
            who, f"the weights are sharded ({names[0]}, ...), and FSDP's gathered copies of them "
            "do not notice when others are put in their place: the next forward would be with the "
            "wrong ones. Train a model that each process holds whole."
        )  # fmt: skip


@contextmanager
@torch.no_grad()
def standing_in(tensors: Sequence[Tensor], values: Iterable[Tensor]) -> Iterator[None]:
    """Other values in the tensors, for the length of a `with`.

    In place: tied weights, the optimizer's state and compiled graphs keep their tensors. Within,
    the caller's own gradient mode holds.
    """
    kept = [tensor.detach().clone() for tensor in tensors]
    try:
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        forget_casts()
        yield
    finally:
        torch._foreach_copy_([*map(here, tensors)], [*map(here, kept)])
        forget_casts()


def load_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights and buffers.

    Raises:
        CheckpointError: they belong to another architecture; the message names the differences.
    """
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        told = " ".join(str(error).split())  # torch's own words take several lines
        raise CheckpointError(f"the checkpoint's model is another one: {told}") from error
