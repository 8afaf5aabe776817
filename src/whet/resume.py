"""What a run continues from: its whole state, written and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from whet import checkpoint, description, fsdp, modes, nesting, optim, reducing
from whet.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from whet.run import Run

FOLDER = "checkpoints"
REFUSE, CONTINUE = "refuse", "continue"
NEEDED = (
    "stage", "updates", "offset", "seed", "recipe", "batches", "history", "optimizer_kind",
    "drawn", "model", "stack", "optimizer", "scheduler", "scaler", "data", "micro_batch", "overfit",
    "callbacks", "early_stopping",
)  # fmt: skip


def state_of(run: Run) -> dict[str, Any]:
    """Everything the run continues from: tensors and plain values."""
    scheduler = run.stack.run.scheduler
    state = {
        "stage": run.stage_number, "updates": run.updates, "offset": run.offset,
        "seed": run.seed, "recipe": description.describe(run.recipe), "batches": run.loader.batches,
        "history": run.history, "optimizer_kind": type(run.stack.optimizer).__name__,
        "drawn": reducing.states(run.stack.run),
        "model": run.module.state_dict(), "stack": run.stack.state_dict(),
        "optimizer": run.stack.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "scaler": None if run.scaler is None else run.scaler.state_dict(),
        "data": run.loader.state_dict() if run.offset else {},
        "micro_batch": run.stack.micro.size, "overfit": run.overfit,
        "early_stopping": run.patience.state_dict(),
        "callbacks": {each.key: each.state_dict() for each in run.callbacks if each.key},
    }  # fmt: skip
    whole: dict[str, Any] = fsdp.whole(state, run.world)
    return whole


def check(run: Run, state: Mapping[str, Any]) -> bool:
    """Refuse a state of another run; whether its recipe was changed and the run goes on with that.

    Raises:
        CheckpointError: it has another seed or another recipe.
    """
    lacking = [name for name in NEEDED if name not in state]
    if lacking:
        raise CheckpointError(
            f"the checkpoint lacks {', '.join(lacking)}: it was not written by this version of "
            "whet. Use another folder."
        )
    if state["seed"] != run.seed:
        raise CheckpointError(
            f"the checkpoint has seed {state['seed']} and this run {run.seed}. Use another folder "
            "for another run."
        )
    if state["overfit"] != run.overfit:
        raise CheckpointError(
            f"the checkpoint has overfit {state['overfit']} and this run {run.overfit}: it was "
            "trained on other data. Use another folder."
        )
    found = description.changes(state["recipe"], description.describe(run.recipe))
    stage = state["stage"]
    if run.keeper.on_change == REFUSE and stage < len(run.recipe.stages):
        methods = run.recipe.methods_of(run.recipe.stages[stage])
        nesting.check_same(state["stack"]["methods"], [method.key for method in methods])
    return _judge(run, found, stage)


def check_data(run: Run, state: Mapping[str, Any]) -> bool:
    """Refuse, or take note, where an epoch has another length, though the recipe is the same."""
    before, now = state["batches"], run.loader.batches
    path = ("stages", str(run.stage_number), "batches in an epoch")
    found = [] if before == now else [description.Change(path, before, now)]
    return _judge(run, found, run.stage_number)


def _judge(run: Run, found: Sequence[description.Change], stage: int) -> bool:
    told = "; ".join(map(str, found))
    if found and run.keeper.on_change == REFUSE:
        raise CheckpointError(
            f"the checkpoint was made with another recipe: {told}. Bring the recipe back to what "
            "it was, use another folder, or pass on_change='continue' to Run to go on with the "
            "new one."
        )
    fixed = [str(change) for change in found if not change.can_be_continued(stage)]
    if fixed:
        raise CheckpointError(
            f"a stage that has begun cannot go on with this changed: {'; '.join(fixed)}. It may "
            "change its length, sizes, optimizer's settings and schedule; for the rest begin a "
            "new stage, or use another folder."
        )
    if found:
        run.notes.append(f"the run goes on with a changed recipe: {told}.")
    return bool(found)


def offset(run: Run, state: Mapping[str, Any]) -> int:
    """The batches of the epoch that are behind, in batches of the size that they have now."""
    stage: int = state["stage"]
    behind: int = state["offset"]
    before: int = state["recipe"]["stages"][stage]["batch_size"]
    return behind * before // run.recipe.stages[stage].batch_size


def restore(run: Run, state: Mapping[str, Any], changed: bool) -> None:
    """Put a state into a run that has entered the state's stage."""
    kind = type(run.stack.optimizer).__name__
    if state["optimizer_kind"] != kind:
        raise CheckpointError(
            f"the checkpoint's optimizer is {state['optimizer_kind']} and this run's {kind}. "
            "Change it with a new stage, or use another folder."
        )
    changed = changed or check_data(run, state)
    modes.load_state(run.module, fsdp.parted(state["model"], run.module))
    run.stack.load_state_dict(state["stack"])
    run.patience.load_state_dict(state["early_stopping"], run)
    reducing.take_state(run.stack.run, state["drawn"])
    scheduler, optimizer = run.stack.run.scheduler, run.stack.optimizer
    fresh = optim.rates_of(optimizer)
    optim.load_state(optimizer, state["optimizer"])
    if changed:
        optim.move_to(optimizer, fresh, scheduler, run.stack.run.updates)
    elif state["scheduler"] is not None and scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    if run.scaler is not None and state["scaler"] is not None:
        run.scaler.load_state_dict(state["scaler"])
    run.loader.load_state_dict(state["data"])
    if run.stack.micro.auto:  # what did not fit before is not tried again
        run.stack.micro.size = state["micro_batch"]
    run.updates, run.history = state["updates"], list(state["history"])
    kept = state["callbacks"]
    for each in run.callbacks:
        each.resumed(run, kept.get(each.key) if isinstance(kept, Mapping) else None)


def save(run: Run, about: Mapping[str, Any]) -> Path:
    """Write a checkpoint and what "to the bit" depends on; says where."""
    if run.folder is None:
        raise InputError("this run has no folder to save to: pass folder= to Run.")
    state = state_of(run)  # in every process: what differs between them is gathered
    if not run.world.leads:
        return run.folder / FOLDER / f"{run.updates:08d}"
    place = checkpoint.save(run.folder / FOLDER, run.updates, state, about)
    manifest = run.manifest() | {
        "explain": run.stack.explain(),
        "recipe": description.describe(run.recipe),
    }
    checkpoint.write_whole(run.folder / "run.json", json.dumps(manifest, indent=1).encode())
    return place


def newest(run: Run) -> dict[str, Any] | None:
    """The newest whole checkpoint in the run's folder; damaged ones are noted."""
    if run.folder is None:
        return None
    if not run.world.leads:
        run.world.wait()  # the first process mends what an interrupted save left behind
    state, notes = checkpoint.newest(run.folder / FOLDER, mapped=run.world.sharded)
    if run.world.leads:
        run.world.wait()
    run.notes += notes
    _check_shared(run, None if state is None else state["updates"])
    return state


def _check_shared(run: Run, updates: int | None) -> None:
    """Refuse a folder that holds different checkpoints for different processes."""
    here = torch.tensor([-1 if updates is None else updates])
    found = [int(one) for one in run.world.each(here)]
    if len(set(found)) > 1:
        told = ", ".join(f"{rank}: {'none' if n < 0 else n}" for rank, n in enumerate(found))
        raise CheckpointError(
            f"the processes find different checkpoints in {run.folder} ({told}): it must be one "
            "folder that all machines share."
        )
