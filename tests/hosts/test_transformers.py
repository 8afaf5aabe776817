"""Hugging Face's Trainer: its own checkpoints, best model, schedule, frozen parts, refusals."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
)

from tests.contract import fixture
from tests.hosts import alike
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import CheckpointError, Clash, InputError, NotApplicable
from whet.hosts.transformers import WhetTrainer
from whet.method import Resource
from whet.methods import EMA, FGM, LabelSmoothing, PreciseBN
from whet.stack import Stack

WORDS, LENGTH = 30, 6


def bert(dropout: float = 0.1, layers: int = 2, seed: int = 0) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=WORDS, hidden_size=8, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=LENGTH, num_labels=3,
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )  # fmt: skip
    return BertForSequenceClassification(config)


def texts(rows: int = 16, seed: int = 0) -> list[dict[str, Tensor]]:
    maker = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (rows, LENGTH), generator=maker)
    seen = torch.ones_like(ids)
    seen[::2, -2:] = 0
    return [
        {"input_ids": ids[n], "attention_mask": seen[n], "labels": ids[n, 0] % 3}
        for n in range(rows)
    ]


def train(folder: Path, model: nn.Module, **changes: Any) -> WhetTrainer:
    """A trainer of a text model that reads its rows in order."""
    given: dict[str, Any] = {
        "model": model, "train_dataset": texts(), "kind": alike.Plain, "methods": [],
        "per_device_train_batch_size": 4, "num_train_epochs": 2,
        "train_sampling_strategy": "sequential",
    } | changes  # fmt: skip
    return alike.trainer(folder, **given)


def whole(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


# the loss ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("accepts", [True, False])  # whether Trainer thinks the model divides
def test_a_window_is_one_batch(accepts: bool, tmp_path: Path) -> None:
    results, losses = [], []
    for batch, window in ((3, 6), (16, 1)):  # the last of the window's batches has one row
        host = train(
            tmp_path, bert(dropout=0.0), per_device_train_batch_size=batch,
            gradient_accumulation_steps=window, num_train_epochs=3,
        )  # fmt: skip
        host.model_accepts_loss_kwargs = accepts
        losses.append(host.train().training_loss)
        results.append(fixture.weights(host.model))
    assert fixture.close(*results)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert WhetTrainer.loss_is_scaled_for_ga is True


def hosts_own(folder: Path, window: int, divides: bool | None = None) -> Trainer:
    """Trained by Trainer itself, which believes that BERT divides, as it takes any keyword."""
    args = alike.arguments(
        folder, per_device_train_batch_size=4, num_train_epochs=1,
        train_sampling_strategy="sequential", gradient_accumulation_steps=window,
    )  # fmt: skip
    host = Trainer(
        bert(dropout=0.0), args, train_dataset=texts(),
        optimizer_cls_and_kwargs=(torch.optim.SGD, dict(alike.SGD)),
    )  # fmt: skip
    if divides is not None:
        host.model_accepts_loss_kwargs = divides
    host.train()
    return host


def whets(folder: Path, window: int) -> WhetTrainer:
    host = train(
        folder, bert(dropout=0.0), num_train_epochs=1, gradient_accumulation_steps=window
    )  # fmt: skip
    host.train()
    return host


def loss_of(host: Trainer) -> float:
    return next(row["train_loss"] for row in host.state.log_history if "train_loss" in row)


@pytest.mark.parametrize("window", [1, 4])
def test_without_methods_it_is_the_hosts_own_training(window: int, tmp_path: Path) -> None:
    mine, right = whets(tmp_path, window), hosts_own(tmp_path, window, divides=False)
    assert loss_of(mine) == pytest.approx(loss_of(right), rel=1e-5)
    assert fixture.close(fixture.weights(mine.model), fixture.weights(right.model))


@trap(right=whets, wrong=hosts_own)
def test_a_window_of_four_weighs_as_one(trained: Any) -> None:
    """Trainer by itself: four times the loss, and the gradient."""
    with tempfile.TemporaryDirectory() as folder:
        losses = [loss_of(trained(Path(folder), window)) for window in (1, 4)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_a_language_models_labels_stand_one_place_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=WORDS, n_embd=8, n_layer=1, n_head=2, n_positions=LENGTH, bos_token_id=0,
        eos_token_id=0, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    rows = [{**row, "labels": row["input_ids"].clone()} for row in texts()]
    for row in rows[::2]:
        row["labels"][-3:] = -100
    want = model(**whole(rows)).loss.item()
    host = train(tmp_path, model, train_dataset=rows, eval_dataset=rows, objective="tokens",
                 per_device_eval_batch_size=16)  # fmt: skip
    assert host.evaluate()["eval_loss"] == pytest.approx(want, rel=1e-5)
    batch = host.batch(whole(rows))
    host.train()
    assert torch.equal(batch.targets[:, -1], torch.full((16,), -100))
    assert host.stack.objective.count(batch) == 16 * (LENGTH - 1) - 8 * 3


# FGM ---------------------------------------------------------------------------------------------
def test_fgm_attacks_each_micro_batch_along_its_own_gradient(tmp_path: Path) -> None:
    host = train(tmp_path, bert(dropout=0.0), methods=[FGM(epsilon=0.5)], max_steps=1,
                 train_dataset=texts(8), gradient_accumulation_steps=2)  # fmt: skip
    host.train()
    model, rows = bert(dropout=0.0), whole(texts(8))
    table = model.bert.embeddings.word_embeddings.weight
    total = [torch.zeros_like(p) for p in model.parameters()]
    for half in (slice(0, 4), slice(4, 8)):
        part = {name: tensor[half] for name, tensor in rows.items()}
        clean = torch.autograd.grad(model(**part).loss / 2, list(model.parameters()))
        own = next(g for g, p in zip(clean, model.parameters(), strict=True) if p is table)
        with torch.no_grad():
            kept = table.clone()
            table += 0.5 * own / own.norm()
        second = torch.autograd.grad(model(**part).loss / 2, list(model.parameters()))
        with torch.no_grad():
            table.copy_(kept)
        total = [t + a + b for t, a, b in zip(total, clean, second, strict=True)]
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), total, strict=True):
            parameter -= 0.1 * gradient
    assert fixture.close(fixture.weights(host.model), fixture.weights(model))


def test_frozen_embeddings_are_attacked_at_their_output(tmp_path: Path) -> None:
    def frozen() -> nn.Module:
        model = bert()
        model.bert.embeddings.requires_grad_(False)
        return model

    with pytest.raises(NotApplicable, match="scope='output'"):
        train(tmp_path, frozen(), methods=[FGM()]).train()
    wanted = [FGM(scope="output", exclude=("*position*", "*token_type*"))]
    host = train(tmp_path, frozen(), methods=wanted, gradient_accumulation_steps=4)
    host.train()
    plain = train(tmp_path, frozen(), gradient_accumulation_steps=4)
    plain.train()
    assert alike.differing(fixture.weights(host.model), fixture.weights(plain.model)) != []
    embeddings = fixture.weights(frozen())
    moved = alike.differing(fixture.weights(host.model), embeddings)
    assert moved
    assert not any("embeddings" in name for name in moved)

    model = frozen()  # and by hand
    model.train()
    model.bert.embeddings.eval()
    stack = Stack(model, "categorical", wanted, updates=2, seed=alike.SEED, optimizer=lambda p:
                  torch.optim.SGD(p, **alike.SGD))  # fmt: skip
    rows = [Batch.of(whole(texts()[at : at + 4])) for at in range(0, 16, 4)]
    stack.set_scheduler(torch.optim.lr_scheduler.LambdaLR(stack.optimizer, lambda n: 1 - n / 2))
    for _ in range(2):
        stack.step(rows)
    assert alike.differing(fixture.weights(host.model), fixture.weights(model)) == []


def test_frozen_encoders_stay_in_evaluation_mode(tmp_path: Path) -> None:
    model, seen = bert(), set()
    model.bert.encoder.requires_grad_(False)

    def look(module: nn.Module, *_: Any) -> None:
        parts = (model.bert.encoder, model.bert.encoder.layer[0].output.dropout, model.dropout)
        seen.add((torch.is_grad_enabled(), *(part.training for part in parts)))

    model.classifier.register_forward_hook(look)
    host = train(tmp_path, model, eval_dataset=texts(), eval_strategy="epoch")
    host.train()
    assert seen == {(True, False, False, True), (False, False, False, False)}


# what is judged ----------------------------------------------------------------------------------
def lately(folder: Path, **changes: Any) -> WhetTrainer:
    """The fixture under EMA and PreciseBN, judged and saved after each update."""
    given: dict[str, Any] = {
        "methods": [EMA(0.8), PreciseBN()], "eval_dataset": alike.Rows(20, 1),
        "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1,
    } | changes  # fmt: skip
    return alike.trainer(folder, **given)


def test_saved_models_are_what_is_judged(tmp_path: Path) -> None:
    host = lately(tmp_path)
    host.train()
    judged = alike.judged(host, host.model)
    trained = fixture.weights(host.model)
    assert alike.differing(judged, trained)
    host.save_model(str(tmp_path / "end"))
    for folder in ("end", f"checkpoint-{alike.UPDATES}"):
        saved = load_file(tmp_path / folder / "model.safetensors")
        assert alike.differing(judged, saved) == []
    assert not (tmp_path / "end" / "whet").exists()
    assert alike.differing(trained, fixture.weights(host.model)) == []
    metrics = host.evaluate()
    with host.judged(), torch.no_grad():
        rows = fixture.data(20, 1)
        labels = rows.pop("labels")
        host.model.eval()
        want = nn.functional.cross_entropy(host.model(**rows), labels).item()
    assert metrics["eval_loss"] == pytest.approx(want, rel=1e-5)
    assert (
        host.predictor()(Batch(rows)).argmax(1).tolist()
        == host.predict(alike.Rows(20, 1)).predictions.argmax(1).tolist()
    )


def test_the_best_model_is_one_that_was_judged(tmp_path: Path) -> None:
    host = lately(
        tmp_path, load_best_model_at_end=True, metric_for_best_model="loss", greater_is_better=True
    )  # the worst, so that it is none of the last
    host.train()
    best = Path(host.state.best_model_checkpoint)
    assert best.name != f"checkpoint-{alike.UPDATES}"
    saved = load_file(best / "model.safetensors")
    assert alike.differing(fixture.weights(host.model), saved) == []
    assert host.evaluate()["eval_loss"] == pytest.approx(host.state.best_metric, rel=1e-6)
    host.save_model(str(tmp_path / "end"))  # and no average of the last weights over it
    assert alike.differing(saved, load_file(tmp_path / "end" / "model.safetensors")) == []


def test_judging_leaves_training_untouched(tmp_path: Path) -> None:
    quiet, often = alike.trainer(tmp_path), lately(tmp_path, methods=alike.methods())
    quiet.train()
    often.train()
    assert alike.differing(fixture.weights(quiet.model), fixture.weights(often.model)) == []


# the update --------------------------------------------------------------------------------------
def test_a_skipped_step_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Skips(torch.optim.SGD):
        steps = 0

        def step(self, closure: Any = None) -> None:
            Skips.steps += 1
            if Skips.steps != 3:
                super().step(closure)

    skipped = property(lambda _: Skips.steps == 3)
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", skipped)
    host = alike.trainer(tmp_path, optimizer_cls_and_kwargs=(Skips, dict(alike.SGD)))
    host.train()
    assert (host.stack.run.window, host.stack.run.updates) == (alike.UPDATES, alike.UPDATES - 1)
    assert host.lr_scheduler.last_epoch == alike.UPDATES - 1
    assert host.stack.state_dict()["states"]["ema"]["updates"] == alike.UPDATES - 1


# refusals ----------------------------------------------------------------------------------------
class OwnLoss(WhetTrainer, Trainer):
    def compute_loss(self, *given: Any, **named: Any) -> Any:
        raise AssertionError


class Steps(EMA):
    name = "steps"

    def step(self, run: Any, window: Any, inner: Any) -> None:
        raise AssertionError


class Rates(EMA):
    name = "rates"
    owns = frozenset({Resource.LEARNING_RATE})


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"label_smoothing_factor": 0.1, "model": bert()}, Clash, "LabelSmoothing"),
        ({"compute_loss_func": lambda *_: None}, InputError, "compute_loss_func: the objective"),
        ({"kind": OwnLoss}, InputError, "OwnLoss.compute_loss: the objective"),
        ({"bf16_full_eval": True}, InputError, "bf16=True"),
        ({"optim": "adalomo"}, InputError, "adamw_torch"),
        ({"methods": [Steps()]}, InputError, "steps wraps the optimizer's step, which Trainer"),
        ({"methods": [Rates()]}, Clash, "rates and the stage's schedule"),
    ],
)
def test_settings_that_would_be_wrong(
    changes: dict[str, Any], kind: type[Exception], words: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=words):
        alike.trainer(tmp_path, **changes)


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    about: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    train(tmp_path / "mine", bert(), methods=[EMA(0.9)], **about).train()
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        train(tmp_path / "none", bert()).train(resume_from_checkpoint=True)
    train(tmp_path / "lean", bert(), save_only_model=True, **about).train()
    with pytest.raises(CheckpointError, match="save_only_model"):
        train(tmp_path, bert()).train(resume_from_checkpoint=str(tmp_path / "lean/checkpoint-1"))
    place = str(tmp_path / "mine/checkpoint-1")
    with pytest.raises(CheckpointError, match=r"\[ema\].*\[label_smoothing\]"):
        train(tmp_path, bert(), methods=[LabelSmoothing()]).train(resume_from_checkpoint=place)
    frozen = bert()
    frozen.bert.embeddings.word_embeddings.requires_grad_(False)
    with pytest.raises((CheckpointError, ValueError), match=r"word_embeddings|parameter group"):
        train(tmp_path, frozen, methods=[EMA(0.9)]).train(resume_from_checkpoint=place)
    with pytest.raises(InputError, match="call train"):
        train(tmp_path, bert()).predictor()


def test_everything_that_the_loop_uses_is_announced(tmp_path: Path) -> None:
    told = []

    class Watch(EMA):
        name = "watch"

        def evaluated(self, run: Any, metrics: Any) -> None:
            told.append(sorted(metrics))

        def end_epoch(self, run: Any) -> None:
            told.append(run.epoch)

    host = alike.trainer(tmp_path, methods=[Watch(0.5)], eval_dataset=alike.Rows(20, 1),
                         eval_strategy="epoch", num_train_epochs=2)  # fmt: skip
    host.train()
    assert [one for one in told if isinstance(one, int)] == [1, 2]
    assert sum("eval_loss" in one for one in told if isinstance(one, list)) == 2
