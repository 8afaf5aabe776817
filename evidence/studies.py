"""The studies of real data, each with its command; their small result files are kept beside it.

`python -m evidence.studies` runs those that are named, or all; a study that was stopped goes on.
`python -m evidence.studies --references` measures what each baseline has to beat, which was
written down before any study ran.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from evidence.claims import MAIN
from whet.code_files import imported

HERE = Path(__file__).parent
TASKS, RESULTS = HERE / "tasks", HERE / "results"
KEPT = ("report.html", "gains.svg", "verdicts.json", "results.csv")
SEEDS = 5

# A margin is the largest gain that does not matter, stated beforehand: half a point of accuracy, a
# fifth of a point of AUC, one point of average precision, which depends on few positives.
EVERY = ["--seeds", str(SEEDS), "--tune-baseline", "5", "--jobs", "2"]
PARTS = ["--when", "start,whole,end", "--methods"]
TEMPERATURES = "distillation:temperature=1|2|5|10"
FEW_ROWS = ["--data", "0.01,0.1,1", "--methods", "cosface:scale=16:margin=0|0.35"]
IMAGES = (
    'augment:policy=weak|strong,mixup_or_cutmix,manifold_mixup:at="5",vat,free_at,'
    'adversarial_consistency,dropout_schedule,tta:views=["flip"],temperature,arcface,sphereface'
)
WORDS = (
    "embedding_noise,manifold_mixup:at=words,vat:scope=embeddings,dropout_schedule,"
    "adversarial_consistency:scope=embeddings,temperature,temperature_scaling,arcface,sphereface"
)
RARE = "class_weights,logit_adjustment,embedding_noise:scope=inputs,vat,dropout_schedule"
COMMANDS = {
    "mammography": [*EVERY, "--margin", "0.01", "--equal-time"],
    "adult": [*EVERY, "--margin", "0.002", "--equal-time"],
    "fsdd": [*EVERY, "--margin", "0.005", "--equal-time"],
    "intents": [*EVERY, "--margin", "0.005"],
    "ag_news": [*EVERY, "--margin", "0.005"],
    "fashion_mnist": [*EVERY, "--margin", "0.005"],
    "cifar10": [*EVERY, "--margin", "0.005"],
    "thucnews": [*EVERY, "--margin", "0.005"],
    "small_student": [*EVERY, "--margin", "0.005", "--methods", TEMPERATURES],
    "ag_news_adversarial": [*EVERY, "--margin", "0.005", *PARTS, "fgm,pgd,random_noise"],
    "intents_adversarial": [*EVERY, "--margin", "0.005", *PARTS, "fgm,pgd,random_noise"],
    "fashion_mnist_margins": [*EVERY, "--margin", "0.005", *FEW_ROWS],
    "intents_margins": [*EVERY, "--margin", "0.005", *FEW_ROWS],
    "cifar10_more": [*EVERY, "--margin", "0.005", "--methods", IMAGES],
    "intents_more": [*EVERY, "--margin", "0.005", "--methods", WORDS],
    "mammography_more": [*EVERY, "--margin", "0.01", "--methods", RARE],
    "few_labels": [*EVERY, "--margin", "0.005", *PARTS, "fixmatch:mu=2,fixmatch:mu=2:control=true"],
}


def task_of(name: str) -> str:
    """The task that a study is of, where several studies are of one."""
    for about in ("_adversarial", "_margins", "_more"):
        name = name.removesuffix(about)
    return name


def run(name: str) -> None:
    """Conduct a study, or what is missing of it, and keep its results."""
    task = Path("evidence") / "tasks" / f"{task_of(name)}.py"
    program = [sys.executable, "-c", "from whet.cli import main; main()"]
    subprocess.run(  # noqa: S603 - this project's own program
        [*program, "study", str(task), *COMMANDS[name], "--out", f"whet-studies/{name}"],
        cwd=HERE.parent,
        check=True,
    )
    keep(name)


def keep(name: str) -> None:
    """Copy what people read from the study's folder into the evidence."""
    study, kept = HERE.parent / "whet-studies" / name, RESULTS / name
    kept.mkdir(parents=True, exist_ok=True)
    for file in KEPT:
        if (study / file).exists():
            shutil.copyfile(study / file, kept / file)


def references() -> None:
    """What each reference reaches on the judge parts of the studies' seeds."""
    found = {}
    for name in MAIN:
        module = imported(TASKS / f"{name}.py", "it is one of the evidence")
        values = [module.reference(seed) for seed in range(SEEDS)]
        found[name] = {"reference": module.REFERENCE, "values": values}
        print(name, module.REFERENCE, values)
    (HERE / "references.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if sys.argv[1:] == ["--references"]:
        references()
    else:
        for each in sys.argv[1:] or COMMANDS:
            run(each)
