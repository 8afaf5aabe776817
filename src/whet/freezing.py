"""Frozen parts that stay in evaluation mode, whoever puts the model into training mode."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import isfunction
from typing import Any, Self

from torch import nn

from whet import compiling


class Frozen:
    """Modules whose dropout and statistics stand still while a stage trains.

    Putting them into evaluation mode once is not enough: a callback or the model's own forward may
    call `model.train()`, and then batch statistics of frozen layers move. So each module that may
    go by its mode has a hook that looks before its forward, and the run looks before every update,
    since methods go by the modes before they call the model.

    The hooks are there while the stage trains and no longer. A copy of the model that is made
    meanwhile has them too, and they end together.

    >>> import torch
    >>> model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    >>> with Frozen([model[0]]).staying():
    ...     output = model.train()(torch.ones(4, 2))
    ...     model[0].training
    False
    """

    def __init__(self, modules: Iterable[nn.Module] = ()) -> None:
        self.modules = list(dict.fromkeys(m for one in modules for m in one.modules()))
        self._on = False
        if self.modules:  # graphs of compiled models that are older than the hooks
            compiling.forget_graphs()

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """The hook before a module's forward."""
        if self._on and module.training:
            module.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def still(self) -> None:
        """Evaluation mode, where somebody has changed it."""
        for module in self.modules:
            if module.training:
                module.eval()

    @contextmanager
    def staying(self) -> Iterator[None]:
        """For the length of a `with`, they stay in evaluation mode."""
        minding = filter(_may_mind, self.modules)
        handles = [one.register_forward_pre_hook(self, prepend=True) for one in minding]
        self._on = True
        try:
            yield
        finally:
            self._on = False
            for handle in handles:
                handle.remove()


def _may_mind(module: nn.Module) -> bool:
    """Whether a module may go by its mode: all but torch's own whose code does not look at it.

    A hook makes a call slower by microseconds, and most modules are convolutions and containers.
    """
    if module._forward_pre_hooks or module._forward_hooks:  # a spectral norm's looks
        return True
    kinds = [kind for kind in type(module).__mro__[:-1] if kind is not nn.Module]
    if not all(kind.__module__.startswith("torch.nn.modules.") for kind in kinds):
        return True
    functions = [each for kind in kinds for each in vars(kind).values() if isfunction(each)]
    return any("training" in function.__code__.co_names for function in functions)
