"""Studies of arms that do nothing, trained for real: how often do they get a verdict?

`python -m evidence.real_nulls` trains 200 studies of a baseline and six arms over six seeds on the
digits (about fifteen minutes on one core) and writes `evidence/real_nulls.json`. All arms are the
baseline's recipe. Three differ from it by the seed of their initial weights and their order of the
data, as arms that act on the whole of training do; three share its first three quarters and differ
in the last, as arms that act at the end do. Arm and baseline of one seed share the split. The true
gain of every arm is therefore zero, and every verdict is wrong.

`python -m evidence.real_nulls --again` computes the errors anew from the differences in that file.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from evidence.nulls import ALPHA, Real, holm_p, max_t_p, wrong
from whet import Run, Stage, Task, evaluation
from whet.study.statistics import family, flips

STUDIES, SEEDS, WHOLE, END = 200, 6, 3, 3
GROUPS = np.array([0] * WHOLE + [1] * END)
TRUNK, BRANCH = 30, 10  # updates
ROWS = {"train": 300, "select": 100, "judge": 600}
OUT = Path(__file__).parent / "real_nulls.json"


class Split:
    """The digits, parted by a seed."""

    def __init__(self, seed: int) -> None:
        from sklearn.datasets import load_digits

        images, digits = load_digits(return_X_y=True)
        order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
        x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digits)
        places = order[: sum(ROWS.values())].split(list(ROWS.values()))
        self.parts = [(x[place], y[place]) for place in places]

    def train(self, model: nn.Module, updates: int, seed: int, rate: float = 0.01) -> Run:
        """The model, trained on."""
        stage = Stage(updates=updates, batch_size=32, optimizer={"name": "adamw", "lr": rate})
        run = Run(Task(model, *self.parts), stage, seed, log=None)
        run.fit()
        return run

    def hits(self, run: Run) -> int:
        """Right answers on the judge part."""
        probabilities, targets = evaluation.predict(run.predictor(), run.batches("judge"))
        return int((probabilities.argmax(1) == targets).sum())


def fresh(seed: int) -> nn.Module:
    """A small network."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def differences(study: int, seed: int) -> list[int]:
    """Right answers of each arm minus the baseline's, under one seed of one study."""
    split = Split(1000 * study + seed)
    base = 1_000_000 + 10_000 * study + 100 * seed

    def ended(trunk: nn.Module, own: int) -> int:
        return split.hits(split.train(copy.deepcopy(trunk), BRANCH, own, rate=0.002))

    def trunk(own: int) -> nn.Module:
        model = fresh(own)
        split.train(model, TRUNK, own)
        return model

    shared = trunk(base)
    baseline = ended(shared, base + 50)
    whole = [ended(trunk(base + arm), base + 50 + arm) for arm in range(1, WHOLE + 1)]
    late = [ended(shared, base + 60 + arm) for arm in range(1, END + 1)]
    return [hits - baseline for hits in (*whole, *late)]


def summary(d: Real) -> dict[str, Any]:
    """Errors and coverage at three, five and six seeds, from differences (studies, arms, seeds)."""
    found: dict[str, Any] = {
        "spread of whole": float(d[:, :WHOLE].std(-1, ddof=1).mean()),
        "spread of end": float(d[:, WHOLE:].std(-1, ddof=1).mean()),
    }
    for n in (3, 5, 6):
        few = d[..., :n]
        spread = family.spread(few, GROUPS)
        covered = np.abs(spread.mean) <= family.half_width(spread, ALPHA)
        found[f"{n} seeds"] = {
            "family-wise error": wrong(holm_p(few, GROUPS)), "coverage": float(covered.mean()),
        }  # fmt: skip
        if n >= flips.FLIPS:
            found[f"{n} seeds"]["family-wise error of max-T"] = wrong(max_t_p(few))
    return found


def main() -> None:
    """Train, unless it is done already, and write."""
    if "--again" in sys.argv:
        values = json.loads(OUT.read_text(encoding="utf-8"))["differences"]
    else:
        torch.set_num_threads(1)
        values = [_study(number) for number in range(STUDIES)]
    made = {
        "studies": len(values), "rows": ROWS, "updates": TRUNK + BRANCH,
        **summary(np.array(values, float)), "differences": values,
    }  # fmt: skip
    text = json.dumps(made, indent=1)
    OUT.write_text(_compact(text) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in made.items() if k != "differences"}, indent=1))


def _study(number: int) -> list[list[int]]:
    by_seed = [differences(number, seed) for seed in range(SEEDS)]
    if number % 20 == 19:
        print(f"{number + 1} of {STUDIES} studies", flush=True)
    return [list(arm) for arm in zip(*by_seed, strict=True)]


def _compact(text: str) -> str:
    """Lists of numbers in one line each."""
    import re

    return re.sub(r"\[\s+(-?\d+(?:,\s+-?\d+)*)\s+\]",
                  lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)  # fmt: skip


if __name__ == "__main__":
    main()
