"""What the committed studies say of a method, in English and Chinese."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from evidence.claims import compared, signed
from website.markdown import code, table
from whet.study.catalogue import CHINESE, ENGLISH

RESULTS = Path(__file__).parent.parent / "evidence" / "results"
HEADING = {ENGLISH: "## Evidence so far", CHINESE: "## 目前的证据"}
ABOUT = {
    ENGLISH: "Small networks, paired seeds, the baseline's learning rate tuned first; a gain is "
    "positive where the method is better. [How the studies were made]({up}claims.md), "
    "[how verdicts are reached]({up}statistics.md).",
    CHINESE: "小型网络，种子配对，基线的学习率事先调好；增益为正表示方法更好。"
    "[研究如何进行]({up}claims.md)，[结论如何得出]({up}statistics.md)（英文）。",
}
NONE = {
    ENGLISH: "No committed study has tried it yet. On your own data: "
    "`whet study TASK --methods {name}`.",
    CHINESE: "尚无已提交的研究试过它。在自己的数据上：`whet study TASK --methods {name}`。",
}
HEAD = {
    ENGLISH: ["study", "metric", "arm", "gain", "95 % interval", "time per update", "verdict"],
    CHINESE: ["研究", "指标", "对比组", "增益", "95% 区间", "每步耗时", "结论"],
}
VERDICTS = {
    "helps": "有效", "hurts": "有害", "not shown": "未能证明",
    "no difference within the margin": "差异在容许范围内",
}  # fmt: skip
UP = {ENGLISH: "../", CHINESE: "../../"}


def section(name: str, language: str) -> str:
    """The section of a method's page."""
    rows = list(_rows(name, language))
    text = (
        ABOUT[language].format(up=UP[language]) + "\n\n" + table(HEAD[language], rows)
        if rows else NONE[language].format(name=name)
    )  # fmt: skip
    return f"{HEADING[language]}\n\n{text}"


def _rows(name: str, language: str) -> Iterator[list[str]]:
    for study, verdicts in _studies().items():
        metric = verdicts["metric"].replace("_", " ")
        for each in compared(verdicts):
            if methods(each["arm"]) != [name]:
                continue
            step = ((each["cost"] or {}).get("step") or {}).get("value")
            yield [
                study, metric, code(each["arm"]), signed(each["gain"]),
                f"{signed(each['low'])} … {signed(each['high'])}",
                "–" if step is None else f"{step:.2f}×",
                each["verdict"] if language == ENGLISH
                else VERDICTS.get(each["verdict"], each["verdict"]),
            ]  # fmt: skip


def methods(arm: str) -> list[str]:
    """The methods of an arm.

    >>> methods("fgm:epsilon=2@end"), methods("ema+mixup@start")
    (['fgm'], ['ema', 'mixup'])
    """
    return [part.partition("@")[0].partition(":")[0] for part in arm.split("+")]


@cache
def _studies() -> dict[str, dict[str, Any]]:
    return {
        path.parent.name: json.loads(path.read_text("utf-8"))
        for path in sorted(RESULTS.glob("*/verdicts.json"))
    }
