"""How deep each parameter lies: a model as layers from its input to its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from whet import modes
from whet.errors import InputError

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm,
)  # fmt: skip


def layers(model: nn.Module) -> list[list[str]]:
    """The names of a model's parameters, layer by layer.

    The repeated blocks of a model (an encoder's layers, the blocks of a residual network, the
    layers of a plain Sequential) are a layer each. What stands before the first of them is one
    layer with what has no place of its own (positions, class tokens), and what stands after the
    last is the last one. A norm belongs to what it follows. Branches (a child that the module's
    class names as `side_by_side`, as Concatenation and Members do) count from their outputs: their
    last layers are one layer, those before them another.

    >>> layers(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))
    [['0.weight', '0.bias', '1.weight', '1.bias'], ['3.weight', '3.bias']]
    """
    known = {name for name, _ in model.named_parameters()}  # of tied weights, the first name
    return _layers(model, "", known)


def _layers(module: nn.Module, prefix: str, known: set[str]) -> list[list[str]]:
    found: list[tuple[list[str], bool]] = []
    for every, repeated, norm in _parts(module, prefix, known):
        names = [name for name in every if name in known]
        if not names:
            continue
        if found and (norm or not (repeated or found[-1][1])):
            found[-1][0].extend(names)  # a norm, or all that is before, between or after blocks
        else:
            found.append((names, repeated))
    return [names for names, _ in found]


def listed(model: nn.Module, patterns: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """The layers that patterns name, each a glob, the name of a module, or several of these.

    Raises:
        InputError: a pattern matches nothing, or a parameter is in two layers or in none.
    """
    names = [name for name, _ in model.named_parameters()]
    found = []
    for pattern in patterns:
        several = [pattern] if isinstance(pattern, str) else [*pattern]
        matched = {name for one in several for name in modes.match(names, one)}
        if not matched:
            raise InputError(f"layers: no parameter matches {pattern!r}; {_tops(names)}")
        found.append([name for name in names if name in matched])
    counts = {name: sum(name in layer for layer in found) for name in names}
    if twice := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"layers: {twice[0]} is in {counts[twice[0]]} layers. Narrow the patterns."
        )
    if none := [name for name, count in counts.items() if not count]:
        raise InputError(f"layers: {', '.join(none[:6])} in no layer. Add a pattern for them.")
    return found


def _tops(names: Sequence[str]) -> str:
    tops = list(dict.fromkeys(name.rsplit(".", 1)[0] for name in names))
    return f"there are: {', '.join(tops[:30])}"


def _parts(
    module: nn.Module, prefix: str, known: set[str]
) -> Iterator[tuple[list[str], bool, bool]]:  # fmt: skip
    """Names, whether they are a repeated block's, and whether a norm's, in order."""
    own = [prefix + name for name, _ in module.named_parameters(recurse=False)]
    if own:
        yield own, False, isinstance(module, NORMS)
    children = [(name, child) for name, child in module.named_children() if _any(child)]
    kinds = [type(child) for _, child in children]
    for name, child in children:
        path, repeated = f"{prefix}{name}.", _repeats(module, kinds, type(child))
        if name == _branches(module):
            yield from ((names, True, False) for names in _beside(child, path, known))
        elif not repeated and _opens(child):
            yield from _parts(child, path, known)
        else:
            names = [path + each for each, _ in child.named_parameters()]
            yield names, repeated and not isinstance(child, NORMS), isinstance(child, NORMS)


def _beside(branches: nn.Module, prefix: str, known: set[str]) -> Iterator[list[str]]:
    """The layers of branches, those as far from the output together."""
    each = [_layers(one, f"{prefix}{name}.", known) for name, one in branches.named_children()]
    for level in range(max(map(len, each)), 0, -1):
        yield [name for one in each if len(one) >= level for name in one[-level]]


def _branches(module: nn.Module) -> str | None:
    """Which child holds what is computed side by side, where a class says so."""
    return getattr(type(module), "side_by_side", None)


def _opens(module: nn.Module) -> bool:
    """Whether blocks are within: a list of modules of which one kind stands several times."""
    for each in module.modules():
        if _branches(each) is not None:
            return True
        if _lists(each):
            kinds = [type(child) for child in each.children() if _any(child)]
            if any(_repeats(each, kinds, kind) for kind in kinds if not issubclass(kind, NORMS)):
                return True
    return False


def _repeats(module: nn.Module, kinds: Sequence[type], kind: type) -> bool:
    """Whether a child is one of several alike, or of a list, though that may have one alone."""
    return isinstance(module, nn.ModuleList) or (_lists(module) and kinds.count(kind) > 1)


def _lists(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _any(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
