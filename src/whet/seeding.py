"""Randomness by position: a seed is a function of where training stands, never of what was drawn.

So a resumed run needs no saved generator, the number of loader workers changes nothing, and the
arms of a study that share a seed see the same data and the same dropout masks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import torch

_MASK = (1 << 64) - 1
_START: ContextVar[int] = ContextVar("start", default=0)


def mix(key: int, value: int) -> int:
    """One round of splitmix64: a 64-bit key for `value` under `key`."""
    z = (key + 0x9E3779B97F4A7C15 * (value + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


@cache
def word(text: str) -> int:
    """A fixed 64-bit number for a name; unlike `hash` it is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def key(*position: int | str) -> int:
    """A 64-bit key for a position, such as `key(seed, "order", epoch)`.

    >>> key(0, "order", 1) == key(0, "order", 1) != key(0, "order", 2)
    True
    """
    result = 0
    for part in position:
        result = mix(result, word(part) if isinstance(part, str) else int(part))
    return result


def generator(*position: int | str) -> torch.Generator:
    """A CPU generator for a position."""
    return torch.Generator().manual_seed(key(*position))


def seed_default(seed: int) -> None:
    """Seed the generators that layers such as dropout draw from.

    `torch.manual_seed` costs about 100 us; seeding the generators themselves costs about 1.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        for peer in torch.cuda.default_generators:
            peer.manual_seed(seed)


@contextmanager
def borrowed(seed: int | None = None) -> Iterator[None]:
    """Keep torch's and Python's generators as they are around a piece of code that draws."""
    cpu, python = torch.default_generator.get_state(), random.getstate()
    peers = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    states = [peer.get_state() for peer in peers]
    try:
        if seed is not None:
            seed_default(seed)
            random.seed(seed)
        yield
    finally:
        torch.default_generator.set_state(cpu)
        random.setstate(python)
        for peer, state in zip(peers, states, strict=True):
            peer.set_state(state)


@contextmanager
def starting(start: int) -> Iterator[None]:
    """Tasks that are made within begin from other initial weights; 0 are a seed's own."""
    token = _START.set(start)
    try:
        yield
    finally:
        _START.reset(token)


@contextmanager
def initial(seed: int) -> Iterator[None]:
    """Draw initial weights by the seed, whatever else is drawn."""
    start = _START.get()
    with borrowed(key(seed, "init", *([start] if start else []))):
        yield


def states() -> tuple[torch.Tensor, object, list[torch.Tensor]]:
    """Where torch's and Python's generators stand, for `replaying`."""
    peers = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return torch.default_generator.get_state(), random.getstate(), [p.get_state() for p in peers]


@contextmanager
def replaying(stood: tuple[torch.Tensor, object, list[torch.Tensor]]) -> Iterator[None]:
    """Draw again what was drawn from these states on; afterwards the generators are as before."""
    cpu, python, peers = stood
    with borrowed():
        torch.default_generator.set_state(cpu)
        random.setstate(python)  # type: ignore[arg-type]
        for peer, state in zip(torch.cuda.default_generators if peers else (), peers, strict=True):
            peer.set_state(state)
        yield
