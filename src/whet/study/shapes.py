"""What a study's files must hold for its report, checked where they are read.

A file may hold more. Values stay as they were written; only their shape is looked at.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

LARGEST = 1e100  # far beyond what float32 can hold, whose squares metrics are made of
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Real = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[float, Field(ge=0, le=1e15)]
Names = Annotated[list[str], Field(min_length=1)]
Weights = Annotated[dict[str, Annotated[float, Field(ge=-1, le=1)]], Field(min_length=1)]
Settings = dict[str, Any]
Metrics = dict[str, Real | None]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Method(_Shape):
    name: str
    during: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None


class _Arm(_Shape):
    name: str
    methods: list[_Method]
    reference: str = ""
    placement: str = "whole"
    after: list[_Method] | None = None
    data: Real = 1.0
    times: Real = 1.0


class _Node(_Shape):
    model_config = ConfigDict(extra="forbid")

    task: str
    arm: str
    methods: list[_Method]
    seed: Count
    options: Settings = {}
    code: str = ""
    after: list[_Method] | None = None
    until: Real | None = None
    parent: str | None = None
    rides: str | None = None
    riders: list[Settings] = []


class _Task(_Shape):
    name: str
    title: str
    metric: str
    higher_is_better: bool
    left_out: dict[str, str] | None = None
    rows: dict[str, Count] = {}


class _Budget(_Shape):
    arms: list[str]
    seeds: Count
    share: Real
    seconds: Real
    notes: list[str]


class _Control(_Shape):
    arm: str
    control: str
    times: Real
    measured: Real


class _Rate(_Shape):
    rate: Real
    values: list[Real | None]
    mean: Real | None = None


class _Tuning(_Shape):
    rate: Real
    own: Real
    metric: str
    seeds: list[Count]
    table: list[_Rate]
    at_edge: bool = False


class _Course(_Shape):
    arms: Names
    ends: Annotated[list[Size], Field(min_length=1)]
    points: Annotated[list[Annotated[list[Size], Field(min_length=2, max_length=2)]],
                      Field(min_length=1)]  # fmt: skip


class _Untold(_Shape):
    arms: Names
    why: str


class _Rates(_Shape):
    rate: Real | None
    courses: list[_Course]
    untold: list[_Untold]


class _Aside(_Shape):
    share: Real
    rows: Count
    aside: Count


class Confirmation(_Shape):
    """`confirmation/plan.json`."""

    arms: list[_Arm]
    seeds: list[Count]
    nodes: list[_Node]
    predicted: list[str]
    aside: _Aside | None = None
    helped: bool = True


class Study(_Shape):
    """`study.json`."""

    task: _Task
    arms: list[_Arm]
    seeds: list[Count]
    nodes: list[_Node]
    threads: Count
    jobs: Count
    command: str
    date: str
    versions: dict[str, str]
    budget: _Budget | None = None
    notes: list[str] | None = None
    left_out: dict[str, str] | None = None
    contrasts: dict[str, dict[str, Weights]] | None = None
    equal_time: list[_Control] | None = None
    tuning: _Tuning | None = None
    rates: _Rates | None = None
    hold_out: _Aside | None = None
    margin: Annotated[Real, Field(gt=0)] | None = None
    passes: dict[str, str] | None = None


class _Point(_Shape):
    update: Real
    metrics: Metrics


class Now(_Shape):
    """`now.json`."""

    arm: str
    seed: Count
    phase: str
    began: Real
    at: Real
    update: Count | None = None
    of: Count | None = None
    metric: str | None = None
    value: Real | None = None


class Result(_Shape):
    """`row.json` and `failed.json`."""

    arm: str
    seed: Count
    key: str
    status: Literal["done", "failed", "inapplicable", "refused", "diverged"]
    reason: str | None = None
    metrics: dict[str, Metrics] | None = None
    curve: list[_Point] | None = None
    updates: Real | None = None
    seconds: Real | None = None
    seconds_per_update: Real | None = None
    judging: Real | None = None
    peak_memory: Real | None = None
    explain: str | None = None
    settings: list[Settings] | None = None
    environment: Settings | None = None
    classes: list[str] | None = None
    confusion: list[list[Count]] | None = None


@cache
def _adapter(kind: type[_Shape]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def wrong(kind: type[_Shape], values: object) -> str | None:
    """The first thing that values of a kind must not be; None where there is none."""
    try:
        _adapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))
        return f"{place}: {first['msg']}" if place else first["msg"]
    return None


def bounded(values: Any) -> Any:
    """Plain values with numbers of which sums, squares and ratios stay finite.

    A number beyond is none, as one that is not finite; one that is too small is zero.

    >>> bounded({"auc": 0.5, "mse": 1e300, "curve": [-1e-300]})
    {'auc': 0.5, 'mse': None, 'curve': [0.0]}
    """
    if isinstance(values, dict):
        return {name: bounded(value) for name, value in values.items()}
    if isinstance(values, list):
        return [bounded(value) for value in values]
    if isinstance(values, float) and values:
        return values if 1 / LARGEST <= abs(values) <= LARGEST else 0.0 if abs(values) < 1 else None
    return None if isinstance(values, int) and abs(values) > LARGEST else values


def astray(study: dict[str, Any]) -> str | None:
    """What a study of the right shape names and does not have; None where there is nothing."""
    names = [arm["name"] for arm in study["arms"]]
    if len({*names}) < len(names):
        return "arms: a name stands twice"
    known = {*names}
    for kind, named in (
        ("reference", {arm["reference"] for arm in study["arms"] if "reference" in arm}),
        (
            "contrast of arm",
            {
                arm
                for family in (study.get("contrasts") or {}).values()
                for weights in family.values()
                for arm in weights
            },
        ),
        ("node of arm", {n["arm"] for n in study["nodes"] if n.get("until") is None}),
    ):
        if not named <= known:
            return f"{kind} {min(named - known)!r}: there is no such arm"
    return None
