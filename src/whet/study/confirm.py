"""What helped, once more: on fresh seeds, and on rows that the study never used.

The largest of many gains is part luck, and the more arms were tried, the more of it. So the gain of
an arm that was chosen by a study predicts too much. A confirmation trains that arm and the baseline
again and puts the gain it finds beside the predicted one.

Where rows were set aside before the study began, the confirmation is judged on exactly those.
Without, only the seeds are fresh, and it is called that: what a method gained on these rows by
chance of the rows it keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.errors import InputError
from whet.study import files, shapes, statistics, trie, wording
from whet.study.plan import BASELINE, Arm, Node, Row, canonical
from whet.study.rehearsal import Run
from whet.study.request import Request
from whet.study.statistics import FEWEST, HELPS, HURTS, Comparison
from whet.study.store import Store

if TYPE_CHECKING:
    from whet.study.prepare import Planner

FOLDER, PLAN = "confirmation", "plan.json"
FIRST = 2000  # far from the seeds of studies and of tuning
SHARE = 0.2
FRESH_ROWS = "fresh seeds, rows that the study never used"
SAME_ROWS = "fresh seeds, same data"
CONFIRMED, NOT_CONFIRMED, REVERSED = "confirmed", "not confirmed", "hurts"


@dataclass(frozen=True)
class Confirmed:
    """An arm's gain as the study found it, and as it was found again."""

    arm: str
    reference: str
    predicted: Comparison
    found: Comparison
    verdict: str


@dataclass(frozen=True)
class Confirmation:
    """What a confirmation came to.

    Args:
        kind: what was fresh.
        seeds: those it was trained with.
        aside: how many rows it was judged on, of how many, where rows were set aside.
        helped: whether its arms had helped; else the one that looked best was taken.
        arms: predicted beside found.
    """

    kind: str
    seeds: list[int]
    aside: dict[str, Any] | None
    helped: bool
    arms: list[Confirmed]


def settled(request: Request, earlier: Mapping[str, Any] | None) -> Request:
    """The request with what it leaves to the study that is there.

    A confirmation or a recipe that is asked for without a plan is that of the study in the folder.
    A share that is not said is that study's; without a study `--confirm` sets a fifth aside.
    """
    if request.confirm is not None and request.confirm < 0:
        raise InputError(f"--confirm is {request.confirm}; it is a number of seeds.")
    follows = request.confirm is not None or request.pick
    if earlier is not None and earlier["task"]["name"] != request.task:
        earlier = None  # which is refused later, by name
    asked = (earlier or {}).get("asked")
    if earlier is not None and asked and follows and _says_no_plan(request):
        known = {n: v for n, v in asked.items() if n != "task" and hasattr(request, n)}
        return replace(request, **known, threads=earlier["threads"])
    if request.hold_out is None and earlier is not None:
        share = (earlier.get("hold_out") or {}).get("share")
        return replace(request, hold_out=share)
    if request.hold_out is None and request.confirm is not None:
        return replace(request, hold_out=SHARE)
    return request


def _says_no_plan(request: Request) -> bool:
    usual = type(request)(request.task)
    return all(
        getattr(request, name) == getattr(usual, name) for name in request.asks() if name != "task"
    )


def told_aside(aside: Mapping[str, Any]) -> str:
    """A sentence on the rows that are set aside."""
    return (
        f"{aside['aside']} of {aside['rows']} rows ({aside['share']:.0%}) are set aside: no run of "
        "the study sees them, and --confirm judges on them."
    )


def chosen(
    study: Mapping[str, Any], comparisons: Sequence[Comparison], only: str | None = None
) -> tuple[list[str], bool]:
    """The arms to confirm, and whether they had helped.

    Those that helped; where none did, the one whose gain is largest, as that is what one is
    tempted to use. Arms that lack a method of another are no candidates.
    """
    plain = {arm["name"] for arm in study["arms"] if is_candidate(arm)}
    there = [each for each in comparisons if each.arm in plain and each.gain is not None]
    helped = [each.arm for each in there if each.verdict == HELPS]
    if only is not None:
        return [only], only in helped
    if helped:
        return helped, True
    best = max(there, key=lambda each: each.gain or 0.0, default=None)
    return ([] if best is None else [best.arm]), False


def is_candidate(arm: Mapping[str, Any]) -> bool:
    """Whether an arm of `study.json` has methods, all data, and a baseline as its reference."""
    methods = [*arm["methods"], *(arm.get("after") or ())]
    if float(arm.get("data") or 1.0) != 1.0:
        return False
    return bool(methods) and str(arm.get("reference") or BASELINE).split("@")[0] == BASELINE


def plan(
    planner: Planner, study: Mapping[str, Any], names: Sequence[str], helped: bool, count: int
) -> dict[str, Any]:
    """The arms with what they are held against, under fresh seeds."""
    every = {arm["name"]: arm for arm in study["arms"]}
    references = {every[name].get("reference") or BASELINE for name in names}
    wanted = {BASELINE, *references, *names}
    arms = [arm_of(arm) for arm in study["arms"] if arm["name"] in wanted]
    seeds = list(range(FIRST, FIRST + count))
    told = {} if study.get("hold_out") is None else {"judge_on": "aside"}
    told |= _length(study)
    nodes = planner.nodes(arms, seeds, told)
    return {
        "arms": [asdict(arm) for arm in arms], "seeds": seeds, "predicted": list(names),
        "aside": study.get("hold_out"), "helped": helped,
        "nodes": [node.to_json() for node in nodes],
    }  # fmt: skip


def arm_of(values: Mapping[str, Any]) -> Arm:
    """The arm that a manifest describes."""
    known = {each.name: values[each.name] for each in fields(Arm) if each.name in values}
    after = known.get("after")
    known["after"] = None if after is None else tuple(after)
    return Arm(**known | {"methods": tuple(known["methods"])})


def _length(study: Mapping[str, Any]) -> dict[str, Any]:
    """The length that a budget chose for every run."""
    for values in study["nodes"]:
        if values["arm"] == BASELINE and "updates" in values["options"]:
            return {"updates": values["options"]["updates"]}
    return {}


def conduct(
    planner: Planner, study: Mapping[str, Any], comparisons: Sequence[Comparison], folder: Path,
    train: Run, only: str | None = None,
) -> list[str]:  # fmt: skip
    """Train what a confirmation needs and keep its plan; says what it is.

    Args:
        planner: makes nodes as those of the study.
        study: the study's manifest.
        comparisons: what it found.
        folder: the study's.
        train: trains nodes and keeps them in a store.
        only: the arm to confirm, in place of all that helped.
    """
    names, helped = chosen(study, comparisons, only)
    if not names:
        return ["There is nothing to confirm: no arm came to a gain."]
    count = planner.request.confirm or max(FEWEST, len(study["seeds"]))
    made = plan(planner, study, names, helped, count)
    store = Store(folder / FOLDER)
    files.write(store.folder / PLAN, files.to_json(made, 2))
    nodes = [Node.from_json(values) for values in made["nodes"]]
    waiting = trie.needed(nodes, lambda node: store.done(node) is not None, store.held)
    store.retry(waiting)
    if waiting:
        train(waiting, store)
    for trunk in trie.References(nodes, []).unused():
        store.release(trunk)
    why = "which helped" if helped else "whose gain is largest, though nothing was shown to help"
    kind = SAME_ROWS if made["aside"] is None else FRESH_ROWS
    seeds = wording.counted(count, "seed")
    return [f"Confirmation ({kind}, {seeds}): {wording.listed(names)}, {why}."]


def found(
    folder: Path, study: Mapping[str, Any], comparisons: Sequence[Comparison], confidence: float
) -> Confirmation | None:
    """What the confirmation in a study's folder came to so far; None where there is none.

    Raises:
        InputError: its plan is damaged.
    """
    made = files.read_json(folder / FOLDER / PLAN)
    if made is None:
        return None
    wrong = shapes.wrong(shapes.Confirmation, made)
    if wrong:
        raise InputError(
            f"{folder / FOLDER / PLAN} is damaged ({wrong}). Remove it and give the study's "
            "command with --confirm again."
        )
    store, before = Store(folder / FOLDER), {each.arm: each for each in comparisons}
    rows = store.rows(trie.judged(map(Node.from_json, made["nodes"])))
    reference = {arm["name"]: arm.get("reference") or BASELINE for arm in made["arms"]}
    again = _again(study, rows, reference, made["predicted"], confidence)
    arms = [
        Confirmed(name, reference[name], before[name], each, _verdict(each))
        for name, each in again.items()
        if name in before and _conditions(made, name) <= _conditions(study, name)
    ]
    if not arms:
        return None
    kind = SAME_ROWS if made.get("aside") is None else FRESH_ROWS
    return Confirmation(kind, made["seeds"], made.get("aside"), made["helped"], arms)


def _again(
    study: Mapping[str, Any], rows: Sequence[Row], reference: Mapping[str, str],
    predicted: Sequence[str], confidence: float,
) -> dict[str, Comparison]:  # fmt: skip
    """The confirmed arms against their references: a family for each of these."""
    metric, higher = study["task"]["metric"], study["task"]["higher_is_better"]
    found = {}
    for name in dict.fromkeys(reference[each] for each in predicted if each in reference):
        those = [r for r in rows if r["arm"] == name
                 or (r["arm"] in predicted and reference[r["arm"]] == name)]  # fmt: skip
        for each in statistics.paired(those, metric, higher, name, confidence):
            found[each.arm] = each
    return found


def _conditions(plan: Mapping[str, Any], arm: str) -> set[str]:
    """What an arm was trained with; a confirmation of other code or settings is none."""
    return {
        canonical([node["methods"], node.get("after"), node["code"],
                   {n: v for n, v in node["options"].items() if n != "judge_on"}])
        for node in plan["nodes"]
        if node["arm"] == arm
    }  # fmt: skip


def _verdict(found: Comparison) -> str:
    """Whether a gain was found again."""
    if found.n < FEWEST:
        return found.verdict
    return {HELPS: CONFIRMED, HURTS: REVERSED}.get(found.verdict, NOT_CONFIRMED)
