"""Numbers of one's own, from a CSV file: columns arm, seed, value, or a study's results.csv."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from whet.errors import InputError, UnknownName
from whet.study import files, redact, statistics
from whet.study.plan import BASELINE, STATUSES, Row
from whet.study.statistics import Comparison, placement

OWN, STUDY = ("arm", "seed", "value"), ("arm", "seed", "part", "metric", "value")
TOOK = ("updates", "seconds_per_update", "peak_memory")
JUDGED, RUN, NUMBER = "judge", "run", "value"
Line = tuple[int, Mapping[str, str]]
Runs = dict[tuple[str, str], dict[str, str]]


ABOUT = (
    "A verdict is about what your seeds vary, and nothing else: on one set of data it is about "
    "training on this data again."
)


@dataclass(frozen=True)
class Compared:
    """The arms of a file against one of them."""

    metric: str
    baseline: str
    higher_is_better: bool
    margin: float | None
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Numbers:
    """What a file holds: rows as a study has them, the metric's name, each arm's placement."""

    rows: list[Row]
    metric: str
    placements: dict[str, str]


def compared(
    path: Path, baseline: str = BASELINE, higher_is_better: bool = True,
    metric: str | None = None, margin: float | None = None, confidence: float = 0.95,
) -> Compared:  # fmt: skip
    """The arms of a file against one of them.

    Raises:
        InputError: what is wrong in the file; no such baseline, or nothing beside it.
    """
    statistics.check(confidence, margin)
    numbers = read(path, metric)
    arms = list(numbers.placements)
    if baseline not in arms:
        raise UnknownName("baseline", baseline, arms)
    if len(arms) < 2:
        raise InputError(f"{path} holds {baseline!r} alone: there is nothing to compare it with.")
    found = statistics.paired(
        numbers.rows, NUMBER, higher_is_better, baseline, confidence,
        placements=numbers.placements, margin=margin,
    )  # fmt: skip
    return Compared(numbers.metric, baseline, higher_is_better, margin, found)


def told(found: Compared, confidence: float = 0.95) -> str:
    """The same as JSON."""
    values = asdict(found) | {
        "confidence": confidence, "rule": statistics.rule(confidence, found.margin, ABOUT)
    }  # fmt: skip
    return files.to_json(redact.values(values), 2)


def read(path: Path, metric: str | None = None) -> Numbers:
    """The numbers in a file.

    Args:
        path: a CSV file with a header, in UTF-8, its cells parted by commas, semicolons or tabs.
            Needed are columns arm, seed and value; a column `placement` is taken where there is
            one. A study's `results.csv` holds several metrics.
        metric: which one, of a study's; it may be left out where there is one only.

    Raises:
        InputError: what is wrong, and in which line.
    """
    lines = list(_lines(path))
    if not lines:
        raise InputError(f"{path} has a header and no rows: nothing can be compared.")
    columns = set(lines[0][1])
    of_study = {"part", "metric"} <= columns
    missing = [name for name in (STUDY if of_study else OWN) if name not in columns]
    if missing:
        raise InputError(
            f"{path}, line 1: there is no column {missing[0]!r}; the columns are "
            f"{', '.join(lines[0][1])}. Needed are {', '.join(OWN)}."
        )
    if of_study:
        metric, lines, runs = _chosen(path, lines, metric)
    else:
        metric, runs = metric or NUMBER, {}
    rows, placements = _rows(path, lines, runs)
    return Numbers(rows, metric, placements)


def _lines(path: Path) -> Iterator[Line]:
    """Line numbers and cells by column."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8. Save it as CSV in UTF-8.") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(table, [])]
        if len(set(header)) < len(header):
            raise InputError(f"{path}, line 1: two columns have one name: {', '.join(header)}.")
        for cells in table:
            if any(cell.strip() for cell in cells):
                yield table.line_num, _named(path, table.line_num, header, cells)
    except csv.Error as error:
        raise InputError(f"{path}, line {table.line_num}: {error}.") from error


def _named(path: Path, number: int, header: list[str], cells: list[str]) -> dict[str, str]:
    if len(cells) != len(header):
        raise InputError(
            f"{path}, line {number}: {len(cells)} cells where the header has {len(header)}."
        )
    return dict(zip(header, (cell.strip() for cell in cells), strict=True))


def _chosen(path: Path, lines: list[Line], metric: str | None) -> tuple[str, list[Line], Runs]:
    """Of a study's file the lines of one metric on the judge part, and what each run came to."""
    judged = list(dict.fromkeys(c["metric"] for _, c in lines if c["part"] == JUDGED))
    if metric is None and len(judged) != 1:
        raise InputError(
            f"{path} holds {len(judged)} metrics: say which with --metric. "
            f"There are: {', '.join(judged) or 'none'}"
        )
    metric = metric or judged[0]
    if metric not in judged:
        raise UnknownName("metric", metric, judged)
    runs: Runs = {}
    for _, cells in lines:
        if cells["part"] == RUN:
            runs.setdefault((cells["arm"], cells["seed"]), {})[cells["metric"]] = cells["value"]
    kept = [(n, c) for n, c in lines if (c["part"], c["metric"]) == (JUDGED, metric)]
    seen = {(c["arm"], c["seed"]) for _, c in kept}
    # a run without a result has no line of the metric; it is left out by name and not in silence
    lost: list[Line] = [
        (n, {**c, NUMBER: ""})
        for n, c in lines
        if (c["part"], c["metric"]) == (RUN, "status") and (c["arm"], c["seed"]) not in seen
    ]
    return metric, [*kept, *lost], runs


def _rows(path: Path, lines: list[Line], runs: Runs) -> tuple[list[Row], dict[str, str]]:
    rows: list[Row] = []
    placements: dict[str, str] = {}
    seen: dict[tuple[str, int], int] = {}
    for number, cells in lines:
        where = f"{path}, line {number}"
        arm, seed = _arm(cells["arm"], where), _seed(cells["seed"], where)
        if (arm, seed) in seen:
            raise InputError(
                f"{where}: arm {arm!r} with seed {seed} stands in line {seen[arm, seed]} already."
            )
        seen[arm, seed] = number
        own = cells.get("placement") or placement({"name": arm})
        if placements.setdefault(arm, own) != own:
            raise InputError(f"{where}: {arm!r} was placed at {placements[arm]!r} before.")
        run = runs.get((cells["arm"], cells["seed"]), {})
        status = run.get("status", "done")
        value = {NUMBER: _number(cells[NUMBER], where)}
        took = {name: _number(run[name], where) for name in TOOK if run.get(name)}
        rows.append({"arm": arm, "seed": seed, "metrics": {JUDGED: value}, **took,
                     "status": status if status in STATUSES else "failed"})  # fmt: skip
    return rows, placements


def _arm(text: str, where: str) -> str:
    # a study's own file has an apostrophe before what a spreadsheet would take for a formula
    name = text[1:] if text[:1] == "'" and text[1:2] in tuple("=+-@") else text
    if not name:
        raise InputError(f"{where}: the arm has no name.")
    return name


def _seed(text: str, where: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{where}: the seed {text!r} is no whole number.") from None


def _number(text: str, where: str) -> float:
    """A value; NaN where the cell is empty, which leaves the seed out by name."""
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise InputError(f"{where}: the value {text!r} is not a number.") from None
