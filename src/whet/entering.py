"""How a run enters a stage of its recipe, and leaves it for the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whet import callback, judging, modes, optim, reducing, seeding
from whet import device as devices
from whet.freezing import Frozen
from whet.loading import Epochs, Fixed, open_loader
from whet.predict import model_state, take_weights
from whet.stack import Stack

if TYPE_CHECKING:
    from whet.run import Run


def enter(run: Run) -> None:
    """Put a run at the beginning of its stage: data, frozen parts, optimizer and methods."""
    stage = run.stage
    for name, parameter in run.module.named_parameters():
        parameter.requires_grad_(run.trainable[name])
    still = modes.freeze(run.module, stage.freeze)
    modes.train_mode(run.module, still)
    run.frozen = Frozen(still)
    run.loader = _loader(run, "train")
    length = stage.length(run.loader.batches)
    if run.overfit is not None:
        run.loader = Fixed(run.loader, run.overfit)
    run.stack = _stack(run, length)
    _settle_in(run)
    run.stack.set_scheduler(optim.schedule(stage.schedule, run.stack.optimizer, length))


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
    run.stack.micro.notes = run.notes
    run.judges = judging.can_judge(run.task, run.stack.objective)
    training.score = run.score if run.judges else None
    run.stack.carry(run.carried)


def hand_over(run: Run) -> None:
    """Leave a finished stage: what the next one starts from, and what lives on."""
    state, kept = run.stack.state_dict(), run.recipe.kept()
    run.carried = {key: value for key, value in state["states"].items() if key in kept}
    heads = dict(run.stack.run.heads.items())
    _start_from(run, run.recipe.stages[run.stage_number + 1].starts_from)
    run.stage_number, run.offset = run.stage_number + 1, 0
    enter(run)
    for name, head in heads.items():
        if name in run.stack.run.heads and name in kept:
            run.stack.run.heads[name].load_state_dict(head.state_dict())
    callback.tell(run, "entered")


def _start_from(run: Run, start: str) -> None:
    if start == "evaluation":
        with run.stack.evaluating():
            weights = model_state(run.module)
        run.module.load_state_dict(weights)
    elif start != "training":
        take_weights(start, run.module)
