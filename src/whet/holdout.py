"""Rows that are set aside before a study begins, for a judgement that nothing was chosen by.

A task splits its data differently for every seed, so a row is recognised by what it is and not by
where it stands: a digest of its inputs, or of the identity that the task gives it, decides

    set aside  ⟺  digest / 2^64 < share

for every seed alike, and two equal rows fare alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
)

from whet import rows
from whet.batch import TARGET_KEYS, Batch, leaves
from whet.errors import InputError
from whet.task import Task

PARTS = ("train", "select", "judge")
UNLABELLED = "unlabelled"
MOST = 50_000  # samples of a Dataset that are fetched to be recognised
ALIKE = 0.99  # of the rows of one seed must be known from another, or they are not recognised
REMEDY = (
    "Let the task say what each row is: whet.Task(..., identities={'train': ids, 'select': ids, "
    "'judge': ids}), one number or text per row that is the same for every seed."
)
Digests = NDArray[np.uint64]


def without(task: Task, share: float) -> Task:
    """The task without the rows that are set aside, in any part and in `unlabelled`.

    Raises:
        InputError: rows cannot be recognised, or a part is left without any.
    """
    kept = {name: _kept(task, name, share) for name in _parts(task)}
    resources = {n: kept.pop(n, value) for n, value in task.resources.items()}
    return replace(task, **kept, resources=resources, identities=None)


def judged_aside(task: Task, share: float) -> Task:
    """The task as in `without`, to be judged on exactly the rows that are set aside.

    They come from whichever part the seed's split put them into, but for parts of another kind
    than the judge part, and Datasets that draw (augment): a row is judged as it is.
    """
    kind = _opened(task.judge, "judge", task).kind
    found = []
    for name in PARTS:
        opened = _opened(getattr(task, name), name, task)
        if opened.kind == kind and (name == "judge" or not _draws(opened)):
            found.append((opened, np.flatnonzero(_aside(digests(task, name), share))))
    if not sum(len(chosen) for _, chosen in found):
        raise InputError(f"hold-out {share:g} sets no row of {task.name} aside. Raise --hold-out.")
    return replace(without(task, share), judge=_joined(found))


def check(first: Task, second: Task, share: float) -> dict[str, int]:
    """See that rows are recognised under two seeds; says how many there are and are set aside.

    Raises:
        InputError: what is under one seed is not found again under the other.
    """
    before, after = (
        np.concatenate([digests(task, name) for name in _parts(task)]) for task in (first, second)
    )
    known = float(np.isin(after, before).mean()) if len(after) else 0.0
    if known < ALIKE and first.identities is None:
        raise InputError(
            f"--hold-out cannot recognise the rows of {first.name}: of seed 1's, {known:.0%} are "
            "found among seed 0's. They are encoded, padded or augmented differently for each "
            f"seed or part, or each seed has rows of its own. {REMEDY} Where each seed draws new "
            "data, fresh seeds are new rows already: say --hold-out 0."
        )
    if not _aside(before, share).any():
        raise InputError(
            f"--hold-out {share:g} sets no row of {first.name} aside: it has "
            f"{len(np.unique(before))} different ones (rows of one identity stay together). "
            "Raise it, or take more data."
        )
    without(first, share)
    return {"rows": len(before), "aside": int(_aside(before, share).sum())}


def digests(task: Task, name: str) -> Digests:
    """64 bits for each row of a part."""
    opened = _opened(_data(task, name), name, task)
    if task.identities is not None:
        return _of_identities(task.identities, name, len(opened))
    return _of_arrays(opened) if opened.whole is not None else _of_samples(opened)


def _aside(found: Digests, share: float) -> NDArray[np.bool_]:
    return found < np.uint64(int(share * 2**64))


def _parts(task: Task) -> list[str]:
    """Whatever has rows; methods may train on `unlabelled` ones."""
    return [*PARTS, *([UNLABELLED] if task.resources.get(UNLABELLED) is not None else [])]


def _kept(task: Task, name: str, share: float) -> Any:
    chosen = np.flatnonzero(~_aside(digests(task, name), share))
    if not len(chosen):
        raise InputError(
            f"--hold-out {share:g} leaves no row in the part {name!r} of {task.name}. It takes "
            "more data, or a smaller share."
        )
    return _joined([(_opened(_data(task, name), name, task), chosen)])


def _data(task: Task, name: str) -> Any:
    return task.resources[name] if name == UNLABELLED else task.part(name)


# what the data is ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Opened:
    """A part's rows: in memory (`whole`), or samples of a Dataset, perhaps in a DataLoader."""

    what: str
    whole: Batch | None
    samples: Any
    loader: DataLoader[Any] | None

    @property
    def kind(self) -> str:
        if self.whole is not None:
            return "arrays"
        return "samples" if self.loader is None else "loader"

    def __len__(self) -> int:
        return self.whole.size if self.whole is not None else len(self.samples)


def _opened(data: Any, name: str, task: Task) -> _Opened:
    what = f"the part {name!r} of {task.name}"
    loader = data if isinstance(data, DataLoader) else None
    if loader is not None:
        _check_loader(loader, what)
        data = loader.dataset
    if isinstance(data, IterableDataset):
        raise InputError(
            f"--hold-out cannot set rows of {what} aside: a {type(data).__name__} gives them in "
            "its own order only. Give arrays, or a Dataset with __getitem__ and __len__."
        )
    opened = rows.open_rows(data, task.collate, what)
    if isinstance(opened, rows.Arrays) and loader is None:
        return _Opened(what, opened.whole, None, None)
    return _Opened(what, None, data, loader)


def _check_loader(loader: DataLoader[Any], what: str) -> None:
    sampler = loader.sampler
    usual = type(loader) is DataLoader and type(loader.batch_sampler) is BatchSampler
    plain = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None
    )
    if not (usual and plain):
        raise InputError(
            f"--hold-out cannot set rows of {what} aside: its DataLoader has a sampler of its own. "
            "Give the Dataset itself, and batch_size in ABOUT."
        )


def _joined(pieces: Sequence[tuple[_Opened, NDArray[np.int64]]]) -> Any:
    """Rows of one or several parts of one kind, as data of that kind."""
    pieces = [(opened, chosen) for opened, chosen in pieces if len(chosen)]
    last = pieces[-1][0]
    if last.whole is not None:
        try:
            return Batch.join([o.whole.take(torch.as_tensor(c)) for o, c in pieces if o.whole])
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"--hold-out cannot join rows of {last.what} with those of other parts: their "
                f"shapes differ ({error}). Pad them alike."
            ) from error
    subsets = [Subset(opened.samples, chosen.tolist()) for opened, chosen in pieces]
    samples: Any = subsets[0] if len(subsets) == 1 else ConcatDataset(subsets)
    return samples if last.loader is None else _reloaded(last.loader, samples)


def _reloaded(loader: DataLoader[Any], samples: Any) -> DataLoader[Any]:
    return DataLoader(
        samples, loader.batch_size, shuffle=isinstance(loader.sampler, RandomSampler),
        num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory, drop_last=loader.drop_last, timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn, generator=loader.generator,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers,
    )  # fmt: skip


# digests ------------------------------------------------------------------------------------------
def _digest(pieces: Iterable[bytes]) -> int:
    found = hashlib.blake2b(digest_size=8)
    for piece in pieces:
        found.update(piece)
    return int.from_bytes(found.digest(), "little")


def _of_arrays(opened: _Opened) -> Digests:
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


def _of_samples(opened: _Opened) -> Digests:
    count = len(opened)
    if tensors := _tensors(opened.samples):
        return _of_tensors([(opened.what, tensor) for tensor in tensors], count)
    if count > MOST:
        raise InputError(
            f"--hold-out would have to fetch all {count} samples of {opened.what} for every run to "
            f"recognise them, and does so up to {MOST}. {REMEDY}"
        )
    if _draws(opened):
        raise InputError(
            f"--hold-out cannot recognise the samples of {opened.what}: fetched twice, one is not "
            f"the same (it is augmented). {REMEDY}"
        )
    return np.fromiter(_fetched(opened, range(count), 0), np.uint64, count)


def _draws(opened: _Opened) -> bool:
    """Whether a Dataset gives a sample otherwise under another seed."""
    if opened.whole is not None:
        return False
    few = range(min(len(opened), 4))
    return list(_fetched(opened, few, 0)) != list(_fetched(opened, few, 1))


def _fetched(opened: _Opened, chosen: Iterable[int], seed: int) -> Iterator[int]:
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
