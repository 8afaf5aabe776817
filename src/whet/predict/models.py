"""One model under the weights that are judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from whet import compiling, cosine, fsdp, objectives
from whet.batch import Batch
from whet.modes import evaluation_mode
from whet.objectives.families import Family
from whet.predict.predictor import Predictor, State
from whet.training import Training


def model_state(module: nn.Module) -> State:
    """A copy of all parameters and buffers that a checkpoint would hold."""
    copies: dict[int, Tensor] = {}  # of tied weights there is one
    state = module.state_dict(keep_vars=True)
    for tensor in state.values():
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
    return {name: copies[id(tensor)] for name, tensor in state.items()}


class ModelPredictor(Predictor):
    """A model under given weights and buffers, in evaluation mode.

    The weights are put in place for a call only, so that the module may go on training.
    """

    def __init__(
        self, model: nn.Module, state: State, kind: Family,
        autocast: Callable[[], Any] = nullcontext, heads: cosine.Heads | None = None,
    ) -> None:  # fmt: skip
        self.model, self.state, self.family, self.autocast = model, state, kind, autocast
        self.heads = dict(heads or {})

    @classmethod
    def capture(cls, run: Training) -> ModelPredictor:
        """The model as it stands now, weights and buffers copied."""
        family = run.objective.family
        if run.outline is not None:  # whole, in the memory of every process's host
            state = fsdp.gathered(run.module.state_dict())
            return cls(run.outline, state, family, run.autocast)
        heads = cosine.standing(run.module)
        return cls(run.module, model_state(run.module), family, run.autocast, heads)

    def members(self) -> list[State]:
        return [self.state]

    def form(self) -> Any:
        return {"cosine": self.heads} if self.heads else {}

    def __call__(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.traced(batch)

    def logits(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.traced_logits(batch)

    def traced(self, batch: Batch) -> Tensor:
        return self.family.probabilities(self.traced_logits(batch))

    def traced_logits(self, batch: Batch) -> Tensor:
        device = next(iter(self.state.values())).device if self.state else torch.device("cpu")
        inputs = batch.to(device).inputs
        args, kwargs = _arguments(inputs)
        uncompiled = compiling.as_written()  # in each call, a graph would meet other weights
        heads = cosine.applied(self.model, self.heads)
        with uncompiled, evaluation_mode(self.model), self.autocast(), heads:
            output = self._output(args, kwargs)
        return objectives.logits(output).float()

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # not tied: weights that are one in the model may come from a file as two
        return functional_call(self.model, self.state, args, kwargs, tie_weights=False)


class LivePredictor(ModelPredictor):
    """The model that trains, as it stands when it is called; if it is sharded, by all processes."""

    @classmethod
    def capture(cls, run: Training) -> LivePredictor:
        """The model itself, nothing copied."""
        family, heads = run.objective.family, cosine.standing(run.module)
        return cls(run.module, run.module.state_dict(), family, run.autocast, heads)

    def members(self) -> list[State]:
        return [fsdp.gathered(self.model.state_dict())]

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.model(*args, **kwargs)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(inputs), {})
