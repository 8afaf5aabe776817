"""`python -m evidence.claims` writes docs/claims.md: what the studies say of what is claimed.

The numbers are those of the studies' verdicts; the conclusions were written after they were seen.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "claims.md"
MAIN = (
    "fashion_mnist", "cifar10", "fsdd", "intents", "ag_news", "thucnews", "adult", "mammography",
)  # fmt: skip
SIZED = ("cifar10", "trashnet")  # in evidence/resolution.py
JOINED = ("fsdd", "intents", "cifar10")  # in evidence/ensembling.py

ABOUT = (
    "Each claim of the articles that whet grew out of is a study here: a hypothesis, data, a "
    'control, and a verdict that may be "not shown". Small networks, seconds of training on one '
    "core, at least 5 paired seeds, the baseline's learning rate tuned first: a verdict is about "
    "these tasks. Gains are positive where the method is better, with 95 % intervals; verdicts "
    "allow for the number of arms in their study (Holm). [How verdicts are reached]"
    "(statistics.md). Numbers and reports lie in `evidence/results`; `python -m evidence.studies "
    "NAME` makes them anew, and `python -m evidence.claims` this page."
)
REFERENCES = (
    "A baseline worth improving has to beat a simple reference, which was named and measured "
    "(`python -m evidence.studies --references`) before any study ran; networks were chosen on "
    "the first two seeds. Gains are paired by seed."
)
TIMES = (
    "Times were measured on two cores that did other work as well. They show which methods cost a "
    "pass, not a few per cent; those are measured by `make bench` (README)."
)


@dataclass(frozen=True)
class Claim:
    """One claim and how it was put to the test.

    Args:
        said: the claim.
        hypothesis: what would have to be seen.
        control: what the arms are held against.
        arms: of a study, those that speak of the claim, by the study's name.
        conclusion: what was seen.
        missing: why it cannot be tested yet.
        sizes: in place of arms, `contrasts` or `by_size` of `python -m evidence.resolution`.
        joined: in place of arms, the contrasts of `python -m evidence.ensembling`.
        quoted: what others published, which was not measured here.
    """

    said: str
    hypothesis: str = ""
    control: str = "the baseline of the same seed, at its tuned rate"
    arms: Mapping[str, Sequence[str]] | None = None
    conclusion: str = ""
    missing: str = ""
    sizes: str = ""
    joined: Sequence[str] = ()
    quoted: str = ""


def everywhere(*arms: str) -> dict[str, Sequence[str]]:
    return dict.fromkeys(MAIN, arms)


def page(claims: Sequence[Claim]) -> str:
    """The page as Markdown."""
    lines = ["# What is claimed, and what was found", "", ABOUT, "", TIMES, ""]
    lines += ["## The baselines", "", REFERENCES, "", *baselines(), ""]
    for claim in claims:
        lines += [f"## {claim.said}", ""]
        if claim.missing:
            lines += [f"Cannot be tested yet: {claim.missing}", ""]
            continue
        lines += [f"*Hypothesis*: {claim.hypothesis} *Control*: {claim.control}.", ""]
        if claim.sizes:
            lines += [*resolutions(claim), ""]
            continue
        if claim.joined:
            lines += [*ensembles(claim), ""]
            continue
        assert claim.arms is not None
        lines += ["| study | metric | arm | gain | 95 % interval | time per update | verdict |"]
        lines += ["|---|---|---|---|---|---|---|"]
        lines += [row for study, arms in claim.arms.items() for row in rows(study, arms)]
        names = " ".join(claim.arms)
        lines += ["", f"**{claim.conclusion}**", "", f"`python -m evidence.studies {names}`", ""]
    return "\n".join(lines).rstrip() + "\n"


def resolutions(claim: Claim) -> Iterator[str]:
    """A claim about sizes: its table, what was found, what others published."""
    yield "| data | difference in accuracy, s to r | gain | 95 % interval | verdict |"
    yield "|---|---|---|---|---|"
    for name in SIZED:
        told = json.loads((HERE / "results" / f"resolution_{name}" / "gains.json").read_text())
        sizes = f"{told['setting']['small']} to {told['setting']['large']}"
        for each in told[claim.sizes]:
            what = each["arm"] + (f", {sizes}" if claim.sizes == "contrasts" else "")
            yield (
                f"| {name} | {what} | {signed(each['gain'])} "
                f"| {signed(each['low'])} to {signed(each['high'])} | {each['verdict']} |"
            )
    yield from ("", f"**{claim.conclusion}**", "", f"*Quoted, not measured here*: {claim.quoted}")
    yield from ("", f"`python -m evidence.resolution {' '.join(SIZED)}`")


def ensembles(claim: Claim) -> Iterator[str]:
    """A claim about ensembles: its table, and what was found."""
    yield "| data | difference | metric | gain | 95 % interval | verdict |"
    yield "|---|---|---|---|---|---|"
    for name in JOINED:
        told = json.loads((HERE / "results" / f"ensembles_{name}" / "gains.json").read_text())
        for title in claim.joined:
            for metric in ("accuracy", "log_loss"):
                each = next(one for one in told[metric] if one["arm"] == title)
                yield (
                    f"| {name} | {title} | {metric} | {signed(each['gain'])} "
                    f"| {signed(each['low'])} to {signed(each['high'])} | {each['verdict']} |"
                )
    yield from (
        "",
        f"**{claim.conclusion}**",
        "",
        f"`python -m evidence.ensembling {' '.join(JOINED)}`",
    )


def baselines() -> Iterator[str]:
    """What each baseline reached, and the reference that it had to beat on the same seeds."""
    yield "| study | metric | baseline | reference | least and mean gain | the reference |"
    yield "|---|---|---|---|---|---|"
    references = json.loads((HERE / "references.json").read_text())
    for study, told in references.items():
        metric = json.loads((HERE / "results" / study / "verdicts.json").read_text())["metric"]
        own = values(study, metric)
        gains = [a - b for a, b in zip(own, told["values"], strict=True)]
        yield (
            f"| {study} | {metric.replace('_', ' ')} | {fmean(own):.4f} "
            f"| {fmean(told['values']):.4f} | {signed(min(gains))}, {signed(fmean(gains))} "
            f"| {told['reference']} |"
        )


def values(study: str, metric: str) -> list[float]:
    """The baseline's values on the judge part, by seed."""
    with (HERE / "results" / study / "results.csv").open(newline="") as file:
        return [
            float(row["value"]) for row in csv.DictReader(file)
            if (row["arm"], row["part"], row["metric"]) == ("baseline", "judge", metric)
        ]  # fmt: skip


def rows(study: str, arms: Sequence[str]) -> Iterator[str]:
    """A table's rows for arms of a study; an arm that was not tried there has none."""
    verdicts = json.loads((HERE / "results" / study / "verdicts.json").read_text())
    metric = verdicts["metric"].replace("_", " ")
    for each in (e for arm in arms for e in compared(verdicts) if e["arm"] == arm):
        step = ((each["cost"] or {}).get("step") or {}).get("value")
        yield (
            f"| {study} | {metric} | {each['arm'].replace('|', ' or ')} | {signed(each['gain'])} "
            f"| {signed(each['low'])} to {signed(each['high'])} "
            f"| {'–' if step is None else f'{step:.2f}×'} | {each['verdict']} |"
        )


def compared(verdicts: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Every arm against its baseline: on all of the data, and on fractions of it."""
    further = [each for each in verdicts.get("further", ()) if each["key"].startswith("baseline@")]
    return [*verdicts["comparisons"], *(arm for each in further for arm in each["comparisons"])]


def signed(value: Any) -> str:
    return "–" if value is None else f"{value:+.4f}".replace("-", "−")


if __name__ == "__main__":
    from evidence.claimed import CLAIMED

    PAGE.write_text(page(CLAIMED), encoding="utf-8")
    print(f"written: {PAGE}")
