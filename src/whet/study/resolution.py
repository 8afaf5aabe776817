"""Training size by test size: each size trained once for a seed, and judged at every test size."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from types import FunctionType
from typing import TYPE_CHECKING, Any

from torch import Tensor

from whet import evaluation
from whet.augmenting.sizes import resized
from whet.errors import InputError, UnknownName
from whet.loading import open_loader
from whet.run import Run
from whet.study import files, identity, wording
from whet.study.drawing import GRID, canvas, drawn, frame, standalone
from whet.study.statistics import Comparison, compare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE, SHEET, LOCK = "sweep.json", "sweep.csv", "sweep.lock"
COLOURS = ("#0067a5", "#c2500a", "#3a7d44", "#7b3fa0", "#7a6a00", "#50565e")
MARKS = "osD^vP"
Row = dict[str, Any]
Make = Callable[[int, int], Run]
View = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Resolutions:
    """What a sweep found.

    Args:
        metric: its name.
        higher_is_better: its direction.
        rows: `train`, `test`, `seed` and `value` of each judgement.
    """

    metric: str
    higher_is_better: bool
    rows: tuple[Row, ...]

    def values(self, train: int, test: int) -> list[float]:
        """The values of one cell, by seed."""
        cell = [row for row in self.rows if (row["train"], row["test"]) == (train, test)]
        if not cell:
            there = sorted({f"{row['train']} x {row['test']}" for row in self.rows})
            raise UnknownName("cell of the sweep", f"{train} x {test}", there)
        return [row["value"] for row in sorted(cell, key=lambda row: int(row["seed"]))]

    def sizes(self, name: str) -> list[int]:
        """All sizes of `train` or `test`, ascending."""
        return sorted({row[name] for row in self.rows})

    def interval(self, train: int, test: int) -> tuple[float, float | None]:
        """Mean of a cell over seeds, and half its 95 % t interval; None of a single seed."""
        values = self.values(train, test)
        if len(values) < 2:
            return fmean(values), None
        from scipy.stats import t

        wide = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
        return fmean(values), wide

    def gain(self, train: int, test: int, beside: int | None = None) -> Comparison:
        """Gain of testing at `test` instead of `beside` (the training size), paired by seed."""
        held = train if beside is None else beside
        self.values(train, test), self.values(train, held)  # say so where one is missing
        arms = {test: f"test {test}", held: "baseline"}
        rows = [
            (arms[row["test"]], row["seed"], row["value"]) for row in self.rows
            if row["train"] == train and row["test"] in arms
        ]  # fmt: skip
        if test == held:
            raise InputError(f"test={test} is held against itself; give another size.")
        [found] = compare(rows, higher_is_better=self.higher_is_better)
        return found

    def __str__(self) -> str:
        tests = self.sizes("test")
        lines = [[f"{self.metric}: train / test", *map(str, tests)]]
        lines += [
            [str(train), *(_told(*self.interval(train, test)) for test in tests)]
            for train in self.sizes("train")
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )

    def csv(self) -> str:
        """The rows as CSV."""
        text = io.StringIO()
        writer = csv.DictWriter(text, ["train", "test", "seed", "value"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def plot(self, path: str | Path | None = None) -> str:
        """A line for each training size over the test sizes, as SVG; written to `path` too."""
        text = _picture(self)
        if path is not None:
            files.write(Path(path), text)
        return text


def _told(mean: float, wide: float | None) -> str:
    return f"{mean:.4f}" if wide is None else f"{mean:.4f} ± {wide:.4f}"


@drawn
def _picture(found: Resolutions) -> str:
    metric = wording.plain(found.metric.replace("_", " "))
    return standalone(_figure(found, metric), f"{metric} by training size and test size")


def _figure(found: Resolutions, metric: str) -> Figure:
    figure = canvas(6.0, 3.4)
    axes = figure.add_axes((0.13, 0.15, 0.84, 0.8))
    frame(axes)
    axes.set_axisbelow(True)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    tests = found.sizes("test")
    for number, train in enumerate(found.sizes("train")):
        cells = [found.interval(train, test) for test in tests]
        axes.errorbar(
            tests, [mean for mean, _ in cells], [wide or 0.0 for _, wide in cells],
            color=COLOURS[number % len(COLOURS)], marker=MARKS[number % len(MARKS)], capsize=2,
            markersize=4, linewidth=1.2, elinewidth=0.8, label=f"trained at {train}",
        )  # fmt: skip
    axes.set_xticks(tests)
    axes.set_xlabel("test size, pixels")
    axes.set_ylabel(metric)
    axes.legend(frameon=False)
    return figure


def resolution_sweep(
    make: Make, sizes_train: Iterable[int], sizes_test: Iterable[int], *,
    seeds: int | Iterable[int] = 5, view: View = resized,
    folder: str | Path | None = None, progress: bool = True,
) -> Resolutions:  # fmt: skip
    r"""Train at several sizes and judge each at several others.

    $$\bar a_{s,r} \pm t_{n-1,\,0.975}\, \mathrm{sd}(a_{s,r}) / \sqrt n$$

    over n seeds, with $a_{s,r}$ the task's first metric on its judge part.

    Args:
        make: from a training size, in pixels, and a seed to a Run that is not trained yet.
        sizes_train: what to train at.
        sizes_test: what to judge at.
        seeds: how many, or which. One seed should mean one split for all sizes: cells are paired.
        view: from images of the judge part `(N, C, H, W)` and a size to what is judged; whole
            images resized by default, `whet.augmenting.sizes.centred` for centre crops.
        folder: keeps `sweep.json` and `sweep.csv`, written whole after each training; the same
            call goes on with what is missing.
        progress: say on standard error how far it is.

    Cost: a training for each training size and seed; a forward of the judge part for each cell.

    Raises:
        InputError: no or odd sizes or seeds; a folder of another `make`, `view` or metric,
            or a damaged one.

    Paper: Touvron et al. 2019, arXiv:1906.06423.

    >>> import torch
    >>> from whet import Stage, Task
    >>> def make(size, seed):
    ...     x, y = torch.rand(16, 1, 8, 8), torch.arange(16) % 2
    ...     model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
    ...                                 torch.nn.Linear(4, 2))
    ...     task = Task(model, (resized(x, size), y), judge=(x, y), metrics=["accuracy"])
    ...     return Run(task, Stage(updates=1, batch_size=8), seed, log=None)
    >>> found = resolution_sweep(make, [4, 6], [4, 6, 8], seeds=2, progress=False)
    >>> len(found.rows), found.sizes("test")
    (12, [4, 6, 8])
    """
    trains, tests = _whole(sizes_train, "sizes_train", 1), _whole(sizes_test, "sizes_test", 1)
    chosen = _whole(range(seeds) if isinstance(seeds, int) else seeds, "seeds", 0)
    place = None if folder is None else Path(folder)
    held = nullcontext() if place is None else files.locked(place / LOCK, str(place))
    with held:
        sweep = _Sweep(make, view, place)
        for done, (seed, train) in enumerate(product(chosen, trains), 1):
            if any((train, test, seed) not in sweep.cells for test in tests):
                sweep.judge(train, seed, tests)
            if progress:
                _say(f"{done} of {len(chosen) * len(trains)}: trained at {train}, seed {seed}")
    rows = [
        {"train": train, "test": test, "seed": seed, "value": sweep.cells[train, test, seed]}
        for train in trains for test in tests for seed in chosen
    ]  # fmt: skip
    assert sweep.metric is not None
    return Resolutions(sweep.metric, sweep.higher_is_better, tuple(rows))


def _whole(given: Iterable[int], name: str, least: int) -> Sequence[int]:
    found: list[Any] = list(given)
    plain = all(isinstance(n, int) and not isinstance(n, bool) and n >= least for n in found)
    if not found or not plain or len(set(found)) < len(found):
        raise InputError(
            f"{name} is {found}: give different whole numbers, at least {least} each, one or more."
        )
    return found


def _say(line: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(line, highlight=False)


class _Sweep:
    """The cells that are known, and their file."""

    def __init__(self, make: Make, view: View, folder: Path | None) -> None:
        self.make, self.view, self.folder = make, view, folder
        self.code = " ".join(identity.code_of_function(each) for each in (make, view)
                             if isinstance(each, FunctionType))  # fmt: skip
        self.cells: dict[tuple[int, int, int], float] = {}
        self.metric: str | None = None
        self.higher_is_better = True
        if folder is not None and (folder / FILE).exists():
            self._read(folder / FILE)

    def _read(self, path: Path) -> None:
        told = files.read_json(path) or {}
        try:
            rows = [(int(r["train"]), int(r["test"]), int(r["seed"]), float(r["value"]))
                    for r in told["rows"]]  # fmt: skip
            self.metric, code = str(told["metric"]), told["code"]
            self.higher_is_better = bool(told["higher_is_better"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path} is damaged, or was written by something else: {error!r}. Move it away, or "
                "choose another folder."
            ) from error
        if code != self.code:
            raise InputError(
                f"{path.parent} holds a sweep of another `make` or `view`: the code has changed "
                "since. Choose another folder, or remove this one."
            )
        self.cells = {(train, test, seed): value for train, test, seed, value in rows}

    def judge(self, train: int, seed: int, tests: Sequence[int]) -> None:
        """Train at one size under one seed, and keep what all test sizes give."""
        run: Any = self.make(train, seed)
        if not isinstance(run, Run):
            raise InputError(f"make({train}, {seed}) gave a {type(run).__name__}; return a Run.")
        judge = run.task.part("judge")
        metric = evaluation.wanted(run.predictor(), run.task.metrics)[0]
        if self.metric not in (None, metric.name):
            raise InputError(f"one sweep has one metric: {self.metric}, and now {metric.name}.")
        self.metric, self.higher_is_better = metric.name, metric.higher_is_better
        predictor = run.fit().predictor()
        for test in tests:
            batches = open_loader(
                judge, 256, seed, "judge", shuffle=False, collate=run.task.collate
            ).epoch(0)
            seen = (batch.replace(inputs=self.view(batch.inputs, test)) for batch in batches)
            found = evaluation.evaluate(predictor, seen, [metric])
            self.cells[train, test, seed] = found[metric.name]
        self._write()

    def _write(self) -> None:
        if self.folder is None:
            return
        rows = [{"train": a, "test": b, "seed": s, "value": v}
                for (a, b, s), v in self.cells.items()]  # fmt: skip
        about = {"metric": self.metric, "higher_is_better": self.higher_is_better,
                 "code": self.code, "rows": rows}  # fmt: skip
        files.write(self.folder / FILE, files.to_json(about, indent=1) + "\n")
        table = Resolutions(str(self.metric), self.higher_is_better, tuple(rows))
        files.write(self.folder / SHEET, table.csv())
