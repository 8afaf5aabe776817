"""`whet compare`: a study's statistics for numbers of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from whet.cli.application import console


def compare(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="Columns [bold]arm[/bold], [bold]seed[/bold], [bold]value[/bold]; or the "
            "results.csv of a study.",
        ),
    ],
    baseline: Annotated[
        str, typer.Option(help="The arm that the others are held against.")
    ] = "baseline",
    higher: Annotated[
        bool,
        typer.Option("--higher-is-better/--lower-is-better", help="The direction of the value."),
    ] = True,
    metric: Annotated[
        str | None, typer.Option(help="Which metric of a study's results.csv.")
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            help="The largest gain that does not matter, in the value's own units. With it an arm "
            "can be shown to make no difference."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Compare arms over paired seeds: a study's statistics for your own numbers.

    One line for each arm and seed. Values of one seed must belong together:
    same split, same initial weights, same order of the data, or whatever else
    your seeds stand for.

    \b
    [bold]Examples[/bold]
      whet compare results.csv
      whet compare results.csv --baseline adamw --lower-is-better --margin 0.01
      whet compare whet-studies/digits/results.csv --metric accuracy --json
    """
    from rich.markup import escape

    from whet.study import display, tables, wording

    found = tables.compared(file, baseline, higher, metric, margin)
    if as_json:
        typer.echo(tables.told(found))
        return
    better = "higher" if found.higher_is_better else "lower"
    said = wording.plain(found.metric.replace("_", " "))
    shown = display.table(found.comparisons, found.metric, about=tables.ABOUT)
    title = f"Gain in {said} over {wording.plain(baseline)}, paired by seed ({better} is better)"
    shown.title = escape(title)
    console().print(shown)
