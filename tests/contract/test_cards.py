"""Every method's card is whole in both languages, and every term on it has its Chinese."""

from __future__ import annotations

import re

import pytest

from whet.method import Layer, Placement, Resource
from whet.methods import catalogue
from whet.study import catalogue as shown
from whet.study import chinese

WRITTEN = ("title", "cost", "phase", "data", "avoid_when")
CARDS = {card["name"]: card for card in catalogue()}
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.mark.parametrize("name", CARDS)
def test_the_chinese_card_is_whole(name: str) -> None:
    card = CARDS[name]
    assert set(card["zh"]) == set(WRITTEN), f"the card of {name} needs zh= with {WRITTEN}"
    for fact in WRITTEN:
        assert card[fact]
        assert HAN.search(card["zh"][fact]), f"{name}: zh[{fact!r}] holds no Chinese"
        assert not HAN.search(card[fact]), f"{name}: {fact} is to be English"


@pytest.mark.parametrize("name", CARDS)
def test_what_is_shown_is_chinese(name: str) -> None:
    card = CARDS[name]
    for fact in (*WRITTEN, "layer", "owns", "uses", "placements", "status"):
        text = shown.said(card, fact, "zh")
        parts = [text] if fact in WRITTEN else text.split("、")
        assert all(HAN.search(part) for part in parts if part != "–"), f"{name}: {fact}: {text}"
    for setting, (_, default, span) in zip(
        card["settings"], shown.settings(card, "zh"), strict=True
    ):
        assert not re.search("one of|whole number|any", span)
        assert default in [row[1] for row in shown.settings(card) if row[0] == setting["name"]]


def test_every_term_has_its_chinese() -> None:
    layers = {layer.name.lower().replace("_", " ") for layer in Layer}
    assert set(chinese.LAYERS) == layers
    assert set(chinese.RESOURCES) == {resource.value for resource in Resource}
    assert set(chinese.PLACEMENTS) == {placement.value for placement in Placement}
    columns = {fact.replace("_", " ") for fact in (*WRITTEN, *shown.FACTS, *shown.SETTING)}
    assert set(chinese.LABELS) == columns | {"method", "uses"}
    for terms in (chinese.LABELS, chinese.LAYERS, chinese.RESOURCES, chinese.PLACEMENTS):
        assert all(HAN.search(each) for each in terms.values())
        assert len(set(terms.values())) == len(terms)
