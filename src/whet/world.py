"""The processes that train one model together, and what they tell each other.

`torchrun` starts them; Lightning Fabric joins them. Only sums, copies and gathered tensors travel,
and nothing is pickled.
"""

from __future__ import annotations

import atexit
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from whet.errors import InputError, WhetError

LAUNCHED = "TORCHELASTIC_RUN_ID"  # what torchrun sets, whatever starts the nodes


class LostProcess(WhetError):
    """Another of the processes that train together is gone, so that this one cannot go on."""


class World:
    """The processes that train together; one alone is a world of one, and waits for nobody.

    Every process makes the same calls in the same order: each is answered when all have made it.

    Args:
        rank: number of this process.
        size: how many there are.
        device: where the collectives' tensors lie.

    >>> World().size, World().share(5), World().sums(2.0, 3.0)
    (1, slice(0, 5, None), [2.0, 3.0])
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | str = "cpu") -> None:
        self.rank, self.size, self.device = rank, size, torch.device(device)
        self.hooks: list[Callable[[Tensor], None]] = []  # see each buffer of gradients, unsummed
        self._aside = False
        self.sharded = False  # each holds a part of the weights, and all make the same passes

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes, logs and tells."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This process's rows of a batch of `rows`: consecutive, the first ones have one more."""
        each, more = divmod(rows, self.size)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    # collectives -----------------------------------------------------------------------------
    def add(self, tensor: Tensor) -> Tensor:
        """The tensor summed over the processes, in place."""
        if self.size > 1:
            with self._together():
                torch.distributed.all_reduce(tensor)
        return tensor

    def sums(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        found: list[float] = self.add(tensor.to(self.device)).tolist()
        return found

    def leading(self, value: float) -> float:
        """The first process's value, so that all decide alike."""
        return self.sums(value if self.leads else 0.0)[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in some process."""
        return flag if self.size == 1 else self.sums(float(flag))[0] > 0

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """What the first process holds, written into the tensors of all."""
        if self.size == 1:
            return
        with self._together(), torch.no_grad():
            for tensor in tensors:
                # of a contiguous twin: a collective takes no strides
                twin = tensor.detach().to(self.device).contiguous().clone()
                torch.distributed.broadcast(twin, 0)
                tensor.copy_(twin)

    def each(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank; they are of one shape and dtype."""
        if self.size == 1:
            return [tensor]
        here = tensor.to(self.device).contiguous()
        found = [torch.empty_like(here) for _ in range(self.size)]
        with self._together():
            torch.distributed.all_gather(found, here)
        return [one.to(tensor.device) for one in found]

    def joined(self, parts: Sequence[Tensor | None]) -> list[Tensor]:
        """For each place of a list, the rows that all processes have there, by rank.

        Lists are of one length in all processes; a process without rows at a place has None.
        Places where nobody has any are left out.
        """
        here = [part for part in parts if part is not None]
        if self.size == 1:
            return here
        counts = torch.tensor([0 if part is None else len(part) for part in parts])
        every = torch.stack(self.each(counts.to(torch.int64)))
        like = self._form(here[0] if here else None)
        rows = like.new_empty((int(every.sum(1).max()), *like.shape[1:]))
        if here:
            flat = torch.cat(here)
            rows[: len(flat)] = flat
        cut = [
            found[: sum(lengths)].split(lengths)
            for found, lengths in zip(self.each(rows), every.tolist(), strict=True)
        ]
        places = [torch.cat([of_rank[at] for of_rank in cut]) for at in range(len(parts))]
        return [place for place in places if len(place)]

    def _form(self, example: Tensor | None) -> Tensor:
        """A tensor without rows, of the shape and dtype that some process has an example of."""
        about = torch.full((10,), -1, dtype=torch.int64)
        if example is not None:
            form = [_DTYPES.index(example.dtype), *example.shape[1:]]
            about[: len(form)] = torch.tensor(form)
        known = [one for one in torch.stack(self.each(about)).tolist() if one[0] >= 0]
        kind, *shape = known[0] if known else [0]
        device = self.device if example is None else example.device
        return torch.empty((0, *(n for n in shape if n >= 0)), dtype=_DTYPES[kind], device=device)

    def wait(self) -> None:
        """Go on when every process is here."""
        self.sums(0.0)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within, the first process does what the others do not, and must not wait for them."""
        before, self._aside = self._aside, self.size > 1
        try:
            yield
        finally:
            self._aside = before

    def meet(self, what: str, remedy: str) -> None:
        """Refuse what waits for every process where this one stands aside.

        Raises:
            InputError: naming it and the remedy.
        """
        if self._aside:
            raise InputError(
                f"{what} waits for every process, and callbacks are called in the first one alone: "
                f"all would stand still. {remedy}"
            )

    # losing one ------------------------------------------------------------------------------
    @contextmanager
    def _together(self) -> Iterator[None]:
        self.meet("what this callback calls", "Call it after fit, in every process.")
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise when a peer is gone
            self._lost(error)

    def _lost(self, error: RuntimeError) -> NoReturn:
        if not self._first_to_tell():
            raise SystemExit(1) from None  # one message is enough; the launcher sums up
        told = (str(error).splitlines() or ["no reason given"])[0].partition(". ")[0]
        raise LostProcess(
            f"process {self.rank} of {self.size} waits for another one that is gone: killed, "
            "out of memory, or out of reach. Start the same command again: it goes on from "
            f"the newest checkpoint. (torch: {told})"
        ) from None

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Around what may raise in one process alone: the others then end without a word."""
        try:
            yield
        except LostProcess:
            raise
        except Exception as error:
            if self.sharded and isinstance(error, RuntimeError) and _of_a_collective(error):
                self._lost(error)  # one that a pass of the model made
            if self.size > 1:
                self._first_to_tell()
            raise

    def _first_to_tell(self) -> bool:
        try:
            store: Any = torch.distributed.distributed_c10d._get_default_store()
            return int(store.add("whet/told", 1)) == 1
        except (RuntimeError, ValueError):
            return True  # the store is gone too: nobody else can have heard


def _of_a_collective(error: BaseException) -> bool:
    """Whether it was raised where torch exchanges something between processes."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1][0].f_globals.get("__name__") == _EXCHANGES


_EXCHANGES = "torch.distributed.distributed_c10d"
_DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip


def local_rank() -> int:
    """Number of this process on its machine; 0 where torchrun did not start it."""
    return int(os.environ["LOCAL_RANK"]) if LAUNCHED in os.environ else 0


def _leave() -> None:
    """Take the connections down: gloo's threads must not outlive the interpreter."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def join(device: torch.device) -> World:
    """The world that torchrun started this process in; of one where it did not."""
    import multiprocessing

    size = int(os.environ["WORLD_SIZE"]) if LAUNCHED in os.environ else 1
    # what a process of the world starts by itself (a loader's worker) inherits its environment
    if size == 1 or multiprocessing.parent_process() is not None:
        return World()
    if not torch.distributed.is_initialized():
        from lightning_fabric import Fabric

        here = int(os.environ["LOCAL_WORLD_SIZE"])
        Fabric(
            accelerator=device.type, devices=here, num_nodes=size // here, strategy="ddp"
        ).launch()  # fmt: skip
        atexit.register(_leave)
    return World(torch.distributed.get_rank(), size, device)
