"""Test-time augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_run, make_stack, resources, weights
from tests.methods.traps import trap
from whet import methods, seeding
from whet.batch import Batch
from whet.errors import CheckpointError, InputError, NotApplicable, UnknownName
from whet.methods.snapshot import Snapshot
from whet.methods.temperature_scaling import TemperatureScaling, fit_temperature
from whet.methods.tta import TTA, over_views
from whet.objectives.families import family
from whet.predict import (
    Calibrated,
    MeanPredictor,
    ModelPredictor,
    Predictor,
    Viewed,
    Views,
    model_state,
)
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

CASE = Case(
    TTA(("view",)),
    trains=False,
    judged=True,
    # a task's own view is drawn by a row's place, which is another one in another share
    processes=TTA(("flip",), at="image"),
)

BATCH = Batch.of(data(20, 2))
PIXELS = torch.rand(6, 1, 8, 8, generator=seeding.generator(1))
NAMES = ["flip", "shift", "crop=0.75", "turn"]


def picture_model(seed: int = 0, classes: int = 3) -> nn.Module:
    with seeding.borrowed(seed):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5),
            nn.Linear(144, classes),
        )  # fmt: skip


def predictor(kind: str = "categorical", model: nn.Module | None = None) -> ModelPredictor:
    model = picture_model() if model is None else model
    return ModelPredictor(model, model_state(model), family(kind))


def stack(given: Any, model: nn.Module | None = None, objective: str = "categorical",
          **more: Any) -> Stack:  # fmt: skip
    model = picture_model() if model is None else model
    return Stack(model, objective, given, optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **more)


# the value -----------------------------------------------------------------------------------
def test_a_loop_written_by_hand() -> None:
    model = picture_model().eval()
    views = [PIXELS, PIXELS.flip(-1), *(PIXELS.rot90(n, (2, 3)) for n in (1, 2, 3))]
    with torch.no_grad():
        wanted = sum(model(view).double().softmax(-1) for view in views) / 5
        found = over_views(model, PIXELS, ["flip", "turn"])
    assert torch.allclose(found.double(), wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "multi-label", "real", "embedding"])
def test_the_method_is_its_core(kind: str) -> None:
    made = stack([TTA(tuple(NAMES))], objective="categorical").predictor()
    made.inner.family = made.family = family(kind)
    with torch.no_grad():
        wanted = over_views(picture_model().eval(), PIXELS, NAMES, family(kind))
    assert torch.allclose(made(Batch(PIXELS)), wanted, atol=1e-6)
    logits = made.logits(Batch(PIXELS))
    assert torch.allclose(made.family.probabilities(logits), wanted, atol=1e-6)


def test_batched_equals_looped() -> None:
    inner, calls = predictor(), []
    inner.model.register_forward_hook(lambda m, a, out: calls.append(len(out)))
    views = Views(NAMES)
    one, many = (Viewed(inner, views, batched=b) for b in (True, False))
    assert torch.allclose(one(Batch(PIXELS)), many(Batch(PIXELS)), atol=1e-6)
    assert calls == [6 * 14] + [6] * 14


def test_no_views_change_nothing() -> None:
    plain, none = stack([]).predictor(), stack([TTA(())]).predictor()
    assert torch.equal(plain(Batch(PIXELS)), none(Batch(PIXELS)))
    assert torch.allclose(Viewed(predictor(), Views([]))(Batch(PIXELS)), plain(Batch(PIXELS)))


class OfLogits(Viewed):
    """As it is copied around: the mean of what the model gives."""

    def __call__(self, batch: Batch) -> Tensor:
        return self._asked(self.inner.logits, batch).mean(0).softmax(-1)


def judged(kind: type[Viewed]) -> Tensor:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    model[1].weight.data = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0] * 4])
    x = torch.tensor([[[[-1.0, -1.0], [-1.0, 12.0]]]])
    return kind(predictor(model=model), Views(["turn"]))(Batch(x))[0]


@trap(right=Viewed, wrong=OfLogits)
def test_probabilities_are_averaged(kind: Any) -> None:
    """Three of four views say the second class (0.73): its mean is 0.55, of the logits 0.10."""
    assert judged(OfLogits)[1].item() == pytest.approx(0.095, abs=1e-3)
    assert judged(kind)[1].item() == pytest.approx(0.548, abs=1e-3)


class Anew(Views):
    """Draws from the global generator, so that a prediction never comes out the same."""

    def __call__(self, inputs: Any) -> list[Any]:
        return [inputs, *(self.functions[n](inputs, torch.default_generator) for n in self.names)]


@trap(right=Views, wrong=Anew)
def test_a_prediction_is_the_same_whenever_it_is_made(kind: Any) -> None:
    noise = {"noise": lambda x, maker: x + torch.randn(x.shape, generator=maker)}
    made = Viewed(predictor(), kind(["noise", "noise"], noise))
    before = torch.get_rng_state()
    first, second = made(Batch(PIXELS)), made(Batch(PIXELS))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_a_function_that_stands_twice_is_drawn_twice() -> None:
    noise = {"noise": lambda x, maker: x + torch.randn(x.shape, generator=maker)}
    _, first, second = Views(["noise", "noise"], noise)(PIXELS)
    assert not torch.equal(first, second)
    assert torch.equal(first, Views(["noise"], noise)(PIXELS)[1])


def test_gradients_for_attacks_are_of_the_mean() -> None:
    made = Viewed(predictor(), Views(["flip", "shift"]))
    x = PIXELS.clone().requires_grad_()
    made.traced(Batch(x))[:, 0].sum().backward()
    wanted = PIXELS.clone().requires_grad_()
    over_views(picture_model().eval(), wanted, ["flip", "shift"])[:, 0].sum().backward()
    assert torch.allclose(x.grad, wanted.grad, atol=1e-6)
    z = made.traced_logits(Batch(PIXELS))
    assert torch.allclose(z.softmax(-1), made(Batch(PIXELS)), atol=1e-6)


# beside others -------------------------------------------------------------------------------
def trained(*given: Any) -> Run:
    return make_run([*given]).fit()


def test_training_stays_what_it_is() -> None:
    plain, ours = trained(), trained(CASE.method)
    assert equal(weights(plain.module), weights(ours.module))
    wanted = Viewed(plain.predictor(), Views(["view"], {"view": resources()["view"]}))
    assert torch.equal(ours.predictor()(BATCH), wanted(BATCH))


def test_what_is_calibrated_is_the_mean_over_views() -> None:
    for given in ([TemperatureScaling(), CASE.method], [CASE.method, TemperatureScaling()]):
        found = trained(*given).predictor()
        assert isinstance(found, Calibrated)
        assert isinstance(found.inner, Viewed)
        select = Batch.of(data(20, 1))
        wanted = fit_temperature(found.inner.logits(select), select.targets)
        assert found.temperature == pytest.approx(wanted, rel=1e-5)


def test_each_snapshot_sees_the_views() -> None:
    orders = ([Snapshot(2), CASE.method], [CASE.method, Snapshot(2)])
    one, other = (trained(*given).predictor() for given in orders)
    assert torch.equal(one(BATCH), other(BATCH))
    assert isinstance(one, Viewed)
    each = [Viewed(member, one.views) for member in one.inner.predictors]
    assert len(each) == 2
    assert torch.allclose(MeanPredictor(each)(BATCH), one(BATCH), atol=1e-6)


# saved ---------------------------------------------------------------------------------------
def test_views_are_saved(tmp_path: Path) -> None:
    inner = MeanPredictor([predictor(), Calibrated(predictor(model=picture_model(4)), 3.0)])
    made = Viewed(inner, Views(NAMES, at="*"), batched=False)
    made.save(tmp_path / "model")
    again = Predictor.load(tmp_path / "model", picture_model(9))
    assert isinstance(again, Viewed)
    assert (again.views, again.batched) == (made.views, False)
    assert torch.equal(again(Batch(PIXELS)), made(Batch(PIXELS)))
    assert len(again.models()) == len(again.members()) == 2


def test_functions_are_saved_by_name(tmp_path: Path) -> None:
    given = {"noise": lambda x, maker: x + torch.randn(x.shape, generator=maker)}
    made = Viewed(predictor(), Views(["flip", "noise"], given))
    made.save(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"the view 'noise', .*load\(\.\.\., views=\{'noise'"):
        Predictor.load(tmp_path / "model", picture_model())
    again = Predictor.load(tmp_path / "model", picture_model(), given)
    assert torch.equal(again(Batch(PIXELS)), made(Batch(PIXELS)))


BAD: list[Any] = [
    {"views": "flip"}, {"views": [1]}, {"views": ["flip", "flip"]}, {"views": ["shift=2"]},
    {"views": ["flip"] * 99}, {"views": None}, {"at": 3}, {"batched": "no"}, {"of": 1},
]  # fmt: skip


@pytest.mark.parametrize("change", BAD, ids=str)
def test_a_form_that_does_not_fit_is_refused(change: Any, tmp_path: Path) -> None:
    from whet import exported

    made = Viewed(predictor(), Views(["flip"]))
    about = {"family": "categorical", "members": 1, "form": made.form() | change}
    exported.write(tmp_path / "model", about, made.members())
    with pytest.raises(CheckpointError, match="no predictor that whet saved"):
        Predictor.load(tmp_path / "model", picture_model())


# refused -------------------------------------------------------------------------------------
def with_targets(inputs: Any, generator: Any) -> Any:
    return inputs, torch.zeros(len(inputs))


WRONG: dict[str, tuple[Callable[..., Any], str]] = {
    "smaller": (lambda x, g: x[..., 1:], r"gave float32 \(6, 1, 8, 7\) for float32 \(6, 1, 8, 8\)"),
    "fewer rows": (lambda x, g: x[1:], r"gave float32 \(5, 1, 8, 8\)"),
    "labels": (with_targets, r"gives no targets"),
    "a batch": (lambda x, g: Batch(x), "gave Batch for"),
    "other numbers": (lambda x, g: x.double(), "gave float64"),
    "a mapping": (lambda x, g: {"x": x}, r"gave \{'x': "),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("batched", [True, False])
def test_views_of_another_size_or_with_labels(name: str, batched: bool) -> None:
    function, message = WRONG[name]
    made = Viewed(predictor(), Views([name], {name: function}), batched=batched)
    with pytest.raises(InputError, match=message):
        made(Batch(PIXELS))


def test_a_mistake_comes_up_before_training() -> None:
    task = Task(nn.Linear(2, 2), (torch.ones(8, 2), torch.arange(8) % 2),
                select=(torch.ones(4, 2), torch.arange(4) % 2))  # fmt: skip
    with pytest.raises(InputError, match=r"flip: the input has shape \(4, 2\)"):
        Run(task, Stage(updates=2, methods=["tta"]))
    with pytest.raises(UnknownName, match=r"resource \(needed by tta.*'flp'"):
        stack([TTA(("flp",))])
    with pytest.raises(InputError, match=r"tta: the view 'flip' stands twice"):
        stack([TTA(("flip", "flip"))])
    with pytest.raises(InputError, match=r"tta: view 'mine' is no function"):
        stack([TTA(("mine",))], resources={"mine": 3})


def test_words_with_targets_of_their_own() -> None:
    with pytest.raises(NotApplicable, match="a target for each word"):
        stack([TTA()], nn.Embedding(5, 3), "tokens")
    with pytest.raises(InputError, match="the mean would be of answers for other places"):
        Viewed(predictor("tokens"), Views(["flip"]))
    ids, given = torch.randint(0, 5, (4, 6)), {"noise": lambda x, g: x}
    made = stack([TTA(("noise",))], nn.Embedding(5, 3), "tokens", resources=given).predictor()
    assert torch.allclose(made(Batch({"input": ids})), made.inner(Batch({"input": ids})))


def test_settings_are_plain() -> None:
    one = TTA(("flip", "shift=0.1", "weak", "weak"), at="image", batched=False)
    again = methods.make(one.settings())
    assert again.settings() == one.settings()
    assert again.needs == {"weak"}
    assert TTA.needs == TTA().needs == frozenset()


def test_costs_a_forward_for_each_view() -> None:
    made = make_stack([TTA(("view", "weak"), batched=False)])
    rows: list[int] = []
    made.run.module.head.register_forward_hook(lambda m, args, out: rows.append(len(out)))
    made.step(Batch.of(data()).take(slice(0, 6)))
    predictor = made.predictor()
    assert rows == [6]
    predictor(BATCH)
    assert rows == [6, 20, 20, 20]
