"""`whet study` and `whet report`: compare methods, and write what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.application import TaskName, console

if TYPE_CHECKING:
    from whet.study.evidence import Evidence


def study(
    task: TaskName,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to try, as [bold]ema,fgm[/bold] or with settings as "
            "[bold]ema:decay=0.99,fgm:during=\\[0.5,1][/bold]; several values make several arms: "
            "[bold]ema:decay=0.9|0.99[/bold]. Default: all that suit the task."
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
            "[bold]whole[/bold] (its default), [bold]end[/bold] (last quarter), [bold]after[/bold] "
            "(a stage of fine-tuning that follows, held against training as much longer without), "
            "or several as start,whole,end."
        ),
    ] = "whole",
    design: Annotated[
        str,
        typer.Option(
            help="[bold]add-one[/bold]: each method alone. [bold]leave-one-out[/bold]: all that go "
            "together, and all but one. [bold]both[/bold]. [bold]ladder[/bold]: A, A+B, A+B+C, "
            "each against the one before. [bold]pairs[/bold]: each alone, every pair, and their "
            "interaction. [bold]screening[/bold]: main effects of up to 23 methods from few runs. "
            "[bold]fractional[/bold]: the same, clear of interactions, with twice the runs."
        ),
    ] = "add-one",
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FRACTIONS",
            help="Fractions of the training part, as 0.01,0.1,1: every arm on each of them, "
            "against a baseline on the same rows.",
        ),
    ] = None,
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
    plan: Annotated[
        bool,
        typer.Option(
            "--plan",
            help="Only say what the study would do, from eight updates of everything: runs, what "
            "they share, time, disk; and what is left of one that was begun.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --plan: print it as JSON, for programs.")
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
    equal_time: Annotated[
        bool,
        typer.Option(
            "--equal-time",
            help="Methods that take longer for an update are held against the baseline trained as "
            "long, too: what more training gives is no merit of theirs.",
        ),
    ] = False,
    tune_baseline: Annotated[
        int | None,
        typer.Option(
            metavar="[N]",
            help="First try N learning rates (5) with the baseline alone, on seeds of their own, "
            "by the select part; every arm has the best one. Else a method may only make up for a "
            "bad rate.",
        ),
    ] = None,
    hold_out: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the rows that no run of the study sees, for --confirm. Default: 0.2 "
            "where the study begins with --confirm, else none.",
        ),
    ] = None,
    confirm: Annotated[
        int | None,
        typer.Option(
            metavar="[SEEDS]",
            help="Then train what helped once more on fresh seeds, judge it on the rows held out, "
            "and show the gain beside the predicted one. Alone, on a study that is there: for "
            "that study.",
        ),
    ] = None,
    pick: Annotated[
        bool,
        typer.Option(
            "--pick",
            help="Write recipe.py: what was shown to help, the most for its time. Alone, on a "
            "study that is there: for that study.",
        ),
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            help="The largest gain that does not matter, in the metric's own units: 0.005 is half "
            "a point of accuracy. With it an arm can be shown to make no difference."
        ),
    ] = None,
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
      whet study my/task.py --design both --plan
      whet study my/task.py --design both --budget 8h
      whet study my/task.py --methods fgm,r_drop --when start,whole,end
      whet study my/task.py --methods ema,fgm,sam,r_drop --design screening
      whet study my/task.py --methods "ema:decay=0.9|0.99" --data 0.1,1
      whet study my/task.py --tune-baseline --equal-time --confirm --pick
      whet study my/task.py --ray 10.0.0.1:6379
    """
    from whet import places
    from whet.cli import planning
    from whet.study import control_tables, display
    from whet.study.conduct import conduct
    from whet.study.planned import Plan
    from whet.study.rehearsal import Rehearsal
    from whet.study.request import Request

    screen = console()
    file = places.file_of(task)
    request = Request(
        task if file is None else places.name_of(file), file, methods, seeds, when, design,
        budget, fast, out, jobs, threads, device, fresh, data=data, equal_time=equal_time,
        tune_baseline=tune_baseline, hold_out=hold_out, confirm=confirm, pick=pick, margin=margin,
        ray=ray, executor=executor, plan=plan,
    )  # fmt: skip
    if plan or as_json:
        planning.show(request, screen, as_json)
        return
    found = conduct(request, screen)
    assert not isinstance(found, Plan)
    if isinstance(found, Rehearsal):
        screen.print(display.rehearsed(found.rows))
        raise typer.Exit(1 if found.mistakes() else 0)
    metric = found.study["task"]["metric"]
    for comparisons, against in ((found.comparisons, None), (found.leaving, "all")):
        if comparisons:
            screen.print(display.table(comparisons, metric, against))
    for family in found.further:
        screen.print(display.table(family.comparisons, metric, title=family.title))
    for table in control_tables.shown(found.controlled, found.confirmation, metric):
        screen.print(table)
    for line in display.summary([*found.comparisons, *found.leaving], metric, screen.width):
        screen.print(line)
    if pick:
        _show(found)
    failed = sum(row["status"] == "failed" for row in found.rows)
    if failed:
        typer.echo(f"{failed} run(s) failed: see the report; the same command tries them again")
    typer.echo(f"report: {found.report}")
    raise typer.Exit(1 if failed else 0)


def _show(found: Evidence) -> None:
    picked = found.pick()
    typer.echo("\n".join([f"recipe: {picked.arm}", *picked.evidence, f"written: {picked.path}"]))


def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMATS",
            help="[bold]html[/bold], [bold]markdown[/bold], [bold]latex[/bold], "
            "[bold]csv[/bold] (verdicts), [bold]figures[/bold] (PDF and PNG), "
            "[bold]bibtex[/bold] (the methods' papers) or [bold]all[/bold]; several as "
            "markdown,csv. Markdown and LaTeX come with their figures and papers.",
        ),
    ] = "html",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of what is written. Default: the study's own."),
    ] = None,
) -> None:
    """Write a study's results, verdicts and report anew from its files.

    Works on a study that was stopped or is still running, with what there
    is so far; then it says how much is missing and how to continue.

    \b
    [bold]Examples[/bold]
      whet report whet-studies/digits
      whet report whet-studies/digits --format latex --out paper/
    """
    from whet.study import phrases
    from whet.study.evidence import again
    from whet.study.exports.formats import wanted
    from whet.study.live import look

    wanted(formats)  # before anything is written
    for path in again(folder).export(formats, out):
        typer.echo(f"{'report' if path.suffix == '.html' else 'written'}: {path}")
    for line in phrases.unfinished(look(folder)):
        typer.echo(line, err=True)
