"""LoRA from peft: adapters are trained, averaged, saved, continued; the model below is frozen."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.contract import fixture
from tests.hosts import alike
from tests.hosts.test_transformers import bert, texts, train
from whet.errors import NotApplicable
from whet.hosts.transformers import WhetTrainer
from whet.methods import EMA, FGM, Lookahead, RDrop

# peft asks transformers by the old name
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")


def adapted() -> nn.Module:
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type=peft.TaskType.SEQ_CLS, r=2, lora_alpha=4, lora_dropout=0.1,
        target_modules=["query", "value"],
    )  # fmt: skip
    return peft.get_peft_model(bert(), config)


def tuned(folder: Path, **changes: object) -> WhetTrainer:
    given: dict[str, object] = {
        "methods": [FGM(scope="output"), RDrop(), EMA(0.7, warmup="none"), Lookahead(k=2)],
        "gradient_accumulation_steps": 2, "num_train_epochs": 2, "save_strategy": "steps",
        "save_steps": 1, "eval_dataset": texts(8, 1),
    } | changes  # fmt: skip
    return train(folder, adapted(), **given)


def test_adapters_are_trained_judged_and_saved(tmp_path: Path) -> None:
    host = tuned(tmp_path)
    host.train()
    moved = alike.differing(fixture.weights(adapted()), fixture.weights(host.model))
    assert moved
    assert all("lora_" in name or "classifier" in name for name in moved)
    saved = load_file(tmp_path / "checkpoint-4" / "adapter_model.safetensors")
    judged, trained = alike.judged(host, host.model), fixture.weights(host.model)
    averaged = []
    for name, tensor in saved.items():  # in the file without the adapter's name
        [full] = [
            full for full in judged
            if full.replace(".default", "").replace("modules_to_save.", "") == name
        ]  # fmt: skip
        assert torch.equal(tensor, judged[full])
        averaged.append(not torch.equal(tensor, trained[full]))
    assert len(saved) == 10  # four pairs, and the head
    assert sum(averaged) > 5  # some hardly moved


def test_adapters_continue(tmp_path: Path) -> None:
    whole = tuned(tmp_path)
    whole.train()
    second = tuned(tmp_path / "second")
    second.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert alike.differing(fixture.weights(whole.model), fixture.weights(second.model)) == []
    assert (
        alike.differing(alike.judged(whole, whole.model), alike.judged(second, second.model)) == []
    )


def test_the_table_below_adapters_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(NotApplicable, match="scope='output'"):
        tuned(tmp_path, methods=[FGM()]).train()
