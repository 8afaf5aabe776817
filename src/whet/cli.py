"""The command line. Importing it loads typer and nothing heavy; commands import what they need."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.errors import UnknownName, WhetError

if TYPE_CHECKING:
    from rich.console import Console

MISTAKE = 2
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line; a user's mistake is one message on stderr and exit code 2."""
    try:
        app()
    except WhetError as error:
        from whet.study.wording import plain

        said = [plain(f"error: {error}", lines=True), *getattr(error, "__notes__", [])]
        sys.stderr.write("\n".join(said) + "\n")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        from whet import __version__

        typer.echo(f"whet {__version__}")
        raise typer.Exit


@app.callback()
def whet(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train with the methods practitioners pass around, and measure which of them help.

    \b
    [bold]Begin with[/bold]
      whet study digits            what helps on a small built-in task, in minutes
      whet methods                 what there is to try
      whet study digits --help     all that a study can be told
    """


@app.command()
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
    """
    from whet import places
    from whet.study import display
    from whet.study.conduct import conduct
    from whet.study.prepare import Request
    from whet.study.rehearsal import Rehearsal

    console = _console()
    file = places.file_of(task)
    request = Request(
        task if file is None else places.name_of(file), file, methods, seeds, when, design,
        budget, fast, out, jobs, threads, device, fresh,
    )  # fmt: skip
    found = conduct(request, console)
    if isinstance(found, Rehearsal):
        console.print(display.rehearsed(found.rows))
        raise typer.Exit(1 if found.mistakes() else 0)
    metric = found.study["task"]["metric"]
    for comparisons, against in ((found.comparisons, None), (found.leaving, "all")):
        if comparisons:
            console.print(display.table(comparisons, metric, against))
    failed = sum(row["status"] == "failed" for row in found.rows)
    if failed:
        typer.echo(f"{failed} run(s) failed: see the report; the same command tries them again")
    typer.echo(f"report: {found.report}")
    raise typer.Exit(1 if failed else 0)


@app.command()
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


@app.command()
def new(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="The file to write; it ends in .py.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            help="What the data is: [bold]images[/bold], [bold]text[/bold], [bold]table[/bold], "
            "[bold]huggingface[/bold] (texts, for a model of transformers) or [bold]torch[/bold] "
            "(a Dataset and DataLoaders of your own)."
        ),
    ] = "torch",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a task to begin with: a Python file to adapt to your data.

    It runs as it is, on a tiny sample. Its comments say what to change and
    why it is as it is. A folder that is not there is made.

    \b
    [bold]Examples[/bold]
      whet new task.py --kind images
      whet new churn/task.py --kind table
      whet new task.py --kind table --force
    """
    import shlex

    from whet import scaffold

    written = scaffold.write(path, kind, force=force)
    name = shlex.quote(str(written))
    typer.echo(f"{written}: {scaffold.kinds()[kind]}. It runs as it is; edit its settings. Next:")
    typer.echo(f"  whet study {name} --fast\n  whet study {name}")


@app.command()
def tasks() -> None:
    """List the tasks that a study can be made of.

    \b
    [bold]Examples[/bold]
      whet tasks
    """
    from rich.table import Table

    from whet.study.node import describe
    from whet.tasks import names

    table = Table(box=None, pad_edge=False)
    for column in ("task", "what it is", "metric", "seeds"):
        table.add_column(column, overflow="fold")
    for task in map(describe, names()):
        table.add_row(task["name"], task["title"], task["metric"], str(task["seeds"]))
    _console().print(table)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="Show this method in full.")] = None,
    lang: Annotated[
        str, typer.Option(metavar="en|zh", help="Language of the cards: English or Chinese.")
    ] = "en",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, for programs: both languages.")
    ] = False,
) -> None:
    """Show the methods there are, or one of them in full.

    \b
    [bold]Examples[/bold]
      whet methods
      whet methods ema
      whet methods --lang zh
      whet methods --json
    """
    from whet.methods import catalogue
    from whet.study import catalogue as shown

    shown.check(lang)
    cards = catalogue()
    if name is not None:
        cards = [card for card in cards if card["name"] == name]
        if not cards:
            raise UnknownName("method", name, (card["name"] for card in catalogue()))
    if as_json:
        typer.echo(json.dumps(cards if name is None else cards[0], indent=2, ensure_ascii=False))
        return
    console = _console()
    if name is None:
        console.print(shown.overview(cards, console.width, lang))
        return
    console.print(shown.whole(cards[0], lang))
    console.print(cards[0]["doc"].strip(), markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    from rich.console import Console

    return Console()
