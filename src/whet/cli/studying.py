"""`whet study` and `whet report`: compare methods, and write what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.application import console


def study(
    task: Annotated[
        str,
        typer.Argument(
            help="A built-in task ([bold]whet tasks[/bold] lists them), or a Python file that "
            "defines task(seed) ([bold]whet new[/bold] writes one). The file is run."
        ),
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to try, as [bold]ema,fgm[/bold] or with settings as "
            "[bold]ema:decay=0.99,fgm:during=\\[0.25,1][/bold]. Default: all that suit the task."
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of each arm; a verdict needs 3. Default: the task's."),
    ] = None,
    when: Annotated[
        str,
        typer.Option(
            help="Part of training that each method takes: [bold]start[/bold] (first quarter), "
            "[bold]whole[/bold], [bold]end[/bold] (last quarter), or several as start,whole,end."
        ),
    ] = "whole",
    design: Annotated[
        str,
        typer.Option(
            help="[bold]add-one[/bold]: each method alone. [bold]leave-one-out[/bold]: all that go "
            "together, and all but one. [bold]both[/bold]."
        ),
    ] = "add-one",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Time to spend, as 30m or 8h: steps are measured, then arms, seeds and length of "
            "training chosen so that it is enough.",
        ),
    ] = None,
    fast: Annotated[
        bool,
        typer.Option("--fast", help="Only two updates of everything, to find mistakes early."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the study's files. Default: whet-studies/TASK."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time. Default: as many as the cores allow."),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(min=1, help="Torch threads of each run; another number is another study."),
    ] = 1,
    device: Annotated[
        str, typer.Option(help="auto, cpu or cuda; another kind is another study.")
    ] = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Train on a Ray cluster, as 10.0.0.1:6379. Without an address: on one of this "
            "machine, for this study alone.",
        ),
    ] = None,
    executor: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Train in batch jobs, on Slurm, as a TOML file says. [bold]whet doctor[/bold] "
            "tries it.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the results in the folder and begin anew.")
    ] = False,
) -> None:
    """Train a baseline and variants of it, and report which methods helped.

    Every arm meets the baseline on the same seeds: same split, same initial
    weights, same order of the data. Stop it at any time: the same command
    continues. More seeds or methods train only what is new; a changed
    setting or file trains only what it touches.

    \b
    [bold]Examples[/bold]
      whet study digits
      whet study digits --methods ema:decay=0.9,ema:decay=0.99 --seeds 10
      whet study my/task.py --fast
      whet study my/task.py --design both --budget 8h
      whet study my/task.py --methods fgm,r_drop --when start,whole,end
      whet study my/task.py --ray 10.0.0.1:6379
    """
    from whet import places
    from whet.study import display
    from whet.study.conduct import conduct
    from whet.study.prepare import Request
    from whet.study.rehearsal import Rehearsal

    screen = console()
    file = places.file_of(task)
    request = Request(
        task if file is None else places.name_of(file), file, methods, seeds, when, design,
        budget, fast, out, jobs, threads, device, fresh, None, ray, executor,
    )  # fmt: skip
    found = conduct(request, screen)
    if isinstance(found, Rehearsal):
        screen.print(display.rehearsed(found.rows))
        raise typer.Exit(1 if found.mistakes() else 0)
    metric = found.study["task"]["metric"]
    for comparisons, against in ((found.comparisons, None), (found.leaving, "all")):
        if comparisons:
            screen.print(display.table(comparisons, metric, against))
    failed = sum(row["status"] == "failed" for row in found.rows)
    if failed:
        typer.echo(f"{failed} run(s) failed: see the report; the same command tries them again")
    typer.echo(f"report: {found.report}")
    raise typer.Exit(1 if failed else 0)


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")],
) -> None:
    """Write a study's results, verdicts and report anew from its files.

    Works on a study that was stopped or is still running, with what there
    is so far.

    \b
    [bold]Examples[/bold]
      whet report whet-studies/digits
    """
    from whet.study.conduct import again

    typer.echo(f"report: {again(folder).report}")
