"""What a bank's customer asks for (BANKING77, 77 intents) and a small transformer encoder.

`whet study intents`: an accuracy of 0.855 without any method, the mean of 5 seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from whet import seeding
from whet.data.folders import load
from whet.data.parts import Part
from whet.data.splitting import Split, split
from whet.data.vocabulary import PAD, Vocabulary
from whet.task import Task
from whet.tasks import About

FOLDER = Path(__file__).parent / "data" / "banking77"
LENGTH = 24  # tokens; one request in ten is longer and is cut

METRICS = ("accuracy", "macro_f1", "log_loss", "ece")

ABOUT = About(
    title="Requests to a bank, 77 intents",
    updates=400,
    batch_size=64,
    optimizer={"name": "adamw", "lr": 0.004, "weight_decay": 0.01},
    schedule={"name": "cosine", "warmup": 0.1},
    methods=(
        "fgm", "fast_fgsm", "r_drop", "ema", "swa", "label_smoothing", "focal", "clip_grad_norm",
        "sam", "lookahead", "snapshot",
    ),
    settings={
        "sphereface": {"decay": 1.0},  # of few updates most should have the margin
        "augment": {"kind": "tokens"},
        "stochastic_depth": {"at": "blocks.*"},
        "embedding_noise": {"alpha": 0.5},  # a dozen words, and vectors that begin at 0.1
        "ema": {"decay": 0.98},
        "fast_fgsm": {"scope": "embeddings", "epsilon": 0.01},
        "vat": {"scope": "embeddings", "epsilon": 0.5},
        "adversarial_consistency": {"scope": "embeddings", "epsilon": 0.01},
    },
    left_out={
        "augment": "a choice of its own, of strengths; ask for it by --methods augment",
        "dropout_schedule": "a choice of its own, of early or late; ask for it by --methods",
        "embedding_noise": "ask for it by --methods embedding_noise",
        "stochastic_depth": "the encoder has two blocks; ask for it by --methods stochastic_depth",
        "freelb": "three passes for every update; ask for it by --methods freelb",
        "pgd": "four passes for every update; ask for it by --methods pgd",
        "pgd_inputs": "the inputs are numbers of words, which cannot be moved",
        "random_noise": "the control of fgm; ask for it by --methods random_noise",
        "precise_bn": "the model has no batch statistics",
        "cutmix": "the inputs are no images",
        "distillation": "the task has no teacher",
        "feature_distillation": "the task has no teacher",
        "negative_correlation": "the model has no members",
        "self_distillation": "for unlabelled rows; ask for it by --methods self_distillation",
        "weight_diversity": "the model has no members",
        "mixup": "the inputs are numbers of words, which cannot be mixed",
        "manifold_mixup": "ask for it by --methods manifold_mixup",
        "mixup_or_cutmix": "the inputs are numbers of words, which cannot be mixed",
        "fixmatch": "the task has no unlabelled requests",
        "moco": "the task has no two views of a request",
        "vat": "three passes for every update; ask for it by --methods vat",
        "adversarial_consistency": "five passes for every update; ask for it by name",
        "free_at": "the inputs are numbers of words, which cannot be moved",
        "class_weights": "the part that judges is as skewed; ask for it by --methods class_weights",
        "logit_adjustment": "the part that judges is as skewed; ask by --methods logit_adjustment",
        "arcface": "one of three margin heads; ask for it by --methods arcface",
        "cosface": "one of three margin heads; ask for it by --methods cosface",
        "sphereface": "one of three margin heads; ask for it by --methods sphereface",
        "temperature": "a choice of its own, of rates too; ask for it by --methods temperature",
        "temperature_scaling": "makes no other decisions; ask for it by name",
        "tta": "a request has no views that keep what it says",
    },
)  # fmt: skip


class Block(nn.Module):
    """Self-attention and a feed-forward layer, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projection = nn.Linear(width, 3 * width)
        self.mixing = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_NLD: Tensor, padding_NL: Tensor) -> Tensor:
        """Padding is never attended to."""
        attended = self.mixing(self._attend(self.norm1(x_NLD), padding_NL))
        x_NLD = x_NLD + self.dropout(attended)
        inner = self.dropout(nn.functional.gelu(self.inner(self.norm2(x_NLD))))
        added: Tensor = x_NLD + self.dropout(self.outer(inner))
        return added

    def _attend(self, x_NLD: Tensor, padding_NL: Tensor) -> Tensor:
        # written out, as the fused kernels have no second derivative, which some methods take
        n, length, width = x_NLD.shape
        parts = self.projection(x_NLD).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores_NHLL = query @ key.transpose(2, 3) * (width // self.heads) ** -0.5
        weights = scores_NHLL.masked_fill(padding_NL[:, None, None], -torch.inf).softmax(3)
        mixed: Tensor = self.dropout(weights) @ value
        return mixed.transpose(1, 2).reshape(n, length, width)


class TextEncoder(nn.Module):
    """Embedded tokens and positions, blocks of attention, the mean over the true length, a head.

    Args:
        tokens: rows of the embedding, as `len(Vocabulary)` says.
        classes: logits.
        width: D.
        depth: blocks.
        heads: of attention; they divide D.
        dropout: after the embedding and in the blocks.
        longest: tokens of the longest text.

    >>> words = Vocabulary.fit(["where is my card", "my card is lost"])
    >>> encoder = TextEncoder(len(words), classes=2)
    >>> encoder(words.encode(["where is it", "lost"])).shape
    torch.Size([2, 2])
    """

    def __init__(
        self, tokens: int, classes: int, *, width: int = 64, depth: int = 2, heads: int = 4,
        dropout: float = 0.1, longest: int = 512,
    ) -> None:  # fmt: skip
        super().__init__()
        self.words = nn.Embedding(tokens, width, padding_idx=PAD)
        self.positions = nn.Embedding(longest, width)
        nn.init.normal_(self.words.weight[PAD + 1 :], std=0.1)  # 1 is far slower to learn
        nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens_NL: Tensor) -> Tensor:
        """Tokens, 0 for padding, to logits `(N, C)`; more padding changes nothing."""
        padding_NL = tokens_NL == PAD
        places = torch.arange(tokens_NL.shape[1], device=tokens_NL.device)
        x_NLD = self.dropout(self.words(tokens_NL) + self.positions(places))
        for block in self.blocks:
            x_NLD = block(x_NLD, padding_NL)
        true_NL1 = (~padding_NL).unsqueeze(2)
        mean_ND = (self.norm(x_NLD) * true_NL1).sum(1) / true_NL1.sum(1)
        logits: Tensor = self.head(mean_ND)
        return logits


def task(seed: int) -> Task:
    """The task of one seed: split, vocabulary and initial weights vary with it."""
    whole, classes, parts, vocabulary = _prepared(seed)

    def rows(chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        own = whole.take(chosen)
        return vocabulary.encode(own.inputs, LENGTH), torch.as_tensor(own.targets)

    with seeding.initial(seed):
        model = TextEncoder(len(vocabulary), len(classes), longest=LENGTH)
    return Task(
        model=model, train=rows(parts.train), select=rows(parts.select), judge=rows(parts.judge),
        metrics=METRICS, classes=classes, name="intents",
        # the vocabulary differs for every seed: a request is recognised by its text
        identities=parts.of(whole.inputs),
    )  # fmt: skip


def inputs(path: Path, seed: int) -> Tensor:
    """A request on each line of a file, as the model of a seed takes them."""
    *_, vocabulary = _prepared(seed)
    return vocabulary.encode(path.read_text("utf-8").splitlines(), LENGTH)


def _prepared(seed: int) -> tuple[Part, Sequence[str], Split, Vocabulary]:
    """All requests, names of the classes, the parts, and the words that the first of them has."""
    data = load(FOLDER, kind="texts", objective="categorical")
    assert data.classes is not None
    whole, _ = data.joined()
    parts = split(whole.targets, seed)
    known = whole.take(parts.train).inputs
    return whole, data.classes, parts, Vocabulary.fit(known, characters=False, min_count=2)
