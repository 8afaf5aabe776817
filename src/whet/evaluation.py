"""What a predictor is worth on rows with targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from whet import metrics as measures
from whet import robustness
from whet.batch import Batch
from whet.errors import InputError
from whet.predict import Predictor
from whet.world import World


def predict(
    predictor: Predictor, batches: Iterable[Batch], world: World | None = None,
    logits: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Probabilities (or `logits`) and targets of all items that have a target, as numpy arrays.

    In a `world` each process is given its rows of every batch, and gets those of all.
    """
    probabilities: list[Tensor | None] = []
    targets: list[Tensor | None] = []
    for batch in batches:
        if batch.targets is None or batch.size == 0:
            probabilities.append(None)
            targets.append(None)
            continue
        output = predictor.logits(batch) if logits else predictor(batch)
        output, truth = predictor.family.align(output.cpu(), batch.targets.cpu())
        mask = predictor.family.item_mask(truth)
        rows = None if batch.mask is None else batch.mask.cpu()
        if mask is None:
            mask = rows
        elif rows is not None:
            mask = mask & rows[:, None]
        probabilities.append(output if mask is None else output[mask])
        targets.append(truth if mask is None else truth[mask])
    everybody = World() if world is None else world
    found, truths = everybody.joined(probabilities), everybody.joined(targets)
    if not truths:
        raise InputError("there is nothing to evaluate on: no row of the data has a target.")
    return (torch.cat(found).double().numpy(), np.asarray(torch.cat(truths)))


def judge(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> tuple[dict[str, float], Any, Any]:  # fmt: skip
    """Metrics of a predictor, with the probabilities and targets of the inputs as they are."""
    chosen = wanted(predictor, metrics)
    attacks = [attack for metric in chosen if (attack := metric.attack) is not None]
    rows = list(batches) if attacks else batches
    clean = predict(predictor, rows, world)
    found = measures.evaluate([m for m in chosen if m.attack is None], *clean) if (
        len(attacks) < len(chosen)
    ) else {}  # fmt: skip
    for attack in [one for at, one in enumerate(attacks) if one not in attacks[:at]]:
        moved = (robustness.attacked(predictor.traced, one, attack, at)
                 for at, one in enumerate(rows))  # fmt: skip
        under = [replace(m, attack=None) for m in chosen if m.attack == attack]
        found |= measures.evaluate(under, *predict(predictor, moved, world))
    return {metric.name: found[metric.name] for metric in chosen}, *clean


def evaluate(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> dict[str, float]:  # fmt: skip
    """Metrics of a predictor; the family's defaults where none are named."""
    return judge(predictor, batches, metrics, world)[0]


def score(
    predictor: Predictor, batches: Iterable[Batch], metrics: Sequence[Any] | None = None,
    world: World | None = None,
) -> float:  # fmt: skip
    """The deciding metric, which is the first one; more is better."""
    decisive = wanted(predictor, metrics)[:1]
    [value] = evaluate(predictor, batches, decisive, world).values()
    return value if decisive[0].higher_is_better else -value


def wanted(predictor: Predictor, metrics: Sequence[Any] | None) -> list[measures.Metric]:
    """The metrics to judge by; the family's defaults where none are named."""
    name = predictor.family.name
    if name == "embedding":
        raise InputError(
            "embeddings have no targets to be judged by: train a probe on them (a second stage "
            "with an objective that has targets)."
        )
    return measures.resolve(metrics or measures.defaults(name), name)
