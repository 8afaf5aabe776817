"""The rule behind the verdicts, for people."""

from __future__ import annotations

from whet.study.statistics.comparison import FEWEST, SCREENING
from whet.study.statistics.flips import FLIPS

POPULATION = (
    "Seeds vary the split, the initial weights and the order of the data, on this data: a verdict "
    "is about training on this data again, not about other data of its kind."
)
NEW = (
    "Where the sizes of the parts are known, the interval for new data widens the error by the "
    "share of judge rows to training rows (Nadeau and Bengio)."
)


def rule(
    confidence: float = 0.95, margin: float | None = None, about: str = f"{POPULATION} {NEW}"
) -> str:
    """The rule that was stated before any result was seen.

    Args:
        confidence: of the intervals.
        margin: the user's, in the metric's own units.
        about: what seeds stand for.
    """
    alpha = f"{1 - confidence:.2g}"
    return " ".join(
        (_test(confidence), _family(alpha), _equivalent(margin, alpha), _limits(), about)
    )


def _test(confidence: float) -> str:
    return (
        "Arm and baseline are compared seed by seed: both see the same split, initial weights and "
        f"order of the data. The interval is the {confidence:.0%} t interval of the mean paired "
        "gain; p is from the two-sided paired t test. Their standard error is the arm's own or "
        "that of all arms which act in the same part of training, whichever is larger, with the "
        "arm's own n - 1 degrees of freedom."
    )


def _family(alpha: str) -> str:
    return (
        f"A verdict allows for the number of arms (Holm): with m arms of at least {FEWEST} pairs, "
        f"the arm with the smallest p is judged by its interval at level {alpha}/m, the next at "
        f"{alpha}/(m-1) and so on, until one interval holds zero; that level then stays. "
        '"helps" and "hurts": that interval lies above or below zero. "not shown": neither, which '
        'is no proof that there is no effect; "detects" is the gain that such a study finds in '
        f"four of five times. From {FLIPS} seeds on every flip of the seeds' signs gives a second "
        "p for the whole family, which believes nothing of the distribution (max-T); it is shown "
        "beside."
    )


def _equivalent(margin: float | None, alpha: str) -> str:
    if margin is None:
        return "No margin was given, so that no arm can be said to make no difference."
    return (
        f'"no difference within the margin": two one-sided tests at {alpha}, adjusted for the '
        f"number of arms as a family of its own, place the gain within {margin:g} of zero; an arm "
        "that helps or hurts keeps that verdict, however small the gain."
    )


def _limits() -> str:
    return (
        "Where all differences are equal and no other arm tells how far they spread, there is no "
        "verdict. Seeds that failed or diverged cannot be paired; they are counted and listed, and "
        "an arm that diverged gets no other verdict. "
        f"With {SCREENING} seeds all this is screening: a reason to train more."
    )
