"""Accuracy under attack: the share of rows that stay right wherever they are moved."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from whet import attack as attacks
from whet import ball, compiling, modes, seeding
from whet.adversary import Attack
from whet.batch import Batch
from whet.errors import InputError
from whet.objectives.objective import call, logits

Traced = Callable[[Batch], Tensor]  # probabilities (N, C), with a gradient for the inputs
NAME = "robust_accuracy"


class _Who:
    """What errors say of an attack."""

    key, scope = NAME, "inputs"

    def __init__(self, at: str) -> None:
        self.at = at


def attacked(traced: Traced, batch: Batch, attack: Attack, number: int = 0) -> Batch:
    """The batch with each row where it is told worst, of all restarts and where it was.

    A row is told worse the less its class's probability exceeds the largest other one, so that what
    is wrong as it is stays wrong. Nothing but the batch is made: no gradient of weights, no buffer
    and no generator moves.

    Args:
        traced: from a batch to probabilities `(N, C)`, with a gradient for its inputs.
        batch: rows with classes; those without a target stay as they are.
        attack: how they are moved.
        number: of the batch, by which the random starts are drawn.

    Raises:
        InputError: no floating input matches, std or range fit no channels, inputs lie outside of
            the range, or targets are no classes.
        NotApplicable: the output does not depend on the inputs.
    """
    if batch.targets is None or batch.size == 0:
        return batch
    classes = batch.known_targets()
    if classes.ndim != 1 or classes.is_floating_point():
        raise InputError(
            f"{NAME}: targets have shape {tuple(classes.shape)} and dtype {classes.dtype}; rows "
            "have one class each, (N,)."
        )
    about = (attack.at, attack.epsilon, attack.std, attack.valid_range, attack.norm)
    around = ball.balls(NAME, batch, *about)
    ball.check_range(NAME, around)

    def loss(some: Batch) -> Tensor:
        p = traced(some)
        of_class = p.gather(1, classes.to(p.device)[:, None])
        return -of_class.clamp_min(torch.finfo(p.dtype).tiny).log().sum()

    with seeding.borrowed(), torch.enable_grad():
        worst = {name: one.centre for name, one in around.items()}
        least = _margins(traced, batch, classes)
        for restart in range(attack.restarts if attack.kind == "pgd" else 1):
            key = seeding.key(attack.seed, number, restart)
            points = attacks.started(around, 1.0 if attack.kind == "pgd" else 0.0, key)
            for size in attack.sizes:
                points = attacks.climbed(_Who(attack.at), loss, batch, around, points, size)
            margins = _margins(traced, attacks.moved(batch, points), classes)
            for name, kept in worst.items():
                worse = (margins < least).view(-1, *[1] * (kept.ndim - 1))
                worst[name] = torch.where(worse, points[name], kept)
            least = torch.minimum(margins, least)
    return attacks.moved(batch, worst)


def _margins(traced: Traced, batch: Batch, classes: Tensor) -> Tensor:
    """By how much each row's class exceeds the others; below 0 where the row is wrong."""
    with torch.no_grad():
        p = traced(batch).to(classes.device)
    of_class = p.gather(1, classes[:, None]).squeeze(1)
    return of_class - p.scatter(1, classes[:, None], -1.0).amax(1)


def robust_accuracy(model: Any, loader: Iterable[Any], **settings: Any) -> float:
    r"""Share of rows that a model tells right wherever an attack moves them.

    $$\frac1N \sum_i \bigl[\arg\max f(x_i + \delta) = y_i \text{ for every } \delta \text{ that was
    tried}\bigr], \quad \|\delta\| \le \epsilon$$

    An upper bound of what a stronger attack would leave: give `steps` and `restarts`, and distrust
    a model that resists `kind="fgsm"` and not `pgd`. The model is attacked in evaluation mode;
    modes, weights, gradients, buffers and generators are afterwards what they were.

    Args:
        model: an nn.Module of logits `(N, C)`, or a Predictor.
        loader: batches `(inputs, classes)`, mappings with `labels`, or Batches; rows without a
            target do not count.
        settings: those of `whet.adversary.Attack`: epsilon, kind (`pgd`, `fgsm`), norm (`linf`,
            `l2`), steps, step_size, restarts, std, valid_range, at, seed.

    Cost: of a batch, for each restart `steps` + 1 forwards and `steps` backwards, and 2 forwards.

    Raises:
        InputError: a setting lies outside its range; no row has a target; else as `attacked`.
        NotApplicable: the output does not depend on the inputs.

    Papers: Madry et al. 2018, arXiv:1706.06083; Goodfellow et al. 2015, arXiv:1412.6572.

    >>> model, x, y = nn.Linear(2, 2), torch.rand(8, 2), torch.zeros(8, dtype=torch.long)
    >>> nothing = robust_accuracy(model, [(x, y)], epsilon=0.0)
    >>> robust_accuracy(model, [(x, y)], epsilon=0.1, valid_range=(0, 1), restarts=3) <= nothing
    True
    """
    attack, right, count = Attack(**settings), 0.0, 0.0
    traced = _of_module(model) if isinstance(model, nn.Module) else model.traced
    for number, given in enumerate(loader):
        batch = Batch.of(given)
        if isinstance(model, nn.Module):
            batch = batch.to(next((p.device for p in model.parameters()), batch.device))
        if batch.targets is None or batch.size == 0:
            continue
        moved, rows = attacked(traced, batch, attack, number), batch.rows_with_target()
        with torch.no_grad(), seeding.borrowed():
            told = traced(moved).argmax(1).to(batch.device)
        right += float((told == batch.targets)[rows].sum())
        count += float(rows.sum())
    if count == 0:
        raise InputError(f"{NAME}: there is nothing to evaluate on: no row has a target.")
    return right / count


def _of_module(model: nn.Module) -> Traced:
    def traced(batch: Batch) -> Tensor:
        with modes.evaluation_mode(model), compiling.as_written():
            return logits(call(model, batch.inputs)).float().softmax(-1)

    return traced
