"""What a written report says, before it is set in Markdown or LaTeX: sentences, tables, reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.study import redact, statistics, wording
from whet.study.exports import pictures, references, tabulated
from whet.study.exports.pictures import Picture
from whet.study.exports.tabulated import Table
from whet.study.prepare import CONFIDENCE
from whet.study.report import facts
from whet.study.sentences import sentence

if TYPE_CHECKING:
    from whet.study.confirm import Confirmation
    from whet.study.evidence import Evidence
    from whet.study.families import Family

Drawn = Mapping[str, Picture]
RATE = (
    "Looked for with the baseline alone, and chosen by the select part; every arm has the best one."
)
OWN = "Judged as a family of its own; positive is better."


@dataclass(frozen=True)
class Section:
    """A heading, what is said below it, and its tables and figures."""

    title: str
    said: list[str]
    tables: list[Table]
    pictures: list[Picture]


def of(found: Evidence) -> dict[str, Any]:
    """Everything that a template sets; texts as they came, neither redacted nor escaped."""
    study, rows = found.study, found.rows
    return {
        "study": study,
        "metric": study["task"]["metric"].replace("_", " "),
        "counts": facts.counts(study, rows),
        "missing": facts.missing(study, rows),
        "baseline": facts.baseline(rows, study["task"]["metric"]),
        "design": facts.design(study),
        "sentences": _sentences(found),
        "sections": sections(found),
        "methods": [(name, references.cited(name)) for name in references.used(study)],
        "keys": {"whet": references.OURS, "verdicts": references.cited(references.VERDICTS)[0]},
        "incidents": facts.incidents(rows),
        "left_out": facts.left_out(study),
        "rule": statistics.rule(CONFIDENCE, study.get("margin")),
        "environment": redact.values(facts.environment(study, rows)),
        "notes": study.get("notes") or [],
    }


def _sentences(found: Evidence) -> list[str]:
    """The verdict on each arm; where no method was tried by itself, in the first other family."""
    metric = found.study["task"]["metric"]
    first = found.comparisons or (found.further[0].comparisons if found.further else [])
    said = [sentence(each, metric) for each in statistics.ranked(first)]
    return said or [wording.answer([], metric)]


def sections(found: Evidence) -> list[Section]:
    """Every family of verdicts, then the controls of what was found."""
    metric = found.study["task"]["metric"].replace("_", " ")
    drawn = {each.name: each for each in pictures.of(found)}
    made = [_baseline(found, metric, drawn), _leaving(found, metric, drawn)]
    made += [_further(number, each, drawn) for number, each in enumerate(found.further, 1)]
    return [each for each in [*made, *_controls(found, metric)] if each.tables]


def _baseline(found: Evidence, metric: str, drawn: Drawn) -> Section:
    better = "higher" if found.study["task"]["higher_is_better"] else "lower"
    said = (f"Gain is positive where the method is better ({metric}: {better} is better), measured "
            f"on the judge part. {statistics.POPULATION}")  # fmt: skip
    tables = tabulated.family("gains", f"Gain in {metric} over the baseline", found.comparisons)
    return Section("Gain over the baseline", [said], tables,
                   _those(drawn, "gains", "costs", "curves"))  # fmt: skip


def _leaving(found: Evidence, metric: str, drawn: Drawn) -> Section:
    title = f"Gain in {metric} over all methods together, of leaving one out"
    tables = tabulated.family("leaving", title, found.leaving, wording.LEAVING)
    said = [wording.leaving(statistics.ranked(found.leaving), metric), OWN]
    return Section("What each method adds to the others", said, tables, _those(drawn, "leaving"))


def _further(number: int, family: Family, drawn: Drawn) -> Section:
    name, short = pictures.family(number, family), {statistics.IDENTICAL: "identical"}
    tables = tabulated.family(name, family.title, family.comparisons, short, "what")
    return Section(family.title, [family.about, OWN], tables, _those(drawn, name))


def _controls(found: Evidence, metric: str) -> list[Section]:
    again = found.confirmation
    return [
        Section("At equal time", ["Arms that take longer, against the baseline trained as long."],
                tabulated.equal_time(found.controlled, metric), []),
        Section("Confirmation", [] if again is None else [_again(again)],
                tabulated.confirmation(again, metric), []),
        Section("The baseline's learning rate", [RATE],
                tabulated.tuning(found.study.get("tuning")), []),
    ]  # fmt: skip


def _again(found: Confirmation) -> str:
    arms = "What helped" if found.helped else "Nothing was shown to help; the largest gain"
    rows = "" if found.aside is None else f", judged on {found.aside['aside']} rows set aside"
    seeds = wording.counted(len(found.seeds), "seed")
    return f"{arms}, trained once more with {seeds} ({found.kind}{rows})."


def _those(drawn: Drawn, *names: str) -> list[Picture]:
    return [drawn[name] for name in names if name in drawn]
