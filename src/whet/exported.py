"""The file of an exported predictor: weights of its members, and a header that says what they are.

The weights are safetensors, `0/name` for the first member's; the header is JSON, and nothing of it
is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from whet import parsing
from whet.checkpoint import write_whole
from whet.errors import CheckpointError

State = dict[str, Tensor]


def write(path: Path, about: Mapping[str, Any], states: Sequence[State]) -> None:
    """Write the members' weights and what is known about them; whole or not at all."""
    from safetensors.torch import save

    tensors = {
        f"{at}/{name}": tensor.detach().cpu().contiguous().clone()
        for at, state in enumerate(states)
        for name, tensor in state.items()
    }
    write_whole(path, save(tensors, {"whet": json.dumps(about)}))


def read(path: str | Path) -> tuple[dict[str, Any], list[State]]:
    """What the header says, and the members' weights; their names are checked before any is read.

    Raises:
        CheckpointError: it is no such file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            return _members(file)
    except (SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise CheckpointError(f"{path} is no predictor that whet saved: {error}") from error


def _members(file: Any) -> tuple[dict[str, Any], list[State]]:
    about = dict(parsing.values((file.metadata() or {})["whet"]))
    about["family"] = str(about["family"])
    keys = {key: key.partition("/") for key in file.keys()}  # noqa: SIM118 - not a mapping
    count = about["members"]
    numbers = sorted({number for number, _, _ in keys.values()} or {"0"})
    if numbers != sorted(map(str, range(min(count, len(keys) + 1)))):
        raise ValueError(f"its header says {count} members; it holds {numbers[:6]}")
    states: dict[str, State] = {number: {} for number in numbers}
    for key, (number, _, name) in keys.items():
        states[number][name] = file.get_tensor(key)
    return about, [states[number] for number in sorted(numbers, key=int)]


def check_architecture(model: nn.Module, state: State, path: object) -> None:
    """Refuse weights of another model, naming what differs.

    Raises:
        CheckpointError: names, shapes or kinds of numbers differ.
    """
    have = {name: form_of(tensor) for name, tensor in model.state_dict().items()}
    want = {name: form_of(tensor) for name, tensor in state.items()}
    if have != want:
        odd = [name for name in sorted(have | want) if have.get(name) != want.get(name)]
        told = [f"{name} {want.get(name, 'missing')} ({have.get(name, 'none')})" for name in odd]
        raise CheckpointError(
            f"{path} fits another model; in the file (and in this model): "
            f"{', '.join(told[:6])}. Build the model that was trained."
        )


def form_of(tensor: Tensor) -> str:
    """Shape, and type unless it is real: reals of another precision fit, integers do not."""
    return f"{tuple(tensor.shape)}{'' if tensor.is_floating_point() else f' {tensor.dtype}'}"
