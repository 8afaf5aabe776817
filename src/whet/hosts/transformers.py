"""Training methods in Hugging Face's Trainer: the same Stack, and the host keeps its loop.

The host reads data, clips, steps the optimizer and the scheduler, logs, evaluates and saves. It
announces a window's micro-batches one by one; they are gathered, and the last one trains them all,
so that methods which wrap the window (SAM) see it whole. What a checkpoint of the host calls the
model is what is judged; the weights that are trained lie beside it, with the methods' state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.loss.loss_utils import ForCausalLMLoss
from transformers.trainer_utils import get_last_checkpoint

from whet import checkpoint, modes, nesting, objectives, seeding
from whet.batch import Batch
from whet.errors import CheckpointError, Clash, InputError
from whet.hosts.reading import passes
from whet.hosts.stepping import check_step
from whet.hosts.weights import FOLDER, moving, put, read
from whet.method import Method
from whet.predict import Predictor
from whet.stack import Stack

IGNORED = -100  # a label that transformers leaves out of the loss


class WhetTrainer(Trainer):
    """A mixin for Trainer and its subclasses: their loop, whet's training step.

    `trainer.model` holds the weights that are trained. `evaluate`, `predict`, `save_model` and the
    model in each checkpoint are the weights that are judged, and `load_best_model_at_end` leaves
    those in `trainer.model`. Modules of which no parameter is trained stay in evaluation mode.

    Args:
        methods: Methods in any order; layers nest them.
        objective: a name or an Objective; it computes the loss, not the model.
        resources: what methods name in `needs`: unlabelled data, views, a teacher.
        callbacks: the host's; they are told after the methods were.
        given, named: everything else is the host's.

    Raises:
        Clash: the host does what a method does (label smoothing), or its schedule and a method
            both claim the learning rate.
        InputError: several processes or devices, or a setting under which methods would be wrong.

    >>> from whet.methods import EMA, FGM
    >>> class T(WhetTrainer, Trainer):
    ...     pass
    >>> def train(model, args, data):
    ...     return T(model, args, train_dataset=data, methods=[EMA(0.999), FGM()]).train()
    """

    label_names: list[str]
    loss_is_scaled_for_ga = True  # by the items of the whole window; nothing is left to divide

    def __init__(
        self, *given: Any, methods: Sequence[Method] = (),
        objective: objectives.Objective | str = "categorical",
        resources: Mapping[str, Any] | None = None,
        callbacks: Sequence[TrainerCallback] | None = None, **named: Any,
    ) -> None:  # fmt: skip
        self.methods, self.resources = list(methods), resources
        self.objective = objectives.make(objective)
        self.stack: Stack | None = None
        self._micros: list[Batch] = []
        self._frozen: list[nn.Module] = []
        self._resume_from: str | None = None
        super().__init__(*given, callbacks=[Moments(self), *(callbacks or ())], **named)
        self.label_names = self.label_names or ["labels"]  # models here need not take them
        check(self)

    # training --------------------------------------------------------------------------------
    def train(self, resume_from_checkpoint: Any = None, *given: Any, **named: Any) -> Any:
        """Train; a checkpoint is continued to the bit."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise CheckpointError(f"there is no checkpoint in {self.args.output_dir}.")
        self._resume_from = resume_from_checkpoint or None
        output = super().train(self._resume_from, *given, **named)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            self.stack = None  # the model now is what was judged best, and no view of anything
        return output

    def create_optimizer(self, *given: Any, **named: Any) -> Any:
        """The host's optimizer, with the parameters that methods build."""
        if not self.is_in_train:
            return super().create_optimizer(*given, **named)
        kept, self.stack = self.optimizer is not None, self._make_stack()
        optimizer = super().create_optimizer(*given, **named)
        built = [p for p in self.stack.run.heads.parameters() if p.requires_grad]
        if built:
            if kept:
                names = ", ".join(self.stack.run.heads)
                raise InputError(
                    f"{names} built parameters, and the optimizer was there before them. Leave "
                    "optimizers= out so that the Trainer makes its own, and make a new Trainer to "
                    "train once more."
                )
            optimizer.add_param_group({"params": built, "weight_decay": 0.0})
        return optimizer

    def _make_stack(self) -> Stack:
        with seeding.borrowed():  # the loader's sampler draws its seed
            loader = self.get_train_dataloader()
        self._micros, self._frozen = [], modes.frozen(self.model)
        modes.train_mode(self.model, self._frozen)
        stack = Stack(
            self.model, self.objective, [method.clone() for method in self.methods],
            updates=self.state.max_steps, resources=self.resources, seed=self.args.seed,
            backward=self.accelerator.backward, loader=passes(loader, self.args.seed),
        )  # fmt: skip
        stack.run.heads.to(self.args.device)
        return stack

    def begin(self) -> None:
        """The host is ready to train: weights, optimizer and position are in place."""
        stack = self._training()
        held: Any = self.optimizer
        stack.optimizer = getattr(held, "optimizer", held)  # accelerate wraps it
        stack.run.scaler = self.accelerator.scaler  # the host scales; skipped steps undo buffers
        modes.train_mode(self.model, self._frozen)
        if self._resume_from is None:
            stack.open()
            return
        state = read(Path(self._resume_from))
        put(self.model, state["weights"])
        stack.load_state_dict(state["stack"])

    def training_step(self, model: nn.Module, inputs: Any, *given: Any, **named: Any) -> Tensor:
        """Keep a micro-batch; the window's last one trains them all. The window's loss."""
        self._micros.append(self.batch(self._prepare_inputs(inputs)))
        if len(self._micros) < self.current_gradient_accumulation_steps:
            return torch.zeros((), device=self.args.device)
        stack, micros = self._training(), self._micros
        self._micros, stack.run.model = [], model
        modes.train_mode(self.model, self._frozen)
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()  # schedule-free optimizers keep two sets of weights
        stack.gradients(stack.window(micros))
        return torch.tensor(stack.loss, device=self.args.device)

    def batch(self, inputs: Mapping[str, Any]) -> Batch:
        """What the collator gave as a Batch; a language model's labels stand one place on."""
        found = {name: value for name, value in inputs.items() if value is not None}
        if "labels" in found and self.objective.family.name == "tokens" and shifts(self.model):
            found["labels"] = nn.functional.pad(found["labels"], (0, 1), value=IGNORED)[..., 1:]
        return Batch.of(found)

    def _training(self) -> Stack:
        if self.stack is None:
            raise InputError("this Trainer is not training: call train() first.")
        return self.stack

    # what is judged --------------------------------------------------------------------------
    @contextmanager
    def judged(self) -> Iterator[None]:
        """The weights and buffers that are judged in the model's place; undone on exit."""
        if self.stack is None:
            yield
            return
        with self.stack.evaluating():
            yield

    def predictor(self) -> Predictor:
        """What is judged and exported, ensembles too, which the host's `predict` cannot give."""
        return self._training().predictor()

    def evaluation_loop(self, *given: Any, **named: Any) -> Any:
        """The host's, on what is judged."""
        with self.judged():
            return super().evaluation_loop(*given, **named)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, **named: Any
    ) -> Any:
        """The objective's mean loss, for evaluation; training does not come here."""
        batch = self.batch(inputs)
        output = objectives.call(model, batch.inputs)
        found = objectives.logits(output)
        losses = torch.zeros((), device=found.device)
        if batch.targets is not None:
            every, mask = self.objective.losses(found, batch.targets), self.objective.mask(batch)
            losses = (every if mask is None else every[mask]).mean()
        if not return_outputs:
            return losses
        return losses, (output if isinstance(output, Mapping) else {"logits": found})

    # checkpoints -----------------------------------------------------------------------------
    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write what is judged; in a checkpoint, what is trained and the methods' state beside."""
        with self.judged():
            super().save_model(output_dir, _internal_call)
        if _internal_call and self.stack is not None and not self.args.save_only_model:
            place = Path(output_dir or self.args.output_dir) / FOLDER
            checkpoint.save(place, self.stack.run.updates, self._state())

    def _state(self) -> dict[str, Any]:
        return {"weights": moving(self.model), "stack": self._training().state_dict()}


class Moments(TrainerCallback):
    """Tells the methods what the host's loop does, in the order that `Stack.update` has."""

    def __init__(self, trainer: WhetTrainer) -> None:
        self.trainer = trainer
        self._epoch_ended = False

    def on_train_begin(self, *given: Any, **named: Any) -> None:
        self.trainer.begin()

    def on_epoch_begin(self, *given: Any, **named: Any) -> None:
        self._epoch_ended = False

    def on_pre_optimizer_step(self, *given: Any, **named: Any) -> None:
        self._stack.before_update()  # the host has unscaled and clipped

    def on_optimizer_step(self, *given: Any, **named: Any) -> None:
        self._stack.run.end_update()  # before the host's scheduler goes on

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._stack.after_update(not self.trainer.accelerator.optimizer_step_was_skipped)
        if state.epoch == int(state.epoch):  # before a checkpoint is due: it stands at the next one
            self._end_epoch()

    def on_epoch_end(self, *given: Any, **named: Any) -> None:
        if not self._epoch_ended:  # a stream, or an epoch that was left early
            self._end_epoch()

    def on_evaluate(self, *given: Any, metrics: Mapping[str, Any], **named: Any) -> None:
        if self.trainer.is_in_train and self.trainer.stack is not None:
            numbers = {n: float(v) for n, v in metrics.items() if isinstance(v, int | float)}
            self.trainer.stack.evaluated(numbers)

    @property
    def _stack(self) -> Stack:
        return self.trainer._training()

    def _end_epoch(self) -> None:
        self._epoch_ended = True
        self._stack.end_epoch()


def shifts(model: Any) -> bool:
    """Whether a model of transformers compares its output with the label one place on."""
    reads_one_way = not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return reads_one_way and getattr(model, "loss_function", None) is ForCausalLMLoss


def check(trainer: WhetTrainer) -> None:
    """Refuse settings of the host under which methods would be wrong.

    Raises:
        Clash, InputError: naming the setting and the remedy.
    """
    args, kind = trainer.args, type(trainer)
    check_step(trainer.methods, "Trainer")
    if args.label_smoothing_factor:
        raise Clash(
            "label_smoothing_factor and whet's objective both claim the loss. Set it to 0 and "
            f"pass methods=[LabelSmoothing({args.label_smoothing_factor:g})]."
        )
    if args.lr_scheduler_type != "constant":
        nesting.check_schedule(trainer.methods)
    wrong = {
        "compute_loss_func": trainer.compute_loss_func is not None,
        f"{kind.__name__}.compute_loss": kind.compute_loss is not WhetTrainer.compute_loss,
    }
    for name in (name for name, found in wrong.items() if found):
        raise InputError(f"{name}: the objective computes the loss here. Pass objective=, a name "
                         "or a whet Objective of your own, in its place.")  # fmt: skip
    if args.fp16_full_eval or args.bf16_full_eval:
        raise InputError("fp16_full_eval and bf16_full_eval cast the trained weights for good; "
                         "evaluate in fp16=True or bf16=True instead.")  # fmt: skip
    optimizer = str(args.optim.value)
    if "lomo" in optimizer or "layerwise" in optimizer:
        raise InputError(f"optim={optimizer} steps within the backward pass, and methods repeat "
                         "that pass. Choose another one, such as adamw_torch.")  # fmt: skip
    several = args.world_size > 1 or args.n_gpu > 1
    if several or trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise InputError("WhetTrainer trains in one process on one device; for several use Run, "
                         "or let CUDA_VISIBLE_DEVICES show one.")  # fmt: skip
