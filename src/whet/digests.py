"""What a row is recognised by: 64 bits of its inputs, or of the identity that a task gives it.

Equal rows have equal digests, in whichever order, part or container they come.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset, TensorDataset

from whet import rows
from whet.batch import TARGET_KEYS, Batch, leaves
from whet.errors import InputError

MOST = 50_000  # samples of a Dataset that are fetched to be recognised
REMEDY = (
    "Let the task say what each row is: whet.Task(..., identities={'train': ids, 'select': ids, "
    "'judge': ids}), one number or text per row that is the same for every seed."
)
Digests = NDArray[np.uint64]


@dataclass(frozen=True)
class Opened:
    """A part's rows: in memory (`whole`), or samples of a Dataset, perhaps in a DataLoader."""

    what: str
    whole: Batch | None
    samples: Any
    loader: DataLoader[Any] | None

    @property
    def kind(self) -> str:
        """Parts of one kind can be joined."""
        if self.whole is not None:
            return "arrays"
        return "samples" if self.loader is None else "loader"

    def __len__(self) -> int:
        return self.whole.size if self.whole is not None else len(self.samples)


def of(opened: Opened, identities: Mapping[str, Any] | None, name: str) -> Digests:
    """One for each row of a part.

    Raises:
        InputError: its rows cannot be told, or have no identity where others do.
    """
    if identities is not None:
        return _of_identities(identities, name, len(opened))
    return _of_arrays(opened) if opened.whole is not None else _of_samples(opened)


def _digest(pieces: Iterable[bytes]) -> int:
    found = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        found.update(piece)
    return int.from_bytes(found.digest(), "little")


def _of_arrays(opened: Opened) -> Digests:
    assert opened.whole is not None
    return _of_tensors([*leaves(opened.whole.inputs)], len(opened))


def _of_tensors(found: Iterable[tuple[str, Tensor]], count: int) -> Digests:
    columns = []
    for path, tensor in found:
        if tensor.layout is not torch.strided:
            raise InputError(f"--hold-out cannot recognise rows of {path} (sparse). {REMEDY}")
        flat = tensor.detach().cpu().reshape(len(tensor), -1).contiguous()
        columns.append(flat.view(torch.uint8).numpy() if flat.shape[1] else flat.numpy())
    each = (_digest(column[row].tobytes() for column in columns) for row in range(count))
    return np.fromiter(each, np.uint64, count)


def _tensors(samples: Any) -> list[Tensor]:
    """The inputs of a TensorDataset, or of a Subset of one; empty for other Datasets."""
    if isinstance(samples, TensorDataset):
        return list(samples.tensors[:1] if len(samples.tensors) == 2 else samples.tensors)
    if isinstance(samples, Subset):
        return [tensor[torch.as_tensor(samples.indices)] for tensor in _tensors(samples.dataset)]
    return []


def _of_samples(opened: Opened) -> Digests:
    count = len(opened)
    if tensors := _tensors(opened.samples):
        return _of_tensors([(opened.what, tensor) for tensor in tensors], count)
    if count > MOST:
        raise InputError(
            f"--hold-out would have to fetch all {count} samples of {opened.what} for every run to "
            f"recognise them, and does so up to {MOST}. {REMEDY}"
        )
    if draws(opened):
        raise InputError(
            f"--hold-out cannot recognise the samples of {opened.what}: fetched twice, one is not "
            f"the same (it is augmented). {REMEDY}"
        )
    return np.fromiter(_fetched(opened, range(count), 0), np.uint64, count)


def draws(opened: Opened) -> bool:
    """Whether a Dataset gives a sample otherwise under another seed."""
    if opened.whole is not None:
        return False
    few = range(min(len(opened), 4))
    return list(_fetched(opened, few, 0)) != list(_fetched(opened, few, 1))


def _fetched(opened: Opened, chosen: Iterable[int], seed: int) -> Iterator[int]:
    with rows.kept_generators():
        for row in chosen:
            rows.seed_all(seed)
            yield _digest(_bytes(_inputs(opened.samples[row]), opened.what))


def _inputs(sample: Any) -> Any:
    """A sample without its target."""
    if isinstance(sample, Mapping):
        return {key: value for key, value in sample.items() if key not in TARGET_KEYS}
    return sample[0] if isinstance(sample, tuple | list) and len(sample) == 2 else sample


def _of_identities(given: Mapping[str, Any], name: str, count: int) -> Digests:
    if name not in given:
        raise InputError(
            f"the task's identities have none for the part {name!r}; there are "
            f"{', '.join(given) or 'none at all'}. --hold-out needs one for every row."
        )
    values = given[name]
    columns = values.values() if isinstance(values, Mapping) else [values]
    each = list(zip(*columns, strict=True))
    if len(each) != count:
        raise InputError(
            f"the task's identities of the part {name!r} are {len(each)}, and it has {count} rows."
        )
    found = (_digest(_bytes(list(one), f"identities[{name!r}]")) for one in each)
    return np.fromiter(found, np.uint64, count)


def _bytes(value: Any, what: str) -> Iterator[bytes]:
    """The bytes that a value consists of; equal values give equal ones."""
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()  # a number is the same in a list and in an array
    if isinstance(value, np.ndarray) and value.dtype != object:
        plain = value.dtype.kind in "fiub"
        yield np.ascontiguousarray(value).tobytes() if plain else repr(value.tolist()).encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}=".encode()
            yield from _bytes(value[key], what)
    elif isinstance(value, list | tuple | np.ndarray):
        for each in value:
            yield from _bytes(each, what)
            yield b","
    elif isinstance(value, str | int | float | bytes | None):
        yield repr(value).encode()
    elif hasattr(value, "tobytes"):  # an image
        yield f"{getattr(value, 'size', '')}".encode() + value.tobytes()
    else:
        raise InputError(
            f"--hold-out cannot recognise a row of {what}: it is a {type(value).__name__}. {REMEDY}"
        )
