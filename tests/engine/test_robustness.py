"""Accuracy under attack."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import whet
from tests.contract.fixture import data, make_model, make_run, weights
from tests.methods import record_torchattacks
from tests.methods.traps import trap
from whet import evaluation, methods, metrics, modes, robustness, seeding
from whet.adversary import Attack
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods import SWA, Snapshot
from whet.objectives import family
from whet.predict import Calibrated, MeanPredictor, ModelPredictor, model_state
from whet.robustness import attacked, robust_accuracy
from whet.study import node
from whet.task import Task

RECORDED = json.loads(record_torchattacks.VALUES.read_text(encoding="utf-8"))


class Small(nn.Module):
    """A network of images that a small change misleads."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(32, 3),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def made() -> tuple[Small, Tensor, Tensor]:
    """A model, images in [0, 1], and the classes that it takes them for."""
    with seeding.borrowed(3):
        model, x = Small(), torch.rand(64, 3, 4, 4)
    with torch.no_grad():  # so that all classes occur, and near each other
        model.body[-1].bias -= model.eval()(x).mean(0)
    return model, x, model.eval()(x).argmax(1)


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("given", RECORDED["attacks"], ids=lambda given: given["name"])
def test_oracle_is_torchattacks(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One restart from the inputs themselves, in float64, is that library's attack."""
    model, (x, y) = record_torchattacks.Small(), record_torchattacks.images()
    theirs = torch.tensor(given["moved"], dtype=torch.float64).view(x.shape)
    about = {"epsilon": given["eps"], "valid_range": (0.0, 1.0),
             "norm": "l2" if given["name"] == "PGDL2" else "linf"}  # fmt: skip
    if given["name"] == "FGSM":
        about |= {"kind": "fgsm"}
    else:
        about |= {"steps": given["steps"], "step_size": given["alpha"] / given["eps"]}
        started = robustness.attacks.started  # the record was made without a random start
        monkeypatch.setattr(robustness.attacks, "started", lambda a, size, key: started(a, 0.0, 0))

    def traced(batch: Batch) -> Tensor:
        return model(batch.inputs).softmax(-1)

    moved = attacked(traced, Batch(x, y), Attack(**about)).inputs
    worse = F.cross_entropy(model(theirs), y, reduction="none") > F.cross_entropy(
        model(x), y, reduction="none"
    )
    assert worse.sum() >= 4  # else the row stays where it was
    close = (moved - theirs).flatten(1).abs().amax(1) < 1e-6
    stays = (moved == x).flatten(1).all(1)
    assert (close | (stays & ~worse)).all()
    ours = robust_accuracy(model, [(x, y)], **about)
    told = model(theirs).argmax(1) == y
    assert ours == pytest.approx((told & (model(x).argmax(1) == y)).double().mean().item())


def test_a_linear_model_by_hand() -> None:
    """Right within epsilon while the margin exceeds epsilon times the weights' dual norm."""
    with seeding.borrowed(5):
        model, x = nn.Linear(4, 2), torch.randn(500, 4)
    y = model(x).argmax(1)
    apart = (model.weight[1] - model.weight[0]).detach()
    margin = ((model(x)[:, 1] - model(x)[:, 0]) * (2 * y - 1)).detach()
    for norm, dual in (("linf", apart.abs().sum()), ("l2", apart.norm())):
        expected = (margin > 0.3 * dual).float().mean().item()
        assert 0.2 < expected < 0.9
        found = robust_accuracy(model, [(x, y)], epsilon=0.3, norm=norm, steps=40)
        assert found == pytest.approx(expected, abs=0.005)
    fgsm = robust_accuracy(model, [(x, y)], epsilon=0.3, kind="fgsm")
    assert fgsm == pytest.approx((margin > 0.3 * apart.abs().sum()).float().mean().item())


def test_stronger_attacks_leave_less() -> None:
    model, x, y = made()
    batches = [(x[:40], y[:40]), (x[40:], y[40:])]

    def left(**settings: Any) -> float:
        return robust_accuracy(model, batches, epsilon=0.05, valid_range=(0, 1), **settings)

    assert robust_accuracy(model, batches, epsilon=0.0) == 1.0
    fgsm, pgd, more = left(kind="fgsm"), left(steps=10), left(steps=10, restarts=4)
    assert more <= pgd <= fgsm < 1.0
    assert left(steps=10, restarts=4) == more  # the same starts
    assert robust_accuracy(model, batches, epsilon=0.1, steps=10) < pgd


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_points_stay_within_the_ball_and_the_range(norm: str) -> None:
    model, x, y = made()
    std = torch.tensor((0.2, 0.5, 1.0)).view(1, 3, 1, 1)
    scaled = (x - 0.5) / std
    ends = ((0.0 - 0.5) / std.flatten(), (1.0 - 0.5) / std.flatten())
    attack = Attack(0.3, norm=norm, steps=5, std=(0.2, 0.5, 1.0), valid_range=ends, restarts=2)
    moved = attacked(robustness._of_module(model), Batch(scaled, y), attack).inputs
    pixels = moved * std + 0.5
    assert pixels.min() >= -1e-5
    assert pixels.max() <= 1 + 1e-5
    delta = (pixels - x).flatten(1)
    far = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert far.max() <= 0.3 + 1e-5
    assert far.mean() > 0.1


def test_rows_without_a_target_neither_move_nor_count() -> None:
    model, x, y = made()
    mask = torch.arange(64) < 32
    batch = Batch(x, y, mask)
    traced = robustness._of_module(model)
    moved = attacked(traced, batch, Attack(0.1)).inputs
    assert torch.equal(moved[~mask], x[~mask])
    assert (moved[mask] != x[mask]).any()
    half = robust_accuracy(model, [(x[:32], y[:32])], epsilon=0.05, kind="fgsm")
    assert robust_accuracy(model, [batch], epsilon=0.05, kind="fgsm") == half
    with pytest.raises(InputError, match="nothing to evaluate on"):
        robust_accuracy(model, [x])


# what it leaves ------------------------------------------------------------------------------
def test_nothing_moves() -> None:
    model, x, y = made()
    model.train()
    model.body[0].eval()
    F.cross_entropy(model(x), y).backward()
    before = weights(model), [p.grad.clone() for p in model.parameters()]
    stood = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    kept = x.clone()
    robust_accuracy(model, [(x, y)], epsilon=0.1, steps=3, restarts=2)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[0][name], now) for name, now in weights(model).items())
    for old, p in zip(before[1], model.parameters(), strict=True):
        assert p.grad is not None
        assert torch.equal(old, p.grad)
        assert p.requires_grad
    assert stood == [module.training for module in model.modules()]
    assert torch.equal(kept, x)


# as a metric ---------------------------------------------------------------------------------
def test_a_task_is_judged_by_it() -> None:
    task = make_run().task
    robust = metrics.robust_accuracy(epsilon=0.2, at="floats", steps=5)
    adam = {"name": "adam", "lr": 0.02}
    for decisive in (("accuracy", robust), (robust, "accuracy")):
        judged = Task(make_model(), task.train, task.select, task.judge, metrics=decisive)
        stage = whet.Stage(updates=60, batch_size=20, optimizer=adam)
        run = whet.Run(judged, stage, device="cpu", evaluate_every=30).fit()
        found = run.evaluate()
        assert list(found) == [getattr(one, "name", one) for one in decisive]
        assert found["robust_accuracy"] < found["accuracy"]
        assert [set(row["metrics"]) for row in run.history] == [set(found)] * 2
        batches = [*run.batches("judge")]
        predictor = run.predictor()
        settings = {"epsilon": 0.2, "at": "floats", "steps": 5}
        assert found["robust_accuracy"] == pytest.approx(
            robust_accuracy(predictor, batches, **settings)
        )
        assert evaluation.score(predictor, batches, decisive) == found[next(iter(found))]


def test_a_study_judges_by_it_beside_its_confusion_matrix() -> None:
    task = make_run().task
    robust = metrics.robust_accuracy(epsilon=0.2, at="floats", steps=2)
    judged = Task(make_model(), task.train, task.select, task.judge, metrics=("accuracy", robust))
    run = whet.Run(judged, whet.Stage(updates=4, batch_size=20), device="cpu").fit()
    found = node._judged(run, run.predictor())
    assert list(found["metrics"]["judge"]) == ["accuracy", "robust_accuracy"]
    assert found["metrics"]["judge"] == run.evaluate()
    matrix = np.array(found["confusion"])  # of the inputs as they are
    assert matrix.trace() / matrix.sum() == pytest.approx(found["metrics"]["judge"]["accuracy"])


def test_evaluating_by_it_leaves_training_as_it_is() -> None:
    task = make_run().task
    robust = metrics.robust_accuracy(epsilon=0.2, at="floats", steps=2)

    def trained(*named: Any) -> Any:
        judged = Task(make_model(), task.train, task.select, task.judge, metrics=named)
        return whet.Run(judged, whet.Stage(updates=4, batch_size=6), device="cpu",
                        evaluate_every=1).fit()  # fmt: skip

    plain, watched = trained("accuracy"), trained("accuracy", robust)
    for name, tensor in weights(plain.module).items():
        assert torch.equal(tensor, weights(watched.module)[name])
    clean = [row["metrics"]["accuracy"] for row in watched.history]
    assert clean == [row["metrics"]["accuracy"] for row in plain.history]


def test_by_name_and_several_at_once() -> None:
    model, x, y = made()
    predictor = ModelPredictor(model, model_state(model), family("categorical"))
    fgsm = metrics.robust_accuracy("fgsm", kind="fgsm", epsilon=0.1)
    far = metrics.robust_accuracy("far", epsilon=0.1, valid_range=[0, 1])
    several = ["robust_accuracy", fgsm, "accuracy", far]
    found = evaluation.evaluate(predictor, iter([Batch(x, y)]), several)
    assert list(found) == ["robust_accuracy", "fgsm", "accuracy", "far"]
    assert found["accuracy"] == 1.0
    assert found["fgsm"] < 1.0
    assert found["robust_accuracy"] >= found["far"]
    assert found["robust_accuracy"] == pytest.approx(robust_accuracy(model, [(x, y)]))


def test_what_is_judged_is_attacked_at_its_temperature_and_with_its_head() -> None:
    """Also where the probabilities have lost all that a gradient could be of."""
    given = [methods.make({"name": "cosface", "scale": 8.0}), methods.make("temperature_scaling")]
    run = make_run([*given, methods.make({"name": "snapshot", "cycles": 2})]).fit()
    predictor, batch = run.predictor(), Batch.of(data(20, 2))
    floats = batch.inputs["floats"].clone().requires_grad_()
    traced = predictor.traced(batch.replace(inputs={**batch.inputs, "floats": floats}))
    assert torch.allclose(traced, predictor(batch), atol=1e-6)
    assert torch.autograd.grad(traced[:, 0].sum(), floats)[0].abs().max() > 0
    assert not predictor(batch).requires_grad
    assert not predictor.logits(batch).requires_grad
    steep = nn.Linear(1, 2, bias=False)
    steep.weight.data = torch.tensor([[200.0], [0.0]])
    one = ModelPredictor(steep, model_state(steep), family("categorical"))
    x = torch.ones(1, 1, requires_grad=True)
    calm = Calibrated(MeanPredictor([one, one]), 100.0).traced(Batch(x))
    assert torch.autograd.grad(calm[0, 1], x)[0].abs() > 0.1


def test_a_mean_of_predictors_is_attacked_as_one() -> None:
    model, x, y = made()
    with seeding.borrowed(9):
        other = Small().eval()
    both = MeanPredictor(
        [ModelPredictor(one, model_state(one), family("categorical")) for one in (model, other)]
    )
    moved = attacked(both.traced, Batch(x, y), Attack(0.2, steps=5))
    before, after = (F.nll_loss(both(b).log(), y).item() for b in (Batch(x, y), moved))
    assert after > before + 0.05
    for method in (Snapshot(cycles=2), SWA(after=0.5)):
        run = make_run([method]).fit()
        assert robust_accuracy(run.predictor(), run.batches("judge"), at="floats", steps=2) <= 1.0


def test_mistakes_are_named() -> None:
    model, x, y = made()
    for wrong in ({"epsilon": -1.0}, {"kind": "cw"}, {"norm": "l1"}, {"steps": 0},
                  {"restarts": 0}, {"step_size": 0.0}):  # fmt: skip
        with pytest.raises(InputError, match=f"attack: {next(iter(wrong))} is"):
            metrics.robust_accuracy(**wrong)
    with pytest.raises(InputError, match="as the model sees the input"):
        robust_accuracy(model, [(x, y)], valid_range=(0.0, 0.5))
    with pytest.raises(InputError, match="one class each"):
        robust_accuracy(model, [(x, F.one_hot(y, 3).float())])
    found = metrics.resolve(["robust_accuracy"], "categorical")
    with pytest.raises(InputError, match="predictions are not enough"):
        metrics.evaluate(found, np.array([[0.5, 0.5]]), np.array([0]))
    with pytest.raises(InputError, match="suits categorical targets, not real"):
        metrics.resolve(["robust_accuracy"], "real")

    class Deaf(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            return super().forward(given.detach())

    with pytest.raises(NotApplicable, match="does not depend on the inputs"):
        robust_accuracy(Deaf(3, 2), [(torch.rand(4, 3), torch.zeros(4, dtype=torch.long))])


def test_it_travels_to_other_processes() -> None:
    metric = metrics.robust_accuracy(epsilon=0.2, std=[0.2, 0.5, 1.0])
    assert pickle.loads(pickle.dumps(metric)) == metric  # noqa: S301 - made here
    assert metric.attack is not None
    assert metric.attack.std == (0.2, 0.5, 1.0)


# traps ---------------------------------------------------------------------------------------
def by_last_restart(model: nn.Module, batches: Any, restarts: int = 1, **settings: Any) -> float:
    """The mean of what each restart leaves, in place of what all of them leave."""
    each = [robust_accuracy(model, batches, seed=at, **settings) for at in range(restarts)]
    return sum(each) / len(each)


@trap(right=robust_accuracy, wrong=by_last_restart)
def test_the_worst_of_all_restarts_counts(measure: Any) -> None:
    """A model that only some starts mislead: what counts is that one did."""

    class Narrow(nn.Module):
        """Wrong only where the one number of a row is above 0.9 of what an attack can reach."""

        def forward(self, x: Tensor) -> Tensor:
            wrong = 40.0 * (x[:, :1].abs() - 0.09)
            return torch.cat([torch.zeros_like(wrong), wrong], 1) + 0.0 * x.sum()

    x, y = torch.zeros(200, 1), torch.zeros(200, dtype=torch.long)
    left = measure(Narrow(), [(x, y)], epsilon=0.1, steps=1, step_size=1e-6, restarts=10)
    assert left < 0.6  # 0.9 to the tenth is 0.35


def in_training_mode(model: nn.Module, batches: Any, **settings: Any) -> float:
    """`atk(images, labels)` with the model as it stands."""
    real = modes.evaluation_mode
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modes, "evaluation_mode", lambda model: seeding.borrowed())
        value = robust_accuracy(model, batches, **settings)
    assert real is modes.evaluation_mode
    return value


@trap(right=robust_accuracy, wrong=in_training_mode)
def test_statistics_and_masks_are_those_of_evaluation(measure: Any) -> None:
    model, x, y = made()
    model.train()
    before = model.body[1].running_mean.clone()
    assert measure(model, [(x, y)], epsilon=0.0) == 1.0
    assert torch.equal(before, model.body[1].running_mean)


def in_model_units(model: nn.Module, batches: Any, std: Any = None, **settings: Any) -> float:
    """8/255 of normalised images."""
    return robust_accuracy(model, batches, **settings)


@trap(right=robust_accuracy, wrong=in_model_units)
def test_epsilon_is_in_pixels_where_inputs_are_normalised(measure: Any) -> None:
    model = nn.Linear(1, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
        model.bias.zero_()
    pixels = torch.linspace(-0.5, 0.5, 101)[:, None]
    y = (pixels > 0).long().squeeze(1)
    right = (pixels.abs() > 0.1).float().mean().item()
    found = measure(model, [(pixels / 0.25, y)], epsilon=0.1, std=0.25, kind="fgsm")
    assert found == pytest.approx(right, abs=0.015)
