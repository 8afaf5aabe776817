"""How a run enters a stage of its recipe, and leaves it for the next."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whet import callback, judging, modes, optim, reducing, seeding
from whet import device as devices
from whet.freezing import Frozen
from whet.loading import Epochs, Fixed, open_loader
from whet.patience import Patience
from whet.predict import model_state, take_weights
from whet.stack import Stack

if TYPE_CHECKING:
    from whet.run import Run


def enter(run: Run) -> None:
    """Put a run at the beginning of its stage: data, frozen parts, optimizer and methods."""
    stage = run.stage
    leave(run)
    still = modes.freeze(run.module, stage.freeze)
    modes.train_mode(run.module, still)
    run.frozen = Frozen(still)
    run.loader = _loader(run, "train")
    length = stage.length(run.loader.batches)
    if run.overfit is not None:
        run.loader = Fixed(run.loader, run.overfit)
    run.stack, run.patience = _stack(run, length), Patience(stage.early_stopping)
    _settle_in(run)
    run.stack.set_scheduler(optim.schedule(stage.schedule, run.stack.optimizer, length))


def leave(run: Run) -> None:
    """Let what a stage froze be trained again, by the next stage or by another run."""
    parameters = dict(run.module.named_parameters())
    for name, trainable in run.trainable.items():
        parameters[name].requires_grad_(trainable)


def _loader(run: Run, purpose: str) -> Epochs:
    stage = run.stage
    data = run.task.train if stage.data is None else stage.data
    return open_loader(
        data, stage.batch_size, seeding.key(run.seed, run.stage_number), purpose,
        drop_last=stage.drop_last, workers=stage.workers, collate=run.task.collate,
        prefetch=stage.prefetch, pin=stage.pin_memory and run.device.type == "cuda",
    )  # fmt: skip


def _stack(run: Run, length: int) -> Stack:
    stage = run.stage
    return Stack(
        run.module, run.task.objective if stage.objective is None else stage.objective,
        run.recipe.methods_of(stage), scaler=run.scaler, updates=length,
        resources=judging.resources(run, stage), seed=run.seed, stage=run.stage_number,
        backward=None if run.fabric is None else run.fabric.backward,
        optimizer=lambda params: optim.optimizer(stage.optimizer, params, run.module),
        loader=lambda purpose: run.loader if run.overfit else _loader(run, purpose),
        micro_batch=stage.micro_batch, world=run.world,
    )  # fmt: skip


def _settle_in(run: Run) -> None:
    """What the stack knows of the run around it."""
    training = run.stack.run
    devices.wrap(training, run.fabric)
    training.outline = run.outline
    training.heads.to(run.device)
    reducing.begin(training, run.stage.micro_batch)
    run.stack.micro.notes = training.notes = run.notes
    run.judges = judging.can_judge(run.task, run.stack.objective)
    training.score = run.score if run.judges else None
    run.stack.carry(run.carried)


def hand_over(run: Run) -> None:
    """Leave a finished stage: what the next one starts from, and what lives on."""
    start = run.recipe.stages[run.stage_number + 1].starts_from
    state = _judged(run) if start == "evaluation" else run.stack.state_dict()
    if start not in ("training", "evaluation"):
        take_weights(start, run.module)
    _enter_next(run, state)
    callback.tell(run, "entered")


def _judged(run: Run) -> dict[str, Any]:
    """Put what is judged in the model's place; with the methods' states that belong to it."""
    with run.patience.standing_at_best(run) as elsewhere:
        state = run.stack.state_dict()
        state = copy.deepcopy(state) if elsewhere else state
        with run.stack.evaluating():
            weights = model_state(run.module)
    run.module.load_state_dict(weights)
    return state


def _enter_next(run: Run, state: Mapping[str, Any]) -> None:
    kept = run.recipe.kept()
    run.carried = {key: value for key, value in state["states"].items() if key in kept}
    run.stage_number, run.offset = run.stage_number + 1, 0
    enter(run)
    for name, head in run.stack.run.heads.items():
        if name in kept:
            own = f"{name}."
            head.load_state_dict({
                key.removeprefix(own): value
                for key, value in state["heads"].items() if key.startswith(own)
            })  # fmt: skip
