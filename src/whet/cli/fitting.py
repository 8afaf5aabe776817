"""`whet fit`, `whet evaluate` and `whet predict`: a task's model, and what it is good for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.application import TaskName, console

if TYPE_CHECKING:
    from whet.fit.request import Request

Model = Annotated[Path, typer.Argument(metavar="DIR", help="The folder that whet fit wrote.")]
Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the task. Default: that of the model, or it would be judged "
                 "on rows that it was trained on."),
]  # fmt: skip
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Updates = Annotated[int | None, typer.Option(min=1, help="Length in updates. Default: the task's.")]
Epochs = Annotated[
    float | None, typer.Option(help="Length in passes over the training data instead.")
]
Precision = Annotated[str, typer.Option(help="fp32, bf16, or on CUDA fp16.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what was trained in the folder.")]
Part = Annotated[
    str,
    typer.Option(help="[bold]judge[/bold] (the rows that nothing was chosen by), "
                 "[bold]select[/bold] or [bold]train[/bold]."),
]  # fmt: skip


def fit(
    task: TaskName,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Methods to train with, in the task's own settings, as [bold]ema,r_drop[/bold] "
            "or [bold]r_drop:alpha=2,fgm:during=\\[0.5,1][/bold]. Default: none."
        ),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(
            help="A Python file that defines [bold]recipe[/bold], a whet.Stage or whet.Recipe, "
            "or a function recipe(task) that returns one; in place of --methods. It is run."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The model's folder. Default: whet-models/TASK.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Decides split, initial weights and everything random.")
    ] = 0,
    updates: Updates = None,
    epochs: Epochs = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    log: Annotated[
        str | None,
        typer.Option(help="Logs beside metrics.csv, as tensorboard,wandb,mlflow."),
    ] = None,
    overfit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Only see whether N fixed batches can be learned by heart."
        ),
    ] = None,
    profile: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only trace N updates and name the dearest "
                     "operations."),
    ] = None,
    anomaly: Annotated[
        bool, typer.Option("--anomaly", help="Only look for the first NaN and what gave it.")
    ] = False,
    fresh: Fresh = False,
    start: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Begin from other initial weights, on the same split. 0 are "
            "those of the seed.",
        ),
    ] = 0,
) -> None:  # fmt: skip
    """Train one model and write it, with its metrics, into a folder.

    Stop it at any time: the same command continues. What is written is what
    was judged: averaged weights, for one, where ema takes part.

    --overfit, --profile and --anomaly look for what is wrong or slow. They
    write no model, and nothing that a later training goes on from; the exit
    code is 1 if something was found.

    \b
    [bold]Examples[/bold]
      whet fit digits --methods ema,r_drop:alpha=2
      whet fit my/task.py --recipe my/recipe.py --out model
      whet fit my/task.py --overfit 2
      whet fit my/task.py --profile 20 --out profile
    """
    from whet import places
    from whet.fit.request import Request

    file = places.file_of(task)
    names = [name.strip() for name in (log or "").split(",") if name.strip()]
    request = Request(
        task if file is None else places.name_of(file), file, recipe, methods, out, seed, device,
        precision, updates, epochs, names, overfit, profile, anomaly, fresh, start,
    )  # fmt: skip
    _diagnose(request) if request.diagnoses else _fit(request)


def _fit(request: Request) -> None:
    from whet.fit import conduct
    from whet.stopping import Terminated
    from whet.study.wording import plain

    try:
        fitted = conduct.fit(request)
    except (KeyboardInterrupt, Terminated) as stopped:
        if conduct.leads():
            said = f"{str(stopped) or 'Stopped.'}\nContinue with: {request.command}"
            typer.echo(plain(said, lines=True), err=True)
        raise
    if fitted.leads:
        show_metrics(fitted.about["metrics"])
        typer.echo(f"model: {fitted.model}")


def _diagnose(request: Request) -> None:
    import logging

    from whet.fit.diagnose import diagnose
    from whet.study.wording import plain

    logging.getLogger("whet").addHandler(logging.NullHandler())  # the bar tells it already
    told = diagnose(request)
    if told.operations:
        _show_operations(told.operations)
    for said in told.said:
        typer.echo(plain(said, lines=True))
    raise typer.Exit(1 if told.found else 0)


def evaluate(
    model: Model,
    task: Annotated[str, typer.Argument(help="The task that it was fitted to, or one like it.")],
    part: Part = "judge",
    seed: Seed = None,
    device: Device = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Judge a saved model on a part of a task, by the task's metrics.

    \b
    [bold]Examples[/bold]
      whet evaluate whet-models/digits digits
      whet evaluate model my/task.py --part select
      whet evaluate model my/task.py --json
    """
    from whet import places
    from whet.fit import saved
    from whet.study import files

    file = places.file_of(task)
    name = task if file is None else places.name_of(file)
    found = saved.load(model, name, file, seed, device)
    metrics = saved.evaluate(found, part)
    if as_json:
        told = {"task": name, "part": part, "seed": found.seed, "metrics": metrics}
        typer.echo(files.to_json({**told, "notes": found.notes}, 2))
        return
    _notes(found.notes)
    show_metrics({part: metrics})


def predict(
    model: Model,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DATA]",
            help="A file of new rows, read by the function inputs(path, seed) of the task. "
            "Default: the rows of --part.",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="The task that it was fitted to. Needed where that is a file: its code is run, "
            "and no model's folder may say which code that is."
        ),
    ] = None,
    part: Part = "judge",
    out: Annotated[
        Path, typer.Option(help="The file to write; a hyphen prints instead.")
    ] = Path("predictions.csv"),
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="SAMPLE",
            help="A CSV whose header and first column to keep, as a competition's sample "
            "submission: other columns are filled with predictions.",
        ),
    ] = None,
    value: Annotated[
        str,
        typer.Option(
            help="With --like, where one column is to fill: [bold]label[/bold], or the class "
            "whose probability is wanted."
        ),
    ] = "label",
    seed: Seed = None,
    device: Device = "auto",
) -> None:  # fmt: skip
    """Write what a saved model predicts, as CSV with a line for each row.

    Of classes it holds the probability of each and the likeliest one's name,
    of numbers their values. Rows stand in the order of the file or part,
    counted from 0; with --like in the order and columns of a sample.

    \b
    [bold]Examples[/bold]
      whet predict whet-models/churn new.csv
      whet predict whet-models/digits --part select
      whet predict model new.csv --task my/task.py
      whet predict model new.csv --task my/task.py --like sample.csv --out submission.csv
    """
    from whet import places
    from whet.fit import saved, submission
    from whet.study import files

    named = saved.task_of(model, task, data)
    file = places.file_of(named)
    name = named if file is None else places.name_of(file)
    found = saved.load(model, name, file, seed, device)
    batches = found.batches(part) if data is None else found.rows_of(data)
    if like is None:
        text = saved.table(found, batches)
    else:
        text = submission.filled(like, found, batches, data, value)
    _notes(found.notes)
    if str(out) == "-":
        typer.echo(text, nl=False)
        return
    files.write(out, text)
    typer.echo(f"predictions: {out}")


def _notes(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def show_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Metrics as lines and parts as columns."""
    from rich.table import Table

    if not metrics:
        return
    shown = Table(box=None, pad_edge=False)
    shown.add_column("metric", overflow="fold")
    for part in metrics:
        shown.add_column(part, justify="right", no_wrap=True)
    for name in next(iter(metrics.values())):
        shown.add_row(name, *(f"{values[name]:.4f}" for values in metrics.values()))
    console().print(shown)


def _show_operations(operations: Sequence[tuple[str, int, float]]) -> None:
    from rich.table import Table

    shown = Table(box=None, pad_edge=False)
    shown.add_column("operation", overflow="fold")
    for name in ("calls", "own time, ms"):
        shown.add_column(name, justify="right", no_wrap=True)
    for name, calls, seconds in operations:
        shown.add_row(name, str(calls), f"{1000 * seconds:.2f}")
    console().print(shown)
