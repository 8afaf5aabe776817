"""`whet push`: a fitted model on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def push(
    model: Annotated[Path, typer.Argument(help="The folder that whet fit wrote.")],
    repository: Annotated[
        str, typer.Argument(help="OWNER/NAME on the hub; it is made where it is not there.")
    ],
    private: Annotated[
        bool | None,
        typer.Option("--private/--public", help="Of a new repository; else the hub's own rule."),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The branch.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Upload a model fitted by whet",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it instead.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the files into this folder to look at, and upload nothing."),
    ] = None,
) -> None:
    """Upload a fitted model to the Hugging Face hub.

    What is uploaded: model.safetensors, config.json with task, recipe and
    metrics, and a model card. Log in first (hf auth login), or set HF_TOKEN.
    whet.from_pretrained("OWNER/NAME", model) loads it.

    \b
    [bold]Examples[/bold]
      whet push model me/requests --private
      whet push model me/requests --out packed
    """
    from whet.fit import publish

    if out is not None:
        typer.echo(f"written: {publish.save_pretrained(model, out, repository)}")
        return
    typer.echo(
        publish.push(
            model, repository, private=private, revision=revision, message=message,
            create_pr=create_pr,
        )
    )  # fmt: skip
