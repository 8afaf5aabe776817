"""What a run continues from: its whole state, written and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet import checkpoint, modes, optim
from whet.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from whet.run import Run

FOLDER = "checkpoints"


def state_of(run: Run) -> dict[str, Any]:
    """Everything the run continues from: tensors and plain values."""
    scheduler = run.stack.run.scheduler
    return {
        "stage": run.stage_number, "updates": run.updates, "offset": run.offset,
        "seed": run.seed, "stages": len(run.recipe.stages), "history": run.history,
        "model": run.module.state_dict(), "stack": run.stack.state_dict(),
        "optimizer": run.stack.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if run.scaler is None else run.scaler.state_dict(),
    }  # fmt: skip


def check(run: Run, state: Mapping[str, Any]) -> None:
    """Refuse a state of another run.

    Raises:
        CheckpointError: it has another seed or another recipe.
    """
    here = {"seed": run.seed, "stages": len(run.recipe.stages)}
    for name, value in here.items():
        if state[name] != value:
            raise CheckpointError(
                f"the checkpoint has {name} {state[name]} and this run {value}. Use another "
                "folder for another run."
            )


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Put a state into a run that has entered the state's stage."""
    modes.load_state(run.module, state["model"])
    run.stack.load_state_dict(state["stack"])
    optim.load_state(run.stack.optimizer, state["optimizer"])
    if state["scheduler"] is not None and run.stack.run.scheduler is not None:
        run.stack.run.scheduler.load_state_dict(state["scheduler"])
    if run.scaler is not None and state["scaler"] is not None:
        run.scaler.load_state_dict(state["scaler"])
    run.updates, run.history = state["updates"], list(state["history"])


def save(run: Run) -> Path:
    """Write a checkpoint and what "to the bit" depends on; says where."""
    if run.folder is None:
        raise InputError("this run has no folder to save to: pass folder= to Run.")
    place = checkpoint.save(run.folder / FOLDER, run.updates, state_of(run), keep=run.keep)
    manifest = run.manifest() | {"explain": run.stack.explain()}
    checkpoint.write_whole(run.folder / "run.json", json.dumps(manifest, indent=1).encode())
    return place


def newest(run: Run) -> dict[str, Any] | None:
    """The newest whole checkpoint in the run's folder; damaged ones are noted."""
    if run.folder is None:
        return None
    state, notes = checkpoint.newest(run.folder / FOLDER)
    run.notes += notes
    return state
