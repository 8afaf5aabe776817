"""Answers of a teacher that were kept, for every training row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from whet import seeding
from whet.batch import Batch, leaves
from whet.errors import InputError
from whet.method import Layer, Method
from whet.rows import Samples
from whet.training import Training

CHUNK = 1 << 16  # rows that are looked at together


class Kept:
    """A teacher's logits for every training row, in the order of the training data.

    Args:
        given: `(rows, ...)`, a tensor or a numpy array (which may lie in a file: `np.load` with
            `mmap_mode="r"`). It stays where it is; a batch's rows are copied.
        who: the method, for errors.

    Raises:
        InputError: it is no array of numbers, or a number is not finite.
    """

    def __init__(self, given: Any, who: str) -> None:
        if not isinstance(given, Tensor | np.ndarray) or given.ndim < 1 or len(given) == 0:
            raise InputError(
                f"{who}: resource 'teacher_logits' is a {type(given).__name__}; give a tensor or "
                "an array with one row of logits for each training row."
            )
        self.given, self.who = given, who
        for at in range(0, len(given), CHUNK):
            bad = ~_tensor(given[at : at + CHUNK]).isfinite()
            rows = bad.flatten(1).any(1) if bad.ndim > 1 else bad
            if rows.any():
                raise InputError(
                    f"{who}: resource 'teacher_logits' is NaN or infinite in row "
                    f"{at + int(rows.nonzero()[0])}. Ask the teacher again for that row, and look "
                    "at its input."
                )

    def __len__(self) -> int:
        return len(self.given)

    def rows(self, batch: Batch) -> Tensor:
        """The logits of a batch's rows, on its device.

        Raises:
            InputError: the batch does not say which rows it holds, or holds others.
        """
        if batch.indices is None:
            raise InputError(
                f"{self.who}: the batches do not say which rows they hold. Give the training data "
                "as arrays or a map-style Dataset, or Batches with `indices`."
            )
        indices = batch.indices.cpu()
        outside = (indices < 0) | (indices >= len(self))
        if outside.any():
            raise InputError(
                f"{self.who}: row {int(indices[outside][0])} has none of the {len(self)} kept "
                "answers (-1 is a row of other data, such as unlabelled rows). Give one for each "
                "training row, or the teacher itself as resource 'teacher'."
            )
        if isinstance(self.given, np.ndarray):
            return _tensor(self.given[indices.numpy()]).to(batch.device)
        return self.given[indices.to(self.given.device)].to(batch.device)


def _tensor(part: Any) -> Tensor:
    # copied: what lies in a file that is read only cannot be shared
    return torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part


def check(run: Training, method: Method, kept: Kept, regardless: bool) -> None:
    """Refuse kept answers that are of another length, or to other inputs than the student sees.

    Raises:
        InputError: naming what changes the inputs, and the remedies.
    """
    rows = getattr(run.train("teacher_logits") if run.train else None, "rows", None)
    if rows is not None and len(rows) != len(kept):
        raise InputError(
            f"{method.key}: resource 'teacher_logits' has {len(kept)} rows and the training data "
            f"{len(rows)}. Give one row of logits for each training row, in the data's order."
        )
    if regardless:
        return
    for other in run.beside:
        overlap = other.span[0] < method.span[1] and method.span[0] < other.span[1]
        if overlap and other.layer in (Layer.BATCH_SOURCE, Layer.INPUT_MIXING):
            raise changed(method, other.key)
    if isinstance(rows, Samples) and _draws(rows):
        raise changed(method, "the Dataset, which gives other inputs each time it is asked")


def check_unchanged(run: Training, method: Method, batch: Batch) -> None:
    """Refuse inputs that are not those of the data; the same rows side by side are.

    Raises:
        InputError: a method between the data and the teacher changed them.
    """
    assert run.current is not None
    original = run.current.batches[run.micro]
    if batch.inputs is original.inputs:
        return
    times, rest = divmod(batch.size, original.size)
    ours, theirs = dict(leaves(batch.inputs)), dict(leaves(original.inputs))
    same = rest == 0 and ours.keys() == theirs.keys() and all(
        _alike(ours[path], torch.cat([theirs[path]] * times)) for path in ours
    )  # fmt: skip
    if not same:
        raise changed(method, "a method outside of it")


def changed(method: Method, who: str) -> InputError:
    """The error for answers to other inputs."""
    return InputError(
        f"{method.key}: resource 'teacher_logits' holds answers to the training rows as they are, "
        f"and the student learns on rows that {who} changed. Give the teacher itself (cached=False "
        "and resource 'teacher'), leave the change out, or say cached='regardless' to teach what "
        "the teacher said to the unchanged rows."
    )


def _draws(rows: Samples, count: int = 16) -> bool:
    """Whether a Dataset draws: its first rows under several seeds are not the same."""
    first = torch.arange(min(count, len(rows)))
    seen: list[dict[str, Tensor]] = []
    for seed in range(3):
        keys = [seeding.key(seed, "draws", n) for n in range(len(first))]
        seen.append(dict(leaves(rows.fetch(first, keys).inputs)))
    return any(
        one.keys() != seen[0].keys() or not all(_alike(one[path], seen[0][path]) for path in one)
        for one in seen[1:]
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    """Equal, where a missing value equals a missing value."""
    if torch.equal(a, b):
        return True
    missing = a.isnan()
    return a.shape == b.shape and torch.equal(missing, b.isnan()) and torch.equal(
        a.masked_fill(missing, 0), b.masked_fill(missing, 0)
    )  # fmt: skip
