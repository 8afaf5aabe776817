"""From a batch to probabilities: what is judged, saved and exported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from whet import compiling, cosine, exported, fsdp, objectives, settings
from whet.batch import Batch
from whet.errors import CheckpointError, InputError
from whet.modes import evaluation_mode
from whet.objectives.families import Family, family
from whet.objectives.pooling import pooled
from whet.training import Training

State = dict[str, Tensor]


def model_state(module: nn.Module) -> State:
    """A copy of all parameters and buffers that a checkpoint would hold."""
    copies: dict[int, Tensor] = {}  # of tied weights there is one
    state = module.state_dict(keep_vars=True)
    for tensor in state.values():
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
    return {name: copies[id(tensor)] for name, tensor in state.items()}


class Predictor(ABC):
    """A function from a batch to probabilities (predictions, for reals)."""

    family: Family
    autocast: Callable[[], Any] = nullcontext

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        """Probabilities `(N, C)`; predictions `(N,)` or `(N, D)` for reals."""

    def traced(self, batch: Batch) -> Tensor:
        """The same with a gradient for the batch's inputs, which attacks climb.

        Raises:
            InputError: this predictor has none.
        """
        raise InputError(f"{type(self).__name__} gives no gradients of its inputs to attack along.")

    @abstractmethod
    def members(self) -> list[State]:
        """The weights it predicts with, one state per member."""

    def models(self) -> list[Predictor]:
        """The predictors of one model each, in the order of `members`."""
        return [self]

    def form(self) -> Any:
        """How the members make a prediction, in plain values; a list stands for their mean."""
        return {} if (count := len(self.members())) == 1 else [{}] * count

    def logits(self, batch: Batch) -> Tensor:
        """Numbers of which `family.probabilities` makes the prediction, at any temperature."""
        return as_logits(self(batch), self.family)

    def traced_logits(self, batch: Batch) -> Tensor:
        """The logits with a gradient for the batch's inputs."""
        return as_logits(self.traced(batch), self.family)

    def save(self, path: str | Path) -> None:
        """Write all members to one safetensors file; whole or not at all."""
        states, form = self.members(), self.form()
        about = {"family": self.family.name, "members": len(states)}
        plain = form in ({}, [{}] * len(states))
        exported.write(Path(path), about if plain else {**about, "form": form}, states)

    @staticmethod
    def load(path: str | Path, model: nn.Module) -> Predictor:
        """A predictor from a file, with a model of the same architecture."""
        about, states = exported.read(path)
        for state in states:
            exported.check_architecture(model, state, path)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        placed = [{name: tensor.to(device) for name, tensor in state.items()} for state in states]
        left = iter(placed)
        try:
            form = about.get("form", {} if len(states) == 1 else [{}] * len(states))
            made = _formed(form, left, model, family(about["family"]))
            if next(left, None) is not None:
                raise ValueError("it holds more models than it uses")
        except (ValueError, TypeError, LookupError, AttributeError, StopIteration) as error:
            raise CheckpointError(f"{path} is no predictor that whet saved: {error}") from error
        return made


def _formed(form: Any, states: Iterator[State], model: nn.Module, kind: Family) -> Predictor:
    """The predictor that `form` describes, of the next members."""
    if isinstance(form, list):
        return MeanPredictor([_formed(one, states, model, kind) for one in form])
    if "temperature" in form:
        temperature = settings.positive(form["temperature"], "its temperature")
        return Calibrated(_formed(form["of"], states, model, kind), temperature)
    heads = cosine.checked(model, form.get("cosine", {}))
    return ModelPredictor(model, next(states), kind, heads=heads)


def as_logits(p: Tensor, kind: Family) -> Tensor:
    """Logits of which the probabilities are the given ones; at any temperature they do as well."""
    tiny = torch.finfo(p.dtype).tiny
    if kind.name == "multi-label":
        return p.clamp(min=tiny).log() - (1.0 - p).clamp(min=tiny).log()
    return p if kind.name in ("real", "embedding") else p.clamp(min=tiny).log()


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


def take_weights(path: str | Path, model: nn.Module) -> None:
    """Begin from what `Predictor.save` wrote.

    Raises:
        CheckpointError, InputError: it fits another model, or holds several.
    """
    members = Predictor.load(path, model).members()
    if len(members) > 1:
        raise InputError(f"{path} holds {len(members)} models; a stage starts from one.")
    model.load_state_dict(fsdp.parted(members[0], model))


class MeanPredictor(Predictor):
    """The mean of the members' probabilities."""

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if not predictors:
            raise InputError("a mean of predictors needs at least one.")
        self.predictors, self.family = list(predictors), predictors[0].family

    def members(self) -> list[State]:
        return [state for predictor in self.predictors for state in predictor.members()]

    def models(self) -> list[Predictor]:
        return [one for predictor in self.predictors for one in predictor.models()]

    def form(self) -> Any:
        return [predictor.form() for predictor in self.predictors]

    def __call__(self, batch: Batch) -> Tensor:
        return _mean([predictor(batch) for predictor in self.predictors])

    def logits(self, batch: Batch) -> Tensor:
        return pooled(torch.stack([one.logits(batch) for one in self.predictors]), self.family)

    def traced(self, batch: Batch) -> Tensor:
        return _mean([predictor.traced(batch) for predictor in self.predictors])

    def traced_logits(self, batch: Batch) -> Tensor:
        each = [one.traced_logits(batch) for one in self.predictors]
        return pooled(torch.stack(each), self.family)


def _mean(each: Sequence[Tensor]) -> Tensor:
    first, *others = each
    return sum(others, first) / len(each)


class Calibrated(Predictor):
    """Another's prediction at a temperature: `softmax(z / T)`, of an ensemble its mean tempered."""

    def __init__(self, inner: Predictor, temperature: float) -> None:
        self.inner, self.temperature, self.family = inner, float(temperature), inner.family

    def members(self) -> list[State]:
        return self.inner.members()

    def models(self) -> list[Predictor]:
        return self.inner.models()

    def form(self) -> Any:
        return {"temperature": self.temperature, "of": self.inner.form()}

    def __call__(self, batch: Batch) -> Tensor:
        return self.family.probabilities(self.logits(batch))

    def logits(self, batch: Batch) -> Tensor:
        return self.inner.logits(batch) / self.temperature

    def traced(self, batch: Batch) -> Tensor:
        return self.family.probabilities(self.traced_logits(batch))

    def traced_logits(self, batch: Batch) -> Tensor:
        return self.inner.traced_logits(batch) / self.temperature
