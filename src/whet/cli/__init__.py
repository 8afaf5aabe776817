"""The command line. Importing it loads typer and nothing heavy; commands import what they need."""

from whet.cli import (
    checking,
    comparing,
    ensembling,
    fitting,
    listing,
    publishing,
    studying,
    watching,
    writing,
)
from whet.cli.application import app, main

__all__ = ["app", "main"]

for command in (
    studying.study, watching.watch, studying.report, comparing.compare, fitting.fit,
    ensembling.ensemble, fitting.evaluate, fitting.predict, publishing.push, writing.new,
    listing.tasks, listing.methods, checking.doctor,
):  # fmt: skip
    app.command()(command)
