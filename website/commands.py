"""The command line's page: what each command prints with --help."""

from __future__ import annotations

from typer.main import get_command
from typer.testing import CliRunner

from whet import cli

WIDTH = "76"


def page() -> str:
    """All commands, in the order in which the command line lists them."""
    names = [each.name or getattr(each.callback, "__name__", "")
             for each in cli.app.registered_commands]  # fmt: skip
    sections = ["# Command line", said(), *(f"## whet {name}\n\n{said(name)}" for name in names)]
    return "\n\n".join(sections) + "\n"


def said(*words: str) -> str:
    """What a command explains, in a block."""
    get_command(cli.app)  # a mistake in a declaration is raised here, not printed
    surroundings = {"COLUMNS": WIDTH, "TERMINAL_WIDTH": WIDTH, "NO_COLOR": "1", "TERM": "dumb"}
    done = CliRunner(env=surroundings).invoke(cli.app, [*words, "--help"], prog_name="whet")
    if done.exit_code:
        raise RuntimeError(f"whet {' '.join(words)} --help failed: {done.output}")
    lines = [line.rstrip() for line in done.output.strip("\n").splitlines()]
    return "\n".join(["```text", *lines, "```"])
