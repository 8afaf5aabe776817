"""Measure what whet costs: `python -m benchmarks [NAME ...]`; `--help` says the rest."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import bert4torch, results
from benchmarks.catalogue import groups, quick
from benchmarks.children import KEEPING

OUT = Path(__file__).with_name("results.json")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the results."""
    every = groups()
    names = [entry.name for group in every for entry in group.entries]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; or all")
    parser.add_argument(
        "--repeats", type=int, help="repeats of each contender; from 20 on to trust"
    )
    parser.add_argument(
        "--quick", action="store_true", help="whether everything runs; writes to --out alone"
    )
    parser.add_argument("--out", type=Path, help=f"where the numbers go; else {OUT.name} here")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in names]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(names)}")
    if os.getloadavg()[0] > 0.5:
        print("Other programs are running: ratios are taken in turns, yet expect some spread.")
    if absent := bert4torch.lacking():
        print(f"Its numbers are left out: {absent}.")
    measured: results.Results = {}
    chosen = quick() if given.quick else every
    for group in (one.only(given.names or names) for one in chosen):
        if group.entries:
            print(f"measuring {', '.join(entry.name for entry in group.entries)} ...", flush=True)
            measured |= results.measure(group, given.repeats)
    if given.out or not given.quick:
        results.write(given.out or OUT, measured)
    results.show(measured)


def steady() -> None:
    """Begin anew where freed memory stays with the process.

    glibc gives it back and faults it in again, 0.2 to 1.5 ms of a 20 ms step, by the chance of
    where the heap ends in this process: more than what is measured.
    """
    if not set(KEEPING) <= set(os.environ):
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **KEEPING})  # noqa: S606 - itself


if __name__ == "__main__":
    steady()
    main()
