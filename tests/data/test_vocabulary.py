"""Texts to numbers: words, characters, lengths, and what is unknown."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from whet.data import Vocabulary
from whet.data.vocabulary import tokens_of
from whet.errors import InputError

HEADLINES = ["词汇阅读是关键 08年考研暑期英语复习全指南", "体验2D巅峰 倚天屠龙记十大创新概览"]


class TestTokens:
    def test_words_and_punctuation(self) -> None:
        assert tokens_of("Why, I've paid £3!") == ["why", ",", "i've", "paid", "£", "3", "!"]

    def test_other_scripts_with_spaces(self) -> None:
        assert tokens_of("Où est-elle ? Ещё нет") == [
            "où", "est", "-", "elle", "?", "ещё", "нет",
        ]  # fmt: skip
        assert tokens_of("한국어 문장", characters=True) == ["한국어", "문장"]

    def test_characters_one_by_one_and_the_rest_by_words(self) -> None:
        assert tokens_of("体验2D巅峰，OK", characters=True) == [
            "体", "验", "2d", "巅", "峰", "，", "ok",
        ]  # fmt: skip
        assert tokens_of("カナかな𠀀", characters=True) == ["カ", "ナ", "か", "な", "𠀀"]

    def test_words_leave_chinese_whole(self) -> None:
        assert tokens_of("体验 巅峰") == ["体验", "巅峰"]


class TestFitting:
    def test_most_frequent_first_then_by_name(self) -> None:
        words = Vocabulary.fit(["b a c", "c b", "c"])
        assert words.tokens == ("c", "b", "a")
        assert len(words) == 5

    def test_rare_ones_are_unknown(self) -> None:
        words = Vocabulary.fit(["b a c", "c b", "c"], min_count=2)
        assert words.encode(["a b c"]).tolist() == [[1, 3, 2]]

    def test_the_size_counts_padding_and_unknown(self) -> None:
        words = Vocabulary.fit(["b a c", "c b", "c"], max_size=4)
        assert words.tokens == ("c", "b")
        assert len(words) == 4

    @pytest.mark.parametrize(
        ("texts", "characters"),
        [
            (HEADLINES, True),
            (["where is my card", "a card 卡 is lost"], False),
            (["2024 !?"], False),
            (["한국어 문장"], False),
        ],
    )
    def test_characters_by_their_share(self, texts: list[str], characters: bool) -> None:
        assert Vocabulary.fit(texts).characters is characters

    def test_characters_by_choice(self) -> None:
        assert "词汇阅读是关键" in Vocabulary.fit(HEADLINES, characters=False).tokens
        assert Vocabulary.fit(["a 卡片"], characters=True).tokens == ("a", "卡", "片")

    @pytest.mark.parametrize(
        ("texts", "arguments", "says"),
        [
            ([], {}, "there are no texts"),
            ("one text", {}, "a single string"),
            (["a", 3], {}, "text 1 is 3, no string"),
            (["a", None], {}, "text 1 is None"),
            (["a b"], {"min_count": 2}, "no token of 1 texts occurs 2 times"),
            (["a b"], {"max_size": 2}, "raise max_size above 2"),
            (["   "], {}, "no token of 1 texts"),
        ],
    )
    def test_mistakes(self, texts: Any, arguments: dict[str, Any], says: str) -> None:
        with pytest.raises(InputError, match=says):
            Vocabulary.fit(texts, **arguments)


class TestEncoding:
    words = Vocabulary.fit(["a b c d"])

    def test_padded_and_cut(self) -> None:
        coded = self.words.encode(["a", "a b c d"], length=3)
        assert coded.tolist() == [[2, 0, 0], [2, 3, 4]]
        assert coded.dtype == torch.int64

    def test_to_the_longest(self) -> None:
        assert self.words.encode(["a", "a b c d"]).shape == (2, 4)

    def test_no_row_is_all_padding(self) -> None:
        assert self.words.encode(["", "a"], length=2).tolist() == [[1, 0], [2, 0]]

    def test_every_id_lies_in_the_embedding(self) -> None:
        coded = self.words.encode(["a b c d e f"])
        assert int(coded.max()) == len(self.words) - 1

    def test_a_length_of_nothing(self) -> None:
        with pytest.raises(InputError, match="length is 0"):
            self.words.encode(["a"], length=0)


def test_json_there_and_back() -> None:
    words = Vocabulary.fit(HEADLINES)
    again = Vocabulary.from_json(words.to_json())
    assert again == words
    assert torch.equal(again.encode(HEADLINES), words.encode(HEADLINES))
    with pytest.raises(InputError, match="does not hold vocabulary"):
        Vocabulary.from_json('{"whet": "columns"}')
