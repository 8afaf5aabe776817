"""`whet ensemble`: several trainings of a task side by side, as one model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from whet.cli.application import TaskName, console
from whet.cli.fitting import Device, Epochs, Fresh, Precision, Updates, show_metrics


def ensemble(
    task: TaskName,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help="Methods that members train with, as [bold]ema,r_drop[/bold]. Given several "
            "times, each is a variant, as other augmentations are."
        ),
    ] = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(
            help="A Python file that defines [bold]recipe[/bold], in place of --methods; several "
            "times for variants. It is run."
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            min=1, help="Members of each variant. Default: 5 of a single one, 1 of several."
        ),
    ] = None,
    combine: Annotated[
        str,
        typer.Option(
            help="[bold]mean[/bold] of their probabilities, or [bold]weighted[/bold]: by weights "
            "under which the select part is likeliest."
        ),
    ] = "mean",
    out: Annotated[
        Path | None, typer.Option(help="The ensemble's folder. Default: whet-models/TASK-ensemble.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Decides the split, which all members share.")
    ] = 0,
    updates: Updates = None,
    epochs: Epochs = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Members at a time. Default: as many as the cores allow."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of each member.")] = 1,
    device: Device = "auto",
    precision: Precision = "fp32",
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Train on a Ray cluster. Without an address: on one of this machine.",
        ),
    ] = None,
    executor: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Train in batch jobs, on Slurm, as a TOML file says."),
    ] = None,
    fresh: Fresh = False,
) -> None:
    """Train several members side by side and write their mean as one model.

    All members share the split, and each begins from weights of its own. Stop
    it at any time: the same command continues, and with more --members it
    trains only the new ones. What is written is used as any model is: by whet
    evaluate, whet predict and whet push.

    \b
    [bold]Examples[/bold]
      whet ensemble digits --members 5
      whet ensemble digits --methods augment --methods mixup --methods cutmix
      whet ensemble my/task.py --recipe my/recipe.py --combine weighted --out model
      whet ensemble my/task.py --members 10 --ray 10.0.0.1:6379
    """
    from whet import places
    from whet.fit import together
    from whet.fit.ensemble import Ensemble
    from whet.fit.request import Request
    from whet.stopping import Terminated

    file = places.file_of(task)
    asked = Ensemble(
        Request(
            task if file is None else places.name_of(file), file, out=out, seed=seed,
            device=device, precision=precision, updates=updates, epochs=epochs, fresh=fresh,
        ),
        methods or (), recipe or (), members, combine, jobs, threads, ray, executor,
    )  # fmt: skip
    try:
        told = together.fit(asked, console())
    except (KeyboardInterrupt, Terminated):
        typer.echo(f"Stopped. Continue with: {asked.command}", err=True)
        raise
    for note in told["notes"]:
        typer.echo(f"note: {note}", err=True)
    _show_members(told)
    show_metrics(told["metrics"])
    typer.echo(f"model: {asked.folder / 'model.safetensors'}")


def _show_members(told: Mapping[str, Any]) -> None:
    """What each is worth alone, on the part that may be looked at; and what their mean adds."""
    from rich.table import Table

    known = told.get("diversity")
    if known is None:
        return
    shown = Table(box=None, pad_edge=False)
    shown.add_column("member", overflow="fold")
    for name in (f"{known['measure']}, select", "weight"):
        shown.add_column(name, justify="right", no_wrap=True)
    for each, score in zip(told["members"], known["members"], strict=True):
        shown.add_row(each["name"], f"{score:.4f}", f"{each['weight']:.3f}")
    shown.add_row("together", f"{known['ensemble']:.4f}", "")
    shown.add_row("gain over their mean", f"{known['gain']:+.4f}", "")
    shown.add_row("gain over the best", f"{known['gain_over_best']:+.4f}", "")
    console().print(shown)
    console().print()
