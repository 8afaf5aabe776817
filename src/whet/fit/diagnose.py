"""Trainings that look for what is wrong or slow. They keep no model and nothing to go on from."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from whet import sources
from whet.callback import Callback
from whet.diagnosis import TABLE, TRACE, Overfit, Profile
from whet.errors import NonFiniteLoss
from whet.fit import recipes
from whet.fit.request import Request
from whet.run import Run

SHOWN = 10  # operations
WARM_UP = 2  # updates before a profile records
FRAME = re.compile(r"^(  File \"(.+?)\", line \d+, in .+\n(?:    .+\n)?)", re.MULTILINE)
WHET, TORCH = Path(__file__).parents[1], Path(torch.__file__).parent
GAVE_NAN = re.compile(r"Function '(\w+)' returned nan values")


@dataclass
class Diagnosis:
    """What was found.

    Args:
        said: in sentences.
        operations: the dearest ones: name, calls, and seconds of their own.
        found: whether something is wrong.
    """

    said: list[str] = field(default_factory=list)
    operations: list[tuple[str, int, float]] = field(default_factory=list)
    found: bool = False


def diagnose(request: Request) -> Diagnosis:
    """Train as the request says, and tell what comes of it.

    `overfit` and `anomaly` train the whole length; `profile` alone as long as it records.

    Raises:
        InputError: the request, the task or the recipe has a mistake.
    """
    request.check()
    source = sources.load(request.task, request.file)
    profile = None if request.profile is None else Profile(request.folder, request.profile)
    first = FirstNaN() if request.anomaly else None
    watching: list[Callback] = [each for each in (profile, first) if each is not None]
    _, run = recipes.made(
        request, source, overfit=request.overfit, anomaly=request.anomaly, callbacks=watching
    )
    told = Diagnosis()
    whole = request.anomaly or request.overfit is not None
    with _nan(told, run, first):
        run.fit(until=None if whole else WARM_UP + (request.profile or 0))
    if request.overfit is not None and not told.found:
        [watch] = [each for each in run.callbacks if isinstance(each, Overfit)]
        _, learned = watch.verdict(run)  # which the run's notes and its bar have told
        told.found = not learned
    if profile is not None:
        _add_profile(told, profile, request)
    return told


def _add_profile(told: Diagnosis, profile: Profile, request: Request) -> None:
    told.operations = profile.dearest[:SHOWN]
    if profile.dearest:
        told.said.append(
            f"trace: {request.folder / TRACE} (open it in Perfetto or chrome://tracing); "
            f"all operations: {request.folder / TABLE}"
        )
    else:
        told.said.append(
            f"profile: nothing was traced, for {WARM_UP} updates are its warm-up and the training "
            "has no more. Train longer (--updates)."
        )
        told.found = True


class FirstNaN(Callback):
    """The first module that gave a NaN though it was given none.

    Autograd's own search begins in the backward pass: where the forward had made a NaN already, it
    names the loss's last operation.
    """

    def __init__(self) -> None:
        self.module: str | None = None
        self._hooks: list[Any] = []

    def began(self, run: Run) -> None:
        """Look at every module's output; a child is looked at before its parent."""
        for name, module in run.module.named_modules():
            look = partial(self._look, f"{name or 'the model'} ({type(module).__name__})")
            self._hooks.append(module.register_forward_hook(look, with_kwargs=True))

    def _look(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self.module is None and _has_nan(output) and not _has_nan([args, kwargs]):
            self.module = name

    def ended(self, run: Run, error: BaseException | None) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()


def _has_nan(values: Any) -> bool:
    if isinstance(values, Tensor):
        return values.is_floating_point() and bool(values.isnan().any())
    several = values.values() if isinstance(values, Mapping) else values
    return isinstance(values, Mapping | list | tuple) and any(map(_has_nan, several))


@contextmanager
def _nan(told: Diagnosis, run: Run, first: FirstNaN | None) -> Iterator[None]:
    """With `anomaly`, a NaN is what is looked for, and no failure."""
    if first is None:
        yield
        return
    with warnings.catch_warnings(record=True) as warned:
        warnings.filterwarnings("always", "Error detected in")
        try:
            yield
        except NonFiniteLoss as error:
            said = str(error)
        except RuntimeError as error:
            named = GAVE_NAN.search(str(error))
            if named is None:
                raise
            said = _backward(named[1], run, [str(each.message) for each in warned])
        else:
            told.said.append(f"anomaly: no NaN in {run.updates} updates, forward or backward.")
            return
    if first.module is not None:  # where it comes to be; the backward pass only meets it
        said = f"update {run.updates + 1} has its first NaN in the forward pass of {first.module}."
    told.said.append(f"anomaly: {said}")
    told.found = True


def _backward(operation: str, run: Run, warned: Sequence[str]) -> str:
    where = "".join(f"\n{frame}" for text in warned for frame in _own(text))
    called = f", which was called in{where}" if where else ""
    return f"the first NaN of a backward pass is {operation}'s, in update {run.updates + 1}{called}"


def _own(warning: str) -> list[str]:
    """The frames of the forward call that are the model's: below whet's, and not torch's."""
    frames = FRAME.findall(warning)
    of_whet = [n for n, (_, path) in enumerate(frames) if Path(path).is_relative_to(WHET)]
    below = frames[of_whet[-1] + 1 :] if of_whet else frames
    return [frame.rstrip() for frame, path in below if not Path(path).is_relative_to(TORCH)]
