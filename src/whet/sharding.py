"""A process's share of every batch: the batches are those of one process, cut by rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from whet.batch import Batch
from whet.errors import InputError
from whet.loading import Epochs, RowLoader
from whet.rows import Samples
from whet.world import World


def share(loader: Epochs, world: World) -> Epochs:
    """The loader itself in a world of one, else this process's rows of its batches."""
    return loader if world.size == 1 else Share(loader, world)


class Share:
    """This process's rows of each batch of a loader; batches it has no rows of are empty.

    Of a sharded model every process must make the same passes: there such a batch is a spare row.

    Samples of a map-style Dataset are fetched by one process each, under the keys that they have
    in one process. Anything else is read whole by every process and cut.

    Args:
        loader: gives the same batches in every process.
        world: the processes.

    Raises:
        InputError: the loader's own sampler cuts the data already.
    """

    def __init__(self, loader: Epochs, world: World) -> None:
        sampler = getattr(getattr(loader, "source", None), "sampler", None)
        if isinstance(sampler, DistributedSampler):
            raise InputError(
                "the DataLoader has a DistributedSampler, and whet gives each process its rows of "
                "every batch itself: the data would be cut twice. Give the DataLoader with its "
                "plain sampler; its batch_size is that of all processes together."
            )
        self.loader, self.world = loader, world
        if isinstance(loader, RowLoader):
            loader.own = self._own

    @property
    def batches(self) -> int | None:
        """Batches in an epoch."""
        return self.loader.batches

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """This process's rows of the batches of an epoch, beginning with batch `start`."""
        loader = self.loader
        fetched = isinstance(loader, RowLoader) and isinstance(loader.rows, Samples)
        for at, batch in enumerate(loader.epoch(number, start), start):
            if not fetched:
                yield self._part(batch, self.world.share(batch.size))
            else:  # cut before it was fetched, or one sample that stands for no row
                assert isinstance(loader, RowLoader)
                rows = min(loader.batch_size, len(loader.rows) - at * loader.batch_size)
                here = self.world.share(rows)
                yield self._part(batch, slice(0, here.stop - here.start))

    def _part(self, batch: Batch, rows: slice) -> Batch:
        if rows.start < rows.stop or not self.world.sharded:
            return batch.take(rows)
        one = batch.take(slice(0, 1))
        return one.replace(mask=torch.zeros(one.size, dtype=torch.bool), spare=True)

    def _own(self, rows: Tensor, keys: list[int]) -> tuple[Tensor, list[int]]:
        here = self.world.share(len(rows))
        if here.start == here.stop:  # nothing can be collated of nothing
            here = slice(0, 1)
        return rows[here], keys[here]

    def state_dict(self) -> dict[str, Any]:
        """Where the source says it stands; the same in every process."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Enter the epoch at that place when it is next asked for."""
        self.loader.load_state_dict(state)
