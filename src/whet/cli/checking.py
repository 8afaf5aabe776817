"""`whet doctor`: whether everything is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.application import console


def doctor(
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]", help="Ask every machine of a Ray cluster, as 10.0.0.1:6379."
        ),
    ] = None,
    executor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Send one batch job as this executor file says."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of studies, which all machines must share.")
    ] = Path("whet-studies"),
    wait: Annotated[
        float, typer.Option(min=1.0, help="Seconds until a machine must have answered.")
    ] = 600.0,
) -> None:
    """Check this machine, and those on which a study would train.

    Other machines are sent a tiny job: it checks that they see the folder,
    have the same versions and code, their cores, GPUs and clock. Exit code
    1 if anything is wrong; each line says what to do.

    \b
    [bold]Examples[/bold]
      whet doctor
      whet doctor --ray 10.0.0.1:6379 --out /shared/studies
      whet doctor --executor slurm.toml --out /shared/studies
    """
    from rich.markup import escape
    from rich.table import Table

    from whet.study.doctor import check
    from whet.study.wording import plain

    table, wrong = Table(box=None, pad_edge=False), 0
    for column in ("where", "what", "found", "", "what to do"):
        table.add_column(column, overflow="fold")
    for each in check(out, ray, executor, wait):
        wrong += not each.fine
        words = [escape(plain(word)) for word in (each.where, each.what, each.found, each.remedy)]
        verdict = "[green]OK[/]" if each.fine else "[bold red]wrong[/]"
        table.add_row(*words[:3], verdict, words[3])
    console().print(table)
    raise typer.Exit(1 if wrong else 0)
