"""`whet tasks` and `whet methods`: what there is."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from whet.cli.application import console
from whet.errors import UnknownName


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
    console().print(table)


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
    screen = console()
    if name is None:
        screen.print(shown.overview(cards, screen.width, lang))
        return
    screen.print(shown.whole(cards[0], lang))
    screen.print(cards[0]["doc"].strip(), markup=False, highlight=False, soft_wrap=True)
