"""Files as an accident or an enemy would change them: what they hold, or their bytes.

`WHET_FUZZ=1000 pytest tests/safety` tries a thousand of each kind, others at every call; without
it a few are tried, always the same ones.
"""

from __future__ import annotations

import copy
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from whet.errors import WhetError

MANY = int(os.environ.get("WHET_FUZZ", "0"))
PHASES = [Phase.explicit, Phase.generate]  # shrinking a failure takes more than a test's time
MEMORY = 1 << 30  # bytes that no reader of these small files may need on top
DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**64), 10**400, 0.5, -0.0, 1e-320, 1.7e308,
    float("nan"), float("inf"), -float("inf"), "", "x", "0", "nan", "\x00\x1b[2J", "\ud800",
    "$\\frac{", "<script>alert(1)</script>", "../../etc/passwd", "é" * 300, [], {}, [[]], [None],
    {"": None}, ["a", 1], {"name": "ema"}, DEEP, list(range(50)),
]  # fmt: skip


def fuzz(examples: int) -> Callable[[Any], Any]:
    """So many examples, always the same; as many as asked for, and new ones, where that is said."""
    return settings(
        max_examples=MANY or examples, derandomize=not MANY, database=None, deadline=None,
        suppress_health_check=list(HealthCheck), print_blob=True,
        phases=[*PHASES, Phase.shrink] if MANY else PHASES,
    )  # fmt: skip


@contextmanager
def modest() -> Iterator[None]:
    """No gigabytes are taken."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    finally:
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert taken < MEMORY, f"{taken >> 20} MiB were taken"


@contextmanager
def only_whet_errors() -> Iterator[None]:
    """A clean result or one of whet's errors, with a message."""
    with modest():
        try:
            yield
        except WhetError as error:
            assert str(error).strip()  # noqa: PT017 - there may be none


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within a value."""
    found = [way]
    parts: Any = ()
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value[:20])
    for key, part in parts:
        found += places(part, (*way, key))
    return found


@st.composite
def changed(draw: DrawFn, value: Any) -> Any:
    """Plain values with one to three of them put wrong: another type, gone, twice, renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(value)[1:] or [(None,)]))
        if last is None:
            return draw(st.sampled_from(ODD))
        holder = value
        for key in way:
            holder = holder[key]
        _put_wrong(draw, value, holder, last)
    return value


def _put_wrong(draw: DrawFn, value: Any, holder: Any, key: Any) -> None:
    action = draw(st.sampled_from(("odd", "odd", "odd", "other", "gone", "twice")))
    if action == "odd":
        holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
    elif action == "other":  # a value from elsewhere in the file
        found = value
        for step in draw(st.sampled_from(places(value))):
            found = found[step]
        holder[key] = copy.deepcopy(found)
    elif action == "gone":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        holder[f"{key}{draw(st.sampled_from(('', 's', ' ')))}"] = copy.deepcopy(holder.pop(key))


@st.composite
def changed_json(draw: DrawFn, value: Any) -> bytes:
    """JSON of changed values; at times torn, nested without end, or with keys that stand twice."""
    text = json.dumps(draw(changed(value)))
    how = draw(st.sampled_from(("whole", "whole", "whole", "bytes", "twice", "deep", "digits")))
    if how == "twice" and text.startswith("{"):
        text = json.dumps(value)[:-1] + ", " + text[1:]
    if how == "deep":
        text = draw(st.sampled_from(("[", '{"a":'))) * 100_000
    if how == "digits":
        text = text.replace("0", "9" * 5000, 1)
    data = text.encode("utf-8", "surrogatepass")
    return draw(changed_bytes(data)) if how == "bytes" else data


@st.composite
def changed_bytes(draw: DrawFn, data: bytes) -> bytes:
    """Bytes with bits turned, parts cut off, gone, twice or zero, and huge numbers put in."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(changed) - 1, 0)))
        end = at + draw(st.sampled_from((1, 2, 4, 8, 64)))
        action = draw(st.sampled_from(("turn", "turn", "cut", "gone", "twice", "zeros", "number")))
        if action == "turn" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif action == "cut":
            del changed[at:]
        elif action == "gone":
            del changed[at:end]
        elif action == "twice":
            changed[at:at] = changed[at:end]
        elif action == "zeros":
            changed[at:end] = bytes(len(changed[at:end]))
        elif action == "number":
            number = draw(st.sampled_from((2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1)))
            changed[at : at + 8] = number.to_bytes(8, "little")
    return bytes(changed)
