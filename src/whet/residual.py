"""Residual blocks of a model: which they are, and in which norm a branch ends.

A block is told by its form, as torchvision, timm and transformers write them: a residual block of
convolutions has an attribute for its shortcut, whether there is one or not; a block of a
transformer stands in a list all of whose layers attend.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from torch.nn.modules.conv import _ConvNd

from whet.optim.depth import NORMS

SHORTCUTS = ("downsample", "shortcut")
GATES = ("se", "attn", "attn_last")  # multiply the branch after its last norm: 0 stays 0


def convolutional(model: nn.Module) -> dict[str, nn.Module]:
    """The residual blocks of convolutions, by name, from input to output."""
    alike = {
        name: module for name, module in model.named_modules()
        if any(hasattr(module, each) for each in SHORTCUTS)
        and any(isinstance(each, _ConvNd) for _, each in branch(module)) and not attends(module)
    }  # fmt: skip
    return {
        name: module for name, module in alike.items()
        if not any(each is not module and each in alike.values() for each in module.modules())
    }  # fmt: skip


def attending(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks of transformers, by name, from input to output."""
    lists = {
        name: module for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and _of_blocks(module)
    }  # fmt: skip
    inner = {
        name: module for name, module in lists.items()
        if not any(each is not module and each in lists.values() for each in module.modules())
    }  # fmt: skip
    return {
        f"{name}.{number}" if name else number: block
        for name, module in inner.items() for number, block in module.named_children()
        if attends(block)
    }  # fmt: skip


def _of_blocks(module: nn.Module) -> bool:
    held = [child for child in module.children() if next(child.parameters(), None) is not None]
    return bool(held) and all(attends(child) for child in held)


def attends(module: nn.Module) -> bool:
    """Whether there is attention in it."""
    return any(
        isinstance(each, nn.MultiheadAttention) or "Attention" in type(each).__name__
        for each in module.modules()
    )


def skippable(model: nn.Module) -> dict[str, nn.Module]:
    """The blocks whose shortcut is the identity, so that a block may be left out; in order."""
    plain = {
        name: block for name, block in convolutional(model).items()
        if not any(_learns(getattr(block, each, None)) for each in SHORTCUTS)
    }  # fmt: skip
    every = plain | attending(model)
    return {name: every[name] for name, _ in model.named_modules() if name in every}


def _learns(shortcut: object) -> bool:
    return isinstance(shortcut, nn.Module) and not isinstance(shortcut, nn.Identity)


def branch(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What has parameters of its own in a block beside its shortcut, in order."""
    beside = {
        id(each) for name in SHORTCUTS if isinstance(getattr(block, name, None), nn.Module)
        for each in getattr(block, name).modules()
    }  # fmt: skip
    for name, module in block.named_modules():
        if id(module) not in beside and module._parameters:
            yield name, module


def is_norm(module: nn.Module) -> bool:
    """Whether it is a norm, torch's or one that is named so (`LlamaRMSNorm`)."""
    return isinstance(module, NORMS) or "Norm" in type(module).__name__


def last_norm(block: nn.Module) -> tuple[str, nn.Module] | str:
    """The norm in which a block's branch ends, or why it ends in none."""
    every = [
        (name, module) for name, module in branch(block)
        if not any(part in GATES for part in name.split("."))
    ]  # fmt: skip
    norms = [at for at, (_, module) in enumerate(every) if is_norm(module)]
    if not norms:
        return "has no norm with a scale in its branch"
    if norms[-1] < len(every) - 1:
        return f"goes on after its last norm, with {every[-1][0]}"
    return every[-1]
