"""Lightning: validation under what is judged, checkpoints, and observers of other modules."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

from tests.contract import fixture
from tests.hosts import alike
from whet.batch import Batch
from whet.errors import CheckpointError, InputError
from whet.hosts.lightning import Observers, WhetModule
from whet.hosts.observers import scale_of
from whet.methods import EMA, FGM, SWA, PreciseBN
from whet.methods.precise_bn import applied, precise_statistics


class Ordinary(pl.LightningModule):
    """A module as its users write them: automatic optimisation, and nothing of whet."""

    def __init__(self) -> None:
        super().__init__()
        self.net = fixture.make_model(alike.SEED, dropout=0.0)
        self.after: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []
        self.fails = False

    def forward(self, *given: Any, **named: Any) -> Tensor:
        return self.net(*given, **named)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return nn.functional.cross_entropy(self(**inputs), batch["labels"])

    def on_train_batch_end(self, *given: Any) -> None:
        self.after.append(fixture.weights(self.net))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.fails:
            raise ArithmeticError
        if batch_idx == 0:
            self.validated.append(fixture.weights(self.net))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return alike.optimizer(self.parameters())


def observed(folder: Path, *methods: Any, **changes: Any) -> tuple[Ordinary, pl.Trainer, Any]:
    callback = Observers(*methods, seed=alike.SEED)
    callbacks = [callback, *changes.pop("callbacks", [])]
    given = {"max_epochs": 2, "num_sanity_val_steps": 0} | changes
    return Ordinary(), alike.lightning(folder, callbacks=callbacks, **given), callback


# the module ---------------------------------------------------------------------------------------
def test_validation_sees_what_is_judged(tmp_path: Path) -> None:
    module = alike.module(metrics=["accuracy", "log_loss"])
    trainer = alike.lightning(tmp_path)
    trainer.fit(module, alike.loader(), alike.held_out())
    assert all(part.training for part in module.model.modules())
    rows = fixture.data(20, 1)
    labels = rows.pop("labels")
    predicted = module.predictor()(Batch(rows))
    accuracy = (predicted.argmax(1) == labels).float().mean().item()
    assert trainer.callback_metrics["val_accuracy"].item() == pytest.approx(accuracy)
    [found] = trainer.test(module, alike.held_out(), verbose=False)
    assert found["test_log_loss"] == pytest.approx(trainer.callback_metrics["test_log_loss"].item())
    wanted = nn.functional.nll_loss(predicted.log(), labels).item()
    assert found["test_log_loss"] == pytest.approx(wanted, rel=1e-4)
    several = trainer.predict(module, alike.held_out())
    assert torch.equal(torch.cat(several).argmax(1), predicted.argmax(1))


def test_a_checkpoint_is_tested_elsewhere(tmp_path: Path) -> None:
    first = alike.module()
    trainer = alike.lightning(tmp_path)
    trainer.fit(first, alike.loader(), alike.held_out())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    [there] = trainer.test(first, alike.held_out(), verbose=False)
    second = alike.module(data=alike.loader())
    [here] = alike.lightning(tmp_path).test(
        second, alike.held_out(), ckpt_path=tmp_path / "end.ckpt", verbose=False
    )
    assert here == there
    assert alike.differing(fixture.weights(first.model), fixture.weights(second.model)) == []
    with pytest.raises(InputError, match="pass data="):
        alike.lightning(tmp_path).test(
            alike.module(), alike.held_out(), ckpt_path=tmp_path / "end.ckpt", verbose=False
        )


@pytest.mark.filterwarnings("ignore:Found .* module:UserWarning")  # those that are frozen
def test_frozen_parts_stay_in_evaluation_mode(tmp_path: Path) -> None:
    module = alike.module(methods=[EMA(0.9)])
    module.model.norm.requires_grad_(False)
    before = module.model.norm.running_mean.clone()
    alike.lightning(tmp_path).fit(module, alike.loader(), alike.held_out())
    assert not module.model.norm.training
    assert module.model.dropout.training
    assert torch.equal(before, module.model.norm.running_mean)


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="accumulate is 0"):
        WhetModule(nn.Linear(2, 2), accumulate=0)
    with pytest.raises(InputError, match=r"call Trainer\.fit"):
        WhetModule(nn.Linear(2, 2)).predictor()
    with pytest.raises(CheckpointError, match="another module wrote it"):
        WhetModule(nn.Linear(2, 2)).on_load_checkpoint({"state_dict": {}})
    with pytest.raises(InputError, match="steps wraps the optimizer's step, which Lightning"):
        alike.lightning(tmp_path).fit(
            alike.module(methods=[Steps()]), alike.loader(), alike.held_out()
        )
    trainer = alike.lightning(tmp_path)
    trainer.precision_plugin.scaler = SimpleNamespace(get_scale=lambda: 2.0)
    with pytest.raises(InputError, match="bf16-mixed"):
        trainer.fit(alike.module(), alike.loader(), alike.held_out())


class Steps(EMA):
    name = "steps"

    def step(self, run: Any, window: Any, inner: Any) -> None:
        raise AssertionError


# observers ----------------------------------------------------------------------------------------
def test_observers_judge_the_average_with_its_own_statistics(tmp_path: Path) -> None:
    module, trainer, _ = observed(
        tmp_path, EMA(0.8, warmup="none"), PreciseBN(), accumulate_grad_batches=2
    )
    trainer.fit(module, alike.loader(), alike.held_out())
    own = fixture.make_model(alike.SEED, dropout=0.0)
    ema = EMA(0.8, warmup="none")
    ema.begin(own)
    for number, state in enumerate(module.after):
        own.load_state_dict(state)
        if number % 7 in (1, 3, 5, 6):  # windows of two batches, and what is left
            ema.update(own)
    batches = [Batch.of(fixture.data())]
    call = lambda batch: own(**batch.inputs)  # noqa: E731
    own.train()
    with ema.average(own), applied(own, precise_statistics(own, batches, call)):
        wanted = fixture.weights(own)
    assert fixture.close(module.validated[-1], wanted, atol=1e-5)
    assert len(module.validated) == 2
    # and training is what it is without them
    alone = Ordinary()
    alike.lightning(tmp_path, max_epochs=2, num_sanity_val_steps=0, accumulate_grad_batches=2).fit(
        alone, alike.loader(), alike.held_out()
    )
    assert alike.differing(module.after[-1], alone.after[-1]) == []


def test_observers_give_the_weights_back_after_an_error(tmp_path: Path) -> None:
    module, trainer, _ = observed(tmp_path, EMA(0.8), max_epochs=1)
    module.fails = True
    with pytest.raises(ArithmeticError):
        trainer.fit(module, alike.loader(), alike.held_out())
    assert alike.differing(module.after[-1], fixture.weights(module.net)) == []


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # and is said so
def test_observers_continue(tmp_path: Path) -> None:
    watched = (SWA(after=0.0, every=3, lr=None), PreciseBN())
    module, trainer, callback = observed(
        tmp_path, *watched, enable_checkpointing=True, callbacks=[alike.checkpoints(tmp_path)]
    )
    trainer.fit(module, alike.loader(), alike.held_out())
    saved = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["state_dict"]
    held = {name.removeprefix("net."): tensor for name, tensor in saved.items()}
    assert alike.differing(held, module.after[-1]) == []  # what is trained, not what is judged
    again, trainer, other = observed(
        tmp_path, *watched, enable_checkpointing=True,
        callbacks=[alike.checkpoints(tmp_path / "second")],
    )  # fmt: skip
    trainer.fit(again, alike.loader(), alike.held_out(), ckpt_path=tmp_path / "epoch=0.ckpt")
    assert callback.stack.run.updates == other.stack.run.updates == 14
    assert alike.differing(module.validated[-1], again.validated[-1]) == []
    assert alike.differing(module.validated[-1], module.after[-1]) != []


def test_observers_only_look_on() -> None:
    with pytest.raises(InputError, match="fgm takes part in training"):
        Observers(FGM())
    with pytest.raises(InputError, match="swa takes part in training"):
        Observers(SWA())
    assert Observers(EMA()).state_key != Observers(PreciseBN()).state_key


def test_a_skipped_step_is_not_observed(tmp_path: Path) -> None:
    module, trainer, callback = observed(tmp_path, EMA(0.8), max_epochs=1)
    trainer.fit(module, alike.loader(), alike.held_out())
    assert scale_of(trainer) == 0.0
    scales = iter([4.0, 2.0, 2.0, 2.0])  # falls in the first step, stands in the second
    trainer = SimpleNamespace(
        precision_plugin=SimpleNamespace(scaler=SimpleNamespace(get_scale=lambda: next(scales))),
        global_step=7, is_last_batch=False,
    )  # fmt: skip
    for happened in (0, 1):
        callback.on_train_batch_start(trainer)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer)
        assert callback.stack.run.updates == 7 + happened
