"""Interrupt random recipes in every way there is: `make torture CASES=200`."""

# ruff: noqa: T201 - what it prints is what it is for

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import torch

from tests.contract.found import names
from tests.torture import drawing, trial

MOST = 200  # from so many cases on, each method and fault must have come up so often:
EACH_METHOD, EACH_FAULT = 5, 10


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("cases", type=int, nargs="?", default=MOST)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one", type=int, help="only the case of this number")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    drawn = drawing.deal(given.cases, names(), given.seed)
    chosen = drawn if given.one is None else [drawn[given.one]]
    began, outcomes = time.monotonic(), []
    for each in chosen:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.append(trial.go(each, Path(folder)))
        if outcomes[-1].wrong:
            print(f"{outcomes[-1].told()}\nagain: python -m tests.torture {given.cases} "
                  f"--seed {given.seed} --one {each.number}\n", flush=True)  # fmt: skip
    print(summary(outcomes))
    wrong = sum(outcome.wrong is not None for outcome in outcomes)
    rare = lacking(outcomes) if len(outcomes) >= MOST else []
    for line in rare:
        print(f"too rare: {line}")
    print(f"{len(outcomes) - wrong} of {len(outcomes)} cases came out to the bit, "
          f"in {time.monotonic() - began:.0f} s")  # fmt: skip
    return int(wrong > 0 or bool(rare))


def counts(outcomes: Sequence[trial.Outcome]) -> tuple[Counter[str], Counter[str]]:
    """How often each method was trained and each fault struck."""
    methods = Counter(dict.fromkeys(names(), 0))
    faults = Counter(dict.fromkeys(drawing.FAULTS, 0))
    for outcome in outcomes:
        methods.update(outcome.drawn.methods)
        faults.update(outcome.struck)
    return methods, faults


def lacking(outcomes: Sequence[trial.Outcome]) -> list[str]:
    methods, faults = counts(outcomes)
    return [
        f"{name} {count}"
        for found, least in ((methods, EACH_METHOD), (faults, EACH_FAULT))
        for name, count in found.items() if count < least
    ]  # fmt: skip


def summary(outcomes: Sequence[trial.Outcome]) -> str:
    """Counts by method, by pair and by fault."""
    methods, faults = counts(outcomes)
    pairs = Counter(
        frozenset(pair) for each in outcomes for pair in combinations(each.drawn.methods, 2)
    )
    rows, width = sorted(methods), max(map(len, [*methods, *faults]))
    lines = ["method, and how often it was in one recipe with each one above it"]
    for number, a in enumerate(rows):
        beside = " ".join(f"{pairs[frozenset((a, b))]:2d}" for b in rows[:number])
        lines.append(f"{a:<{width}} {methods[a]:4d}  {beside}".rstrip())
    lines += ["", "fault, and how often it struck"]
    lines += [f"{name:<{width}} {count:4d}" for name, count in faults.items()]
    redrawn = sum(outcome.redrawn for outcome in outcomes)
    lines.append(f"\n{redrawn} recipes did not apply to the model as drawn and were drawn anew")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
