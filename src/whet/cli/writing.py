"""`whet new`: a file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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
