"""Studies made of numbers alone, with every field that a report may show."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.study.fakes import noise
from whet.study import confirm, controls, families, report, statistics
from whet.study.evidence import Evidence
from whet.study.plan import BASELINE, Row

METRIC = "accuracy"
SIZES = {BASELINE: 0, "all": 2}  # methods in an arm, where not one


def confusion(classes: int, rows: int, *key: object) -> list[list[int]]:
    """Rows of each class, most of them right, the others taken for a neighbour."""
    matrix = [[0] * classes for _ in range(classes)]
    for true in range(classes):
        wrong = round(rows * (0.1 + 0.1 * noise(true, *key)))
        matrix[true][true] = rows - wrong
        matrix[true][(true + 1 + (wrong + true) % 3) % classes] += wrong
    return matrix


def row(arm: str, seed: int, classes: Sequence[str] = ("cat", "dog", "eel"), **given: Any) -> Row:
    """What a run came to."""
    value = 0.9 + 0.02 * noise(seed) + 0.01 * noise(seed, arm) + 0.02 * noise(arm)
    points = [{"update": u, "metrics": {METRIC: value * (1 - 0.8**u)}} for u in range(5, 41, 5)]
    return {
        "arm": arm, "seed": seed, "key": f"{arm}-{seed}", "status": "done", "reason": None,
        "settings": [], "metrics": {"judge": {METRIC: value}, "select": {METRIC: value}},
        "curve": points, "updates": 40, "seconds": 1.0, "environment": {"device": "cpu"},
        "seconds_per_update": 0.01 * (1.5 + noise("time", arm)), "explain": f"{arm}\n  supervised",
        "peak_memory": 20_000_000 + round(9e6 * noise("memory", arm)), "classes": list(classes),
        "confusion": confusion(len(classes), 40, arm, seed),
    } | given  # fmt: skip


def study(arms: Mapping[str, str], seeds: Iterable[int] = range(3), **given: Any) -> dict[str, Any]:
    """A study's manifest; `arms` says what each arm is held against."""
    task = {"name": "pets", "title": "Pets", "metric": METRIC, "higher_is_better": True}
    listed = [
        {"name": name, "methods": [{"name": name}] * SIZES.get(name, 1), "reference": other}
        for name, other in arms.items()
    ]
    return {
        "task": task, "arms": listed, "seeds": list(seeds), "threads": 1, "jobs": 2, "nodes": [],
        "command": "whet study pets", "date": "2026-01-31", "versions": {"torch": "2.13.0"},
    } | given  # fmt: skip


def rows(arms: Iterable[str], classes: Sequence[str] = ("cat", "dog", "eel")) -> list[Row]:
    """Three seeds of every arm."""
    return [row(arm, seed, classes) for arm in arms for seed in range(3)]


def page(study: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The report of a study, arms that lack a method held against their own reference."""
    reference = {arm["name"]: arm["reference"] for arm in study["arms"]}
    main = [row for row in rows if reference[row["arm"]] == BASELINE]
    lacking = [row for row in rows if reference[row["arm"]] != BASELINE]
    leaving: list[statistics.Comparison] = []
    if lacking:
        lacking += [row for row in rows if row["arm"] == "all"]
        leaving = statistics.paired(lacking, METRIC, True, baseline="all")
    compared = statistics.paired(main, METRIC, True)
    return report.build(study, rows, compared, statistics.rule(), leaving)


def evidence(folder: Path, first: str = "ema", **given: Any) -> Evidence:
    """What a study's files say where there is something of everything; an arm is called `first`."""
    arms = {BASELINE: BASELINE, first: BASELINE, "sam": BASELINE, "all": BASELINE,
            f"all without {first}": "all"}  # fmt: skip
    made = study(arms, **{"nodes": [], "notes": ["all is both."]} | given)
    there = [each for each in rows(arms) if (each["arm"], each["seed"]) != ("sam", 2)]
    there.append(row("sam", 2, status="failed", reason=f"Traceback\nRuntimeError: {first} broke"))
    found = statistics.paired([e for e in there if arms[e["arm"]] == BASELINE], METRIC, True)
    lacking = [each for each in there if "all" in (each["arm"], arms[each["arm"]])]
    leaving = statistics.paired(lacking, METRIC, True, baseline="all")
    one, other = ({each.arm: each for each in found}[name] for name in (first, "all"))
    rung = families.Family("ladder", f"What {first} adds", "Rung by rung.", [other])
    longer = controls.Controlled(first, f"{BASELINE}@x2", 2.0, one, "not shown")
    again = confirm.Confirmed(first, BASELINE, other, one, confirm.CONFIRMED)
    confirmed = confirm.Confirmation(confirm.SAME_ROWS, [2000], None, True, [again])
    page = report.build(made, there, found, statistics.rule(), leaving)
    (folder / "report.html").write_text(page, "utf-8")
    return Evidence(made, there, found, leaving, folder / "report.html", [rung], [longer],
                    confirmed)  # fmt: skip


WHOLE = {BASELINE: BASELINE, "ema": BASELINE, "sam": BASELINE, "all": BASELINE,
         "all without ema": "all", "all without sam": "all"}  # fmt: skip
METHODS = (
    "ema", "sam", "fgm", "r_drop", "mixup", "label_smoothing", "freelb", "lookahead", "swa",
    "snapshot", "cutmix", "focal", "distillation", "precise_bn", "clip_grad_norm",
)  # fmt: skip
INTENTS = [f"{'card_payment_not_recognised' if i % 2 else 'top_up'}_{i}" for i in range(77)]


def whole() -> str:
    """A report with everything in it: designs, classes, memory, notes, what was left out."""
    notes = ["all consists of ema and sam.", "An effect below 0.010 cannot be shown."]
    made = study(WHOLE, notes=notes, left_out={"fixmatch": "there are no unlabelled rows"})
    failed = row("sam", 2, status="failed", reason="Traceback\n  in f\nRuntimeError: disk is full")
    found = [each for each in rows(WHOLE) if (each["arm"], each["seed"]) != ("sam", 2)]
    return page(made, [*found, failed])


def large() -> str:
    """77 classes under 15 methods."""
    arms = dict.fromkeys((BASELINE, *METHODS), BASELINE)
    return page(study(arms), rows(arms, INTENTS))
