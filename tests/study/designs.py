"""Studies of every design, made of numbers alone, and their reports as a study writes them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tests.study import invented
from whet.study import confirm, contrasts, controls, families, report, statistics, trie
from whet.study.confirm import Confirmation, Confirmed
from whet.study.evidence import compare
from whet.study.plan import BASELINE, Arm, Node, Row

CONFIDENCE = 0.95
DURING = {"start": [0.0, 0.25], "end": [0.75, 1.0]}
DIGITS = [*map(str, range(10))]
TUNING = {
    "rate": 0.01, "own": 0.003, "metric": invented.METRIC, "seeds": [1000, 1001],
    "table": [
        {"rate": 0.003, "values": [0.90, 0.92], "mean": 0.91},
        {"rate": 0.01, "values": [0.94, 0.96], "mean": 0.95},
        {"rate": 0.03, "values": [0.80, None], "mean": None},
    ],
    "at_edge": False,
}  # fmt: skip


def arm(name: str, *methods: str, **given: Any) -> Arm:
    """An arm with these methods, in the part of training that its name ends with."""
    part = name.partition("@")[2]
    during = {"during": DURING[part]} if part in DURING else {}
    where = part if part in DURING else "whole"
    settings = tuple({"name": each, **during} for each in methods)
    return Arm(name, settings, **{"placement": where, **given})


def study(arms: Sequence[Arm], seeds: int, **given: Any) -> dict[str, Any]:
    """The manifest of a study of these arms, its runs shared as a planner shares them."""

    def node(each: Arm, seed: int) -> Node:
        return Node("pets", each.name, each.methods, seed, after=each.after)

    made = invented.study({}, range(seeds), design="add-one", **given)
    values = [
        {"name": each.name, "methods": [*each.methods], "reference": each.reference,
         "placement": each.placement, "data": each.data, "times": each.times,
         "after": None if each.after is None else [*each.after]}
        for each in arms
    ]  # fmt: skip
    nodes = trie.grown(arms, range(seeds), node)
    return made | {"arms": values, "nodes": [each.to_json() for each in nodes]}


def rows(made: Mapping[str, Any], classes: Sequence[str] = ("cat", "dog")) -> list[Row]:
    """A result for every run of a study."""
    return [
        invented.row(node.arm, node.seed, classes, key=node.key)
        for node in trie.judged(map(Node.from_json, made["nodes"]))
    ]


def page(
    made: Mapping[str, Any], results: Sequence[Row], again: Confirmation | None = None,
    running: int | None = None,
) -> str:  # fmt: skip
    """The report as a study writes it."""
    plain = dict(made)
    found = compare(plain, results)
    compared, leaving, further = families.divided(plain, results, found, CONFIDENCE)
    controlled = controls.compare(plain, results, [*compared, *leaving], CONFIDENCE)
    rule = statistics.rule(CONFIDENCE, plain.get("margin"))
    return report.build(plain, results, compared, rule, leaving, further, controlled, again,
                        running)  # fmt: skip


ARMS = [
    Arm(BASELINE), arm("ema", "ema"), arm("sam", "sam"), arm("sam@start", "sam"),
    arm("sam@end", "sam"), arm("fgm@end", "fgm"), arm("ema+sam", "ema", "sam"),
    Arm("baseline@x2", times=2.0), Arm("baseline@data=0.1", data=0.1),
    arm("ema@data=0.1", "ema", reference="baseline@data=0.1", data=0.1, placement="whole"),
]  # fmt: skip


def designed(seeds: int = 4, **given: Any) -> dict[str, Any]:
    """A study with parts of training, a pair, longer training, a tuned rate and less data."""
    return study(
        ARMS, seeds, margin=0.004, tuning=TUNING, left_out={"fgm": "it has no embedding"},
        equal_time=[{"arm": "sam", "control": "baseline@x2", "times": 2.0, "measured": 1.9}],
        contrasts={
            "interactions": {
                contrasts.crossed("ema", "sam"):
                    contrasts.interaction("ema+sam", "ema", "sam", BASELINE),
            },
            "data": {"baseline@data=0.1": contrasts.difference("baseline@data=0.1", BASELINE)},
        },
        **given,
    )  # fmt: skip


def confirmed(made: Mapping[str, Any], results: Sequence[Row], name: str) -> Confirmation:
    """An arm's gain found again, as large as before."""
    [one] = [each for each in compare(dict(made), results)[BASELINE] if each.arm == name]
    again = Confirmed(name, BASELINE, one, one, confirm.NOT_CONFIRMED)
    return Confirmation(confirm.FRESH_ROWS, [2000, 2001, 2002], {"share": 0.2, "rows": 100,
                        "aside": 20}, False, [again])  # fmt: skip


@cache
def everything() -> str:
    """The report of that study."""
    made = designed()
    results = rows(made)
    return page(made, results, confirmed(made, results, "ema"))


@cache
def unfinished() -> str:
    """The same with runs that are missing."""
    made = designed()
    return page(made, rows(made)[:25], running=2)


@cache
def screening() -> str:
    """Main effects of three methods in four runs."""
    made = [Arm(BASELINE), arm("a+b", "a", "b"), arm("a+c", "a", "c"), arm("b+c", "b", "c")]
    effects = {
        name: contrasts.main_effect([e.name for e in made if name in e.name.split("+")],
                                    [e.name for e in made if name not in e.name.split("+")])
        for name in "abc"
    }  # fmt: skip
    planned = study(made, 3, contrasts={"effects": effects})
    return page(planned | {"design": "screening"}, rows(planned))


@cache
def many() -> str:
    """Forty arms under ten seeds, at the start, in the whole and at the end, of ten classes."""
    methods = invented.METHODS[:13]
    arms = [Arm(BASELINE), *(arm(name, name) for name in methods)]
    arms += [arm(f"{name}@{part}", name) for part in DURING for name in methods]
    made = study([*arms, arm("ema+sam", "ema", "sam")], 10, margin=0.004)
    return page(made, rows(made, DIGITS))
