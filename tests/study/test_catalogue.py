"""The catalogue in the terminal, in English and Chinese."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from whet import cli
from whet.errors import UnknownName
from whet.study import catalogue

CARD: dict[str, Any] = {
    "name": "ema", "title": "Average", "layer": "average", "cost": "no pass",
    "owns": ["evaluation weights", "backward"], "uses": [], "needs": ["view"],
    "placements": ["observer"], "companions": [], "tier": 1, "phase": "late", "data": "any",
    "during": [0.25, 1.0],
    "avoid_when": "never", "status": "stable", "paper": "arXiv:1", "doc": "",
    "settings": [
        {"name": "steps", "default": 3, "range": "a whole number in [1, inf)"},
        {"name": "mode", "default": "a", "range": "one of 'a', 'b'"},
        {"name": "free", "default": None, "range": "any"},
    ],
    "zh": {"title": "权重平均", "cost": "不增加前向传播，多存一份权重", "phase": "后期",
           "data": "任意", "avoid_when": "没有这种情况"},
}  # fmt: skip
OTHER = CARD | {"name": "label_smoothing", "layer": "target transform", "zh": {"title": "平滑"}}


def printed(renderable: Any, width: int) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue().splitlines()


def at(line: str, word: str) -> set[int]:
    """The terminal's cells at which a word begins."""
    return {cell_len(line[:place]) for place in range(len(line)) if line.startswith(word, place)}


def test_wide_characters_align() -> None:
    head, one, two, *_ = printed(catalogue.overview([CARD, OTHER], 100, "zh"), 100)
    for words in (("名称", "权重平均", "平滑"), ("作用层", "权重平均", "标签变换"),
                  ("开销", "不增加", "no pass")):  # fmt: skip
        assert set.intersection(*map(at, (head, one, two), words))


@pytest.mark.parametrize("width", [60, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    lines = printed(catalogue.overview([CARD, OTHER], width, "zh"), width)
    assert max(map(cell_len, lines)) <= width
    for fact in ("owns", "avoid_when"):
        assert (catalogue.label(fact, "zh") in lines[0]) == (width >= 110)


def test_one_in_full_in_chinese() -> None:
    text = "\n".join(printed(catalogue.whole(CARD, "zh"), 100))
    for said in ("ema  权重平均", "评估所用权重、反向传播", "仅旁观，不影响训练", "没有这种情况",
                 "默认时段", "0.25 至 1", "整数，范围 [1, inf)", "可选 'a', 'b'", "取值范围",
                 "以下为英文文档"):  # fmt: skip
        assert said in text
    assert "avoid when" not in text
    assert "one of" not in text


def test_english_is_the_default() -> None:
    text = "\n".join(printed(catalogue.whole(CARD), 100))
    assert "evaluation weights, backward" in text
    assert "during      0.25 to 1" in text
    assert "没有" not in text


def test_a_card_without_chinese_is_shown_in_english() -> None:
    assert catalogue.said(OTHER, "title", "zh") == "平滑"
    assert catalogue.said(OTHER, "cost", "zh") == "no pass"
    assert catalogue.said({"layer": "of the future"}, "layer", "zh") == "of the future"
    assert [catalogue.said({}, "owns", language) for language in ("en", "zh")] == ["–", "–"]


def test_an_unknown_language_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"unknown language 'de'.*There are: en, zh"):
        catalogue.check("de")


class TestCommand:
    def call(self, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["whet", "methods", *words])
        monkeypatch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    def test_all(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.call(monkeypatch, "--lang", "zh") == 0
        out = capsys.readouterr().out
        assert "权重的指数移动平均" in out
        assert "不宜使用" in out
        assert "avoid" not in out

    def test_one(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.call(monkeypatch, "ema", "--lang", "zh") == 0
        out = capsys.readouterr().out
        assert "评估所用权重" in out
        assert "Exponential moving average of the weights" in out

    def test_json_holds_both_languages(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outputs = []
        for language in ("en", "zh"):
            assert self.call(monkeypatch, "ema", "--json", "--lang", language) == 0
            outputs.append(json.loads(capsys.readouterr().out))
        assert outputs[0] == outputs[1]
        assert outputs[0]["title"] == "Exponential moving average"
        assert outputs[0]["zh"]["title"].startswith("权重")

    def test_unknown(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.call(monkeypatch, "--lang", "fr") == 2
        assert "unknown language 'fr'" in capsys.readouterr().err
