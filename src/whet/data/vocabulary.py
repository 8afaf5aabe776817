"""Texts to numbers of tokens: words, or characters for languages that write without spaces."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data.labels import different, parsed
from whet.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PAD, UNKNOWN, FIRST = 0, 1, 2
SHARE = 0.25  # of a corpus' letters from which on it is read by characters

# Han with its extensions and compatibility forms, and the Japanese syllabaries; Hangul has spaces
CJK = "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
WORDS = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
CHARACTERS = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['’][^\W{CJK}]+)*|[^\w\s]")
LETTER, CJK_LETTER = re.compile(r"[^\W\d_]"), re.compile(f"[{CJK}]")


def tokens_of(text: str, characters: bool = False) -> list[str]:
    """Lower-cased words and single punctuation marks; by choice, CJK characters one by one.

    >>> tokens_of("Don't pay 3.50!")
    ["don't", 'pay', '3', '.', '50', '!']
    >>> tokens_of("08年考研 Guide", characters=True)
    ['08', '年', '考', '研', 'guide']
    """
    return (CHARACTERS if characters else WORDS).findall(text.lower())


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of the training texts and their numbers: 0 pads, 1 is an unknown token.

    Args:
        tokens: the known tokens, the most frequent first; they count from 2.
        characters: whether CJK characters are tokens one by one.

    >>> words = Vocabulary.fit(["pay my card", "my card"])
    >>> words.tokens, len(words)
    (('card', 'my', 'pay'), 5)
    >>> words.encode(["Pay my bill", "card"], length=4).tolist()
    [[4, 3, 1, 0], [2, 0, 0, 0]]
    """

    tokens: tuple[str, ...]
    characters: bool = False
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {token: at for at, token in enumerate(self.tokens, FIRST)})

    @classmethod
    def fit(
        cls, texts: Iterable[str], *, characters: bool | None = None, min_count: int = 1,
        max_size: int | None = None,
    ) -> Vocabulary:  # fmt: skip
        """The vocabulary of the training texts.

        Args:
            texts: the training part's, and no other's.
            characters: whether CJK characters are tokens one by one; None decides by their share
                of the letters (a quarter).
            min_count: a token with fewer occurrences is unknown, which trains its embedding.
            max_size: tokens at most, those for padding and unknown ones included.

        Raises:
            InputError: no text, a text that is no string, or no token that is frequent enough.
        """
        texts = _checked(texts)
        if characters is None:
            characters = _share(texts) >= SHARE
        counts = Counter(token for text in texts for token in tokens_of(text, characters))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [token for token, count in ranked if count >= min_count]
        kept = kept[: None if max_size is None else max(max_size - FIRST, 0)]
        if not kept:
            raise InputError(
                f"no token of {len(texts)} texts occurs {min_count} times and fits a vocabulary of "
                f"{max_size}. Lower min_count, or raise max_size above {FIRST}."
            )
        return cls(tuple(kept), characters)

    def __len__(self) -> int:
        """Rows of the embedding."""
        return FIRST + len(self.tokens)

    def encode(self, texts: Iterable[str], length: int | None = None) -> Tensor:
        """Numbers of the tokens, int64 `(N, L)`, padded or cut to the length.

        A text without a token becomes one unknown token: no row is all padding.

        Args:
            texts: any texts.
            length: L; None for that of the longest.
        """
        import torch

        rows = [self._row(text) for text in _checked(texts)]
        if length is None:
            length = max(map(len, rows))
        if length < 1:
            raise InputError(f"length is {length}; a row holds at least one token.")
        coded = np.full((len(rows), length), PAD, np.int64)
        for place, row in zip(coded, rows, strict=True):
            place[: len(row)] = row[:length]
        return torch.from_numpy(coded)

    def _row(self, text: str) -> list[int]:
        found = tokens_of(text, self.characters)
        return [self._ids.get(token, UNKNOWN) for token in found] or [UNKNOWN]

    def to_json(self) -> str:
        """The vocabulary as JSON."""
        plain = {"whet": "vocabulary", "characters": self.characters, "tokens": list(self.tokens)}
        return json.dumps(plain, ensure_ascii=False)

    @classmethod
    def from_json(cls, written: str) -> Vocabulary:
        """What `to_json` wrote."""
        found = parsed(written, "vocabulary")
        tokens, characters = different(found, "tokens", "vocabulary"), found.get("characters")
        if not isinstance(characters, bool):
            raise InputError("the vocabulary's characters is neither true nor false. Fit it again.")
        return cls(tokens, characters)


def _checked(texts: Iterable[Any]) -> list[str]:
    if isinstance(texts, str):
        raise InputError("texts is a single string; give a list of them.")
    listed = list(texts)
    if not listed:
        raise InputError("there are no texts.")
    odd = next((row for row, text in enumerate(listed) if not isinstance(text, str)), None)
    if odd is not None:
        raise InputError(f"text {odd} is {listed[odd]!r}, no string. Drop or mend it.")
    return listed


def _share(texts: list[str]) -> float:
    letters = sum(len(LETTER.findall(text)) for text in texts)
    return sum(len(CJK_LETTER.findall(text)) for text in texts) / max(letters, 1)
