"""Temperature scaling."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_run, make_stack, make_task, weights
from tests.methods.traps import trap
from whet import methods, metrics, seeding
from whet.batch import Batch
from whet.errors import CheckpointError, InputError, NotApplicable
from whet.evaluation import predict
from whet.methods.ema import EMA
from whet.methods.snapshot import Snapshot
from whet.methods.temperature import Temperature
from whet.methods.temperature_scaling import TemperatureScaling, fit_temperature
from whet.objectives.families import family
from whet.predict import (
    Calibrated,
    MeanPredictor,
    ModelPredictor,
    Predictor,
    as_logits,
    model_state,
)
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

CASE = Case(TemperatureScaling(), trains=False, judged=True)

BATCH = Batch.of(data(20, 2))


def sure(rows: int = 500, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits that are three times what the classes were drawn from: the best T is near 3."""
    maker = seeding.generator(seed)
    z = torch.randn(rows, classes, generator=maker).double()
    return 3 * z, torch.multinomial(z.softmax(1), 1, generator=maker)[:, 0]


def oracle(loss: Callable[[float], float]) -> float:
    found = minimize_scalar(
        lambda log: loss(math.exp(log)), bounds=(-4, 4), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    return math.exp(found.x)


# the core ------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(3))
def test_scipy_finds_the_same(seed: int) -> None:
    z, y = sure(seed=seed)
    theirs = oracle(lambda t: F.cross_entropy(z / t, y).item())
    assert fit_temperature(z, y) == pytest.approx(theirs, rel=1e-5)
    assert fit_temperature(z / 50, y) == pytest.approx(theirs / 50, rel=1e-5)


def test_scipy_finds_the_same_for_labels_and_soft_targets() -> None:
    z, _ = sure(classes=4)
    labels = (
        torch.rand(500, 4, generator=seeding.generator(9)).double() < (z / 2).sigmoid()
    ).long()
    theirs = oracle(lambda t: F.binary_cross_entropy_with_logits(z / t, labels.double()).item())
    assert fit_temperature(z, labels, family("multi-label")) == pytest.approx(theirs, rel=1e-5)
    soft = (z / 5).softmax(1)
    assert fit_temperature(z, soft) == pytest.approx(5.0, rel=1e-5)


def test_by_hand() -> None:
    z = torch.tensor([[4.0, 0.0]] * 4)  # 3 of 4 right: the best probability is 3/4
    assert fit_temperature(z, torch.tensor([0, 0, 0, 1])) == pytest.approx(4 / math.log(3))


def test_where_nothing_bounds_it() -> None:
    z = torch.tensor([[4.0, 0.0]] * 3)
    right, wrong = torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)
    assert 0.01 <= fit_temperature(z, right) < 0.3
    assert fit_temperature(z, wrong) == pytest.approx(100.0)
    assert fit_temperature(z, wrong, limit=5.0) == pytest.approx(5.0)
    assert fit_temperature(0 * z, wrong) == 1.0


def at_a_fixed_rate(logits: Tensor, targets: Tensor) -> float:
    """As it is copied around: L-BFGS over T itself, lr=0.01, from 1.5."""
    temperature = nn.Parameter(torch.ones(1) * 1.5)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / temperature, targets)
        loss.backward()
        return loss

    optimizer.step(closure)
    return temperature.item()


@trap(right=fit_temperature, wrong=at_a_fixed_rate)
def test_the_search_arrives(fit: Any) -> None:
    """Without a line search it stops at 1.72, where the best T is 2.70."""
    z, y = sure()
    best = oracle(lambda t: F.cross_entropy(z / t, y).item())
    assert best == pytest.approx(2.6994, abs=1e-3)
    assert fit(z, y) == pytest.approx(best, rel=1e-3)


# the method ----------------------------------------------------------------------------------
def trained(*given: Any, **changes: Any) -> Run:
    return make_run([*given], **changes).fit()


def test_is_fitted_to_the_select_part_and_to_nothing_else() -> None:
    plain, ours = trained(), trained(TemperatureScaling())
    assert equal(weights(plain.module), weights(ours.module))
    select = Batch.of(data(20, 1))
    z = plain.predictor().logits(select)
    wanted = fit_temperature(z, select.targets)
    found = ours.predictor()
    assert isinstance(found, Calibrated)
    assert found.temperature == pytest.approx(wanted, rel=1e-6)
    assert torch.allclose(found(BATCH), (plain.predictor().logits(BATCH) / wanted).softmax(1))


def fitted(part: str) -> float:
    run = trained()
    logits, targets = predict(run.predictor(), run.batches(part), logits=True)
    return fit_temperature(torch.from_numpy(logits), torch.from_numpy(targets))


@trap(right=lambda: fitted("select"), wrong=lambda: fitted("judge"))
def test_the_judge_part_is_not_looked_at(temperature: Any) -> None:
    ours = trained(TemperatureScaling()).predictor()
    assert ours.temperature == pytest.approx(temperature(), rel=1e-4)


def test_tells_the_error_before_and_after() -> None:
    run = trained(TemperatureScaling())
    calibrated = run.predictor()
    [method] = run.stack.methods
    told = method.readings()
    pairs = {
        "ece_before": predict(calibrated.inner, run.batches("select")),
        "ece_after": predict(calibrated, run.batches("select")),
    }
    for name, pair in pairs.items():
        ece = metrics.METRICS["ece"].compute(*pair)
        assert told[name] == pytest.approx(ece, abs=1e-6)
        assert ece == pytest.approx(by_bins(*pair), abs=1e-9)
    assert told["temperature"] == calibrated.temperature


def by_bins(p: Any, y: Any) -> float:
    """15 bins, each without its lower edge and with its upper one."""
    top, right, total = p.max(1), p.argmax(1) == y, 0.0
    for low in np.arange(15) / 15:
        inside = (top > low) & (top <= low + 1 / 15 + 1e-12)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - top[inside].mean())
    return total


def test_calibrates_what_is_overconfident() -> None:
    """On rows that were not fitted to, of a model that is three times too sure."""
    z, y = sure(4000)
    held, fresh = slice(0, 2000), slice(2000, 4000)
    temperature = fit_temperature(z[held], y[held])
    errors = [
        metrics.METRICS["ece"].compute((z[fresh] / t).softmax(1).numpy(), y[fresh].numpy())
        for t in (1.0, temperature)
    ]
    assert errors[0] > 0.25
    assert errors[1] < 0.05


def test_limit_one_changes_nothing() -> None:
    run = trained(TemperatureScaling(limit=1.0))
    assert torch.equal(run.predictor()(BATCH), trained().predictor()(BATCH))


def test_an_ensemble_is_calibrated_as_a_whole() -> None:
    for order in ([TemperatureScaling(), Snapshot(2)], [Snapshot(2), TemperatureScaling()]):
        run = trained(*order)
        found = run.predictor()
        assert isinstance(found, Calibrated)
        assert isinstance(found.inner, MeanPredictor)
        select = Batch.of(data(20, 1))
        log_p, y = found.inner(select).double().log(), select.targets
        best = oracle(lambda t, z=log_p, y=y: F.cross_entropy(z / t, y).item())
        assert found.temperature == pytest.approx(best, rel=1e-4)


def test_weights_that_are_judged_are_calibrated() -> None:
    run, plain = trained(EMA(0.9), TemperatureScaling()), trained(EMA(0.9))
    z = plain.predictor().logits(Batch.of(data(20, 1)))
    wanted = fit_temperature(z, Batch.of(data(20, 1)).targets)
    assert run.predictor().temperature == pytest.approx(wanted, rel=1e-6)


def test_after_a_training_temperature() -> None:
    tempered = trained(Temperature(3.0, judged="tempered"), TemperatureScaling()).predictor()
    plain = trained(Temperature(3.0), TemperatureScaling()).predictor()
    assert 3.0 * tempered.temperature == pytest.approx(plain.temperature, rel=1e-4)


def test_evaluating_moves_no_generator_and_no_mode() -> None:
    run = trained(TemperatureScaling())
    before = torch.get_rng_state()
    run.predictor()
    assert torch.equal(before, torch.get_rng_state())
    assert run.module.training


# saved ---------------------------------------------------------------------------------------
def saved(predictor: Predictor, path: Path) -> Predictor:
    predictor.save(path)
    return Predictor.load(path, make_task(3).model)


@pytest.mark.parametrize("given", [[], [Snapshot(2)]], ids=len)
def test_the_temperature_is_saved(given: list[Any], tmp_path: Path) -> None:
    found = trained(TemperatureScaling(), *given).predictor()
    again = saved(found, tmp_path / "model")
    assert isinstance(again, Calibrated)
    assert torch.equal(again(BATCH), found(BATCH))
    assert len(again.models()) == len(again.members()) == max(1, 2 * len(given))


def test_a_mean_of_calibrated_ones_is_saved(tmp_path: Path) -> None:
    one = trained().predictor()
    mean = MeanPredictor([Calibrated(one, 2.0), MeanPredictor([one, Calibrated(one, 0.5)])])
    assert torch.equal(saved(mean, tmp_path / "model")(BATCH), mean(BATCH))


def test_a_plain_predictor_is_saved_as_ever(tmp_path: Path) -> None:
    from safetensors import safe_open

    one = trained().predictor()
    for number, plain in enumerate((one, MeanPredictor([one, one]))):
        plain.save(tmp_path / str(number))
        with safe_open(tmp_path / str(number), framework="pt") as file:
            about = json.loads(file.metadata()["whet"])
        assert about == {"family": "categorical", "members": number + 1}


BAD: list[Any] = [
    {"temperature": 0, "of": {}}, {"temperature": "2", "of": {}}, {"temperature": 2.0},
    {"temperature": float("inf"), "of": {}}, [{}, {}], [], "plain", None, 3, {"cosine": 3},
    {"cosine": {"nothing": 2.0}}, {"cosine": {"norm": 2.0}}, {"cosine": {"head": -1}},
]  # fmt: skip


@pytest.mark.parametrize("form", BAD, ids=str)
def test_a_form_that_does_not_fit_is_refused(form: Any, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    run = trained()
    tensors = {f"0/{name}": tensor for name, tensor in model_state(run.module).items()}
    about = {"family": "categorical", "members": 1, "form": form}
    save_file(tensors, tmp_path / "model", {"whet": json.dumps(about)})
    with pytest.raises(CheckpointError, match="no predictor that whet saved"):
        Predictor.load(tmp_path / "model", make_task().model)


def test_logits_are_those_of_the_probabilities() -> None:
    """Of a model the logits themselves, which keep what a probability of 1 has lost."""
    model = nn.Linear(1, 2, bias=False)
    model.weight.data = torch.tensor([[40.0], [0.0]])
    for name in ("categorical", "multi-label"):
        one = ModelPredictor(model, model_state(model), family(name))
        batch = Batch(torch.ones(1, 1))
        assert one(batch)[0, 0] == 1.0
        assert one.logits(batch)[0, 0] == 40.0
        half = Calibrated(one, 4.0)(batch)[0, 0].item()
        assert half == pytest.approx(1 / (1 + math.exp(-10.0)), rel=1e-6)


def by_probabilities(predictor: Predictor, batch: Batch) -> Tensor:
    """Of the mean in single precision, which is 1 where the rest is below 6e-8."""
    return as_logits(predictor(batch), predictor.family)


@trap(right=lambda predictor, batch: predictor.logits(batch), wrong=by_probabilities)
def test_the_logits_of_a_mean_keep_its_ends(logits: Any) -> None:
    model = nn.Linear(1, 2, bias=False)
    members = []
    for high in (22.0, 26.0):
        model.weight.data = torch.tensor([[high], [-high]])
        members.append(ModelPredictor(model, model_state(model), family("multi-label")))
    found = logits(MeanPredictor(members), Batch(torch.ones(1, 1)))[0]
    rest = (math.exp(-22) + math.exp(-26)) / 2  # nearly 1 - sigmoid
    assert found.tolist() == pytest.approx([-math.log(rest), math.log(rest)], abs=1e-4)


def test_the_logits_of_a_mean_are_of_its_probabilities() -> None:
    run = trained(Snapshot(2))
    mean = run.predictor()
    assert torch.allclose(mean.family.probabilities(mean.logits(BATCH)), mean(BATCH), atol=1e-6)


def test_costs_a_forward_of_the_select_part() -> None:
    stack = make_stack([TemperatureScaling()])
    rows: list[int] = []
    stack.run.module.head.register_forward_hook(lambda m, args, out: rows.append(len(out)))
    stack.step(Batch.of(data()).take(slice(0, 6)))
    predictor = stack.predictor()
    assert rows == [6, 20]
    predictor(BATCH)
    assert rows == [6, 20, 20]


# where it applies ----------------------------------------------------------------------------
def test_a_run_without_a_select_part_says_so() -> None:
    task = Task(nn.Linear(2, 2), (torch.ones(8, 2), torch.zeros(8, dtype=torch.long)))
    stage = Stage(updates=2, methods=["temperature_scaling"])
    with pytest.raises(InputError, match=r"resource \(needed by temperature_scaling.*'select'"):
        Run(task, stage)


def test_a_run_takes_its_tasks_select_part() -> None:
    x, y = torch.randn(40, 2, generator=seeding.generator(0)), torch.arange(40) % 2
    task = Task(nn.Linear(2, 2), (x[:20], y[:20]), select=(x[20:], y[20:]))
    run = Run(task, Stage(updates=2, methods=["temperature_scaling"])).fit()
    z = ModelPredictor.capture(run.stack.run).logits(Batch(x[20:]))
    assert run.predictor().temperature == pytest.approx(fit_temperature(z, y[20:]), rel=1e-5)


def test_labels_and_tokens() -> None:
    x = torch.randn(12, 2, generator=seeding.generator(0))
    labels = (torch.rand(12, 2, generator=seeding.generator(1)) > 0.5).long()
    found = stack_of(nn.Linear(2, 2), "multi-label", (x, labels)).predictor()
    wanted = fit_temperature(found.inner.logits(Batch(x)), labels, family("multi-label"))
    assert found.temperature == pytest.approx(wanted, rel=1e-5)
    tokens = torch.randint(0, 5, (4, 6), generator=seeding.generator(2))
    targets = (tokens % 3).masked_fill(tokens == 4, -100)
    given = ({"input": tokens}, targets)
    found = stack_of(nn.Embedding(5, 3), "tokens", given).predictor()
    z = found.inner.logits(Batch(*given))
    wanted = fit_temperature(z[targets >= 0], targets[targets >= 0])
    assert found.temperature == pytest.approx(wanted, rel=1e-5)


def stack_of(model: nn.Module, objective: str, select: Any) -> Stack:
    return Stack(model, objective, [methods.make("temperature_scaling")],
                 optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
                 resources={"select": select})  # fmt: skip


def test_reals_have_no_probabilities() -> None:
    with pytest.raises(NotApplicable, match="no probabilities to calibrate"):
        stack_of(nn.Linear(2, 1), "real", None)


def test_logits_that_are_not_finite() -> None:
    stack = make_stack([TemperatureScaling()])
    stack.run.module.head.weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="logits of the select part are not finite"):
        stack.predictor()
