"""Encoders side by side under one head."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import equal, weights
from tests.ensembles.test_onnx import export, session
from tests.ensembles.tiny import PIXELS, dense, drawn, made, picture_model, tokens
from tests.methods.traps import trap
from whet import ensembles, seeding
from whet.batch import Batch
from whet.ensembles import Concatenation, concatenated, pairs
from whet.errors import InputError
from whet.objectives.families import family
from whet.predict import ModelPredictor, Predictor, model_state
from whet.recipes import unfreezing
from whet.run import Run
from whet.stage import Recipe, Stage
from whet.task import Task

MODELS = {"small": picture_model(0, width=2), "large": picture_model(1, width=5)}
SGD = {"name": "sgd", "lr": 0.1}
Y = torch.arange(6) % 3


def trained(model: nn.Module, data: Any, *stages: Stage, **given: Any) -> Run:
    task = Task(model, data, resources=given.pop("resources", {}))
    return Run(task, Recipe(stages), seed=0, log=None, device="cpu", **given).fit()


# the formula ---------------------------------------------------------------------------------
@pytest.mark.parametrize("norm", [True, False])
def test_by_hand(norm: bool) -> None:
    a, b = (made(n, lambda w=w: nn.Linear(4, w)) for n, w in enumerate((3, 5)))
    model, x = Concatenation([a, b], 2, drawn(2, 4), norm=norm), drawn(7, 4)
    each = [one(x) for one in (a, b)]
    if norm:
        apart = [one - one.mean(1, keepdim=True) for one in each]
        each = [one / (one.square().mean(1, keepdim=True) + 1e-5).sqrt() for one in apart]
    wanted = torch.cat(each, 1) @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(x), wanted)
    torch.testing.assert_close(model.features(x), torch.cat(each, 1))
    # a linear head on the concatenation is the sum of one head for each encoder
    heads = model.head.weight.split([3, 5], 1)
    parts = sum(one @ head.T for one, head in zip(each, heads, strict=True)) + model.head.bias
    torch.testing.assert_close(model(x), parts)


@pytest.mark.parametrize("bias", [True, False])
def test_from_their_own_heads_it_says_the_mean_of_their_logits(bias: bool) -> None:
    """And so the other way: heads side by side are one head."""
    models = {name: copy.deepcopy(one).eval() for name, one in MODELS.items()}
    if not bias:
        models["small"][4].bias = None
    model = concatenated(models, PIXELS, norm=False, own_heads=True).eval()
    wanted = torch.stack([one(PIXELS) for one in models.values()]).mean(0)
    torch.testing.assert_close(model(PIXELS), wanted, rtol=0.0, atol=1e-6)


def test_a_step_on_the_mean_of_logits_is_a_step_of_each_encoder() -> None:
    """The encoders' gradients are those of the classifiers whose mean of logits is learned."""
    models, x, truth = [dense(0), dense(1, 6)], drawn(9, 4), torch.arange(9) % 3
    model = concatenated(models, x, norm=False, own_heads=True)
    F.cross_entropy(model(x), truth).backward()
    F.cross_entropy((models[0](x) + models[1](x)) / 2, truth).backward()
    for number, one in enumerate(models):
        torch.testing.assert_close(model.encoders[str(number)][0].weight.grad, one[0].weight.grad)
        one.zero_grad()


def test_names_and_what_was_given_stays() -> None:
    before, generator = {n: weights(m) for n, m in MODELS.items()}, torch.get_rng_state()
    model = concatenated(MODELS, PIXELS)
    assert [*model.state_dict()][:2] == ["encoders.small.0.weight", "encoders.small.0.bias"]
    assert [*model.state_dict()][-4:] == [
        "norms.large.weight", "norms.large.bias", "head.weight", "head.bias"
    ]  # fmt: skip
    assert [*Concatenation([dense()], 2, drawn(2, 4)).encoders] == ["0"]
    for one in model.parameters():
        one.data.zero_()
    assert all(equal(weights(MODELS[name]), held) for name, held in before.items())
    assert torch.equal(generator, torch.get_rng_state())
    assert isinstance(MODELS["small"][4], nn.Linear)
    assert all(one.training for one in MODELS["small"].modules())


def test_encoders_that_are_given_are_copied() -> None:
    encoder = mode_sensitive()
    before = weights(encoder)
    trained(Concatenation([encoder], 3, ROWS), ROWS, Stage(updates=2, batch_size=8, optimizer=SGD))
    assert equal(weights(encoder), before)


def test_heads_begin_by_seed_and_name() -> None:
    heads = [
        concatenated(models, PIXELS, seed=seed).head.weight
        for models, seed in ((MODELS, 0), (MODELS, 0), (MODELS, 1))
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    alike = pairs([picture_model(n) for n in range(3)], PIXELS)
    assert not torch.equal(alike["0+1"].head.weight, alike["0+2"].head.weight)


# inputs --------------------------------------------------------------------------------------
class Words(nn.Module):
    """Features of words, which come by keyword, in an object's place beside others."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(words, width), nn.Linear(width, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        mean = (self.words(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {"more": mask, "logits": self.head(mean)}


def of_words(seed: int, words: int, width: int) -> Words:
    with seeding.borrowed(seed):
        return Words(words, width)


def test_the_same_inputs_for_all_by_keyword() -> None:
    models = {"a": of_words(0, 9, 4), "b": of_words(1, 9, 6)}
    model = concatenated(models, tokens(9, 5), norm=False, own_heads=True)
    wanted = sum(one(**tokens(9, 5))["logits"] for one in models.values()) / 2
    torch.testing.assert_close(model(**tokens(9, 5)), wanted)


def test_by_position() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(5, 2)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.last(torch.cat([a, b], 1))

    inputs = (drawn(3, 2), drawn(3, 3))
    model = concatenated([Two(), Two()], Batch(inputs))
    assert model(*inputs).shape == (3, 2)


def own_words() -> tuple[dict[str, nn.Module], dict[str, Any]]:
    """Two tokenizers, and an image, each under its encoder's name."""
    models = {"a": of_words(0, 9, 4), "b": of_words(1, 20, 6), "c": MODELS["small"]}
    return models, {"a": tokens(9, 5), "b": tokens(20, 7), "c": PIXELS}


def test_inputs_of_their_own() -> None:
    models, inputs = own_words()
    model = concatenated(models, inputs, norm=False, own_heads=True).eval()
    models["c"].eval()
    said = [models[n](**inputs[n])["logits"] for n in "ab"] + [models["c"](PIXELS)]
    models["c"].train()
    torch.testing.assert_close(model(**inputs), sum(said) / 3)


def test_one_data_set_serves_every_pair(tmp_path: Path) -> None:
    models, inputs = own_words()
    stage, data = Stage(updates=3, batch_size=3, optimizer=SGD), (inputs, Y)
    runs = {name: trained(one, data, stage) for name, one in pairs(models, inputs).items()}
    assert [*runs] == ["a+b", "a+c", "b+c"]
    whole = ensembles.mean([run.predictor() for run in runs.values()])
    assert whole(Batch(inputs)).shape == (6, 3)
    whole.save(tmp_path / "pairs.safetensors")
    again = Predictor.load(tmp_path / "pairs.safetensors", [*pairs(models, inputs).values()])
    assert torch.equal(again(Batch(inputs)), whole(Batch(inputs)))


def test_an_output_for_each_token() -> None:
    tagger = made(0, lambda: nn.Embedding(9, 4), lambda: nn.Linear(4, 3))
    model = concatenated([tagger, copy.deepcopy(tagger)], tokens(9, 5)["ids"])
    assert model(tokens(9, 5)["ids"]).shape == (6, 5, 3)


def test_inputs_as_features() -> None:
    """Raw columns beside an encoder."""
    model = Concatenation({"deep": dense(classes=8), "raw": nn.Identity()}, 2, drawn(2, 4))
    assert model.head.in_features == 12
    assert concatenated([nn.Linear(4, 3), dense()], drawn(2, 4)).head.in_features == 12


def test_half_precision() -> None:
    model = concatenated([dense().bfloat16(), dense(1).bfloat16()], drawn(2, 4).bfloat16())
    assert model(drawn(3, 4).bfloat16()).dtype == torch.bfloat16


# a model like any other ----------------------------------------------------------------------
def test_trained_judged_saved_and_loaded(tmp_path: Path) -> None:
    stage = Stage(updates=4, batch_size=3, methods=["ema"], optimizer=SGD)
    recipe = unfreezing(stage, ["encoders", "head"])
    task = Task(concatenated(MODELS, PIXELS), (PIXELS, Y), judge=(PIXELS, Y))
    run = Run(task, recipe, seed=0, log=None, device="cpu").fit()
    assert 0.0 <= run.evaluate()["accuracy"] <= 1.0
    run.predictor().save(tmp_path / "model.safetensors")
    again = Predictor.load(tmp_path / "model.safetensors", concatenated(MODELS, PIXELS, seed=5))
    assert torch.equal(again(Batch(PIXELS)), run.predictor()(Batch(PIXELS)))


@pytest.mark.parametrize("own", [False, True])
def test_onnx(own: bool, tmp_path: Path) -> None:
    models, inputs = own_words() if own else (MODELS, PIXELS)
    model = concatenated(models, inputs)
    one = ModelPredictor(model, model_state(model), family("categorical"))
    batch = Batch(inputs)
    export(one, tmp_path / "model.onnx", batch.take(slice(0, 3)))
    found = session(tmp_path / "model.onnx")
    leaves = (
        [*inputs["a"].values(), *inputs["b"].values(), inputs["c"]] if own else [inputs]
    )  # fmt: skip
    names = [given.name for given in found.get_inputs()]
    [answer] = found.run(None, {n: x.numpy() for n, x in zip(names, leaves, strict=True)})
    np.testing.assert_allclose(answer, one(batch).numpy(), atol=1e-5)


def test_the_head_of_a_margin_is_found() -> None:
    arcface = {"name": "arcface", "scale": 8.0}
    stage = Stage(updates=2, batch_size=3, methods=[arcface], optimizer=SGD)
    run = trained(concatenated(MODELS, PIXELS), (PIXELS, Y), stage)
    assert run.predictor().form() == {"cosine": {"head": 8.0}}
    again = concatenated({"joint": run.predictor()}, PIXELS, classes=2)  # and cut off again
    assert again(PIXELS).shape == (6, 2)
    with pytest.raises(InputError, match="that of 'joint' gives cosines"):
        concatenated({"joint": run.predictor()}, PIXELS, norm=False, own_heads=True)


def test_predictors_give_the_weights_that_are_judged() -> None:
    stage = Stage(updates=3, batch_size=3, optimizer=SGD, methods=[{"name": "ema", "decay": 0.9}])
    run = trained(copy.deepcopy(MODELS["small"]), (PIXELS, Y), stage)
    one = run.predictor()
    model = concatenated([one, MODELS["large"]], PIXELS)
    held = model.encoders["0"].state_dict()
    assert equal(held, {name: tensor for name, tensor in one.state.items() if name in held})
    assert not torch.equal(held["0.weight"], run.module.state_dict()["0.weight"])
    # two predictors of one model have weights of their own
    other = ModelPredictor(one.model, model_state(run.module), one.family)
    assert concatenated([one, other], PIXELS)(PIXELS).shape == (6, 3)


# frozen and joint ----------------------------------------------------------------------------
def mode_sensitive(seed: int = 0) -> nn.Sequential:
    return made(
        seed, lambda: nn.Linear(4, 6), lambda: nn.BatchNorm1d(6), lambda: nn.Dropout(0.5),
        lambda: nn.Linear(6, 3),
    )  # fmt: skip


ROWS = (drawn(24, 4) + 3.0, torch.arange(24) % 3)


def by_stage(model: Concatenation) -> None:
    stage = Stage(updates=6, batch_size=8, optimizer=SGD, freeze=["encoders"])
    trained(model, ROWS, stage, callbacks=[lambda run: run.module.train()])


def by_requires_grad(model: Concatenation) -> None:
    model.encoders.requires_grad_(False)
    optimizer = torch.optim.SGD([*model.norms.parameters(), *model.head.parameters()], lr=0.1)
    for _ in range(6):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(ROWS[0]), ROWS[1]).backward()
        optimizer.step()


@trap(right=by_stage, wrong=by_requires_grad)
def test_batch_statistics_of_a_frozen_encoder_stand_still(train: Any) -> None:
    model = concatenated([mode_sensitive(0), mode_sensitive(1)], ROWS)
    before = weights(model.encoders)
    train(model)
    assert equal(weights(model.encoders), before)


@trap(right=by_stage, wrong=by_requires_grad)
def test_dropout_of_a_frozen_encoder_is_off(train: Any) -> None:
    model = concatenated([mode_sensitive(0), mode_sensitive(1)], ROWS)
    seen: list[Tensor] = []
    drop = model.encoders["0"][2]
    drop.register_forward_hook(lambda module, args, output: seen.append(output - args[0]))
    train(model)
    assert len(seen) == 6
    assert all(not one.any() for one in seen)


def test_first_the_head_then_all_of_it_at_a_smaller_rate() -> None:
    optimizer = {**SGD, "groups": [{"at": "encoders", "lr": 0.01}, {}]}
    model = concatenated([mode_sensitive(0), mode_sensitive(1)], ROWS)
    recipe = unfreezing(Stage(updates=6, batch_size=8, optimizer=optimizer), ["encoders", "head"])
    before, rates = weights(model), []

    def look(run: Run) -> None:
        rates.append({group["name"]: group["lr"] for group in run.stack.optimizer.param_groups})
        same = equal(weights(model.encoders), {
            name.removeprefix("encoders."): one for name, one in before.items() if "enc" in name
        })  # fmt: skip
        assert same == (run.stage_number == 0)
        assert not torch.equal(model.norms["0"].weight, before["norms.0.weight"])

    trained(model, ROWS, *recipe.stages, callbacks=[look])
    assert [sorted(one) for one in (rates[0], rates[-1])] == [
        ["the rest", "the rest, no decay"],
        ["encoders", "encoders, no decay", "the rest", "the rest, no decay"],
    ]
    assert rates[-1]["encoders"] == 0.01
    assert rates[-1]["the rest"] == 0.1


# traps ---------------------------------------------------------------------------------------
class Scaled(nn.Module):
    """A frozen encoder of some of the columns, whose features are of some scale."""

    def __init__(self, columns: slice, scale: float) -> None:
        super().__init__()
        self.columns, self.scale = columns, scale

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.columns] * self.scale


def with_norm(encoders: list[nn.Module], x: Tensor) -> nn.Module:
    return Concatenation(encoders, 2, x)


def without_norm(encoders: list[nn.Module], x: Tensor) -> nn.Module:
    return Concatenation(encoders, 2, x, norm=False)


@trap(right=with_norm, wrong=without_norm)
def test_neither_branch_drowns_the_other(make: Any) -> None:
    """Half of what decides is in each branch, and one is a hundred times as large.

    The large one alone gets 3 rows of 4; without a norm both together get 0.72, with one 0.91.
    """
    x = drawn(800, 8)
    y = (x[:, 0] - x[:, 1] + x[:, 4] - x[:, 5] > 0).long()
    model = make([Scaled(slice(0, 4), 0.01), Scaled(slice(4, 8), 1.0)], x)
    stage = Stage(updates=200, batch_size=50, optimizer=SGD)
    said = trained(model, (x[:400], y[:400]), stage).predictor()(Batch(x[400:])).argmax(1)
    assert (said == y[400:]).float().mean() > 0.85


def of_logits(models: list[nn.Module], x: Tensor, classes: int) -> nn.Module:
    return Concatenation(models, classes, x, norm=False)


def of_features(models: list[nn.Module], x: Tensor, classes: int) -> nn.Module:
    return concatenated(models, x, classes=classes, norm=False)


@trap(right=of_features, wrong=of_logits)
def test_features_say_more_than_logits(join: Any) -> None:
    """Classifiers of two classes are put together for four: the logits have lost the others.

    Both were trained to tell the sign of the first column; the second is in their features alone.
    """
    x = drawn(800, 4)
    y, signs = (x[:, 0] > 0).long(), (x > 0).long()
    stage = Stage(updates=60, batch_size=50, optimizer=SGD)
    models = [trained(dense(n, 16, 2), (x[:400], y[:400]), stage).module for n in range(2)]
    model, four = join(models, x, 4), 2 * signs[:, 0] + signs[:, 1]
    frozen = Stage(updates=300, batch_size=50, optimizer=SGD, freeze=["encoders"])
    said = trained(model, (x[:400], four[:400]), frozen).predictor()(Batch(x[400:])).argmax(1)
    assert (said == four[400:]).float().mean() > 0.85  # 0.94; of logits 0.77


def sharing(models: list[nn.Module], x: Tensor) -> list[nn.Module]:
    """The snippet that is used: a module for each pair, which holds the encoders themselves."""

    class Pair(nn.Module):
        def __init__(self, a: nn.Module, b: nn.Module) -> None:
            super().__init__()
            self.a, self.b, self.head = a, b, nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.a(x), self.b(x)], 1))

    a, b, c = models
    return [Pair(a, b), Pair(a, c), Pair(b, c)]


def apart(models: list[nn.Module], x: Tensor) -> list[nn.Module]:
    return [*pairs(models, x).values()]


@trap(right=apart, wrong=sharing)
def test_training_a_pair_leaves_the_others_as_they_are(make: Any) -> None:
    """Otherwise the first pair, once trained and judged, is another when the last one is."""
    made = make([dense(n) for n in range(3)], ROWS[0])
    stage = Stage(updates=2, batch_size=8, optimizer=SGD)
    first = trained(made[0], ROWS, stage).module
    before = first(ROWS[0]).detach()
    trained(made[1], ROWS, stage)
    assert torch.equal(first(ROWS[0]), before)


class Still(nn.Module):
    """A feature extractor as it is shared, which was not meant to be trained."""

    def __init__(self, keeps: bool) -> None:
        super().__init__()
        self.keeps, self.body, self.last = keeps, dense(classes=6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.keeps and torch.is_grad_enabled()):
            features = self.body(x)
        return self.last(features)


def refused(model: nn.Module, x: Tensor) -> nn.Module:
    with pytest.raises(InputError, match="features without a graph") as caught:
        concatenated([model, dense()], x)
    assert "Stage(freeze=['encoders.0'])" in str(caught.value)
    return concatenated([Still(keeps=True), dense()], x)


def silent(model: nn.Module, x: Tensor) -> nn.Module:
    join = concatenated([Still(keeps=True), dense()], x)
    join.encoders["0"].keeps = False
    return join


@trap(right=refused, wrong=silent)
def test_an_encoder_under_no_grad_is_not_trained_in_silence(make: Any) -> None:
    model = make(Still(keeps=False), ROWS[0])
    before = weights(model.encoders["0"])
    trained(model, ROWS, Stage(updates=2, batch_size=8, optimizer=SGD))
    assert not equal(weights(model.encoders["0"]), before)
