"""Soups: one model whose weights are the mean of several models' weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from whet import compiling, cosine, evaluation, exported, modes, objectives
from whet.batch import Batch
from whet.batch_statistics import precise_statistics
from whet.errors import InputError
from whet.loading import in_order, open_loader
from whet.predict import ModelPredictor, Predictor, State

ROWS = 256  # of a batch that statistics are made of


@dataclass(frozen=True)
class Soup:
    """What a greedy soup is made of.

    Args:
        predictor: the one model.
        taken: numbers of the models in it, in the order in which they came in.
        score: of the soup on the rows that it was chosen by.
        scores: of each model alone.
        metric: of which the scores are; signed so that more is better.
    """

    predictor: ModelPredictor
    taken: tuple[int, ...]
    score: float
    scores: tuple[float, ...]
    metric: str


def uniform_soup(predictors: Sequence[Predictor], train: Any = None) -> ModelPredictor:
    r"""One model with the mean of all models' weights.

    $$\theta = \frac1K \sum_k \theta_k$$

    That is a model where they were trained on from common weights: fine-tuned from one pre-trained
    model, or taken along one training. Of models that began apart it is no better than chance.

    Args:
        predictors: of one model each, all of one architecture.
        train: rows from which batch statistics are computed anew for the mean; without them the
            models' own are averaged, which is right for none of its layers.

    Cost: no pass, or one over `train`; predicting costs a single forward.

    Raises:
        InputError: the models are of several architectures, or a predictor is no single model.

    Paper: Wortsman et al. 2022, arXiv:2203.05482.

    >>> import whet
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> stage = whet.Stage(updates=2, batch_size=20)
    >>> def fitted(seed):
    ...     torch.manual_seed(0)                            # from the same weights
    ...     return whet.Run(whet.Task(torch.nn.Linear(4, 3), (x, y)), stage, seed).fit().predictor()
    >>> uniform_soup([fitted(0), fitted(1)])(whet.Batch(x)).shape
    torch.Size([60, 3])
    """
    models = _checked(predictors)
    return _mixed(models, range(len(models)), train)


def greedy_soup(
    predictors: Sequence[Predictor], held: Any, train: Any = None,
    metrics: Sequence[Any] | None = None,
) -> Soup:  # fmt: skip
    """One model with the mean weights of those models that help it.

    The models are tried from the best to the worst on held-out rows; each is taken in if the score
    of the soup does not fall, so that it ends no worse than the best of them, there. On the rows
    that chose, the score comes out a little too good: judge the soup on others.

    Args:
        predictors: as for `uniform_soup`.
        held: rows that no model was trained on: `run.batches("select")`, data, or batches.
        train: rows from which batch statistics are computed anew, for every soup that is tried.
        metrics: the first one decides; the family's default if None.

    Cost: 2K - 1 forwards of the held-out rows, and K - 1 of `train`.

    Raises:
        InputError: as `uniform_soup`; or the score of a model is not defined on these rows.

    Paper: Wortsman et al. 2022, arXiv:2203.05482.

    >>> import whet
    >>> x, y = torch.randn(60, 4), torch.arange(60) % 3
    >>> def fitted(lr):
    ...     torch.manual_seed(0)                            # from the same weights
    ...     stage = whet.Stage(updates=5, batch_size=20, optimizer={"name": "sgd", "lr": lr})
    ...     return whet.Run(whet.Task(torch.nn.Linear(4, 3), (x, y)), stage).fit().predictor()
    >>> soup = greedy_soup([fitted(lr) for lr in (0.01, 0.1, 1.0)], held=(x, y))
    >>> soup.score >= max(soup.scores), soup.metric
    (True, 'accuracy')
    """
    models, batches = _checked(predictors), list(in_order(held))
    metric = evaluation.wanted(models[0], metrics)[0]
    scores = [evaluation.score(one, batches, [metric]) for one in models]
    if any(map(math.isnan, scores)):
        raise InputError(f"{metric.name} is not defined on these rows, and cannot choose models.")
    best, *others = sorted(range(len(models)), key=lambda number: -scores[number])
    taken, score, soup = [best], scores[best], models[best]
    for number in others:
        tried = _mixed(models, [*taken, number], train)
        found = evaluation.score(tried, batches, [metric])
        if found >= score:
            taken, score, soup = [*taken, number], found, tried
    return Soup(soup, tuple(taken), score, tuple(scores), metric.name)


def _mixed(models: Sequence[ModelPredictor], taken: Sequence[int], train: Any) -> ModelPredictor:
    first, states = models[0], [models[number].state for number in sorted(taken)]
    mixed = ModelPredictor(
        first.model, averaged(states), first.family, first.autocast, first.heads
    )  # fmt: skip
    norms = {
        name: norm for name, norm in modes.batch_norms(first.model).items()
        if not _alike(f"{name}.running_mean", states)  # one that was frozen keeps its statistics
    }  # fmt: skip
    if train is not None and norms:
        mixed.state = _with_statistics(mixed, norms, train)
    return mixed


def _alike(name: str, states: Sequence[State]) -> bool:
    return all(torch.equal(state[name], states[0][name]) for state in states[1:])


@torch.no_grad()
def averaged(states: Sequence[State]) -> State:
    """The mean of each tensor over the states, in double precision; integers are the first one's.

    >>> averaged([{"w": torch.tensor([1.0])}, {"w": torch.tensor([4.0])}])
    {'w': tensor([2.5000])}
    """

    def mean(name: str, first: Tensor) -> Tensor:
        if not first.is_floating_point():
            return first.clone()
        total = sum((state[name].to(first.device).double() for state in states[1:]), first.double())
        return (total / len(states)).to(first.dtype)

    return {name: mean(name, tensor) for name, tensor in states[0].items()}


def _with_statistics(
    one: ModelPredictor, norms: Mapping[str, _BatchNorm], train: Any
) -> State:  # fmt: skip
    """Its state with the batch statistics that the rows have under its weights."""
    state = dict(one.state)
    tensors = one.model.state_dict(keep_vars=True)
    values = [state[name] for name in tensors]
    device = next(iter(tensors.values())).device

    def call(batch: Batch) -> Any:
        return objectives.call(one.model, batch.to(device).inputs)

    with (
        modes.standing_in(list(tensors.values()), values), compiling.as_written(), one.autocast(),
        cosine.applied(one.model, one.heads),
    ):  # fmt: skip
        found = precise_statistics(one.model, _training_rows(train), call, norms)
    for name, (mean, variance) in found.items():
        state[f"{name}.running_mean"] = mean.to(state[f"{name}.running_mean"])
        state[f"{name}.running_var"] = variance.to(state[f"{name}.running_var"])
    return state


def _training_rows(train: Any) -> Iterator[Batch]:
    """Mixed, as in training; without a batch of one row, which has no statistics."""
    given = isinstance(train, Batch | list | Iterator) or callable(train)
    loader = None if given else open_loader(train, ROWS, purpose="statistics")
    batches = in_order(train) if loader is None else loader.epoch(0)
    return (batch for batch in batches if batch.size > 1)


def _checked(predictors: Sequence[Predictor]) -> list[ModelPredictor]:
    if not predictors:
        raise InputError("a soup needs at least one model.")
    models = []
    for number, one in enumerate(predictors):
        if type(one) is not ModelPredictor:
            raise InputError(
                f"predictor {number} is a {type(one).__name__}, and a soup is of single models' "
                "weights. Give the models; average over views, or calibrate, what comes out."
            )
        models.append(one)
    for number, one in enumerate(models[1:], 1):
        odd = _differences(models[0], one)
        if odd:
            raise InputError(
                f"model {number} is of another architecture than model 0 ({'; '.join(odd[:4])}): "
                "their weights have no mean. Use ensembles.mean, which averages predictions."
            )
    return models


def _differences(a: ModelPredictor, b: ModelPredictor) -> list[str]:
    parts = []
    for one in (a, b):
        kinds = {name: type(part).__qualname__ for name, part in one.model.named_modules()}
        forms = {name: exported.form_of(tensor) for name, tensor in one.state.items()}
        about = {"family": one.family.name, "cosine heads": one.heads}
        parts.append({**about, **{n or "model": k for n, k in kinds.items()}, **forms})
    ours, theirs = parts
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return [f"{name}: {theirs.get(name, 'none')} for {ours.get(name, 'none')}" for name in names]
