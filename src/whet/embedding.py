"""Embeddings of a model: found by name, and shifted where they return their vectors.

An attack on words has two places to stand. The *table* is a parameter: its gradient lies in
`.grad`, and a change to a row moves every occurrence of the word. The *output* of the module is a
tensor of its own for each call: there each occurrence moves alone, padding can be left out, and a
frozen table (adapters) does not matter. A `Shift` stands at the output: it adds a leaf tensor, so
that the ordinary backward pass leaves the output's gradient in the leaf's `.grad`.
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
from torch.utils.hooks import RemovableHandle

from whet import compiling
from whet.errors import NotApplicable
from whet.modes import match

NOT_WORDS = ("*position*", "*token_type*")


def modules(model: nn.Module, at: str, exclude: Sequence[str], key: str) -> dict[str, nn.Module]:
    """The embeddings whose name matches `at` (a glob, a name, or a module above) and no `exclude`.

    Raises:
        NotApplicable: nothing matches; the message lists the model's embeddings.
    """
    # a module that stands under two names (a shared table) can be asked for by either
    every = {
        name: module for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }  # fmt: skip
    if not every:
        raise NotApplicable(key, "the model has no nn.Embedding whose vectors could be moved.")
    wanted = match(list(every), at.removesuffix(".weight"))
    dropped = {name for pattern in exclude for name in match(list(every), pattern)}
    found: dict[int, str] = {}
    for name in wanted:
        if name not in dropped:
            found.setdefault(id(every[name]), name)
    if not found:
        raise NotApplicable(
            key, f"no embedding matches at={at!r}, exclude={tuple(exclude)!r}; the model has: "
            f"{', '.join(every)}. Name one of them, or a glob such as '*word*'."
        )  # fmt: skip
    return {name: every[name] for name in found.values()}


def tables(
    model: nn.Module, at: str, exclude: Sequence[str], key: str
) -> tuple[dict[str, nn.Parameter], list[str]]:
    """The trainable tables of the embeddings that match, each once, and the names of frozen ones.

    Raises:
        NotApplicable: nothing matches, or all that does is frozen.
    """
    found: dict[str, nn.Parameter] = {}
    frozen: list[str] = []
    for name, module in modules(model, at, exclude, key).items():
        table = module.weight
        assert isinstance(table, nn.Parameter)
        if not table.requires_grad:
            frozen.append(name)
        elif not any(table is known for known in found.values()):
            found[name] = table
    if not found:
        raise NotApplicable(
            key, f"the embedding tables are frozen ({', '.join(frozen)}), so they have no "
            "gradient: use scope='output', which moves what the embedding returns."
        )  # fmt: skip
    return found, frozen


def sized(gradient: Tensor, size: float, *, each: bool = False) -> Tensor:
    """`size * g / ||g||`, over the whole tensor or for `each` row; zero where the norm is no use.

    A norm of zero, NaN or infinity gives zeros, and the device is never waited for.
    """
    dims = tuple(range(1, gradient.ndim)) if each else None
    wide = _wide(gradient)
    norm = torch.linalg.vector_norm(gradient, dim=dims, keepdim=each, dtype=wide)
    useless = ~((norm > 0) & norm.isfinite())
    moved = gradient.to(wide)
    # in place from the first result on: a new tensor of a table's size costs more than its numbers
    moved = moved / norm if size == 1.0 else (moved * size).div_(norm)
    return moved.masked_fill_(useless, 0.0).to(gradient.dtype)


def within_(delta: Tensor, radius: float, *, each: bool = False) -> Tensor:
    """The delta, or `each` row of it, pulled back in place into the ball of the same norm."""
    dims = tuple(range(1, delta.ndim)) if each else None
    norm = torch.linalg.vector_norm(delta, dim=dims, keepdim=each, dtype=_wide(delta))
    return delta.mul_(torch.where(norm > radius, radius / norm, 1.0))


def _wide(tensor: Tensor) -> torch.dtype:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half else tensor.dtype  # fp16 squares overflow from 256 on


@dataclass(slots=True, eq=False)
class Call:
    """One embedding called on one tensor of ids.

    Args:
        module: the embedding.
        ids: what it was called on.
        delta: the leaf that is added to what it returns, `(N, T, D)` or `(N, D)`.
        mask: bool `(N, T)` or `(N,)`, False at padding.
    """

    module: nn.Module
    ids: Tensor
    delta: Tensor
    mask: Tensor

    def gradient(self) -> Tensor | None:
        """The loss gradient of what the embedding returned, zero at padding."""
        grad = self.delta.grad
        return None if grad is None else self.silent(grad)

    def silent(self, tensor: Tensor) -> Tensor:
        """The tensor with zeros at padding."""
        return tensor.masked_fill(~self.mask.unsqueeze(-1), 0.0)

    def lengths(self) -> Tensor:
        """True length of each row, `(N, 1, ...)` as many dimensions as `delta`."""
        count = self.mask.flatten(1).sum(1) if self.mask.ndim > 1 else self.mask.long()
        return count.clamp(min=1).view(-1, *[1] * (self.delta.ndim - 1))

    @torch.no_grad()
    def move(self, delta: Tensor | None) -> None:
        """Shift by another delta from now on (None: by nothing), and forget the gradient."""
        self.delta.grad = None
        if delta is None:
            self.delta.zero_()
        else:
            self.delta.copy_(delta)


Start = Callable[[Call, int], Tensor]


def uncalled(named: Mapping[str, nn.Module], calls: Sequence[Call], skipped: list[str]) -> None:
    """Add the embeddings that no forward of a micro-batch called, each once, to what is skipped."""
    met = {id(call.module) for call in calls}
    for name, module in named.items():
        told = f"{name}: not called in some batch"
        if id(module) not in met and told not in skipped:
            skipped.append(told)


def stays(key: str, skipped: str) -> str:
    """What the user should know of such an embedding."""
    return (
        f"{key}: what an embedding returns stays where it is ({skipped}). A model that reads the "
        "table itself, or is given vectors, never calls it: fgm with scope='table' moves tables."
    )


class Shift:
    """While it is entered, embeddings return their vectors plus a delta of zeros, or of `start`.

    A call is known by the ids it is made on: a second forward, the two passes of R-Drop and the
    late recompute of activation checkpointing meet the delta of the first, and the gradients of
    all of them add up in it. Ids that a model draws anew in each pass are never met again.

    Args:
        model: the root, whose `attention_mask` argument says what is padding; where it has none
            of the ids' shape, the embedding's `padding_idx` does.
        embeddings: the modules to stand at.
        start: from a call and its number, the delta that it begins with.
    """

    def __init__(
        self, model: nn.Module, embeddings: Sequence[nn.Module], start: Start | None = None
    ) -> None:
        self.model, self.embeddings, self.start = model, embeddings, start
        self.calls: list[Call] = []
        self.attention: Any = None
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Shift:
        self._handles = hook_points(self.model, self.embeddings)
        for module in {self.model, *self.embeddings}:
            _STANDING.setdefault(module, []).append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for module in {self.model, *self.embeddings}:
            _STANDING[module].remove(self)
        for handle in self._handles:
            handle.remove()
        self.calls.clear()
        self.attention = None

    def rewind(self) -> None:
        """Every call back to the delta it began with."""
        for number, call in enumerate(self.calls):
            call.move(None if self.start is None else self.start(call, number))

    def added(self, module: nn.Module, ids: Tensor, output: Tensor) -> Tensor:
        """What the embedding returns, plus the delta of this call."""
        for call in self.calls:
            if call.module is module and _same(call.ids, ids):
                return output + call.delta
        return output + self._enlist(module, ids, output).delta

    def _enlist(self, module: nn.Module, ids: Tensor, output: Tensor) -> Call:
        delta = torch.zeros_like(output, requires_grad=True)
        call = Call(module, ids, delta, self._mask(module, ids, output))
        if self.start is not None:
            call.move(self.start(call, len(self.calls)))
        self.calls.append(call)
        return call

    def _mask(self, module: nn.Module, ids: Tensor, output: Tensor) -> Tensor:
        shape, attention = output.shape[:-1], self.attention
        if isinstance(attention, Tensor) and attention.shape == shape:
            return attention.ne(0)
        padding = getattr(module, "padding_idx", None)
        if padding is not None and ids.shape == shape:
            return ids.ne(padding)
        return torch.ones(shape, dtype=torch.bool, device=output.device)


# Hook points in the way of whet.compiling: a delta belongs to ids, which a graph cannot know.
_STANDING: WeakKeyDictionary[nn.Module, list[Shift]] = WeakKeyDictionary()


def hook_points(model: nn.Module, embeddings: Sequence[nn.Module]) -> list[RemovableHandle]:
    """Make a model ready for shifts, once; gives the handles of the hooks that are new."""
    new = []
    if _arrived not in model._forward_pre_hooks.values():
        new.append(model.register_forward_pre_hook(_arrived, with_kwargs=True))
    new += [
        module.register_forward_hook(_returned, with_kwargs=True)
        for module in embeddings
        if _returned not in module._forward_hooks.values()
    ]
    return new


def make_ready(model: nn.Module, embeddings: Sequence[nn.Module]) -> None:
    """Hook points that stay, also in a model that was compiled, and called, before."""
    if hook_points(model, embeddings):
        compiling.forget_graphs()


@_disable_dynamo
def _arrived(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    for shift in _STANDING.get(model, ()):
        if shift.model is model:
            shift.attention = kwargs.get("attention_mask")


@_disable_dynamo
def _returned(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    for shift in _STANDING.get(module, ()):
        if module in shift.embeddings:
            output = shift.added(module, args[0] if args else kwargs["input"], output)
    return output


def _same(known: Tensor, ids: Tensor) -> bool:
    if known is ids:
        return True
    if known.shape != ids.shape:
        return False
    # `known` is kept alive, so that its memory cannot belong to other ids
    one_place = known.data_ptr() == ids.data_ptr() and known.stride() == ids.stride()
    return one_place or torch.equal(known, ids)
