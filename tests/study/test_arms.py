"""`--methods`: names, settings, and what is said where they are wrong."""

import pytest

from tests.study.fakes import catalogue
from whet.errors import InputError, UnknownName
from whet.study import arms

CARDS = [
    {"name": name, "settings": [{"name": "decay", "default": 0.999, "range": "[0, 1)"}]}
    for name in ("ema", "fgm")
]


def settings(text: str) -> list[dict[str, object]]:
    return [arm.methods[0] for arm in arms.parse(text, CARDS)]


def test_names() -> None:
    assert settings("ema, fgm,") == [{"name": "ema"}, {"name": "fgm"}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.99", 0.99), ("1e-3", 1e-3), ("true", True), ("null", None), ("[0.25,1]", [0.25, 1]),
        ('{"a":[1,2]}', {"a": [1, 2]}), ("table", "table"), ('"a,b:c"', "a,b:c"), ("", ""),
        ("NaN", "NaN"), ("-Infinity", "-Infinity"),
    ],
)  # fmt: skip
def test_values_are_json_or_text(text: str, value: object) -> None:
    assert settings(f"ema:decay={text},fgm") == [{"name": "ema", "decay": value}, {"name": "fgm"}]


def test_one_method_may_stand_in_several_arms() -> None:
    found = arms.parse("ema:decay=0.9,ema:decay=0.99:label=slow:during=[0,0.5]", CARDS)
    assert [arm.name for arm in found] == [
        "ema:decay=0.9", "ema:decay=0.99:label=slow:during=[0,0.5]"
    ]  # fmt: skip
    assert found[1].methods[0]["during"] == [0, 0.5]


def test_the_tasks_own_settings_hold_unless_written() -> None:
    own = {"ema": {"decay": 0.9}}
    assert arms.default(["ema", "fgm"], own)[0].methods == ({"name": "ema", "decay": 0.9},)
    parsed = arms.parse("ema,ema:decay=0.5", CARDS, own)
    assert [arm.methods[0]["decay"] for arm in parsed] == [0.9, 0.5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no method"),
        (" , ", "names no method"),
        ("ema,ema", "ema twice"),
        ("ema:decay", "not setting=value"),
        ("ema:=1", "not setting=value"),
        ("ema:decay=1:decay=2", "decay is given twice"),
        ("ema:name=fgm", "name is given twice"),
    ],
)
def test_mistakes_are_named(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        arms.parse(text, CARDS)


def test_unknown_method_names_the_closest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'good'"):
        arms.parse("gud", catalogue())


def test_unknown_setting_lists_the_settings() -> None:
    with pytest.raises(InputError, match=r"no setting 'dekay'(?s:.*)decay = 0.999  \[0, 1\)"):
        arms.parse("ema:dekay=1", CARDS)
