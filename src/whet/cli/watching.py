"""`whet watch`: a study that is conducted elsewhere, as it goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whet.cli.application import console

if TYPE_CHECKING:
    from rich.console import Console

    from whet.study.view import View


def watch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")],
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Between two looks at the folder.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and leave.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for every change, for programs.")
    ] = False,
) -> None:
    """Show how far a study is that another process or machine conducts.

    It only reads: the study is not disturbed, and Ctrl-C ends nothing but
    the view. Verdicts are provisional while runs are missing. In a log or a
    pipe there is a line for whatever changed. It ends with the study; one
    that was stopped is watched on, as it may be continued.

    The exit code is 1 if a run failed or whoever conducted the study was
    killed, else 0.

    \b
    [bold]Examples[/bold]
      whet watch whet-studies/digits
      whet watch /shared/study --once
      whet watch /shared/study --every 60 >> study.log
      whet watch /shared/study --json
    """
    from whet.study.live import Watcher

    screen, watcher = console(), Watcher(folder)
    first = watcher.look()
    _check(first)
    views = _looks(watcher.look, first, every, once)
    show = _programs if as_json else _terminal if screen.is_terminal or once else _log
    try:
        last = list(deque(show(views, screen, once), maxlen=1))
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    wrong = any(view.failed or view.state in ("gone", "unreadable") for view in last)
    raise typer.Exit(1 if wrong else 0)


def _check(view: View) -> None:
    from whet.errors import InputError
    from whet.study import phrases
    from whet.study.view import NOTHING

    if view.state == NOTHING:
        why, words = phrases.remedy(view)
        there = "holds no study yet" if view.folder.is_dir() else "is no folder"
        raise InputError(f"{view.folder} {there}. {why} {words}")


def _looks(look: Callable[[], View], first: View, every: float, once: bool) -> Iterator[View]:
    """Views of a study until it has ended, one right away."""
    from whet.study.view import FINISHED, NOTHING, REHEARSED

    view = first
    while True:
        yield view
        if once or view.state in (FINISHED, NOTHING, REHEARSED):
            return
        time.sleep(every)
        view = look()


def _terminal(views: Iterator[View], screen: Console, once: bool) -> Iterator[View]:
    """One picture that is drawn again and again, as high as the terminal at most."""
    from rich.live import Live

    from whet.study import panes

    if once:
        for view in views:
            screen.print(panes.drawn(view, screen.width))
            yield view
        return
    with Live(console=screen, auto_refresh=False, vertical_overflow="crop") as live:
        for view in views:
            picture = panes.drawn(view, screen.width, screen.height - 1, bar=True)
            live.update(picture, refresh=True)
            yield view


def _log(views: Iterator[View], screen: Console, once: bool) -> Iterator[View]:
    """A line for whatever changed, with the time of day; nothing where nothing did."""
    from whet.study import changes

    before = None
    for view in views:
        stamp = time.strftime("%H:%M:%S ")
        for line in changes.lines(before, view, screen.width - len(stamp)):
            typer.echo(stamp + line)
        before = view
        yield view


def _programs(views: Iterator[View], screen: Console, once: bool) -> Iterator[View]:
    """A line of JSON for whatever changed; that time passes is no change."""
    from whet.study import changes, files

    before = None
    for view in views:
        if changes.timeless(view) != before:
            typer.echo(files.to_json(changes.to_json(view)))
        before = changes.timeless(view)
        yield view
