"""`whet study --plan`: what a study would do, for people or as JSON."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import typer

from whet.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from whet.study.planned import Plan
    from whet.study.request import Request


def show(request: Request, screen: Console, as_json: bool) -> None:
    """Print the plan; as JSON, that one object is all there is on stdout."""
    from whet.study import files, planned

    if not request.plan:
        raise InputError("--json is the plan as JSON: give --plan with it.")
    if not as_json:
        for part in planned.shown(_planned(request, screen)):
            screen.print(part)
        return
    from rich.console import Console

    with contextlib.redirect_stdout(sys.stderr):  # the task's own file may print
        found = _planned(request, Console(stderr=True))
    typer.echo(files.to_json(found.to_json(), 2))


def _planned(request: Request, screen: Console) -> Plan:
    from whet.study.conduct import conduct
    from whet.study.planned import Plan

    found = conduct(request, screen)
    assert isinstance(found, Plan)
    return found
