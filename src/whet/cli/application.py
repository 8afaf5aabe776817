"""The application that commands join, and what they share."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from whet.errors import WhetError

if TYPE_CHECKING:
    from rich.console import Console

MISTAKE = 2
TaskName = Annotated[
    str,
    typer.Argument(
        help="A built-in task ([bold]whet tasks[/bold] lists them), or a Python file that defines "
        "task(seed) ([bold]whet new[/bold] writes one). The file is run."
    ),
]
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
        sys.argv[1:] = _completed(sys.argv[1:])
        app()
    except WhetError as error:
        from whet.study.wording import plain

        said = [plain(f"error: {error}", lines=True), *getattr(error, "__notes__", [])]
        sys.stderr.write("\n".join(said) + "\n")
        sys.exit(MISTAKE)
    except KeyboardInterrupt:
        sys.exit(130)


# what an option means without its value, as typer knows no optional ones
ALONE = {"--confirm": "0", "--tune-baseline": "5", "--ray": "local"}


def _completed(words: list[str]) -> list[str]:
    """With the values that options stand for alone.

    >>> _completed(["study", "digits", "--confirm", "--tune-baseline", "7", "--ray"])
    ['study', 'digits', '--confirm=0', '--tune-baseline', '7', '--ray=local']
    """
    return [
        f"{word}={ALONE[word]}" if word in ALONE and _alone(word, after) else word
        for word, after in pairwise([*words, ""])
    ]


def _alone(word: str, after: str) -> bool:
    return after[:1] in ("", "-") if word == "--ray" else not after.isdecimal()


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


def console() -> Console:
    """Where a command prints what people read."""
    from rich.console import Console

    return Console()
