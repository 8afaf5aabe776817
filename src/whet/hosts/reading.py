"""How a host's data is read: in whet's order where wanted, and again by methods that need it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, Sampler

from whet import seeding
from whet.errors import InputError
from whet.loading import Epochs, RowLoader, open_loader
from whet.rows import Samples


class Order(Sampler[int]):
    """The order in which `Run` reads rows, for a host's DataLoader: a function of seed and epoch.

    Hosts shuffle by their own rules, which is as good; with this sampler they read the very same
    batches as a `Run` with that seed. The host calls `set_epoch`; both hosts do so by themselves.

    Args:
        rows: the data set, or its length.
        seed: the run's seed.
        stage: number of the stage in its recipe.

    >>> order = Order(4, seed=0)
    >>> sorted(order) == [0, 1, 2, 3] and list(order) == list(order)
    True
    """

    def __init__(self, rows: Any, seed: int = 0, stage: int = 0) -> None:
        self._count = rows if isinstance(rows, int) else len(rows)
        if self._count < 1:
            raise InputError("an order of no rows: the data to train on is empty.")
        self._loader = RowLoader(Samples(range(self._count), None), 1, seeding.key(seed, stage))
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is read next; the host calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        rows: list[int] = self._loader.order(self.epoch).tolist()
        return iter(rows)


def passes(loader: Any, seed: int) -> Callable[[str], Epochs]:
    """From a purpose to passes of one's own over a host's training data.

    Rows that can be asked for by number are read in whet's order, as `Run` reads them; a stream is
    read as it comes.
    """
    if loader is None:
        raise InputError(
            "precise_bn reads the training data, and outside of training the host shows none: "
            "pass data=, a DataLoader of it."
        )
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the training data is a {type(loader).__name__}; methods that read it themselves "
            "(precise_bn) need one DataLoader."
        )
    base, cut = seeding.key(seed, 0), loader.batch_sampler
    size: int | None = getattr(cut, "batch_size", None)  # accelerate leaves it to the sampler
    if isinstance(loader.dataset, IterableDataset) or size is None:
        return lambda purpose: open_loader(loader, 1, base, purpose)
    rows, collate = loader.dataset, loader.collate_fn
    drop_last = bool(getattr(cut, "drop_last", False))
    return lambda purpose: open_loader(
        rows, size, base, purpose, drop_last=drop_last, collate=collate
    )
