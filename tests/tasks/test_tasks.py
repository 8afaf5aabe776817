"""The built-in tasks on shipped data: parts, what is fitted on which, seeds, a first training."""

from __future__ import annotations

import copy
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import whet
from whet import embedding, methods, tasks
from whet.batch import leaves
from whet.data import Columns, Vocabulary, load, split
from whet.errors import NotApplicable
from whet.run import Run
from whet.stage import Stage
from whet.task import Task
from whet.tasks import churn, intents
from whet.tasks.intents import TextEncoder

SIZES = {"intents": (9159, 1962, 1962), "churn": (4931, 1056, 1056)}
SHIPPED = {"intents": intents.FOLDER, "churn": churn.FOLDER}
NAMED = [(name, key) for name in sorted(SIZES) for key in tasks.load(name).ABOUT.methods]


@cache
def first(name: str) -> Task:
    task: Task = tasks.load(name).task(0)
    return task


@pytest.fixture(params=sorted(SIZES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def made(name: str) -> Task:
    return first(name)


def tensors(task: Task) -> dict[str, torch.Tensor]:
    found = dict(task.model.state_dict())
    for part in ("train", "select", "judge"):
        inputs, targets = task.part(part)
        found |= dict(leaves(inputs, part)) | {f"{part} targets": targets}
    return found


def trained(task: Task, about: tasks.About, updates: int, *given: Any) -> Run:
    stage = Stage(
        updates=updates, methods=given, batch_size=about.batch_size,
        optimizer=dict(about.optimizer) if isinstance(about.optimizer, dict) else about.optimizer,
        schedule=None if any(one["name"] == "snapshot" for one in given) else about.schedule,
    )  # fmt: skip
    run = Run(task, stage, seed=0, device="cpu")
    run.fit()
    return run


def test_shapes(name: str, made: Task) -> None:
    assert made.classes is not None
    for part, size in zip(("train", "select", "judge"), SIZES[name], strict=True):
        inputs, targets = made.part(part)
        assert all(len(leaf) == size for _, leaf in leaves(inputs))
        assert targets.shape == (size,)
        assert targets.dtype == torch.int64
        # stratified: every class is in every part
        assert set(targets.tolist()) == set(range(len(made.classes)))


def test_one_seed_is_one_task_to_the_bit(name: str, made: Task) -> None:
    torch.manual_seed(7)  # what has been drawn before does not matter
    before = torch.default_generator.get_state()
    again = tensors(tasks.load(name).task(0))
    assert torch.equal(torch.default_generator.get_state(), before)
    for key, tensor in tensors(made).items():
        assert torch.equal(tensor, again[key]), key


def test_another_seed_is_another_split_and_other_weights(name: str, made: Task) -> None:
    other = tasks.load(name).task(1)
    assert not torch.equal(made.judge[1], other.judge[1])
    assert not torch.equal(made.model.head.weight, other.model.head.weight)  # type: ignore[arg-type]


def test_all_rows_are_used_and_the_licence_lies_beside_them(name: str) -> None:
    data = load(SHIPPED[name])
    assert data.test is not None
    assert sum(SIZES[name]) == len(data.train) + len(data.test)
    words = {"intents": "Attribution 4.0 International", "churn": "Apache License"}[name]
    assert words in (SHIPPED[name] / "LICENSE.txt").read_text("utf-8")[:200]
    about = (SHIPPED[name] / "README.md").read_text("utf-8")
    assert all(f"\n{line}: " in about for line in ("Licence", "Attribution", "Source", "Changes"))


def test_methods_are_known_and_none_is_both_in_and_out(name: str) -> None:
    about, known = tasks.load(name).ABOUT, set(methods.registry())
    assert set(about.methods) | set(about.left_out) | set(about.settings) <= known
    assert not set(about.methods) & set(about.left_out)


@pytest.mark.parametrize(("name", "key"), NAMED)
def test_every_named_method_trains(name: str, made: Task, key: str) -> None:
    few = Task(
        copy.deepcopy(made.model),
        *(_first(made.part(part), 96) for part in ("train", "select", "judge")),
        metrics=made.metrics, classes=made.classes,
    )  # fmt: skip
    about = tasks.load(name).ABOUT
    beside = [{"name": one} for one in methods.registry()[key].companions if one in about.methods]
    run = trained(few, about, 4, {"name": key, **about.settings.get(key, {})}, *beside)
    assert np.isfinite(list(run.evaluate("judge").values())).any()


def _first(part: Any, rows: int) -> Any:
    inputs, targets = part
    if isinstance(inputs, dict):
        return {key: value[:rows] for key, value in inputs.items()}, targets[:rows]
    return inputs[:rows], targets[:rows]


class TestChurn:
    def test_what_is_fitted_is_fitted_on_the_training_part(self) -> None:
        data = load(churn.FOLDER)
        whole, _ = data.joined()
        train = whole.take(split(whole.targets, 3).train).inputs
        columns = Columns.fit(train, data.types)
        charges = np.array([float(charge) for charge in train["MonthlyCharges"]])
        scale = columns.numbers["MonthlyCharges"]
        assert (scale.mean, scale.std) == pytest.approx((charges.mean(), charges.std()))
        task = churn.task(3)
        assert torch.equal(task.train[0]["numbers"], columns.encode(train)["numbers"])
        assert columns != Columns.fit(whole.inputs, data.types)  # fitted on every row

    def test_the_number_of_a_customer_is_no_feature(self) -> None:
        data = load(churn.FOLDER)
        columns = Columns.fit(data.train.inputs, data.types)
        assert dict(columns.left_out) == {"customerID": "as asked for"}
        assert columns.number_names == [
            "tenure", "MonthlyCharges", "TotalCharges", "TotalCharges is missing",
        ]  # fmt: skip

    def test_a_quarter_leaves(self) -> None:
        assert first("churn").judge[1].float().mean().item() == pytest.approx(0.265, abs=0.002)
        assert churn.METRICS[0] == "auc"

    def test_training_beats_any_rule_on_tenure_alone(self) -> None:
        task = churn.task(0)
        tenure = task.judge[0]["numbers"][:, 0]
        left = task.judge[1] == 1
        pairs = tenure[left][:, None] < tenure[~left][None]
        reference = pairs.float().mean().item()  # the AUC of "who came last leaves first"
        auc = trained(task, churn.ABOUT, churn.ABOUT.updates).evaluate("judge")["auc"]
        assert 0.7 < reference < 0.8
        assert auc > 0.83 > reference


class TestIntents:
    def test_the_vocabulary_is_of_the_training_part(self) -> None:
        data = load(intents.FOLDER)
        assert data.test is not None
        texts = [*data.train.inputs, *data.test.inputs]
        parts = split(np.concatenate([data.train.targets, data.test.targets]), 0)
        words = Vocabulary.fit([texts[row] for row in parts.train], characters=False, min_count=2)
        task = intents.task(0)
        assert task.model.words.num_embeddings == len(words)  # type: ignore[union-attr]
        judged = [texts[row] for row in parts.judge]
        assert torch.equal(task.judge[0], words.encode(judged, intents.LENGTH))
        assert len(Vocabulary.fit(texts, characters=False, min_count=2)) > len(words)

    @pytest.mark.slow
    def test_a_quarter_of_the_training_beats_the_commonest_class(self) -> None:
        task = intents.task(0)
        commonest = Counter(task.judge[1].tolist()).most_common(1)[0][1] / len(task.judge[1])
        assert commonest < 0.02
        accuracy = trained(task, intents.ABOUT, 100).evaluate("judge")["accuracy"]
        assert accuracy > 0.5  # about 0.60; the whole training reaches about 0.86


class TestTextEncoder:
    tokens = torch.tensor([[4, 3, 2, 0], [2, 0, 0, 0]])

    def test_more_padding_changes_nothing(self) -> None:
        torch.manual_seed(0)
        encoder = TextEncoder(5, 3).eval()
        longer = torch.nn.functional.pad(self.tokens, (0, 6))
        torch.testing.assert_close(encoder(longer), encoder(self.tokens))
        torch.testing.assert_close(encoder(self.tokens[1:, :1]), encoder(self.tokens)[1:])

    def test_what_stands_at_padding_is_not_seen(self) -> None:
        torch.manual_seed(0)
        encoder = TextEncoder(5, 3).eval()
        before = encoder(self.tokens)
        with torch.no_grad():
            encoder.words.weight[0] = 100.0
        torch.testing.assert_close(encoder(self.tokens), before)

    def test_it_reads_the_order_of_words(self) -> None:
        torch.manual_seed(0)
        encoder = TextEncoder(5, 3).eval()
        turned = encoder(self.tokens[:1, [1, 0, 2, 3]])
        assert not torch.allclose(turned, encoder(self.tokens[:1]), atol=1e-5)

    def test_a_second_derivative_exists(self) -> None:
        encoder = TextEncoder(5, 3).eval()
        (first,) = torch.autograd.grad(
            encoder(self.tokens).logsumexp(1).sum(), encoder.words.weight, create_graph=True
        )
        (second,) = torch.autograd.grad(first.square().sum(), encoder.words.weight)
        assert second.abs().sum() > 0

    def test_chinese_by_characters(self) -> None:
        sport = ["男足晋级决赛", "女篮夺得冠军", "球队主场取胜", "决赛今晚开赛", "冠军球员离队"]
        money = ["股市今日大涨", "银行下调利率", "基金净值下跌", "债券利率走低", "股票基金反弹"]
        words = Vocabulary.fit([*sport, *money])
        assert words.characters
        coded = words.encode([*sport, *money])
        assert coded.shape == (10, 6)  # one character, one token
        labels = torch.tensor([0] * 5 + [1] * 5)
        torch.manual_seed(0)
        task = Task(TextEncoder(len(words), 2), train=(coded, labels), judge=(coded, labels))
        stage = Stage(updates=30, batch_size=10, optimizer={"name": "adamw", "lr": 0.004})
        run = Run(task, stage, seed=0, device="cpu")
        run.fit()
        assert run.evaluate("judge")["accuracy"] == 1.0
        fresh = words.encode(["球队夺冠", "利率大跌"], length=6)
        assert run.predictor()(whet.Batch(fresh)).argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("name", tasks.names())
def test_every_method_is_compared_or_left_out_with_a_reason(name: str) -> None:
    about = tasks.load(name).ABOUT
    assert {*about.methods, *about.left_out} == {*methods.registry()}
    assert not {*about.methods} & {*about.left_out}


def test_a_table_of_numbers_alone_has_no_embedding_to_attack() -> None:
    net = churn.TableNet([], numbers=3, classes=2).eval()
    assert net(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, 3)).shape == (2, 2)
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        embedding.modules(net, "*", (), "fgm")
