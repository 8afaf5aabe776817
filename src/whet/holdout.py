"""Rows that are set aside before a study begins, for a judgement that nothing was chosen by.

A task splits its data differently for every seed, so a row is recognised by what it is and not by
where it stands: a digest of its inputs, or of the identity that the task gives it, decides

    set aside  ⟺  digest / 2^64 < share

for every seed alike, and two equal rows fare alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from whet import digests, rows
from whet.batch import Batch
from whet.errors import InputError
from whet.task import Task

PARTS = ("train", "select", "judge")
UNLABELLED = "unlabelled"
ALIKE = 0.99  # of the rows of one seed must be known from another, or they are not recognised


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
    own, found = _opened(task.judge, "judge", task), []
    for name in PARTS:
        opened = _opened(getattr(task, name), name, task)
        if opened.kind == own.kind and (name == "judge" or not digests.draws(opened)):
            found.append((opened, np.flatnonzero(_aside(told(task, name), share))))
    if not sum(len(chosen) for _, chosen in found):
        raise InputError(f"hold-out {share:g} sets no row of {task.name} aside. Raise --hold-out.")
    return replace(without(task, share), judge=_joined(found, own))


def check(first: Task, second: Task, share: float) -> dict[str, int]:
    """See that rows are recognised under two seeds; says how many there are and are set aside.

    Raises:
        InputError: what is under one seed is not found again under the other.
    """
    before, after = (
        np.concatenate([told(task, name) for name in _parts(task)]) for task in (first, second)
    )
    known = float(np.isin(after, before).mean()) if len(after) else 0.0
    if known < ALIKE and first.identities is None:
        raise InputError(
            f"--hold-out cannot recognise the rows of {first.name}: of seed 1's, {known:.0%} are "
            "found among seed 0's. They are encoded, padded or augmented differently for each "
            f"seed or part, or each seed has rows of its own. {digests.REMEDY} Where each seed "
            "draws new data, fresh seeds are new rows already: say --hold-out 0."
        )
    if not _aside(before, share).any():
        raise InputError(
            f"--hold-out {share:g} sets no row of {first.name} aside: it has "
            f"{len(np.unique(before))} different ones (rows of one identity stay together). "
            "Raise it, or take more data."
        )
    without(first, share)
    return {"rows": len(before), "aside": int(_aside(before, share).sum())}


def told(task: Task, name: str) -> digests.Digests:
    """What each row of a part is recognised by."""
    return digests.of(_opened(_data(task, name), name, task), task.identities, name)


def _aside(found: digests.Digests, share: float) -> NDArray[np.bool_]:
    return found < np.uint64(int(share * 2**64))


def _parts(task: Task) -> list[str]:
    """Whatever has rows; methods may train on `unlabelled` ones."""
    return [*PARTS, *([UNLABELLED] if task.resources.get(UNLABELLED) is not None else [])]


def _kept(task: Task, name: str, share: float) -> Any:
    chosen = np.flatnonzero(~_aside(told(task, name), share))
    if not len(chosen):
        raise InputError(
            f"--hold-out {share:g} leaves no row in the part {name!r} of {task.name}. It takes "
            "more data, or a smaller share."
        )
    own = _opened(_data(task, name), name, task)
    return _joined([(own, chosen)], own)


def _data(task: Task, name: str) -> Any:
    return task.resources[name] if name == UNLABELLED else task.part(name)


# what the data is ---------------------------------------------------------------------------------
def _opened(data: Any, name: str, task: Task) -> digests.Opened:
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
        return digests.Opened(what, opened.whole, None, None)
    return digests.Opened(what, None, data, loader)


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


def _joined(pieces: Sequence[tuple[digests.Opened, NDArray[np.int64]]], own: digests.Opened) -> Any:
    """Rows of one or several parts of one kind, as data of that kind, loaded as `own` is."""
    pieces = [(opened, chosen) for opened, chosen in pieces if len(chosen)]
    if own.whole is not None:
        try:
            return Batch.join([o.whole.take(torch.as_tensor(c)) for o, c in pieces if o.whole])
        except (RuntimeError, KeyError) as error:
            raise InputError(
                f"--hold-out cannot join rows of {own.what} with those of other parts: their "
                f"shapes differ ({error}). Pad them alike."
            ) from error
    subsets = [Subset(opened.samples, chosen.tolist()) for opened, chosen in pieces]
    samples: Any = subsets[0] if len(subsets) == 1 else ConcatDataset(subsets)
    return samples if own.loader is None else _reloaded(own.loader, samples)


def _reloaded(loader: DataLoader[Any], samples: Any) -> DataLoader[Any]:
    return DataLoader(
        samples, loader.batch_size, shuffle=isinstance(loader.sampler, RandomSampler),
        num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory, drop_last=loader.drop_last, timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn, generator=loader.generator,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor, persistent_workers=loader.persistent_workers,
    )  # fmt: skip
