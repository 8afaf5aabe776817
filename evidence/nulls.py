"""Family-wise error, coverage and power of a study's statistics where the truth is known.

`python -m evidence.nulls` writes `evidence/nulls.json` and prints its tables (about a minute on
one core). Ten arms in three placements (four whole, three start, three end); those of `end` have a
tenth of the variance. Differences are normal, skewed (centred exponential) or heavy-tailed (t with
3 degrees of freedom), each scaled to variance 1, and independent from arm to arm or, as arms that
share a baseline are, correlated (0.5).
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from whet.study.statistics import family, flips

Real = NDArray[np.float64]
ALPHA = 0.05
MIXED = np.array([0] * 4 + [1] * 3 + [2] * 3)  # whole, start, end
ALONE = np.arange(10)  # nobody to learn a spread from
TOGETHER = np.zeros(10, int)
SCALE = (*(1.0,) * 7, *(0.1**0.5,) * 3)
END = MIXED == 2
KINDS = ("normal", "skewed", "heavy")
SEEDS = (3, 5, 10)
OUT = Path(__file__).parent / "nulls.json"


@dataclass(frozen=True)
class Truth:
    """What studies are drawn from: a distribution, seeds, effects in each arm's own deviations."""

    kind: str
    n: int
    correlation: float = 0.0
    effect: Any = 0.0
    scale: Any = SCALE

    def draw(self, studies: int, maker: np.random.Generator) -> Real:
        """Paired differences, (studies, arms, seeds)."""
        arms = len(self.scale)
        d = _draw(self.kind, (studies, arms, self.n), maker)
        if self.correlation:
            shared = _draw(self.kind, (studies, 1, self.n), maker)
            d = (1 - self.correlation) ** 0.5 * d + self.correlation**0.5 * shared
        effect = np.broadcast_to(np.asarray(self.effect, float), (arms,))
        return (d + effect[:, None]) * np.asarray(self.scale)[:, None]


def _draw(kind: str, shape: tuple[int, ...], maker: np.random.Generator) -> Real:
    if kind == "normal":
        return maker.standard_normal(shape)
    if kind == "skewed":
        return maker.exponential(size=shape) - 1.0
    return maker.standard_t(3, shape) / 3**0.5


def holm_p(d: Real, groups: Any) -> Real:
    """Adjusted p of each arm, (studies, arms)."""
    p = family.p_values(family.spread(d, groups))
    return family.holm(p, np.ones(p.shape, bool), ALPHA)[0]


def max_t_p(d: Real) -> Real:
    """The same from all sign flips, a few studies at a time."""
    size = max(1, 2**21 // (2 ** (d.shape[-1] - 1) * d.shape[-2] * d.shape[-1]))
    return np.concatenate([flips.max_t(d[i : i + size]) for i in range(0, len(d), size)])


def wrong(p: Real, null: Any = True) -> float:
    """The share of studies in which an arm that does nothing gets a verdict."""
    return float(((p < ALPHA) & null).any(-1).mean())


def coverage(d: Real, truth: Truth, groups: Any) -> Real:
    """How often each arm's single 95 % interval holds the truth, (arms,)."""
    found = family.spread(d, groups)
    real = np.broadcast_to(np.asarray(truth.effect, float), (len(truth.scale),)) * truth.scale
    return (np.abs(found.mean - real) <= family.half_width(found, ALPHA)).mean(0)


def false_equivalence(d: Real, groups: Any, margin: Any) -> float:
    """The share of studies that call an arm's effect, which is its margin, smaller than that."""
    p = family.equivalence(family.spread(d, groups), margin)
    return wrong(family.holm(p, np.ones(p.shape, bool), ALPHA)[0])


def nulls(studies: int, maker: np.random.Generator) -> list[dict[str, Any]]:
    """No arm does anything: family-wise errors and coverage."""
    rows = []
    for kind in KINDS:
        for n in SEEDS:
            for correlation in (0.0, 0.5):
                truth = Truth(kind, n, correlation)
                d = truth.draw(studies, maker)
                row: dict[str, Any] = {"kind": kind, "n": n, "correlation": correlation}
                for name, groups in (("placements", MIXED), ("alone", ALONE)):
                    covered = coverage(d, truth, groups)
                    row[name] = {
                        "family-wise error": wrong(holm_p(d, groups)),
                        "coverage": float(covered.mean()), "lowest": float(covered.min()),
                    }  # fmt: skip
                if n >= flips.FLIPS:
                    row["max-T"] = {"family-wise error": wrong(max_t_p(d[: studies // 10]))}
                rows.append(row)
    return rows


def strong(studies: int, maker: np.random.Generator) -> list[dict[str, Any]]:
    """Half of the arms have an effect of ten deviations: errors among the other half."""
    null = np.arange(10) % 2 == 0
    rows = []
    for kind in KINDS:
        d = Truth(kind, 10, 0.5, effect=np.where(null, 0.0, 10.0)).draw(studies // 10, maker)
        rows.append({
            "kind": kind, "n": 10, "Holm": wrong(holm_p(d, MIXED), null),
            "max-T": wrong(max_t_p(d), null),
        })  # fmt: skip
    return rows


def equivalences(studies: int, maker: np.random.Generator) -> list[dict[str, Any]]:
    """Every arm's effect is exactly the margin, in deviations: verdicts of no difference."""
    rows = []
    for kind in KINDS:
        for n in SEEDS:
            errors = {}
            for side in (-1, 1):
                truth = Truth(kind, n, effect=side * 3.0, scale=np.ones(10))
                d = truth.draw(studies, maker)
                errors[side] = false_equivalence(d, MIXED, 3.0)
            rows.append({"kind": kind, "n": n, "family-wise error": max(errors.values())})
    return rows


def powers(studies: int, maker: np.random.Generator) -> list[dict[str, Any]]:
    """How often an effect in one arm is found, by what its standard error is held to."""
    rows = []
    loud = np.where(np.arange(10) == 0, 10.0, SCALE)
    for n, size in ((5, 4.0), (5, 6.0), (10, 2.0), (10, 3.0)):
        for arm, where in ((1, "whole"), (9, "end")):
            effect = np.where(np.arange(10) == arm, size, 0.0)
            d = Truth("normal", n, effect=effect).draw(studies, maker)
            noisy = Truth("normal", n, effect=effect, scale=loud).draw(studies, maker)

            def found(d: Real, groups: Any, arm: int = arm) -> float:
                return float((holm_p(d, groups)[:, arm] < ALPHA).mean())

            rows.append({
                "n": n, "effect": size, "arm": where, "own spread": found(d, ALONE),
                "floor of its placement": found(d, MIXED), "floor of all": found(d, TOGETHER),
                "max-T": float((max_t_p(d[: studies // 10])[:, arm] < ALPHA).mean())
                if n >= flips.FLIPS else None,
                "beside an arm of a hundred times the variance": found(noisy, MIXED),
            })  # fmt: skip
    return rows


def main() -> None:
    """Write and print everything."""
    studies = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    maker = np.random.default_rng(0)
    made = {
        "studies": studies, "alpha": ALPHA, "nulls": nulls(studies, maker),
        "strong": strong(studies, maker), "equivalence": equivalences(studies, maker),
        "power": powers(studies, maker),
    }  # fmt: skip
    OUT.write_text(json.dumps(_rounded(made), indent=1) + "\n", encoding="utf-8")
    for name in ("nulls", "strong", "equivalence", "power"):
        print(f"\n{name}")
        for row in _rounded(made)[name]:
            print("  " + ", ".join(f"{k} {v}" for k, v in row.items()))


def _rounded(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_rounded(value) for value in values]
    return round(values, 4) if isinstance(values, float) else values


if __name__ == "__main__":
    main()
