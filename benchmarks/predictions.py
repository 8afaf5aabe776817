"""A predictor against the loop that is usually written, and views at once against in turns."""

from __future__ import annotations

import time

import torch

from benchmarks.deep import Pictures
from benchmarks.timing import Chunk, timed
from whet import ensembles
from whet.batch import Batch
from whet.objectives.families import family
from whet.predict import ModelPredictor

LAYERS, BATCHES, VIEWS = 8, 8, ["flip", "shift"]


def made(width: int) -> tuple[Pictures, ModelPredictor]:
    torch.manual_seed(0)
    model = Pictures(width, LAYERS)
    return model, ModelPredictor(model, dict(model.state_dict()), family("categorical"))


def rows(count: int) -> list[torch.Tensor]:
    maker = torch.Generator().manual_seed(0)
    return [torch.rand(count, 3, 32, 32, generator=maker) for _ in range(BATCHES)]


def by_hand(width: int, count: int) -> Chunk:
    """Evaluation mode, no gradients, softmax."""
    (model, _), batches = made(width), rows(count)
    model.eval()

    def predict() -> None:
        with torch.no_grad():
            for x in batches:
                model(x).softmax(-1)

    return timed(predict, time.process_time)


def with_whet(width: int, count: int, views: str = "") -> Chunk:
    """The predictor; with `views` the mean over six of them, `batched` or `looped`."""
    (_, predictor), batches = made(width), [Batch(x) for x in rows(count)]
    whole = ensembles.tta(predictor, VIEWS, batched=views == "batched") if views else predictor

    def predict() -> None:
        for batch in batches:
            whole(batch)

    return timed(predict, time.process_time)
