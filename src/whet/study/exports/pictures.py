"""A study's figures as files for documents: PDF to be set, PNG to be shown."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.study import curves, figures, tradeoff, wording
from whet.study.drawing import CONCRETE, MARGIN, drawn
from whet.study.report import facts
from whet.study.statistics import Comparison, ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from whet.study.evidence import Evidence
    from whet.study.families import Family

FOLDER, DOTS = "figures", 300  # to an inch
PARTS = ("color", "edgecolor", "facecolor", "markeredgecolor", "markerfacecolor")


@dataclass(frozen=True)
class Picture:
    """One figure: its name, what it shows, and how it is drawn."""

    name: str
    caption: str
    draw: Callable[[], Figure]

    def files(self) -> dict[str, bytes]:
        """Both files by their paths."""
        return {f"{FOLDER}/{self.name}.{kind}": data for kind, data in saved(self.draw).items()}


def of(found: Evidence) -> list[Picture]:
    """The figures that there is something for."""
    metric = wording.plain(found.study["task"]["metric"].replace("_", " "))
    lines = curves.curves(found.rows, found.study["task"]["metric"])
    timed = [e for e in found.comparisons if e.gain is not None and e.slowdown is not None]
    made = _gains("gains", found.comparisons, metric, f"Mean gain in {metric} over the baseline")
    if timed:
        said = f"Gain in {metric} against time per update; up is better, left is cheaper."
        made.append(Picture("costs", said, lambda: tradeoff.costs(ranked(timed), metric)))
    if lines:
        said = (f"Learning curves: mean {metric} of each arm (thick) and of the baseline that it "
                "is held against (thin), on the select part; the band lies between the worst seed "
                "and the best.")  # fmt: skip
        order = [each.arm for each in ranked(found.comparisons)]
        held = facts.baselines(found.study)
        made.append(Picture("curves", said, lambda: curves.sheet(lines, order, held)))
    made += _gains("leaving", found.leaving, metric, f"Gain in {metric} of leaving a method out")
    for number, each in enumerate(found.further, 1):
        made += _gains(family(number, each), each.comparisons, metric, each.title)
    return made


def family(number: int, about: Family) -> str:
    """The name of a further family's figure and table: a file's, and a label's."""
    kind = re.sub(r"[^A-Za-z0-9]+", "-", about.key).strip("-")[:40]
    return f"family-{number}-{kind}".rstrip("-")


def _gains(name: str, comparisons: list[Comparison], metric: str, said: str) -> list[Picture]:
    shown = [each for each in ranked(comparisons) if each.gain is not None]
    caption = (f"{said}, with its 95 % interval (thick) and the wider one that allows for the "
               "number of arms (thin). A dot is one seed; a triangle marks a verdict.")  # fmt: skip
    return [Picture(name, caption, lambda: figures.gains(shown, metric))] if shown else []


@drawn
def saved(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """A figure's files by their kind, dark on white; the same every time.

    Fonts are embedded as TrueType (Type 42), which journals ask for.
    """
    figure = draw()
    figure.draw_without_rendering()  # only then are there all ticks
    coloured(figure)
    nothing: dict[str, dict[str, None]] = {
        "pdf": dict.fromkeys(("CreationDate", "Creator", "Producer")),
        "png": {"Software": None},
    }
    made = {}
    for kind, metadata in nothing.items():
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=DOTS, metadata=metadata, facecolor="white",
                       bbox_inches="tight", pad_inches=MARGIN / 72)  # fmt: skip
        made[kind] = file.getvalue()
    return made


def coloured(figure: Figure) -> None:
    """Give every part of a figure its colour in print in place of the stand-in."""
    from matplotlib.colors import to_hex

    found = figure.findobj()
    lines = [getattr(each, "arrow_patch", None) for each in found]  # which no artist has for child
    for artist in [*found, *filter(None, lines)]:
        for part in PARTS:
            get, put = (getattr(artist, f"{verb}_{part}", None) for verb in ("get", "set"))
            now = get() if get and put else None
            if isinstance(now, np.ndarray) and now.shape == (1, 4):  # of a band
                now = tuple(now[0])
            if isinstance(now, str) or (isinstance(now, tuple) and len(now) in (3, 4)):
                meant = CONCRETE.get(to_hex(now)) if now != "none" else None
                if meant is not None and put is not None:
                    put(meant)
