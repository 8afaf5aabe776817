"""The top layers of a pre-trained model begun anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from whet import modes, seeding
from whet.errors import InputError, NotApplicable
from whet.optim import layers
from whet.optim.depth import _tops
from whet.settings import Range

WHO = "reinitialise_top"
RESETS = ("reset_parameters", "_reset_parameters")  # the latter is nn.MultiheadAttention's
LOADED = "_is_hf_initialized"  # transformers leaves alone what bears this mark, in silence


def reinitialise_top(
    model: nn.Module, k: int = 1, *, at: str | Sequence[str] | None = None, seed: int = 0
) -> list[str]:
    """Begin the top k layers of a pre-trained model anew, before it is fine-tuned.

    The top layers of an encoder have specialised in what it was pre-trained on; on few examples
    fine-tuning is steadier from fresh ones. Layers are those of `whet.optim.layers`, counted from
    the output: what stands after the last block (a pooler and a classifier) is one layer, so that
    the paper's pooler and top L blocks are `k = L + 1`.

    Each module is begun as its own code does it: `_init_weights` of the transformers model it is
    in, or its `reset_parameters`. Weights that are tied to a lower layer stay as they are. The
    global generators do not move.

    Args:
        model: the module, changed in place.
        k: how many layers, from 1 to as many as there are.
        at: names or globs of parameters, or of modules above them, in place of the top k layers.
        seed: decides all numbers.

    Returns:
        The names of the parameters that were begun anew.

    Raises:
        InputError: k is not the number of some layers, or a pattern matches no parameter.
        NotApplicable: a module does not say how its parameters begin; it is named, and nothing has
            changed.

    Paper: Zhang et al. 2021, arXiv:2006.05987, section 4.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    >>> reinitialise_top(model, 2)
    ['1.weight', '1.bias', '2.weight', '2.bias']
    """
    modes.check_whole(model, WHO)
    names = _top(model, k) if at is None else _at(model, [at] if isinstance(at, str) else at)
    named = dict(model.named_parameters())
    _begin(model, {id(named[name]): name for name in names}, seed)
    return names


def _top(model: nn.Module, k: int) -> list[str]:
    every = layers(model)
    if not Range(1, len(every), whole=True).holds(k):
        raise InputError(
            f"{WHO}: k is {k!r}; the model has {len(every)} layers (whet.optim.layers), so it must "
            f"be a whole number in [1, {len(every)}]."
        )
    return [name for layer in every[-k:] for name in layer]


def _at(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    names = [name for name, _ in model.named_parameters()]
    found: set[str] = set()
    for pattern in patterns:
        matched = modes.match(names, pattern)
        if not matched:
            raise InputError(f"{WHO}: no parameter matches {pattern!r}; {_tops(names)}")
        found.update(matched)
    return [name for name in names if name in found]


def _begin(model: nn.Module, chosen: dict[int, str], seed: int) -> None:
    """Begin the chosen parameters anew, all or none."""
    modules = {name: each for name, each in model.named_modules() if _touched(each, chosen)}
    held = {id(t): t for each in modules.values() for t in _own(each)}
    kept = [(tensor, tensor.detach().clone()) for tensor in held.values()]
    wanted = [tensor for key, tensor in held.items() if key in chosen]
    marked = [tensor for tensor in wanted if getattr(tensor, LOADED, False)]
    try:
        for tensor in marked:
            setattr(tensor, LOADED, False)
        with torch.no_grad():
            for tensor in wanted:
                tensor.fill_(torch.nan)  # what stays so was begun by nobody
        for name, each in reversed(modules.items()):  # a module after those within it
            with seeding.borrowed(seeding.key(seed, WHO, name)):
                _begin_one(model, name, each, chosen)
        _check(modules, chosen)
        modes.put_back([(t, copy) for t, copy in kept if _lower(t, chosen)])
    except BaseException:
        modes.put_back(kept)
        raise
    finally:
        for tensor in marked:
            setattr(tensor, LOADED, True)


def _touched(module: nn.Module, chosen: dict[int, str]) -> bool:
    """Whether it holds a chosen parameter, or begins those within it, of which all are chosen."""
    own = any(id(p) in chosen for p in module.parameters(recurse=False))
    every = [id(p) in chosen for p in module.parameters()]
    return own or (
        callable(getattr(module, "reset_parameters", None)) and bool(every) and all(every)
    )


def _own(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def _lower(tensor: Tensor, chosen: dict[int, str]) -> bool:
    """Whether it is a parameter of a layer that stays: tied, or beside one that was chosen."""
    return isinstance(tensor, nn.Parameter) and id(tensor) not in chosen


def _begin_one(model: nn.Module, name: str, module: nn.Module, chosen: dict[int, str]) -> None:
    parts = name.split(".")
    above = (model.get_submodule(".".join(parts[:at])) for at in range(len(parts), -1, -1))
    of_transformers = [each for each in above if hasattr(each, "base_model_prefix")]
    if of_transformers:
        cast("Any", of_transformers[0])._init_weights(module)  # the nearest knows best
    if not of_transformers or _unbegun(module, chosen):
        for own in RESETS:
            if callable(reset := getattr(module, own, None)):
                reset()
                break
    if isinstance(module, _NormBase):
        module.reset_running_stats()


def _unbegun(module: nn.Module, chosen: dict[int, str]) -> list[str]:
    own = module.parameters(recurse=False)
    return [chosen[id(p)] for p in own if id(p) in chosen and bool(p.isnan().any())]


def _check(modules: dict[str, nn.Module], chosen: dict[int, str]) -> None:
    for module in modules.values():
        for name in _unbegun(module, chosen):
            raise NotApplicable(
                WHO, f"{type(module).__name__}, which holds {name}, does not say how its "
                "parameters begin: it has no reset_parameters. Give it one, or use "
                "whet.initialise for it, and name the others by at=."
            )  # fmt: skip
