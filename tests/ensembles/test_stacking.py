"""Out-of-fold stacking: by hand, against scikit-learn's, and what is asked of members."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier, StackingClassifier, StackingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import PredefinedSplit
from sklearn.multiclass import OneVsRestClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import whet
from tests.ensembles.tiny import Told
from tests.methods.traps import trap
from whet import ensembles, metrics, seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.predict import EstimatorPredictor, Predictor, Stacked
from whet.predict.stacked import features_of


def drawn(many: int, classes: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows whose class follows from their first numbers, with noise."""
    maker = seeding.generator(seed)
    x = torch.randn(many, 5, generator=maker)
    noise = torch.randn(many, classes, generator=maker)
    return x, (x[:, :classes] + noise).argmax(1)


X, Y = drawn(120)
BATCH = Batch(X)
PAIR: dict[str, Any] = {"bayes": GaussianNB(), "logistic": LogisticRegression()}


def net(rows: Batch) -> Predictor:
    stage = whet.Stage(updates=5, batch_size=20)
    return whet.Run(whet.Task(nn.Linear(5, 3), rows), stage, log=None).fit().predictor()


class Watched(Told):
    """Notes what it is asked with; knows the numbers of its rows."""

    asked: list[Batch] = []  # noqa: RUF012 - shared on purpose

    def __call__(self, batch: Batch) -> Tensor:
        self.asked.append(batch)
        return super().__call__(batch)


# what it is ----------------------------------------------------------------------------------
def test_answers_out_of_fold_by_hand() -> None:
    done = ensembles.stack(PAIR, (X, Y), folds=4)
    rows = X.double().numpy()
    assert np.bincount(done.fold).tolist() == [30, 30, 30, 30]
    for fold in range(4):
        here = done.fold == fold
        for answers, one in zip(done.answers, (GaussianNB(), LogisticRegression()), strict=True):
            wanted = one.fit(rows[~here], Y[~here]).predict_proba(rows[here])
            assert np.allclose(answers[here], wanted, atol=1e-6)


def test_the_meta_model_by_hand() -> None:
    done = ensembles.stack(PAIR, (X, Y))
    logs = [np.log(np.maximum(one, 0.01)) for one in done.answers]
    over = LogisticRegression(max_iter=1000).fit(np.concatenate(logs, 1), Y)
    rows = X.double().numpy()
    full = [one.fit(rows, Y).predict_proba(rows) for one in (GaussianNB(), LogisticRegression())]
    wanted = over.predict_proba(np.log(np.maximum(np.concatenate(full, 1), 0.01)))
    assert np.allclose(done.predictor(BATCH), wanted, atol=1e-3)  # where the solver stops


@pytest.mark.parametrize("classes", [2, 3])
def test_scikit_learn_finds_the_same(classes: int) -> None:
    x, y = drawn(120, classes)
    done = ensembles.stack(PAIR, (x, y), meta=LogisticRegression(), features="probabilities")
    theirs = StackingClassifier(
        [*PAIR.items()], LogisticRegression(), stack_method="predict_proba",
        cv=PredefinedSplit(done.fold),
    ).fit(x.double().numpy(), y)  # fmt: skip
    fresh = drawn(50, classes, seed=1)[0]
    wanted = theirs.predict_proba(fresh.double().numpy())
    assert np.allclose(done.predictor(Batch(fresh)), wanted, atol=1e-5)


def test_scikit_learn_finds_the_same_for_reals() -> None:
    y = X[:, 0] + 0.1 * X[:, 1] ** 2
    given = {"little": Ridge(0.1), "much": Ridge(100.0)}
    done = ensembles.stack(given, (X, y), meta=Ridge(1.0))
    theirs = StackingRegressor([*given.items()], Ridge(1.0), cv=PredefinedSplit(done.fold))
    wanted = theirs.fit(X.double().numpy(), y).predict(X.double().numpy())
    assert np.allclose(done.predictor(BATCH), wanted, atol=1e-5)
    assert done.measure == "mse"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_default_for_reals_knows_no_scale(scale: float) -> None:
    y = (X[:, 0] + 0.5 * X[:, 1]) * scale
    done = ensembles.stack([Ridge(10.0), LinearRegression()], (X, y))
    assert done.out_of_fold.stacked < 1e-4 * scale**2
    assert (done.predictor.meta.estimator.coef_ >= 0).all()  # type: ignore[attr-defined]


def test_features_by_hand() -> None:
    p = [torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.0, 0.6, 0.4]])]
    kind = whet.objectives.family
    found = features_of(p, kind("categorical"))
    assert torch.allclose(found.exp(), torch.tensor([[0.2, 0.3, 0.5, 0.01, 0.6, 0.4]]))
    assert torch.equal(features_of(p, kind("categorical"), "probabilities"), torch.cat(p, 1))
    labels = features_of(p[:1], kind("multi-label"))
    assert torch.allclose(labels.sigmoid(), p[0])
    assert torch.equal(features_of([torch.ones(2), torch.zeros(2)], kind("real")),
                       torch.tensor([[1.0, 0.0]] * 2))  # fmt: skip


def test_labels() -> None:
    y = torch.stack([X[:, 0] > 0, X[:, 1] + X[:, 2] > 0.5], 1).float()
    given = [OneVsRestClassifier(LogisticRegression()), KNeighborsClassifier(algorithm="brute")]
    done = ensembles.stack(given, (X, y), held=(drawn(40, seed=5)[0], torch.tensor([[0, 1]] * 40)))
    assert done.predictor.family.name == "multi-label"
    assert done.predictor(BATCH).shape == (120, 2)
    assert done.out_of_fold.stacked > 0.85
    single = ensembles.stack([LogisticRegression()], (X, y[:, :1]), family="multi-label")
    assert single.predictor(BATCH).shape == (120, 1)
    assert single.out_of_fold.stacked > 0.85


@pytest.mark.parametrize("shape", [(120,), (120, 1), (120, 2)])
def test_reals_of_any_width(shape: tuple[int, ...]) -> None:
    y = X[:, :2] if shape[1:] == (2,) else X[:, 0].view(shape)
    done = ensembles.stack([Ridge()], (X, y), refit=False, features="probabilities")
    assert done.predictor(BATCH).shape == (shape if shape[1:] == (2,) else (120,))
    assert done.out_of_fold.stacked < 0.01


# members -------------------------------------------------------------------------------------
def test_a_member_sees_its_rows_alone() -> None:
    given: list[Batch] = []
    numbers, table = torch.arange(120), torch.eye(3)[Y]

    def member(rows: Batch) -> Predictor:
        given.append(rows)
        return Watched(table)

    Watched.asked.clear()
    done = ensembles.stack([member], (numbers, Y), folds=3, held=(numbers, Y), copies="apart")
    assert all(batch.targets is None and batch.indices is None for batch in Watched.asked)
    for fold, rows in enumerate(given[:3]):
        assert rows.inputs.tolist() == np.flatnonzero(done.fold != fold).tolist()
        assert torch.equal(rows.targets, Y[rows.inputs])  # type: ignore[arg-type]
        assert rows.indices is None
    assert given[3].inputs.tolist() == list(range(120))
    assert len(given) == 4
    assert done.names == ("member",)


def test_a_member_cannot_change_the_rows_of_others() -> None:
    def spoils(rows: Batch) -> Predictor:
        made = EstimatorPredictor(
            GaussianNB().fit(rows.inputs.numpy(), rows.targets), whet.objectives.family(
                "categorical"), 3,
        )  # fmt: skip
        rows.inputs.zero_()
        return made

    both = ensembles.stack({"spoils": spoils, **PAIR}, (X, Y))
    assert np.array_equal(both.answers[1:], ensembles.stack(PAIR, (X, Y)).answers)
    assert np.allclose(both.answers[0], both.answers[1], atol=1e-5)


def test_what_draws_is_a_function_of_the_seed() -> None:
    given = {"net": net, "tree": DecisionTreeClassifier(max_features=1, max_depth=3)}
    before = torch.random.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    trusted = ["sklearn.tree._tree.Tree"]
    one, two, other = (
        ensembles.stack(given, (X, Y), folds=2, seed=seed, trusted=trusted) for seed in (0, 0, 1)
    )
    assert np.array_equal(one.answers, two.answers)
    assert torch.equal(one.predictor(BATCH), two.predictor(BATCH))
    assert not np.array_equal(one.answers, other.answers)
    assert torch.equal(before[0], torch.random.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(InputError, match=r"trusted=\['sklearn.tree._tree.Tree'\]"):
        ensembles.stack(given, (X, Y))


def test_without_another_training_the_folds_predict() -> None:
    calls = []

    def counted(rows: Batch) -> Predictor:
        calls.append(rows.size)
        return EstimatorPredictor(
            GaussianNB().fit(rows.inputs.numpy(), rows.targets),
            whet.objectives.family("categorical"), 3,
        )  # fmt: skip

    done = ensembles.stack({"one": counted}, (X, Y), folds=4, refit=False)
    assert calls == [90] * 4
    mean = done.predictor.predictors[0]
    each = [one(BATCH) for one in mean.predictors]  # type: ignore[attr-defined]
    assert torch.allclose(mean(BATCH), torch.stack(each).mean(0))


def test_members_that_do_not_fit() -> None:
    def untrained(rows: Batch) -> Any:
        raise AssertionError("trained before the others were looked at")

    def run(rows: Batch) -> Any:
        return whet.Run(whet.Task(nn.Linear(5, 3), rows), whet.Stage(updates=1, batch_size=9),
                        log=None)  # fmt: skip

    def wide(rows: Batch) -> Any:
        return Told(torch.ones(120, 4))

    def real(rows: Batch) -> Any:
        return Told(torch.ones(120, 3), "real")

    def lost(rows: Batch) -> Any:
        return Told(torch.full((120, 3), torch.nan))

    data: Any
    numbers = torch.arange(120), Y
    for members, data, told in (
        ([untrained, SVC()], (X, Y), "SVC has no predict_proba"),
        ([untrained, LogisticRegression(C=-1.0)], (X, Y), r"cannot be fitted \(fold 0\)"),
        ([GaussianNB], (X, Y), "give a scikit-learn estimator, or a function"),
        ([], (X, Y), "at least one member"),
        ([run], (X, Y), r"gave a Run \(fold 0\).*Give its predictor\(\)"),
        ([wide], numbers, r"in the shape \(24, 4\).*\(24, 3\)"),
        ([real], numbers, "predicts family 'real'"),
        ([lost], numbers, "NaN or infinite numbers in 24 of 24 rows"),
    ):
        with pytest.raises(InputError, match=told):
            ensembles.stack(members, data)
    for given, told in (
        ({"meta": SVC()}, "SVC has no predict_proba"), ({"features": "votes"}, "it must be one of"),
        ({"folds": 1}, "whole number from 2"), ({"copies": "no"}, "copies is 'no'"),
        ({"classes": 2}, "classes=2"), ({"family": "tokens"}, "no stack for family 'tokens'"),
        ({"family": "multi-label"}, "none of family 'multi-label'"),
        ({"metrics": ["mse"]}, "metric 'mse' suits"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            ensembles.stack([untrained], (X, Y), **given)  # type: ignore[arg-type]


# rows ----------------------------------------------------------------------------------------
def test_rows_without_a_target_are_left_out() -> None:
    mask = torch.arange(120) % 6 != 0
    done = ensembles.stack(PAIR, Batch(X, Y.masked_fill(~mask, -7), mask))
    assert done.rows.tolist() == torch.nonzero(mask)[:, 0].tolist()
    part = ensembles.stack(PAIR, (X[mask], Y[mask]))
    assert np.array_equal(done.answers, part.answers)
    groups = np.arange(120) // 6
    grouped = ensembles.stack(PAIR, Batch(X, Y, mask), groups=groups, folds=4)
    for fold in range(4):
        ours = groups[grouped.rows[grouped.fold == fold]]
        assert not np.isin(groups[grouped.rows[grouped.fold != fold]], ours).any()


def test_data_of_every_kind() -> None:
    wanted = ensembles.stack(PAIR, (X, Y)).answers
    rows = Batch(X, Y)
    kinds = (TensorDataset(X, Y), rows, rows.split(50), (X.numpy(), Y.numpy()), lambda: [rows])
    for data in kinds:
        assert np.array_equal(ensembles.stack(PAIR, data).answers, wanted)
    named = {"numbers": X, "text": torch.zeros(120, 2, dtype=torch.long), "labels": Y}
    assert np.array_equal(ensembles.stack(PAIR, named, at="numbers").answers, wanted)
    with pytest.raises(InputError, match="DataLoader, which gives rows in an order of its own"):
        ensembles.stack(PAIR, DataLoader(TensorDataset(X, Y)))
    with pytest.raises(InputError, match="no row of the data has a target"):
        ensembles.stack(PAIR, (X, None))


def test_more_classes_than_occur() -> None:
    done = ensembles.stack(PAIR, (X, Y * 2), classes=6)
    found = done.predictor(BATCH)
    assert found.shape == (120, 6)
    assert (found[:, [1, 3, 5]] == 0).all()
    assert done.out_of_fold.stacked > 0.5


# traps ---------------------------------------------------------------------------------------
def in_fold(members: Any, data: Any, **given: Any) -> Any:
    """What stands in many notebooks: members answer the rows that they were trained on."""
    rows, kind = data[0].double().numpy(), whet.objectives.family("categorical")
    each = [EstimatorPredictor(one.fit(rows, data[1]), kind, 3) for one in members]
    answers = [one(Batch(data[0])) for one in each]
    over = LogisticRegression(max_iter=1000).fit(features_of(answers, kind), data[1])
    return Stacked(each, EstimatorPredictor(over, kind, 3))


@trap(right=lambda *given, **more: ensembles.stack(*given, **more).predictor, wrong=in_fold)
def test_who_learns_by_heart_is_not_believed(made: Any) -> None:
    """One neighbour is always right about itself: asked in fold, it is all that counts."""
    members = [KNeighborsClassifier(1, algorithm="brute"), LogisticRegression()]
    judge, truth = drawn(600, seed=9)
    p = made(members, drawn(300))(Batch(judge)).double().numpy()
    scores = metrics.evaluate(metrics.resolve(["log_loss", "accuracy"], "categorical"), p,
                              truth.numpy())  # fmt: skip
    assert scores["log_loss"] < 0.9  # in fold 3.2, and by chance 1.1
    assert scores["accuracy"] > 0.6  # in fold 0.52


@trap(
    right=lambda data, people: ensembles.stack(
        [KNeighborsClassifier(1, algorithm="brute")], data, groups=people
    ),
    wrong=lambda data, people: ensembles.stack([KNeighborsClassifier(1, algorithm="brute")], data),
)
def test_rows_of_one_person_stand_in_one_fold(made: Any) -> None:
    """Ten rows of each of forty people who have nothing to do with their class."""
    people = np.repeat(np.arange(40), 10)
    center = torch.randn(40, 5, generator=seeding.generator(4))[people]
    x = center + 0.01 * torch.randn(400, 5, generator=seeding.generator(5))
    y = (torch.arange(40) % 2)[people]
    assert made((x, y), people).out_of_fold.members[0] < 0.75


# what comes out ------------------------------------------------------------------------------
def test_it_nests_and_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    scaled = make_pipeline(StandardScaler(), LogisticRegression())
    held = drawn(80, seed=2)
    done = ensembles.stack({"scaled": scaled, "net": net}, (X, Y), folds=3, held=held)
    assert ensembles.diversity([done.predictor, *done.predictor.predictors], held).measure
    inner = ensembles.mean([done.predictor, done.predictor.predictors[1]])

    def noisy(inputs: Tensor, generator: torch.Generator) -> Tensor:
        return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)

    whole = ensembles.calibrate(ensembles.tta(inner, [noisy]), held)
    whole.save(path)
    again = Predictor.load(path, nn.Linear(5, 3), {"noisy": noisy})
    assert torch.equal(again(BATCH), whole(BATCH))
    assert again.form() == whole.form()
    twice = ensembles.stack([lambda rows: done.predictor], held, folds=2)
    assert twice.predictor(BATCH).shape == (120, 3)
    with pytest.raises(InputError, match="skl2onnx"):
        ensembles.export_onnx(done.predictor, path, X[:4])


def test_scores_and_table() -> None:
    held = drawn(80, seed=2)
    done = ensembles.stack(PAIR, (X, Y), held=held)
    right = (done.answers.argmax(-1) == Y.numpy()).mean(1)
    assert done.out_of_fold.members == pytest.approx(tuple(right))
    mean = (done.answers.mean(0).argmax(-1) == Y.numpy()).mean()
    assert done.out_of_fold.mean == pytest.approx(mean)
    assert done.held is not None
    said = done.predictor(Batch(held[0])).argmax(1)
    assert done.held.stacked == pytest.approx(float((said == held[1]).float().mean()))
    lines = done.table().splitlines()
    assert [line.split()[0] for line in lines] == [
        "accuracy", "bayes", "logistic", "mean", "stacked"
    ]  # fmt: skip
    assert f"{done.held.stacked:.4f}" in lines[4]
    assert done.leaks == ()
    assert ensembles.stack(PAIR, (X, Y)).held is None


def test_the_stack_is_scored_by_models_of_other_folds() -> None:
    """Of classes by chance, a forest over the answers would be right in every row it has seen."""
    luck = torch.randint(2, (120,), generator=seeding.generator(8))
    done = ensembles.stack(
        PAIR, (X, luck), meta=RandomForestClassifier(5), trusted=["sklearn.tree._tree.Tree"]
    )
    assert done.out_of_fold.stacked < 0.7
