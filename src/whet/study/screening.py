r"""Screening designs: the main effects of many methods from few runs, each with half of them.

In a two-level design of n runs every method is in half of the runs, and any two methods are
together in a quarter of them. A main effect, the mean of the runs with a method minus the mean of
those without, then rests on all n runs, with variance $4\sigma^2/n$ for each seed; one method alone
against the baseline has $2\sigma^2$.

**Screening** (Plackett-Burman) takes the next multiple of 4 above the number of methods: 4, 8, 12,
16, 20 or 24 runs. Its first run is the baseline. Where n is a power of two, run r has method c if r
and c have an odd number of binary ones in common; else n - 1 is a prime p, and run r has method c
if c - r is a square modulo p. Main effects are confounded with interactions of two methods.

**Fractional** is that design and its mirror image, in which every run has what its counterpart
lacks. An interaction of two methods is the same in both and falls out of every main effect:
resolution IV, for twice the runs. Interactions are confounded with one another.

Plackett and Burman, "The design of optimum multifactorial experiments", Biometrika 33 (1946). Box
and Wilson, "On the experimental attainment of optimum conditions", J. R. Stat. Soc. B 13 (1951).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from whet.errors import InputError
from whet.study import composing, contrasts, wording
from whet.study.composing import Design
from whet.study.plan import Arm

MOST = 23  # methods
LISTED = 21  # interactions that are named one by one: those of seven methods in eight runs
Runs = list[list[bool]]
KINDS = {"screening": "Plackett-Burman design", "fractional": "two-level design of resolution IV"}


def plackett_burman(methods: int) -> Runs:
    """For each run, which methods it has; none in the first.

    >>> plackett_burman(3)
    [[False, False, False], [True, False, True], [False, True, True], [True, True, False]]
    """
    size = 4 * (methods // 4 + 1)
    if size & (size - 1) == 0:
        # those with an odd number of ones first: among themselves they have resolution IV
        columns = sorted(range(1, size), key=lambda c: (c.bit_count() % 2 == 0, c))[:methods]
        return [[(run & c).bit_count() % 2 == 1 for c in columns] for run in range(size)]
    prime = size - 1
    squares = {n * n % prime for n in range(prime)}
    turns = [[(c - run) % prime in squares for c in range(methods)] for run in range(prime)]
    return [[False] * methods, *turns]


def mirrored(methods: int) -> Runs:
    """The design and what each of its runs lacks: none in the first run, all in another."""
    if methods < 3:
        return plackett_burman(methods)  # has every combination
    half = [[False, *run] for run in plackett_burman(methods - 1)]
    return [*half, *([not held for held in run] for run in half)]


def screened(design: str, singles: Sequence[Arm], part: str) -> Design:
    """The runs of a design as arms, and each method's main effect as a contrast.

    Raises:
        InputError: more methods than the design has room for, or methods that clash.
    """
    if len(singles) < 2:
        return Design([*singles], notes=[f"There is no {design} of fewer than two methods."])
    if len(singles) > MOST:
        raise InputError(
            f"--design {design} takes up to {MOST} methods, not {len(singles)}: name those that "
            "matter most with --methods."
        )
    table = (plackett_burman if design == "screening" else mirrored)(len(singles))
    made = [_run(singles, held, part) for held in table]
    _check(design, singles, table)
    names = [run.name for run in made]
    effects = {
        each.name: contrasts.main_effect(*_halves(names, [held[at] for held in table]))
        for at, each in enumerate(singles)
    }
    notes = [_said(design, singles, len(table)), _aliased(singles, table)]
    return Design(made[1:], notes=notes, contrasts={"effects": effects})


def _run(singles: Sequence[Arm], held: Sequence[bool], part: str) -> Arm:
    chosen = [each for each, has in zip(singles, held, strict=True) if has]
    return composing.together(chosen, part, None if chosen else composing.control(part))


def _halves(names: Sequence[str], held: Sequence[bool]) -> tuple[list[str], list[str]]:
    pairs = list(zip(names, held, strict=True))
    return [name for name, has in pairs if has], [name for name, has in pairs if not has]


def _check(design: str, singles: Sequence[Arm], table: Runs) -> None:
    """Refuse methods that do not go together: half of the runs could not be trained."""
    whole = [[one for one, has in zip(singles, run, strict=True) if has] for run in table]
    for several in (list(combinations(singles, 2)), whole):
        found = [(those, composing.clash(those)) for those in several]
        which = [
            f"{wording.listed([each.name for each in those])} ({reason.rstrip('.')})"
            for those, reason in found
            if reason is not None
        ]
        if which:
            raise InputError(
                f"--design {design} trains methods together, and these do not go together: "
                f"{'; '.join(which)}. Leave one of each out of --methods, or take --design pairs, "
                "which skips the pairs that clash."
            )


def check_runs(design: str, unfit: Mapping[str, str]) -> None:
    """Refuse a design of which a run cannot be trained.

    Raises:
        InputError: there is one, with the reason.
    """
    for name, reason in unfit.items():
        raise InputError(
            f"--design {design} needs all of its runs, and {name} cannot be trained: {reason} "
            "Leave one of its methods out of --methods."
        )


def _said(design: str, singles: Sequence[Arm], runs: int) -> str:
    return (
        f"{wording.listed([each.name for each in singles])} are in a {KINDS[design]} of {runs} "
        f"runs, the baseline one of them. A method's main effect is the mean of the {runs // 2} "
        f"runs with it minus the mean of the {runs // 2} without, seed by seed: its gain on the "
        "average over the others being there or not."
    )


def _aliased(singles: Sequence[Arm], table: Runs) -> str:
    """What main effects cannot be told from."""
    shares = aliases(table)
    if not shares:
        rest = (
            "every combination of the methods is a run."
            if len(table) == 2 ** len(singles)
            else "those are confounded with one another, and main effects with interactions of "
            "three."
        )
        return f"No main effect is confounded with an interaction of two methods; {rest}"
    largest = max(map(abs, shares.values()))
    told: dict[str, list[str]] = {}
    for main, one, other in shares:
        names = (singles[one].name, singles[other].name)
        told.setdefault(singles[main].name, []).append(contrasts.crossed(*names))
    if len(shares) <= LISTED:
        said = "; ".join(f"{name} with {wording.listed(those)}" for name, those in told.items())
    else:
        most = max(map(len, told.values()))
        said = f"each carries up to {largest:.2g} of as many as {most} of them"
    return (
        f"Main effects are confounded with interactions of two methods: {said}. --design "
        "fractional parts them with about twice the runs."
    )


def aliases(table: Runs) -> dict[tuple[int, int, int], float]:
    """How much of the interaction of two methods is in the main effect of another, where any is.

    >>> aliases(plackett_burman(3))
    {(0, 1, 2): -1.0, (1, 0, 2): -1.0, (2, 0, 1): -1.0}
    """
    signs = [[1 if held else -1 for held in run] for run in table]
    found = {}
    for main in range(len(table[0])):
        for one, other in combinations([at for at in range(len(table[0])) if at != main], 2):
            total = sum(run[main] * run[one] * run[other] for run in signs)
            if total:
                found[main, one, other] = total / len(table)
    return found
