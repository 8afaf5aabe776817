"""A study's folder. The node manifests are the truth; every other file is rebuilt from them.

```
study.json            what the study is: task, arms, seeds, threads, versions, command, nodes
nodes/NODE/row.json   what came out of one node
nodes/NODE/manifest.json   renamed into place last: the node is done if and only if it is there
nodes/NODE/failed.json     the last attempt failed; the same command tries again
nodes/NODE/log.txt         what the node printed
nodes/NODE/now.json        what the run is at, while it trains
nodes/NODE/job.json  batch.json  run.lock   while another machine trains the node
results.jsonl         one row a node, appended as they end, rebuilt when a study begins and ends
results.csv  verdicts.json  report.html  gains.svg
report.md  report.tex  verdicts.csv  methods.bib  figures/   where `whet report` was asked for them
rehearsal/  tuning/  confirmation/   nodes of their own: what precedes a study, and what follows
recipe.py             what --pick wrote
jobs/                 what batch jobs printed
```
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet.errors import InputError
from whet.study import files, pulse, wording
from whet.study.plan import STATUSES, Node, Row

FORMAT = 1
LOCK = "study.lock"
CHECKPOINTS = "checkpoints"  # a run's, in the folder of its node
RAN = ("status", "updates", "seconds_per_update", "peak_memory")
BLANK, FORMULA = tuple("\t\r\n"), tuple("=+-@＝＋－＠")
OURS = ("study.json", "results.jsonl", "results.csv", "verdicts.json", "report.html", "nodes",
        "rehearsal", "gains.svg", "tuning", "confirmation", "recipe.py", "jobs",
        "report.md", "report.tex", "verdicts.csv", "methods.bib", "figures")  # fmt: skip


class Store:
    """The files of one study."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results.jsonl"
        self.report = folder / "report.html"

    # the folder ------------------------------------------------------------------------------
    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Hold the folder against other processes; yields the process that died holding it."""
        path = self.folder / LOCK
        with files.locked(path, f"The study in {self.folder}") as dead, pulse.beating(path):
            yield dead

    def claim(self, task: str) -> None:
        """Refuse a folder that holds another task's study, or files that are not a study's."""
        study = self.study()
        if study is not None and study["task"]["name"] != task:
            raise InputError(
                f"{self.folder} holds a study of {study['task']['name']!r}, not of {task!r}. "
                "Choose another folder with --out."
            )
        there = sorted(path.name for path in self.folder.iterdir()) if study is None else []
        foreign = [name for name in there if name not in (*OURS, LOCK) and name[0] != "."]
        if foreign:
            raise InputError(
                f"{self.folder} holds other files ({', '.join(foreign[:3])}). "
                "Choose an empty or a new folder with --out."
            )

    def clear(self) -> None:
        """Remove what a study wrote, and nothing else."""
        for name in OURS:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def mend(self) -> list[str]:
        """Remove what a killed process left half written; says what was found."""
        half = files.sweep(self.folder)
        _, torn = files.read_lines(self.results)
        said = [f"removed {half} half-written file(s)"] if half else []
        return said + ([f"cut a torn line from {self.results.name}"] if torn else [])

    # the study -------------------------------------------------------------------------------
    def study(self) -> dict[str, Any] | None:
        """The study's manifest, None where there is none."""
        from whet.study import shapes

        path = self.folder / "study.json"
        study = files.read_json(path)
        if study is None and not path.exists():
            return None
        if study is not None and study.get("format") != FORMAT:
            raise InputError(
                f"{path} was written by another version of whet. Choose another --out."
            )
        wrong = shapes.wrong(shapes.Study, study) or shapes.astray(study or {})
        if wrong:
            raise InputError(
                f"{path} is damaged ({wrong}). Remove it and give the study's command again."
            )
        return study

    def write_study(self, study: Mapping[str, Any]) -> None:
        """Write the study's manifest."""
        files.write(self.folder / "study.json", files.to_json({"format": FORMAT, **study}, 2))

    # the nodes -------------------------------------------------------------------------------
    def folder_of(self, node: Node) -> Path:
        """Where a node keeps its files."""
        return self.folder / "nodes" / node.folder

    def finish(self, node: Node, row: Row) -> None:
        """Keep a row for good, or as a failed attempt that the next command repeats."""
        if row.get("status") not in STATUSES:
            raise ValueError(f"a row's status is {row.get('status')!r}, not one of {STATUSES}")
        folder, text = self.folder_of(node), files.to_json(row)
        if row["status"] == "failed":
            files.write(folder / "failed.json", text)
            return
        files.write(folder / "row.json", text)
        manifest = {"format": FORMAT, "key": node.key, "node": node.to_json(), "row": _hash(text)}
        files.write(folder / "manifest.json", files.to_json(manifest, 2))
        (folder / "failed.json").unlink(missing_ok=True)

    def held(self, node: Node) -> bool:
        """Whether a trunk's checkpoint is there for others to begin from."""
        return any((self.folder_of(node) / CHECKPOINTS).glob("[0-9]*/manifest.json"))

    def release(self, node: Node) -> None:
        """Remove a node's checkpoints, which nobody needs any more."""
        shutil.rmtree(self.folder_of(node) / CHECKPOINTS, ignore_errors=True)

    def retry(self, nodes: Sequence[Node]) -> None:
        """Forget the failed attempts of nodes that are about to be tried again."""
        for node in nodes:
            (self.folder_of(node) / "failed.json").unlink(missing_ok=True)
            pulse.end(self.folder_of(node))  # a killed process left it

    def done(self, node: Node) -> Row | None:
        """The row of a node whose manifest is in place and fits it, else None."""
        folder = self.folder_of(node)
        manifest = files.read_json(folder / "manifest.json")
        text = files.read_text(folder / "row.json")
        if manifest is None or text is None or manifest.get("key") != node.key:
            return None
        fits = manifest.get("row") == _hash(text)
        return self._own(node, files.read_json(folder / "row.json")) if fits else None

    def _own(self, node: Node, row: Row | None) -> Row | None:
        """A row that is this node's and of a row's shape, else None, and the node is trained."""
        from whet.study import shapes

        own = {"arm": node.arm, "seed": node.seed, "key": node.key}
        found: Row = shapes.bounded(row or {})
        fits = shapes.wrong(shapes.Result, found) is None
        return found if fits and all(found[name] == value for name, value in own.items()) else None

    def rows(self, nodes: Sequence[Node]) -> list[Row]:
        """What the nodes came to so far, failed attempts included, in the order of the plan."""
        found = (self.done(node) or self.failed(node) for node in nodes)
        return [row for row in found if row is not None]

    def failed(self, node: Node) -> Row | None:
        """The row of a node's last attempt, if that failed."""
        row = self._own(node, files.read_json(self.folder_of(node) / "failed.json"))
        return row if row is not None and row["status"] == "failed" else None

    def others(self, nodes: Sequence[Node]) -> int:
        """How many nodes in the folder belong to other settings or other code."""
        named = {node.folder for node in nodes}
        return sum(p.parent.name not in named for p in self.folder.glob("nodes/*/manifest.json"))

    # the results -----------------------------------------------------------------------------
    def append(self, row: Row) -> None:
        """Add a row to the results as soon as it is there."""
        files.append(self.results, files.to_json(row))

    def rebuild(self, nodes: Sequence[Node]) -> list[Row]:
        """Write the results anew from the node manifests."""
        rows = self.rows(nodes)
        files.write(self.results, "".join(files.to_json(row) + "\n" for row in rows))
        files.write(self.folder / "results.csv", flat(rows))
        return rows


def flat(rows: Sequence[Row]) -> str:
    """Rows as CSV: arm, seed, part, metric, value; safe to open in a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["arm", "seed", "part", "metric", "value"])
    for row in rows:
        run = {name: row[name] for name in RAN if name in row}
        for part, values in [("run", run), *(row.get("metrics") or {}).items()]:
            for metric, value in values.items():
                table.writerow(map(cell, (row["arm"], row["seed"], part, metric, value)))
    return text.getvalue()


def cell(value: object) -> str:
    """A cell's text, redacted; what a spreadsheet would take for a formula gets an apostrophe.

    Spreadsheets skip blanks before a formula, and some read the wide forms of its first sign.
    """
    text = "" if value is None else wording.plain(str(value), lines=True)
    formula = text[:1] in BLANK or text.lstrip()[:1] in FORMULA
    return f"'{text}" if formula and not _numeric(text) else text


def _numeric(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
