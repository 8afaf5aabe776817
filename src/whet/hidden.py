"""Rows mixed inside a model: where a layer returns them, in training, while a mixture stands.

Padding of sequences adds nothing to a mixture. Where embeddings are mixed, a mixture is as long as
the longer of its two rows: the model is given the union of their masks, and ids in which a row's
padding is filled by its partner's words, for models that look for padding there. Hook points stay
with the model, in the way of `whet.compiling`; what they do is looked up by module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once

from whet import compiling, embedding, mixing, modes
from whet.errors import NotApplicable
from whet.mixing import Mixture

WORDS = "embedding"  # the place that stands for all embeddings together
MASK, IDS = "attention_mask", "input_ids"


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where rows are mixed: one layer, or all embeddings together.

    Args:
        name: as it is told.
        modules: whose output is mixed.
        words: whether they are embeddings, which may be called on several inputs.
    """

    name: str
    modules: tuple[nn.Module, ...]
    words: bool


def places(model: nn.Module, at: str, exclude: Sequence[str], who: str) -> list[Place]:
    """The places that patterns name; a glob's `*` stands for one part of a dotted name.

    Raises:
        NotApplicable: a pattern matches nothing, or a recurrent layer, whose state is not mixed.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    found: dict[str, Place] = {}
    for pattern in at.split():
        if pattern == WORDS:
            words = embedding.modules(model, "*", exclude, who)
            found[WORDS] = Place(WORDS, tuple(words.values()), words=True)
            continue
        names = [name for name in modules if modes.same_depth(name, pattern)]
        if not names:
            there = ", ".join([WORDS, *modules][:30])
            raise NotApplicable(
                who, f"no layer matches {pattern!r} of at={at!r}; there are: {there}"
            )
        for name in names:
            if isinstance(modules[name], nn.RNNBase):
                raise NotApplicable(
                    who, f"{name} is recurrent, and its state would not be mixed with its output. "
                    "Name a layer before or after it."
                )  # fmt: skip
            found[name] = Place(name, (modules[name],), words=False)
    if not found:
        raise NotApplicable(who, f"at={at!r} names no layer: use {WORDS!r}, or names of layers.")
    return list(found.values())


class Mixing:
    """While it is entered, a place of a model in training mode returns mixed rows.

    Args:
        model: the root.
        place: where.
        mixture: which rows with which.
        who: the method, for errors.
    """

    def __init__(self, model: nn.Module, place: Place, mixture: Mixture, who: str) -> None:
        self.model, self.place, self.mixture, self.who = model, place, mixture, who
        self._rows, self._inside, self._calls = 0, False, 0
        self._mask: Tensor | None = None

    def __enter__(self) -> Mixing:
        make_ready(self.model, [self.place])
        for module in {self.model, *self.place.modules}:
            _STANDING.setdefault(module, []).append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for module in {self.model, *self.place.modules}:
            _STANDING[module].remove(self)

    # a pass of the model ---------------------------------------------------------------------
    def arrived(self, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """What the model is given in place of its inputs."""
        nest = [args, kwargs]
        found = mixing.named(nest)
        self._rows, self._inside, self._calls = len(found[0][1]), True, 0
        known, ids = _padding(dict(found), self.model)
        self._mask = None if known is None else known.ne(0)
        if self._mask is None or not self.place.words:
            return args, kwargs
        order, mask = self.mixture.partners(self._rows, self.who), self._mask
        union = mask | mask[order]

        def change(name: str, leaf: Tensor) -> Tensor:
            if name == ids:
                return torch.where(mask, leaf, leaf[order])
            return union.to(leaf.dtype) if leaf is known else leaf

        changed = mixing.map_named(change, nest)
        return changed[0], changed[1]

    def left(self) -> None:
        """The pass is over: what is called from now on is recomputed."""
        if self._inside and self._calls == 0:
            raise NotApplicable(
                self.who, f"{self.place.name} was not called in the forward pass, so that nothing "
                "but the targets would be mixed. Name by at= layers that always are."
            )  # fmt: skip
        self._inside = False

    def returned(self, output: Any) -> Any:
        """The layer's output with its rows mixed."""
        self._calls += self._inside
        if self._calls > 1 and not self.place.words:
            raise NotApplicable(
                self.who, f"{self.place.name} is called more than once in a pass: its rows would "
                "be mixed again and again. Name another layer by at=."
            )  # fmt: skip
        if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
            return (self._mixed(output[0]), *output[1:])
        return self._mixed(output)

    def _mixed(self, output: Any) -> Tensor:
        floating = isinstance(output, Tensor) and output.is_floating_point()
        if not floating or output.ndim < 2 or len(output) != self._rows:
            what = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output)
            raise NotApplicable(
                self.who, f"{self.place.name} returned {what} for {self._rows} rows; what is mixed "
                "has the rows as its first dimension. Name another layer by at=, or leave it out "
                "by exclude=."
            )  # fmt: skip
        mask, rows = self._mask, output
        if mask is not None and output.ndim > 2 and output.shape[:2] == mask.shape:
            rows = output.masked_fill(~mask.view(*mask.shape, *[1] * (output.ndim - 2)), 0.0)
        order = self.mixture.partners(len(output), self.who)
        stay = order == torch.arange(len(order), device=order.device)
        mixed = rows * self.mixture.share + rows[order] * (1.0 - self.mixture.share)
        return torch.where(stay.view(-1, *[1] * (output.ndim - 1)), output, mixed)


def _padding(found: Mapping[str, Tensor], model: nn.Module) -> tuple[Tensor | None, str | None]:
    """A mask that is not 0 at true words, `(N, T)`, and the name of the ids.

    The mask is the argument `attention_mask`, or else where the ids are not the `padding_idx` of
    the model's first embedding that has one. Ids are `input_ids`, or the only other integers.
    """
    whole = {
        name: leaf for name, leaf in found.items()
        if leaf.ndim == 2 and not leaf.is_floating_point() and leaf.dtype != torch.bool
        and not name.endswith(MASK)
    }  # fmt: skip
    named = [name for name in whole if name.endswith(IDS)]
    ids = named[0] if named else next(iter(whole)) if len(whole) == 1 else None
    masks = [leaf for name, leaf in found.items() if name.endswith(MASK) and leaf.ndim == 2]
    if masks:
        return masks[0], ids if ids and whole[ids].shape == masks[0].shape else None
    paddings = (getattr(module, "padding_idx", None) for module in model.modules())
    padding = next((one for one in paddings if one is not None), None)
    if ids is None or padding is None:
        return None, None
    return whole[ids].ne(padding), ids


# Hook points in the way of whet.compiling
_STANDING: WeakKeyDictionary[nn.Module, list[Mixing]] = WeakKeyDictionary()


def make_ready(model: nn.Module, found: Sequence[Place]) -> None:
    """Hook points that stay, also in a model that was compiled, and called, before."""
    new = [_ready(model._forward_pre_hooks, _arrived, model.register_forward_pre_hook)]
    new += [_ready(model._forward_hooks, _left, model.register_forward_hook)]
    for module in {module: None for place in found for module in place.modules}:
        new.append(_ready(module._forward_hooks, _returned, module.register_forward_hook))
    if any(new):
        compiling.forget_graphs()


def _ready(hooks: Mapping[int, Any], hook: Any, register: Callable[..., Any]) -> bool:
    if hook in hooks.values():
        return False
    register(hook, with_kwargs=True)
    return True


@_disable_dynamo
def _arrived(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    for standing in _STANDING.get(model, ()):
        if standing.model is model and model.training:
            args, kwargs = standing.arrived(args, kwargs)
    return args, kwargs


@_disable_dynamo
def _left(model: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    for standing in _STANDING.get(model, ()):
        if standing.model is model and model.training:
            standing.left()


@_disable_dynamo
def _returned(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    for standing in _STANDING.get(module, ()):
        if standing.model.training and module in standing.place.modules:
            output = standing.returned(output)
    return output
