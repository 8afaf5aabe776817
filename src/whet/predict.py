"""From a batch to probabilities: what is judged, saved and exported."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from whet import compiling, fsdp, objectives, parsing, robustness
from whet import metrics as measures
from whet.batch import Batch
from whet.errors import CheckpointError, InputError
from whet.modes import evaluation_mode
from whet.objectives.families import Family, family
from whet.training import Training
from whet.world import World

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

    def save(self, path: str | Path) -> None:
        """Write all members to one safetensors file; whole or not at all."""
        from safetensors.torch import save

        from whet.checkpoint import write_whole

        states = self.members()
        tensors = {
            f"{at}/{name}": tensor.detach().cpu().contiguous().clone()
            for at, state in enumerate(states)
            for name, tensor in state.items()
        }
        about = {"whet": json.dumps({"family": self.family.name, "members": len(states)})}
        write_whole(Path(path), save(tensors, about))

    @staticmethod
    def load(path: str | Path, model: nn.Module) -> Predictor:
        """A predictor from a file, with a model of the same architecture."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), framework="pt") as file:
                kind, states = _members(file)
        except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
            raise CheckpointError(f"{path} is no predictor that whet saved: {error}") from error
        for state in states:
            _check_architecture(model, state, path)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        placed = [{name: tensor.to(device) for name, tensor in state.items()} for state in states]
        made = [ModelPredictor(model, state, kind) for state in placed]
        return made[0] if len(made) == 1 else MeanPredictor(made)


def _members(file: Any) -> tuple[Family, list[State]]:
    """The family and the members' weights; their names are checked before any is read."""
    about = parsing.values((file.metadata() or {})["whet"])
    keys = {key: key.partition("/") for key in file.keys()}  # noqa: SIM118 - not a mapping
    count = about["members"]
    numbers = sorted({number for number, _, _ in keys.values()} or {"0"})
    if numbers != sorted(map(str, range(min(count, len(keys) + 1)))):
        raise ValueError(f"its header says {count} members; it holds {numbers[:6]}")
    states: dict[str, State] = {number: {} for number in numbers}
    for key, (number, _, name) in keys.items():
        states[number][name] = file.get_tensor(key)
    return family(str(about["family"])), [states[number] for number in sorted(numbers, key=int)]


def _check_architecture(model: nn.Module, state: State, path: object) -> None:
    have = {name: _form(tensor) for name, tensor in model.state_dict().items()}
    want = {name: _form(tensor) for name, tensor in state.items()}
    if have != want:
        odd = [name for name in sorted(have | want) if have.get(name) != want.get(name)]
        told = [f"{name} {want.get(name, 'missing')} ({have.get(name, 'none')})" for name in odd]
        raise CheckpointError(
            f"{path} fits another model; in the file (and in this model): "
            f"{', '.join(told[:6])}. Build the model that was trained."
        )


def _form(tensor: Tensor) -> str:
    """Shape, and type unless it is real: reals of another precision fit, integers do not."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"


class ModelPredictor(Predictor):
    """A model under given weights and buffers, in evaluation mode.

    The weights are put in place for a call only, so that the module may go on training.
    """

    def __init__(
        self, model: nn.Module, state: State, kind: Family,
        autocast: Callable[[], Any] = nullcontext,
    ) -> None:  # fmt: skip
        self.model, self.state, self.family, self.autocast = model, state, kind, autocast

    @classmethod
    def capture(cls, run: Training) -> ModelPredictor:
        """The model as it stands now, weights and buffers copied."""
        family = run.objective.family
        if run.outline is not None:  # whole, in the memory of every process's host
            state = fsdp.gathered(run.module.state_dict())
            return cls(run.outline, state, family, run.autocast)
        return cls(run.module, model_state(run.module), family, run.autocast)

    def members(self) -> list[State]:
        return [self.state]

    def __call__(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.traced(batch)

    def traced(self, batch: Batch) -> Tensor:
        device = next(iter(self.state.values())).device if self.state else torch.device("cpu")
        inputs = batch.to(device).inputs
        args, kwargs = _arguments(inputs)
        uncompiled = compiling.as_written()  # in each call, a graph would meet other weights
        with uncompiled, evaluation_mode(self.model), self.autocast():
            output = self._output(args, kwargs)
        return self.family.probabilities(objectives.logits(output).float())

    def _output(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # not tied: weights that are one in the model may come from a file as two
        return functional_call(self.model, self.state, args, kwargs, tie_weights=False)


class LivePredictor(ModelPredictor):
    """The model that trains, as it stands when it is called; if it is sharded, by all processes."""

    @classmethod
    def capture(cls, run: Training) -> LivePredictor:
        """The model itself, nothing copied."""
        return cls(run.module, run.module.state_dict(), run.objective.family, run.autocast)

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

    def __call__(self, batch: Batch) -> Tensor:
        return self._mean([predictor(batch) for predictor in self.predictors])

    def traced(self, batch: Batch) -> Tensor:
        return self._mean([predictor.traced(batch) for predictor in self.predictors])

    def _mean(self, each: Sequence[Tensor]) -> Tensor:
        total = each[0]
        for one in each[1:]:
            total = total + one
        return total / len(each)


def predict(
    predictor: Predictor, batches: Iterable[Batch], world: World | None = None
) -> tuple[Any, Any]:
    """Probabilities and targets of all items that have a target, as numpy arrays.

    In a `world` each process is given its rows of every batch, and gets those of all.
    """
    probabilities: list[Tensor | None] = []
    targets: list[Tensor | None] = []
    for batch in batches:
        if batch.targets is None or batch.size == 0:
            probabilities.append(None)
            targets.append(None)
            continue
        output, truth = predictor.family.align(predictor(batch).cpu(), batch.targets.cpu())
        mask = predictor.family.item_mask(truth)
        rows = None if batch.mask is None else batch.mask.cpu()
        if mask is None:
            mask = rows
        elif rows is not None:
            mask = mask & rows[:, None]
        probabilities.append(output if mask is None else output[mask])
        targets.append(truth if mask is None else truth[mask])
    everybody = World() if world is None else world
    found, truths = everybody.joined(probabilities), everybody.joined(targets)
    if not truths:
        raise InputError("there is nothing to evaluate on: no row of the data has a target.")
    return (torch.cat(found).double().numpy(), np.asarray(torch.cat(truths)))


def judge(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> tuple[dict[str, float], Any, Any]:  # fmt: skip
    """Metrics of a predictor, with the probabilities and targets of the inputs as they are."""
    chosen = wanted(predictor, metrics)
    attacks = [attack for metric in chosen if (attack := metric.attack) is not None]
    rows = list(batches) if attacks else batches
    clean = predict(predictor, rows, world)
    found = measures.evaluate([m for m in chosen if m.attack is None], *clean) if (
        len(attacks) < len(chosen)
    ) else {}  # fmt: skip
    for attack in [one for at, one in enumerate(attacks) if one not in attacks[:at]]:
        moved = (robustness.attacked(predictor.traced, one, attack, at)
                 for at, one in enumerate(rows))  # fmt: skip
        under = [replace(m, attack=None) for m in chosen if m.attack == attack]
        found |= measures.evaluate(under, *predict(predictor, moved, world))
    return {metric.name: found[metric.name] for metric in chosen}, *clean


def evaluate(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> dict[str, float]:  # fmt: skip
    """Metrics of a predictor; the family's defaults where none are named."""
    return judge(predictor, batches, metrics, world)[0]


def score(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> float:  # fmt: skip
    """The deciding metric, which is the first one; more is better."""
    decisive = wanted(predictor, metrics)[:1]
    [value] = evaluate(predictor, batches, decisive, world).values()
    return value if decisive[0].higher_is_better else -value


def wanted(predictor: Predictor, metrics: Sequence[Any] | None) -> list[measures.Metric]:
    """The metrics to judge by; the family's defaults where none are named."""
    name = predictor.family.name
    if name == "embedding":
        raise InputError(
            "embeddings have no targets to be judged by: train a probe on them (a second stage "
            "with an objective that has targets)."
        )
    return measures.resolve(metrics or measures.defaults(name), name)
