"""Soups of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.ensembles.tiny import PIXELS, picture_model, predictor
from tests.methods.traps import trap
from whet import cosine, ensembles, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.evaluation import evaluate, score
from whet.methods.precise_bn import refresh_batch_statistics
from whet.objectives.families import family
from whet.predict import Calibrated, LivePredictor, ModelPredictor, Predictor, model_state

KIND = family("categorical")


def rows(many: int, seed: int) -> Batch:
    maker = seeding.generator(seed)
    x = torch.randn(many, 6, generator=maker)
    noise = torch.randn(many, 3, generator=maker)
    return Batch(x, (x[:, :3] + noise).argmax(1))


TRAIN, SELECT, JUDGE = rows(120, 0), rows(200, 1), rows(4000, 2)


def linear(seed: int, steps: int = 60, lr: float = 0.1) -> ModelPredictor:
    """Fine-tuned from the same weights, on rows in an order of its own."""
    with seeding.borrowed(0):
        model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    order = torch.randperm(120, generator=seeding.generator(seed))[:40]
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(TRAIN.inputs[order]), TRAIN.targets[order]).backward()
        optimizer.step()
    return ModelPredictor(model, model_state(model), KIND)


def bad(seed: int) -> ModelPredictor:
    with seeding.borrowed(seed):
        model = nn.Linear(6, 3)
        model.weight.data *= 20.0
    return ModelPredictor(model, model_state(model), KIND)


def scattered(number: int) -> ModelPredictor:
    """The best model of the held-out rows, put wrong in one column: so a mean is nearer to it."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(model(SELECT.inputs), SELECT.targets)
        value.backward()
        return value

    optimizer.step(loss)
    model.weight.data[:, number] += torch.tensor([0.5, -0.5, 0.0])
    return ModelPredictor(model, model_state(model), KIND)


def by_the_book(models: list[ModelPredictor], held: Batch) -> tuple[list[int], float]:
    """The recipe, written down once more with running means of plain dictionaries."""
    order = sorted(range(len(models)), key=lambda n: (-score(models[n], [held]), n))
    taken, best = [order[0]], score(models[order[0]], [held])
    for number in order[1:]:
        states = [models[n].state for n in [*taken, number]]
        mixed = {k: torch.stack([s[k] for s in states]).mean(0) for k in states[0]}
        found = score(ModelPredictor(models[0].model, mixed, KIND), [held])
        if found >= best:
            taken, best = [*taken, number], found
    return taken, best


# the value -----------------------------------------------------------------------------------
def test_uniform_is_the_mean_of_the_weights() -> None:
    models = [linear(seed) for seed in range(3)]
    soup = ensembles.uniform_soup(models)
    for name, tensor in soup.state.items():
        each = torch.stack([one.state[name].double() for one in models])
        assert torch.allclose(tensor.double(), each.mean(0), atol=1e-7)
        assert tensor.dtype == torch.float32


def test_of_linear_models_it_is_the_mean_of_the_logits() -> None:
    models = [linear(seed) for seed in range(3)]
    wanted = torch.stack([one.logits(JUDGE) for one in models]).mean(0)
    assert torch.allclose(ensembles.uniform_soup(models).logits(JUDGE), wanted, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_greedy_as_the_paper_writes_it(seed: int) -> None:
    models = [linear(seed * 10 + n, steps=5 * (n + 1), lr=0.3) for n in range(5)]
    models.insert(2, bad(seed))
    soup = ensembles.greedy_soup(models, SELECT)
    taken, best = by_the_book(models, SELECT)
    assert list(soup.taken) == taken
    assert soup.score == pytest.approx(best)
    assert soup.scores == tuple(score(one, [SELECT]) for one in models)
    assert soup.score >= max(soup.scores)
    assert soup.metric == "accuracy"
    assert score(soup.predictor, [SELECT]) == soup.score


def test_equals_the_uniform_soup_where_all_help() -> None:
    models = [scattered(number) for number in (2, 3, 4, 5)]
    losses: list[Any] = ["log_loss"]
    soup = ensembles.greedy_soup(models, SELECT, metrics=losses)
    assert sorted(soup.taken) == [0, 1, 2, 3]
    wanted = ensembles.uniform_soup(models)
    assert all(torch.equal(soup.predictor.state[k], wanted.state[k]) for k in wanted.state)
    assert soup.score == -evaluate(wanted, [SELECT], losses)["log_loss"]


def test_one_that_spoils_it_stays_out() -> None:
    soup = ensembles.greedy_soup([bad(1), linear(0), bad(2), linear(1)], SELECT)
    assert set(soup.taken) <= {1, 3}
    uniform = ensembles.uniform_soup([bad(1), linear(0), bad(2), linear(1)])
    assert score(soup.predictor, [JUDGE]) > score(uniform, [JUDGE]) + 0.2


def test_of_one_model_it_is_that_model() -> None:
    one = linear(0)
    assert ensembles.greedy_soup([one], SELECT).predictor is one
    assert torch.equal(ensembles.uniform_soup([one])(JUDGE), one(JUDGE))


def test_models_and_generators_stay_what_they_are() -> None:
    models = [predictor(seed) for seed in range(2)]
    before = [model_state(one.model) for one in models]
    drawn = torch.get_rng_state()
    ensembles.uniform_soup(models, train=(PIXELS, torch.arange(6) % 3))
    for one, kept in zip(models, before, strict=True):
        assert all(torch.equal(kept[k], v) for k, v in one.model.state_dict().items())
        assert one.model.training
    assert torch.equal(drawn, torch.get_rng_state())


# batch statistics ----------------------------------------------------------------------------
def normed(seed: int) -> ModelPredictor:
    """Models whose layer before the norm points the other way in every second one."""
    with seeding.borrowed(0):
        model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    with seeding.borrowed(seed):
        for parameter in model.parameters():
            parameter.data += 0.5 * torch.randn_like(parameter)
    refresh_batch_statistics(model, [TRAIN])
    return ModelPredictor(model, model_state(model), KIND)


def test_statistics_are_of_the_mixed_weights() -> None:
    models = [normed(seed) for seed in range(3)]
    soup = ensembles.uniform_soup(models, train=[TRAIN])
    model = models[0].model
    model.load_state_dict(soup.state)
    hidden = model[0](TRAIN.inputs).detach().double()
    assert torch.allclose(soup.state["1.running_mean"].double(), hidden.mean(0), atol=1e-6)
    assert torch.allclose(
        soup.state["1.running_var"].double(), hidden.var(0, unbiased=False), atol=1e-5
    )


@trap(right=lambda models: ensembles.uniform_soup(models, train=[TRAIN]),
      wrong=ensembles.uniform_soup)  # fmt: skip
def test_a_mean_of_the_statistics_is_of_no_layer(soup: Any) -> None:
    """The variance of a mean of weights is not the mean of their variances: 4 times too large."""
    mixed = soup([normed(seed) for seed in range(4)])
    hidden = F.linear(TRAIN.inputs, mixed.state["0.weight"], mixed.state["0.bias"])
    ratio = (mixed.state["1.running_var"] / hidden.var(0, unbiased=False)).mean()
    assert ratio.item() == pytest.approx(1.0, abs=1e-3)


def test_a_norm_that_was_frozen_keeps_its_statistics() -> None:
    first = normed(0)
    other = ModelPredictor(first.model, {**first.state, "3.bias": torch.ones(3)}, KIND)
    shifted = Batch(TRAIN.inputs + 5.0, TRAIN.targets)
    soup = ensembles.uniform_soup([first, other], train=[shifted])
    assert torch.equal(soup.state["1.running_mean"], first.state["1.running_mean"])


def test_rows_for_statistics_of_any_kind() -> None:
    models, whole = [normed(seed) for seed in range(2)], (TRAIN.inputs, TRAIN.targets)
    wanted = ensembles.uniform_soup(models, train=[TRAIN]).state["1.running_var"]
    for given in (whole, TRAIN, iter([TRAIN]), lambda: [TRAIN]):
        found = ensembles.uniform_soup(models, train=given).state["1.running_var"]
        assert torch.allclose(found, wanted, atol=1e-5)
    odd = (torch.randn(257, 6), torch.zeros(257, dtype=torch.long))  # leaves a batch of one row
    ensembles.uniform_soup(models, train=odd)


# what does not go in -------------------------------------------------------------------------
def test_other_architectures() -> None:
    with pytest.raises(InputError, match=r"model 1 is of another.*0\.weight: \(2, 1, 3"):
        ensembles.uniform_soup([predictor(0), predictor(1, width=2)])
    twin = nn.Sequential(*picture_model(1))
    twin[2] = nn.Tanh()  # which has no weights to tell by
    other = ModelPredictor(twin, model_state(twin), KIND)
    with pytest.raises(InputError, match=r"model 1 is of another.*2: Tanh for ReLU"):
        ensembles.greedy_soup([predictor(0), other], Batch(PIXELS, torch.arange(6) % 3))
    with pytest.raises(InputError, match="family: real for categorical"):
        ensembles.uniform_soup([predictor(0), predictor(1, "real")])
    headed = ModelPredictor(linear(0).model, linear(0).state, KIND, heads={"": 8.0})
    with pytest.raises(InputError, match=r"cosine heads: \{'': 8.0\} for \{\}"):
        ensembles.uniform_soup([linear(0), headed])


def test_what_is_no_single_model() -> None:
    one = linear(0)
    odd: list[Predictor] = [
        ensembles.mean([one, one]), ensembles.tta(predictor(0)), Calibrated(one, 2.0),
        LivePredictor(one.model, one.state, KIND),
    ]  # fmt: skip
    for other in odd:
        name = type(other).__name__
        with pytest.raises(InputError, match=f"predictor 1 is a {name}, and a soup"):
            ensembles.uniform_soup([one, other])
    with pytest.raises(InputError, match="at least one model"):
        ensembles.greedy_soup([], SELECT)


def test_a_score_that_is_not_defined() -> None:
    alike = Batch(SELECT.inputs, torch.zeros_like(SELECT.targets))
    with pytest.raises(InputError, match="auc is not defined on these rows"):
        ensembles.greedy_soup([linear(0)], alike, metrics=["auc"])


def test_cosine_heads_are_kept() -> None:
    models = [ModelPredictor(one.model, one.state, KIND, heads={"": 8.0}) for one in
              (linear(0), linear(1))]  # fmt: skip
    soup = ensembles.uniform_soup(models)
    wanted = cosine.cosines(JUDGE.inputs, soup.state["weight"], 8.0)
    assert torch.allclose(soup.logits(JUDGE), wanted, atol=1e-5)


# the trap ------------------------------------------------------------------------------------
def reported(part: str) -> tuple[float, float]:
    """Accuracy on the judge part, and on many rows, of a soup of models that know nothing."""
    maker = seeding.generator(5)

    def guessed(many: int) -> Batch:
        x = torch.randn(many, 6, generator=maker)
        return Batch(x, torch.randint(3, (many,), generator=maker))

    few, many = {"select": guessed(60), "judge": guessed(60)}, guessed(5000)
    soup = ensembles.greedy_soup([bad(seed) for seed in range(30)], few[part]).predictor
    return score(soup, [few["judge"]]), score(soup, [many])


@trap(right=lambda: reported("select"), wrong=lambda: reported("judge"))
def test_a_soup_is_not_chosen_by_what_judges_it(report: Any) -> None:
    """Of 30 models that guess one of three classes: 0.48 is reported where it is 0.34."""
    here, truly = report()
    assert truly == pytest.approx(1 / 3, abs=0.03)
    assert here < truly + 0.1
