"""Residual branches that begin at zero, so that a deep network begins as a shallow one."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from whet import modes, residual
from whet.errors import InputError, NotApplicable

WHO = "zero_init_residual"


@torch.no_grad()
def zero_init_residual(model: nn.Module, at: str | Sequence[str] | None = None) -> list[str]:
    r"""Set the scale of the last norm of every residual branch to 0.

    $$y = s(x) + \gamma\, n(f(x)) + \beta, \qquad \gamma = 0,\ \beta = 0$$

    so that each block begins as its shortcut s. Found by themselves are the blocks of residual
    networks as torchvision, timm and transformers write them. Call it on a model that is not
    trained yet.

    Args:
        model: the module, changed in place.
        at: names or globs of the norms, where they are not found or others are meant (`*.norm2` of
            a transformer whose norms stand at the end of branches). What is named is set, whatever
            follows it: name none of a block without a shortcut, which would pass on nothing.

    Returns:
        The names of the scales.

    Raises:
        NotApplicable: there are no such blocks, or a branch does not end in a norm (pre-activation
            blocks, transformers); the message says where it ends.
        InputError: a pattern matches nothing, or no norm with a scale; a scale is not 1 any more,
            as in a trained model, whose branches would be lost.

    Paper: Goyal et al. 2017, arXiv:1706.02677, section 5.1.

    >>> class Block(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv1, self.bn1 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
    ...         self.downsample = None
    ...     def forward(self, x):
    ...         return x + self.bn1(self.conv1(x))
    >>> model, x = nn.Sequential(Block(), Block()), torch.randn(2, 4, 8, 8)
    >>> zero_init_residual(model)
    ['0.bn1.weight', '1.bn1.weight']
    >>> torch.equal(model(x), x)
    True
    """
    modes.check_whole(model, WHO)
    norms = _found(model) if at is None else _named(model, [at] if isinstance(at, str) else at)
    scales = {f"{name}.weight": _scale(name, norm) for name, norm in norms.items()}
    for name, scale in scales.items():
        values = scale.unique()
        if len(values) != 1 or float(values) not in (0.0, 1.0):
            raise InputError(
                f"{WHO}: {name} is not 1 any more, as in a model that was trained; at 0 its branch "
                "would be lost. Zero branches before training, or before weights are loaded."
            )
    for norm, scale in zip(norms.values(), scales.values(), strict=True):
        scale.zero_()
        if isinstance(shift := getattr(norm, "bias", None), Tensor):
            shift.zero_()
    return list(scales)


def _found(model: nn.Module) -> dict[str, nn.Module]:
    blocks = residual.convolutional(model)
    if not blocks:
        raise NotApplicable(WHO, _why_none(model))
    found: dict[str, nn.Module] = {}
    for path, block in blocks.items():
        last = residual.last_norm(block)
        if isinstance(last, str):
            raise NotApplicable(
                WHO, f"the block {path} ({type(block).__name__}) {last}. Begin what its branch "
                "ends in at zero: whet.initialise(model, {'*.NAME': 'zeros'}), or name norms by "
                "at=."
            )  # fmt: skip
        name, norm = last
        found[f"{path}.{name}" if path else name] = norm
    return found


def _why_none(model: nn.Module) -> str:
    blocks = residual.attending(model)
    if not blocks:
        return (
            "no residual block of convolutions is found by its form (an attribute downsample or "
            "shortcut). Name the last norm of each branch by at=, such as '*.bn2'."
        )
    path, block = next(iter(blocks.items()))
    first = getattr(block, "norm_first", None)
    order = {True: " is pre-norm:", False: " is post-norm:", None: ":"}[first]
    return (
        f"{path} ({type(block).__name__}){order} a transformer's norms stand before the branch, "
        "which would see nothing (pre-norm), or on the sum, which would lose the shortcut as well "
        "(post-norm). Begin the last linear layer of each branch at zero instead: "
        "whet.initialise(model, {'*.NAME': 'zeros'}). Norms that do end a branch are named by at=."
    )


def _named(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    every = dict(model.named_modules())
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matched = [name for name in every if fnmatch.fnmatchcase(name, pattern)]
        if not matched:
            norms = [name for name, module in every.items() if residual.is_norm(module)]
            there = ", ".join(norms[:30]) or "none"
            raise InputError(f"{WHO}: no module matches {pattern!r}; norms are: {there}")
        found.update((name, every[name]) for name in matched)
    return found


def _scale(name: str, norm: nn.Module) -> Tensor:
    scale = getattr(norm, "weight", None)
    if not residual.is_norm(norm) or not isinstance(scale, Tensor) or scale.ndim != 1:
        raise InputError(
            f"{WHO}: {name} ({type(norm).__name__}) is no norm with a scale. Name norms that have "
            "one (affine=True)."
        )
    return scale
