"""The innermost method: it calls the model and says what is learned."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Forward, Window
from whet.method import InnerForward, Layer, Method, Resource
from whet.modes import evaluation_mode
from whet.objectives.families import Family
from whet.training import Training


def call(model: Any, inputs: Any) -> Any:
    """The model on a batch's inputs: a mapping as keywords, a tuple as positions."""
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def logits(output: Any) -> Tensor:
    """The tensor that is learned on: the output itself, its `logits`, or its first part."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "last_hidden_state"):
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    if isinstance(output, Sequence) and output and isinstance(output[0], Tensor):
        return output[0]
    raise InputError(
        f"the model returned a {type(output).__name__} without logits; return a tensor, an object "
        "or mapping with 'logits', or a tuple that begins with them."
    )


class Objective(Method):
    """What is learned; supplies the losses, the count that weights them, and a family."""

    layer = Layer.OBJECTIVE
    owns = frozenset({Resource.OBJECTIVE})
    neutral: ClassVar[Mapping[str, Any] | str] = "an objective is what the others change"
    whole_weights: ClassVar[bool | str] = False
    _checked: bool = False
    _width: int | None = None

    @property
    def family(self) -> Family:
        """How outputs and targets are compared."""
        raise NotImplementedError

    def count(self, batch: Batch) -> float:
        """Items with a target in a batch, known before any forward."""
        return 0.0 if batch.targets is None else self.family.items(batch.targets, batch.mask)

    def anew(self) -> Self:
        """A copy that has not seen a model yet."""
        twin = copy.copy(self)
        twin._checked, twin._width = False, None
        return twin

    def window(self, batches: Sequence[Batch], device: torch.device) -> Window:
        """The micro-batches of one update, on a device, with exact totals."""
        if not batches:
            raise InputError("a window needs at least one batch; the list is empty.")
        batches = [_blanked(batch) for batch in batches]
        window = Window.of(batches, self.count)  # counted where the data lie: no waiting
        if device.type == "cpu":
            return window
        for batch in batches:
            self.check_host(batch)
        return window.to(device)

    def losses(self, output: Tensor, targets: Tensor) -> Tensor:
        """Per-item losses."""
        return self.family.losses(output, targets)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        """Call the model and compare its output with the targets."""
        output = logits(call(run.model, batch.inputs))
        targets = batch.targets
        if targets is None:
            return Forward(batch, output, output.new_zeros(batch.size), batch.rows_with_target())
        if not self._checked:
            self._check_first(batch, output)
        try:
            losses = self.losses(output, targets)
        except (IndexError, RuntimeError, ValueError):
            self.family.check(batch, output)  # a clearer error, where targets are the reason
            raise
        return Forward(batch, output, losses, self.mask(batch))

    def moved(
        self, forward: Forward, move: Callable[[Tensor], Tensor], logits: Tensor | None = None
    ) -> Forward:
        """The forward with its losses at other logits; its output stays what the model gave.

        `move` makes them of what was learned so far, unless they are given.
        """
        targets, moves = forward.batch.targets, (*forward.moves, move)
        assert targets is not None
        logits = move(forward.learned) if logits is None else logits
        return forward.replace(logits=logits, losses=self.losses(logits, targets), moves=moves)

    def mask(self, batch: Batch) -> Tensor | None:
        """Bool per item: rows with a target, less what the targets themselves ignore."""
        assert batch.targets is not None
        mask, rows = self.family.item_mask(batch.targets), batch.mask
        if mask is None or rows is None:
            return rows if mask is None else mask
        return mask & rows.view(-1, *[1] * (mask.ndim - 1))

    def _check_first(self, batch: Batch, output: Tensor) -> None:
        self.family.check(batch, output)
        self._checked, self._width = True, output.shape[-1]

    def check_host(self, batch: Batch) -> None:
        """Check targets that still lie on the host, where an accelerator would fail unreadably."""
        if self._width is not None and batch.targets is not None:
            shape = (*batch.targets.shape, self._width)
            classes = self.family.name in ("categorical", "tokens")
            if classes and not batch.targets.is_floating_point():
                self.family.check(batch, torch.empty(shape, device="meta"))

    def width(self, run: Training, batch: Batch) -> int:
        """Number of outputs, from one forward that leaves no trace."""
        if self._width is None:
            self._width = probe(run, batch).shape[-1]
        return self._width

    def conclude(self, run: Training, methods: Sequence[Method]) -> None:
        """Check that the methods around suit the objective; the stack calls this once."""


def _blanked(batch: Batch) -> Batch:
    # what a row without a target holds (-1, NaN) must not reach a loss: an index out of range stops
    # the forward, and a NaN comes back in the gradient of `where`
    if batch.mask is None or batch.targets is None:
        return batch
    return batch.replace(targets=batch.known_targets())


def probe(run: Training, batch: Batch) -> Tensor:
    """The output for a batch in evaluation mode, moving neither weights, buffers nor generators."""
    with seeding.borrowed(), evaluation_mode(run.module), torch.no_grad():
        return logits(call(run.module, batch.inputs))
