"""A CSV file of anyone's numbers with anything in it: `whet compare` says what is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.safety.mutations import changed_bytes, fuzz, only_whet_errors
from tests.study import invented
from whet.study import display, tables
from whet.study.plan import BASELINE
from whet.study.store import flat

OWN = "arm,seed,value\n" + "".join(
    f"{arm},{seed},0.{seed}{place}\n"
    for place, arm in enumerate((BASELINE, "ema", "sam@end"))
    for seed in range(7)
)
STUDY = flat(invented.rows((BASELINE, "ema", "sam")))
CELLS = ("", "nan", "inf", "-inf", "1e308", "-1e308", "1e-320", "0", "9" * 5000, "\x00", '"', "x")


def told(data: bytes, metric: str | None) -> None:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "numbers.csv"
        file.write_bytes(data)
        with only_whet_errors():
            found = tables.compared(file, metric=metric, margin=0.1)
            tables.told(found)
            display.table(found.comparisons, found.metric)


@pytest.mark.parametrize(("text", "metric"), [(OWN, None), (STUDY, invented.METRIC)])
@fuzz(40)
@given(data=st.data())
def test_changed_bytes(text: str, metric: str | None, data: st.DataObject) -> None:
    told(data.draw(changed_bytes(text.encode())), metric)


@pytest.mark.parametrize(("text", "metric"), [(OWN, None), (STUDY, invented.METRIC)])
@fuzz(40)
@given(data=st.data())
def test_changed_cells(text: str, metric: str | None, data: st.DataObject) -> None:
    lines = [line.split(",") for line in text.splitlines()]
    for _ in range(data.draw(st.integers(1, 6))):
        cells = lines[data.draw(st.integers(1, len(lines) - 1))]
        cells[data.draw(st.integers(0, len(cells) - 1))] = data.draw(st.sampled_from(CELLS))
    told("\n".join(map(",".join, lines)).encode(), metric)
