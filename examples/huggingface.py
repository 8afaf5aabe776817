"""Methods in Hugging Face's Trainer: customers' requests, a small BERT that begins at random.

    python examples/huggingface.py            less than a minute
    python examples/huggingface.py --short    two updates, to see that it runs

With your own checkpoint: AutoModelForSequenceClassification.from_pretrained(...) in place of the
model below, and the tokenizer's output in place of `rows`.
"""

import sys
import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from whet.hosts.transformers import WhetTrainer
from whet.methods import EMA, FGM, RDrop
from whet.tasks import intents

SHORT = "--short" in sys.argv


class WithMethods(WhetTrainer, Trainer):
    """Trainer's loop, whet's training step."""


def rows(part, most=None):
    """A data set of mappings, as a tokenizer and a collator would give."""
    tokens, labels = part
    return [
        {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": label}
        for ids, label in zip(tokens[:most], labels[:most], strict=True)
    ]


def accuracy(predictions):
    logits, labels = predictions
    return {"accuracy": float((logits.argmax(1) == labels).mean())}


task = intents.task(seed=0)
torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(task.model.words.weight), hidden_size=64, num_hidden_layers=2,
    num_attention_heads=4, intermediate_size=128, num_labels=len(task.classes),
)  # fmt: skip
arguments = TrainingArguments(
    output_dir=tempfile.mkdtemp(), max_steps=2 if SHORT else 300, learning_rate=2e-3,
    per_device_train_batch_size=16, gradient_accumulation_steps=2, eval_strategy="steps",
    eval_steps=1 if SHORT else 100, save_strategy="steps", save_steps=1 if SHORT else 100,
    load_best_model_at_end=True, metric_for_best_model="accuracy", report_to=[], use_cpu=True,
    dataloader_pin_memory=False,
)  # fmt: skip
trainer = WithMethods(
    BertForSequenceClassification(config), arguments, train_dataset=rows(task.train),
    eval_dataset=rows(task.select, 400), compute_metrics=accuracy,
    methods=[FGM(epsilon=0.5), RDrop(), EMA(0.98)],
)  # fmt: skip
trainer.train()
print(trainer.evaluate(rows(task.judge, 400), metric_key_prefix="judge"))  # the best average
