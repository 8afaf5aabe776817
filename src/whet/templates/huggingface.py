"""Texts in classes, and a model of transformers.

The line above is the study's title. Edit the settings below, then

    whet study FILE --fast      two updates of every method: finds mistakes early
    whet study FILE             the study; stop it at any time, the same command continues

where FILE is this file. It is code: whet runs it, and calls `task(seed)` for every training. It
needs transformers (pip install "whet[text]") and fetches nothing. As it stands its data is a tiny
sample, its model a tiny one that begins at random, its tokenizer made of the sample.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import whet
from whet import data

# ---- settings to edit --------------------------------------------------------------------------
# A folder with a model's config.json, model.safetensors and tokenizer. Relative to this file;
# None: the tiny model.
CHECKPOINT = None
# Your data: a folder with train.jsonl or train.jsonl.gz, where each line is like
# {"text": "where is my card", "label": "delivery"}. Relative to this file; None: the sample.
FOLDER = None
KEEP_TEST = True  # a test part of the folder is what every seed is judged on; False: split it too
LENGTH = 64  # tokens of a text that are read; what is longer is cut

BATCH_SIZE = 16
UPDATES = 40  # steps of one training. Few, for the sample; None: ten passes, 300 steps at least
LEARNING_RATE = 0.003 if CHECKPOINT is None else 3e-5
METHODS = ("ema", "fgm", "r_drop", "label_smoothing", "sam")  # None: all that apply
METRICS = ("accuracy", "macro_f1", "log_loss")  # the first one decides; functions may stand here

# ---- the model ---------------------------------------------------------------------------------


def pretrained(texts: list[str]) -> transformers.PreTrainedTokenizerBase:
    """The tokenizer of the checkpoint, or one word for one token, learned from these texts."""
    if CHECKPOINT is not None:
        place = Path(__file__).parent / CHECKPOINT
        return AutoTokenizer.from_pretrained(place, trust_remote_code=False, local_files_only=True)
    special = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP")}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.BertNormalizer()
    made.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    learner = tokenizers.trainers.WordLevelTrainer(special_tokens=[*special.values()])
    made.train_from_iterator(texts, learner)
    made.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def network(vocabulary: int, classes: int) -> torch.nn.Module:
    """The checkpoint's model with a fresh head, or a tiny one; its `logits` are what is learned on.

    Eager attention can be differentiated twice, which a few methods do. Code from a checkpoint
    would run with your rights, so it stays off; and nothing but safetensors is read.
    """
    if CHECKPOINT is not None:
        return AutoModelForSequenceClassification.from_pretrained(
            Path(__file__).parent / CHECKPOINT, num_labels=classes, trust_remote_code=False,
            use_safetensors=True, attn_implementation="eager", local_files_only=True,
        )  # fmt: skip
    config = transformers.BertConfig(
        vocab_size=vocabulary, num_labels=classes, hidden_size=32, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH,
        attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


# ---- the task ----------------------------------------------------------------------------------

ABOUT = whet.About(
    updates=UPDATES,
    batch_size=BATCH_SIZE,
    optimizer={"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    methods=METHODS,
    settings={"ema": {"decay": 0.98}},  # the default, 0.999, averages over a thousand updates
)


def task(seed: int) -> whet.Task:
    """Everything of one seed, by which whet has seeded torch, numpy and random before."""
    whole, names, test = rows()
    # Three parts: train is trained on, select is what stopping and choosing may look at, judge is
    # what the verdict is about. They vary with the seed, so that a verdict does not hang on one
    # lucky split. Texts of one author or page belong together: groups=<one value per text>.
    parts = data.split(whole.targets, seed, judge=test)
    # What is fitted sees the training part alone; a checkpoint's tokenizer is fitted already.
    tokenizer = pretrained(whole.take(parts.train).inputs)

    def part(chosen: np.ndarray) -> dict[str, torch.Tensor]:
        # A BatchEncoding: what stands under "labels" is the target, the rest are the arguments of
        # the model's forward. All rows are padded to the longest; where lengths differ much, give
        # lists of samples and Task(collate=transformers.DataCollatorWithPadding(tokenizer)).
        own = whole.take(chosen)
        coded = tokenizer(
            own.inputs, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        return {**coded, "labels": torch.from_numpy(own.targets)}

    return whet.Task(
        network(len(tokenizer), len(names)),  # the fresh weights vary with the seed as well
        train=part(parts.train),
        select=part(parts.select),
        judge=part(parts.judge),
        metrics=METRICS,
        classes=names,
        # What a text is known by for every seed, as its numbers may differ; see --hold-out.
        identities=parts.of(whole.inputs),
    )


@cache  # read once, however many seeds this process trains
def rows() -> tuple[data.Part, Sequence[str], np.ndarray | None]:
    """All texts with their classes, names of the classes, and given test rows."""
    if FOLDER is None:
        return *sample(), None
    found = data.load(Path(__file__).parent / FOLDER, kind="texts", objective="categorical")
    whole, test = found.joined()
    return whole, found.classes, test if KEEP_TEST else None


def sample() -> tuple[data.Part, Sequence[str]]:
    """Every sentence that a few words on two topics make."""
    subjects = ("the rain", "a storm", "warm sun"), ("the band", "a choir", "her violin")
    verbs, ends = ("will be here", "was lovely", "did not last"), ("today", "at noon", "all week")
    made = [" ".join(words) for named in subjects for words in product(named, verbs, ends)]
    return data.Part(made, np.arange(2).repeat(len(made) // 2)), ["weather", "music"]
