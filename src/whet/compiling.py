"""Compiled models: what a graph does not see, and how methods reach it all the same.

A graph is made once, of the hooks that stand at that time. One that comes later is ignored in
silence, and a list that a hook appends to may be burnt into the graph. So hook points are put in
place before training and stay (functions of a module, which copies and pickles can carry); what
they do is looked up by module, outside of the graph, which breaks there. Graphs that are older
than a hook point are made anew.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once
from torch.utils.hooks import RemovableHandle

from whet.batch import leaves

Places = WeakKeyDictionary[nn.Module, list[list[Tensor]]]


def as_written() -> AbstractContextManager[Any]:
    """Within, compiled models run as they are written: other weights or hooks make no new graph.

    A compiler gives up on a model of which it made eight graphs, and every set of weights that is
    judged, or every list that a hook fills, would be one more.
    """
    return torch.compiler.set_stance("force_eager") if _loaded() else nullcontext()


def forget_graphs() -> None:
    """Every compiled model makes its graphs anew: they are older than a hook point."""
    if _loaded():
        torch.compiler.reset()


def _loaded() -> bool:
    return "torch._dynamo" in sys.modules


def entering(model: nn.Module, at: str) -> AbstractContextManager[list[Tensor]]:
    """Collect what enters the submodule `at`, call by call, for the length of a `with`."""
    return _collecting(model.get_submodule(at), entry_point, _WATCHED)


def leaving(model: nn.Module, at: str) -> AbstractContextManager[list[Tensor]]:
    """Collect what the submodule `at` gives, call by call, for the length of a `with`."""
    return _collecting(model.get_submodule(at), exit_point, _LEFT)


@contextmanager
def _collecting(
    module: nn.Module, point: Callable[[nn.Module], RemovableHandle | None], places: Places
) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    handle = point(module)
    standing = places.setdefault(module, [])
    standing.append(seen)
    try:
        yield seen
    finally:
        standing.pop()
        if handle is not None:
            handle.remove()


_WATCHED: Places = WeakKeyDictionary()
_LEFT: Places = WeakKeyDictionary()


def entry_point(module: nn.Module) -> RemovableHandle | None:
    """Make a module ready for `entering`, once; gives the handle of a hook that is new."""
    if _entered in module._forward_pre_hooks.values():
        return None
    return module.register_forward_pre_hook(_entered, with_kwargs=True)


def make_ready(module: nn.Module) -> None:
    """An entry point that stays, also in a model that was compiled, and called, before."""
    if entry_point(module) is not None:
        forget_graphs()


def exit_point(module: nn.Module) -> RemovableHandle | None:
    """Make a module ready for `leaving`, once; gives the handle of a hook that is new."""
    if _left in module._forward_hooks.values():
        return None
    return module.register_forward_hook(_left)


def make_ready_to_leave(module: nn.Module) -> None:
    """An exit point that stays, also in a model that was compiled, and called, before."""
    if exit_point(module) is not None:
        forget_graphs()


@_disable_dynamo
def _left(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
    for seen in _LEFT.get(module, ()):
        seen.append(next(leaves(output))[1])


@_disable_dynamo
def _entered(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    for seen in _WATCHED.get(module, ()):
        seen.append(next(leaves([args, kwargs]))[1])
