"""What a number is, and what it is meant to be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from benchmarks.timing import Chunk


@dataclass(frozen=True)
class Condition:
    """Where a target is about a machine that may not be there: a ratio is at most `most`."""

    words: str
    contender: str
    against: str
    most: float


@dataclass(frozen=True)
class Entry:
    """One number: the time (or memory) of `contender` divided by that of `against`.

    Args:
        name: its key in the results.
        contender: whose time is above.
        against: whose time is below.
        most: the ratio is at most this.
        least: the ratio is at least this.
        below: contenders whose ratios it stays below.
        added: microseconds that the contender may take more, in place of a ratio.
        less: a contender whose time is taken from the one above first.
        where: when the target holds at all.
        note: what must be known to read it.
    """

    name: str
    contender: str
    against: str
    most: float | None = None
    least: float | None = None
    below: tuple[str, ...] = ()
    added: float | None = None
    less: str | None = None
    where: Condition | None = None
    note: str = ""

    @property
    def names(self) -> set[str]:
        """The contenders that it takes."""
        where = [] if self.where is None else [self.where.contender, self.where.against]
        less = [] if self.less is None else [self.less]
        return {self.contender, self.against, *self.below, *less, *where}

    @property
    def target(self) -> str | None:
        """The target in words."""
        parts = [
            f"ratio <= {self.most:g}" if self.most is not None else "",
            f"ratio >= {self.least:g}" if self.least is not None else "",
            f"<= {self.added:g} us" if self.added is not None else "",
            f"without {self.less}" if self.less and self.most is not None else "",
            "below every peer" if self.below else "",
            self.where.words if self.where else "",
        ]
        return ", ".join(part for part in parts if part) or None

    def met(self, ratio: float, added: float, others: Mapping[str, float]) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        return (
            (self.most is None or ratio <= self.most)
            and (self.least is None or ratio >= self.least)
            and (self.added is None or added <= self.added)
            and all(ratio < others[name] for name in self.below)
        )


@dataclass(frozen=True)
class Group:
    """Contenders that are timed in turns.

    Args:
        contenders: what makes each of them.
        entries: the numbers that come out.
        repeats: how many times each runs its chunk.
        units: steps or updates in a chunk.
        unit: what one of them is called.
        each: repeats before all are made anew; 0 where that would change nothing.
        warmup: chunks that are not timed when they are.
        threads: threads of torch's operations; several wait for each other on a machine that is
            shared, and small tensors gain nothing by them.
        measure: milliseconds, or megabytes where chunks give bytes.
    """

    contenders: Mapping[str, Callable[[], Chunk]]
    entries: Sequence[Entry]
    repeats: int
    units: int
    unit: str
    each: int = 2
    warmup: int = 1
    threads: int = 1
    measure: str = "ms"

    @property
    def scale(self) -> float:
        """From what a chunk gives to the measure of one unit."""
        return {"ms": 1e3, "MB": 1e-6}[self.measure] / self.units

    def only(self, names: Sequence[str]) -> Group:
        """The group without the numbers that nobody asked for."""
        kept = [entry for entry in self.entries if entry.name in names]
        wanted = {name for entry in kept for name in entry.names}
        made = {name: make for name, make in self.contenders.items() if name in wanted}
        return replace(self, contenders=made, entries=kept)
