"""Which arms a study has."""

import pytest

from whet.errors import InputError, UnknownName
from whet.methods import catalogue
from whet.study import arms, design
from whet.study.plan import Arm


def singles(text: str) -> list[Arm]:
    return arms.parse(text, catalogue())


def placed(text: str, *parts: str) -> tuple[dict[str, list[Arm]], dict[str, str]]:
    return design.placed(singles(text), list(parts), catalogue())


def names(made: design.Design) -> list[str]:
    return [arm.name for arm in made.arms]


@pytest.mark.parametrize(
    ("given", "when", "said"),
    [
        ("addone", "whole", "did you mean 'add-one'"),
        ("both", "beginning", "There are: after, end, start, whole"),
        ("both", " , ", "--when names no part"),
    ],
)
def test_mistakes_are_named(given: str, when: str, said: str) -> None:
    with pytest.raises((UnknownName, InputError), match=said):
        design.check(given, when)


def test_each_part_is_said_once() -> None:
    assert design.check("both", "end, start,end") == ["end", "start"]


def test_whole_keeps_the_method_as_it_is_and_the_others_give_a_quarter() -> None:
    found, left_out = placed("fgm:epsilon=2,sam", "start", "whole", "end")
    every = [arm for those in found.values() for arm in those]
    assert [(arm.name, arm.methods[0].get("during")) for arm in every] == [
        ("fgm:epsilon=2@start", [0.0, 0.25]), ("sam@start", [0.0, 0.25]),
        ("fgm:epsilon=2", [0.25, 1.0]), ("sam", None),
        ("fgm:epsilon=2@end", [0.75, 1.0]), ("sam@end", [0.75, 1.0]),
    ]  # fmt: skip
    assert left_out == {}


def test_what_has_no_place_says_why() -> None:
    found, left_out = placed("ema,snapshot", "start", "end")
    assert [arm.name for arm in found["start"]] == ["snapshot@start"]
    assert [arm.name for arm in found["end"]] == ["ema@end"]
    assert "not judged" in left_out["ema@start"]
    assert "cannot begin late" in left_out["snapshot@end"]


def test_a_written_span_and_a_part_contradict_each_other() -> None:
    every = singles("fgm:during=[0.1,1]")
    with pytest.raises(InputError, match=r"during=.*--when says end"):
        design.placed(every, ["end"], catalogue(), written=[every[0].name])


def test_add_one() -> None:
    made = design.designed("add-one", placed("ema,sam", "whole")[0])
    assert names(made) == ["baseline", "ema", "sam"]
    assert made.notes == []


def test_all_is_the_first_compatible_subset_in_the_users_order() -> None:
    found, _ = placed("fgm,ema,freelb,sam", "whole")
    made = design.designed("leave-one-out", found)
    every, freelb = "all", "freelb"
    assert names(made) == [
        "baseline", every, "all without fgm", "all without ema", "all without sam", freelb,
    ]  # fmt: skip
    assert [s["name"] for s in made.arms[1].methods] == ["fgm", "ema", "sam"]
    assert [s["name"] for s in made.arms[3].methods] == ["fgm", "sam"]
    assert [arm.reference for arm in made.arms] == ["baseline"] * 2 + ["all"] * 3 + ["baseline"]
    assert made.notes[0] == "`all` is fgm, ema and sam."
    assert made.notes[1].startswith("freelb stands outside of `all` and has an arm of its own: ")
    assert "second gradient" in made.notes[1]

    turned = design.designed("leave-one-out", placed("freelb,ema,fgm,sam", "whole")[0])
    assert [s["name"] for s in turned.arms[1].methods] == ["freelb", "ema", "sam"]


def test_both_has_each_method_alone_and_all_of_every_part() -> None:
    made = design.designed("both", placed("ema,sam", "whole", "end")[0])
    assert names(made) == [
        "baseline", "all", "all without ema", "all without sam", "ema", "sam", "all@end",
        "all@end without ema@end", "all@end without sam@end", "ema@end", "sam@end",
    ]  # fmt: skip


def test_there_is_no_all_of_one_method() -> None:
    made = design.designed("both", placed("ema", "whole")[0])
    assert names(made) == ["baseline", "ema"]
    assert made.notes == ["There is no arm `all`: fewer than two methods go together."]


def test_settings_are_written_as_the_command_line_reads_them() -> None:
    given = ["ema", {"name": "fgm", "during": [0.25, 1.0], "scope": "table"}]
    read = arms.parse(arms.written(given), catalogue())
    assert [arm.methods[0] for arm in read] == [{"name": "ema"}, given[1]]


def test_after_is_a_stage_of_its_own_with_its_own_control() -> None:
    found, left_out = placed("ema,snapshot", "whole", "after")
    made = design.designed("both", found)
    assert left_out == {}
    named = {arm.name: arm for arm in made.arms}
    assert named["ema"].after is None
    assert named["ema@after"].after == ({"name": "ema"},)
    assert named["ema@after"].methods == ()
    assert named["baseline@after"].after == ()
    assert named["baseline@after"].reference == "baseline"
    assert named["ema@after"].reference == "baseline@after"
    assert named["all@after"].after == ({"name": "ema"}, {"name": "snapshot"})
    assert named["all@after without ema@after"].reference == "all@after"
    assert {arm.placement for arm in made.arms} == {"whole", "after"}
