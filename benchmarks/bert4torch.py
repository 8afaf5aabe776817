"""bert4torch's callbacks in torch4keras's trainer, where both are found.

The package itself imports torchvision, which many builds of torch do not go with; its callbacks and
averages need torch4keras alone, so those two files are run by themselves.
"""

from __future__ import annotations

import importlib.util
import time
from functools import cache
from importlib.machinery import SourceFileLoader
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks.deep import Work
from benchmarks.engines import adamw
from benchmarks.peers import Feed
from benchmarks.timing import Chunk

NEEDED = ("bert4torch", "torch4keras")


def lacking() -> str | None:
    """Why it cannot be measured; None where it can."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return (
        f"{' and '.join(absent)} not found: `pip install --no-deps --target FOLDER "
        f"{' '.join(NEEDED)}`, and PYTHONPATH=FOLDER"
    )


def named() -> str:
    """Name and version."""
    return f"bert4torch {version('bert4torch')}"


@cache
def _file(name: str) -> ModuleType:
    package = importlib.util.find_spec("bert4torch")
    assert package is not None
    folder = next(iter(package.submodule_search_locations or []))
    module = ModuleType(f"bert4torch_{name}")
    SourceFileLoader(module.__name__, str(Path(folder) / f"{name}.py")).exec_module(module)
    return module


class Loader(Feed):
    """What its trainer asks of a loader besides batches."""

    def __init__(self, work: Work) -> None:
        super().__init__(work.batches, lambda x, y: (x, y), time.process_time)
        self.batch_size, self.sampler = work.batch, None


def trained(work: Work, mode: str | None = None) -> Chunk:
    """Its trainer, with a callback of its or alone; a fit's beginning and end are not counted."""
    from torch4keras.trainer import Trainer

    model = work.model()
    optimizer = adamw(model.parameters())

    def chunk() -> float:
        loader, trainer = Loader(work), Trainer(model)  # anew: a fit leaves its callback in it
        trainer.compile(loss=nn.CrossEntropyLoss(), optimizer=optimizer)
        steps = loader.before + work.steps + loader.after
        callbacks = [] if mode is None else [_callback(mode, model)]
        trainer.fit(loader, steps_per_epoch=steps, callbacks=callbacks, verbose=0)
        for module in model.modules():
            module._forward_hooks.clear()  # and one in the model
        return loader.end - loader.begin

    return chunk


def _callback(mode: str, model: nn.Module) -> Any:
    if mode != "ema":
        return _file("callbacks").AdversarialTraining(mode, {"emb_name": "words"})
    from torch4keras.callbacks import LambdaCallback

    average = _file("optimizers").extend_with_exponential_moving_average(model, 0.999)
    return LambdaCallback(on_batch_end=lambda *_: average.step())
