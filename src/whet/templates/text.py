"""Short texts in classes, and a network on the mean of its word vectors.

The line above is the study's title. Edit the settings and the network, then

    whet study FILE --fast      two updates of every method: finds mistakes early
    whet study FILE             the study; stop it at any time, the same command continues

where FILE is this file. It is code: whet runs it, and calls `task(seed)` for every training. As it
stands its data is a tiny sample, sentences on three topics that it makes itself.
"""

from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import nn

import whet
from whet import data

# ---- settings to edit --------------------------------------------------------------------------
# Your data: a folder with train.jsonl or train.jsonl.gz, where each line is like
# {"text": "where is my card", "label": "delivery"}. Relative to this file; None: the sample.
FOLDER = None
KEEP_TEST = True  # a test part of the folder is what every seed is judged on; False: split it too
GROUP = None  # a key of the lines, such as "author": the texts of one stay in one part
LENGTH = 32  # tokens of a text that are read; what is longer is cut
CHARACTERS = None  # None: Chinese and Japanese are read by characters, all else by words

BATCH_SIZE = 32
UPDATES = 60  # steps of one training. Few, for the sample; None: ten passes, 300 steps at least
LEARNING_RATE = 0.01
METHODS = ("ema", "fgm", "r_drop", "label_smoothing", "sam")  # None: all that apply
METRICS = ("accuracy", "macro_f1", "log_loss")  # the first one decides; functions may stand here

# ---- the network -------------------------------------------------------------------------------


class Network(nn.Module):
    """The mean of a text's word vectors and a hidden layer. Yours may be any that gives logits."""

    def __init__(self, tokens: int, classes: int, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(tokens, width, padding_idx=0)
        self.hidden = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (N, L), 0 where a shorter text is padded, to logits (N, classes)."""
        true = (tokens != 0).unsqueeze(2)
        mean = (self.words(tokens) * true).sum(1) / true.sum(1)
        return self.head(self.hidden(mean))


# ---- the task ----------------------------------------------------------------------------------

ABOUT = whet.About(
    updates=UPDATES,
    batch_size=BATCH_SIZE,
    optimizer={"name": "adamw", "lr": LEARNING_RATE, "weight_decay": 0.01},
    methods=METHODS,
    settings={"ema": {"decay": 0.98}},  # the default, 0.999, averages over a thousand updates
)


def task(seed: int) -> whet.Task:
    """Everything of one seed, by which whet has seeded torch, numpy and random before."""
    whole, names, _ = rows()
    parts, vocabulary = prepared(seed)

    def part(chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        own = whole.take(chosen)
        return vocabulary.encode(own.inputs, LENGTH), torch.from_numpy(own.targets)

    return whet.Task(
        Network(len(vocabulary), len(names)),  # fresh weights, which vary with the seed as well
        train=part(parts.train),
        select=part(parts.select),
        judge=part(parts.judge),
        metrics=METRICS,
        classes=names,
        # What a text is known by for every seed, as its numbers differ; see --hold-out.
        identities=parts.of(whole.column(GROUP) if GROUP else whole.inputs),
    )


def prepared(seed: int) -> tuple[data.Split, data.Vocabulary]:
    """The rows of each part, and the words that the first one has."""
    whole, _, test = rows()
    # Three parts: train is trained on, select is what stopping and choosing may look at, judge is
    # what the verdict is about. They vary with the seed, so that a verdict does not hang on one
    # lucky split. Groups keep an author's texts together: known authors would be too easy a test.
    groups = whole.column(GROUP) if GROUP else None
    parts = data.split(whole.targets, seed, groups=groups, judge=test)
    # What is fitted sees the training part alone: words that only judged texts have are unknown.
    known = whole.take(parts.train).inputs
    return parts, data.Vocabulary.fit(known, characters=CHARACTERS, min_count=2)


def inputs(path: Path, seed: int) -> torch.Tensor:
    """A text on each line of a file, as `whet predict` gives them to the model of a seed."""
    _, vocabulary = prepared(seed)
    return vocabulary.encode(path.read_text("utf-8").splitlines(), LENGTH)


@cache  # read once, however many seeds this process trains
def rows() -> tuple[data.Part, Sequence[str], np.ndarray | None]:
    """All texts with their classes and further keys, names of the classes, given test rows."""
    if FOLDER is None:
        return *sample(), None
    found = data.load(Path(__file__).parent / FOLDER, kind="texts", objective="categorical")
    whole, test = found.joined()
    return whole, found.classes, test if KEEP_TEST else None


def sample() -> tuple[data.Part, Sequence[str]]:
    """Every sentence that a few words on three topics make."""
    topics = {
        "weather": ("the rain", "a storm", "warm sun"),
        "kitchen": ("the soup", "fresh bread", "a roast"),
        "music": ("the band", "a choir", "her violin"),
    }
    verbs, ends = ("will be here", "was lovely", "did not last"), ("today", "at noon", "all week")
    made = [" ".join(each) for named in topics.values() for each in product(named, verbs, ends)]
    return data.Part(made, np.arange(3).repeat(len(made) // 3)), list(topics)
