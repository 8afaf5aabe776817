"""An ensemble that is asked for: several trainings of one task, from other weights each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet.errors import InputError, UnknownName
from whet.fit.folder import MEMBERS
from whet.fit.request import Request, near

COMBINED = ("mean", "weighted")
OF_ONE = 5  # members of a single variant, as is usual


@dataclass(frozen=True)
class Ensemble:
    """What the user asked for.

    Args:
        request: task, length, seed and the rest, alike for all members.
        methods: as on the command line: each is a variant; or
        recipes: files: each is a variant. With neither there is one, the task's own training.
        members: initial weights of each variant; None for five of a single one and one of several.
        combine: `mean`, or `weighted`: by weights fitted to the select part.
        jobs: members at a time; None leaves it to what trains them.
        threads: torch threads of each.
        ray: a cluster's address.
        executor: a file that says how batch jobs are submitted.
    """

    request: Request
    methods: Sequence[str] = ()
    recipes: Sequence[Path] = ()
    members: int | None = None
    combine: str = "mean"
    jobs: int | None = None
    threads: int = 1
    ray: str | None = None
    executor: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the ensemble goes."""
        return self.request.out or Path("whet-models") / f"{self.request.task}-ensemble"

    @property
    def command(self) -> str:
        """The command line that asks for this ensemble; it continues rather than begins anew."""
        _, _, *words = shlex.split(replace(self.request, out=self.folder).command)
        words = ["whet", "ensemble", *words]
        for name, values in (("methods", self.methods), ("recipe", map(near, self.recipes))):
            words += [word for value in values for word in (f"--{name}", str(value))]
        usual = {"members": None, "combine": "mean", "jobs": None, "threads": 1, "ray": None}
        given = {name: getattr(self, name) for name in usual} | {"executor": near(self.executor)}
        for name, value in given.items():
            words += [] if value == usual.get(name) else [f"--{name}", str(value)]
        return shlex.join(words)

    def check(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            InputError: naming the options.
        """
        if self.combine not in COMBINED:
            raise UnknownName("way to combine members", self.combine, COMBINED)
        if self.methods and self.recipes:
            raise InputError(
                "--recipe and --methods both say what to train with: give one of them."
            )
        for each in (self.methods, self.recipes):
            twice = sorted({str(one) for one in each if list(each).count(one) > 1})
            if twice:
                raise InputError(
                    f"{', '.join(twice)} stands twice: --members says how many are trained of each."
                )
        if len(self.requests()) < 2:
            raise InputError("an ensemble has two members at least: raise --members.")
        for request in self.requests().values():
            request.check()

    def requests(self) -> dict[str, Request]:
        """What each member is, by its name: every one begins from weights of its own."""
        variants: list[dict[str, Any]] = [{"methods": one} for one in self.methods]
        variants += [{"recipe": one} for one in self.recipes]
        variants = variants or [{}]
        each = self.members or (OF_ONE if len(variants) == 1 else 1)
        found = {}
        for start, variant in enumerate(variants * each):
            said = variant.get("methods") or Path(variant.get("recipe", "")).stem
            name = "-".join([f"{start:02d}", *re.findall(r"[A-Za-z0-9.]+", said)])[:60].rstrip(".")
            out = self.folder / MEMBERS / name
            found[name] = replace(self.request, out=out, start=start, fresh=False, **variant)
        return found
