"""Saving a run and going on from it, against torch's own calls and against the disk.

The state is that of a model and of AdamW after one step: three times the weights.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

import whet
from benchmarks.averages import Encoder, Size
from benchmarks.engines import adamw
from benchmarks.places import place
from benchmarks.timing import Chunk, timed


def _open(size: Size, model: Encoder) -> whet.Run:
    rows = torch.zeros(8, 2), torch.zeros(8, dtype=torch.long)
    stage = whet.Stage(updates=8, batch_size=8, optimizer=adamw)
    folder = place(f"run of {size}")
    return whet.Run(whet.Task(model, rows), stage, device="cpu", log=None, folder=folder)


def _step(model: Encoder, optimizer: torch.optim.Optimizer) -> None:
    """One step by gradients made up: what matters is that the optimizer has a state."""
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad()


@cache
def saved(size: Size) -> tuple[whet.Run, Path]:
    """A run with a state, and where it is saved."""
    run = _open(size, model := size.model())
    if run.stack.optimizer.state == {}:
        _step(model, run.stack.optimizer)
    return run, run.save() / "state.pt"


# saving --------------------------------------------------------------------------------------
def save_whet(size: Size) -> Chunk:
    return timed(saved(size)[0].save)


def save_torch(size: Size) -> Chunk:
    """The same tensors, flushed to disk as whet does."""
    run, _ = saved(size)
    path = place("torch") / "state.pt"

    def save() -> None:
        state = {"model": run.module.state_dict(), "optimizer": run.stack.optimizer.state_dict()}
        with path.open("wb") as file:
            torch.save(state, file)
            _flush(file)

    return timed(save)


def save_raw(size: Size) -> Chunk:
    """As many bytes as the run's file has, and the same ones: some disks notice zeros."""
    content = saved(size)[1].read_bytes()
    path = place("raw") / "state.pt"

    def save() -> None:
        with path.open("wb") as file:
            file.write(content)
            _flush(file)

    return timed(save)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


# loading -------------------------------------------------------------------------------------
def load_whet(size: Size) -> Chunk:
    """Another run that finds the checkpoint; its model is made before."""
    saved(size)
    return _with_model(size, lambda model: _open(size, model))


def load_torch(size: Size) -> Chunk:
    """The file alone, put into nothing."""
    path = saved(size)[1]
    return timed(lambda: torch.load(path, weights_only=True))


def load_by_hand(size: Size) -> Chunk:
    """The file, put into a model and its optimizer."""
    path = saved(size)[1]

    def load(model: Encoder) -> None:
        optimizer = adamw(model.parameters())
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    return _with_model(size, load)


def _with_model(size: Size, load: Callable[[Encoder], object]) -> Chunk:
    def chunk() -> float:
        model = size.model()
        begin = time.perf_counter()
        loaded = load(model)
        seconds = time.perf_counter() - begin
        del loaded  # not within the time: the other contenders' memory is freed later, too
        return seconds

    return chunk
