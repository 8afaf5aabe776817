"""`--methods`: names, settings, and what is said where they are wrong."""

import pytest

from tests.study.fakes import catalogue
from whet.errors import InputError, UnknownName
from whet.study import Grid, arms

DECAY = {"name": "decay", "default": 0.999, "range": "[0, 1)"}
CARDS = [{"name": name, "settings": [DECAY], "during": [0.0, 1.0]} for name in ("ema", "fgm")]
LATE = [CARDS[0], {**CARDS[1], "during": [0.25, 1.0]}]


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
    assert arms.default(["ema", "fgm"], CARDS, own)[0].methods == ({"name": "ema", "decay": 0.9},)
    parsed = arms.parse("ema,ema:decay=0.5", CARDS, own)
    assert [arm.methods[0]["decay"] for arm in parsed] == [0.9, 0.5]


def test_where_a_method_begins_late_its_arm_says_so_unless_somebody_says_otherwise() -> None:
    def spans(found: list[arms.Arm]) -> list[object]:
        return [arm.methods[0].get("during") for arm in found]

    text = "ema,fgm,fgm:decay=0.5|0.9,fgm:during=[0,1]"
    late = [0.25, 1.0]
    assert spans(arms.parse(text, LATE)) == [None, late, late, late, [0, 1]]
    assert spans(arms.default(["fgm", "ema"], LATE)) == [late, None]
    own = {"fgm": {"during": [0.5, 1]}}
    assert spans(arms.default(["fgm"], LATE, own)) == [[0.5, 1]]
    assert spans(arms.parse(text, LATE, own))[1:] == [*[[0.5, 1]] * 3, [0, 1]]
    with pytest.raises(InputError, match=r"during = \[0\.25, 1\.0\]  part of the training"):
        arms.parse("fgm:epsilon=1", LATE)


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


class TestGrids:
    def names(self, text: str) -> list[str]:
        return [arm.name for arm in arms.parse(text, CARDS)]

    def test_one_arm_for_each_value(self) -> None:
        found = arms.parse("ema:decay=0.9|0.99 | 0.999,fgm", CARDS)
        assert [arm.name for arm in found] == [
            "ema:decay=0.9", "ema:decay=0.99", "ema:decay=0.999", "fgm"
        ]  # fmt: skip
        assert [arm.methods[0].get("decay") for arm in found] == [0.9, 0.99, 0.999, None]

    def test_the_product_of_a_methods_own_settings(self) -> None:
        assert self.names("ema:decay=1|2:label=a|b,fgm:decay=3|4") == [
            "ema:decay=1:label=a", "ema:decay=1:label=b", "ema:decay=2:label=a",
            "ema:decay=2:label=b", "fgm:decay=3", "fgm:decay=4",
        ]  # fmt: skip

    def test_spans_are_values_too(self) -> None:
        found = arms.parse("ema:during=[0,0.5]|[0.5,1]", CARDS)
        assert [arm.methods[0]["during"] for arm in found] == [[0, 0.5], [0.5, 1]]

    @pytest.mark.parametrize("text", ['"a|b"', '["a|b"]', '{"k":"a|b"}', "[1,2]"])
    def test_what_is_quoted_or_bracketed_is_one_value(self, text: str) -> None:
        [found] = arms.parse(f"ema:decay={text}", CARDS)
        assert found.name == f"ema:decay={text}"

    def test_an_arm_of_a_grid_is_the_one_written_by_itself(self) -> None:
        one, _ = arms.parse("ema:decay=0.9|0.99", CARDS)
        assert one == arms.parse("ema:decay=0.9", CARDS)[0]

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("ema:decay=0.9|", "a value of decay is empty"),
            ("ema:decay=|", "a value of decay is empty"),
            ("ema:decay=0.9|0.9", "ema:decay=0.9 twice"),
            ("ema:decay=0.9,ema:decay=0.5|0.9", "ema:decay=0.9 twice"),
        ],
    )
    def test_mistakes_are_named(self, text: str, said: str) -> None:
        with pytest.raises(InputError, match=said):
            arms.parse(text, CARDS)

    def test_too_many_arms_are_a_mistake(self) -> None:
        grid = "|".join(map(str, range(40)))
        with pytest.raises(InputError, match=r"ema:.* is 1600 arms; at most 1000.*Take fewer"):
            arms.parse(f"ema:decay={grid}:label={grid}", CARDS)

    def test_in_python_a_grid_is_no_list(self) -> None:
        given = [{"name": "ema", "decay": Grid(0.9, "a|b"), "during": [0.25, 1]}]
        text = arms.written(given)
        assert text == 'ema:decay=0.9|"a|b":during=[0.25, 1]'
        assert [arm.methods[0] for arm in arms.parse(text, CARDS)] == [
            {"name": "ema", "decay": 0.9, "during": [0.25, 1]},
            {"name": "ema", "decay": "a|b", "during": [0.25, 1]},
        ]

    def test_an_empty_grid_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"Grid\(\) has no value"):
            Grid()
