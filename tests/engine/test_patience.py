"""Early stopping: when a stage ends, and that its best evaluation is judged and handed over."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.fixture import equal, make_stage, make_task, weights
from tests.contract.test_singles import same
from tests.methods.traps import trap
from whet import entering, patience
from whet.branching import Untold, branch
from whet.errors import CheckpointError, InputError, UnknownName
from whet.methods import make
from whet.riding import Rider
from whet.run import Run
from whet.stage import Recipe, Stage

WILD = {"name": "sgd", "lr": 0.8, "momentum": 0.9}  # so that evaluations go up and down
RULES = {"patience": 3}


def stage(*methods: Any, **changes: Any) -> Stage:
    given = {"updates": 20, "optimizer": WILD, "early_stopping": RULES} | changes
    return Stage(methods=methods, batch_size=6, **given)


def made(*stages: Stage, through: Sequence[Any] = (), **run: Any) -> Run:
    given = {"evaluate_every": 1, "device": "cpu"} | run
    return Run(make_task(), Recipe(stages or [stage()], methods=through), seed=1, **given)


def by_loss(*stages: Stage) -> Run:
    task = replace(make_task(), metrics=["log_loss"])
    return Run(task, Recipe(stages), seed=1, device="cpu", evaluate_every=1)


def losses(run: Run) -> list[float]:
    name = next(iter(run.history[0]["metrics"]))
    return [row["metrics"][name] for row in run.history]


@contextmanager
def scripted(*scores: float) -> Iterator[None]:
    """The select part gives these, one evaluation after the other."""
    left = iter(scores)

    def evaluate(run: Run, part: str = "judge") -> dict[str, float]:
        return {"accuracy": next(left)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "evaluate", evaluate)
        yield


class TestWhen:
    @pytest.mark.parametrize(
        ("rules", "scores", "updates"),
        [
            ({"patience": 3}, [0.1, 0.3, 0.2, 0.25, 0.3, 0.9, 0.9, 0.9], 5),
            ({"patience": 1}, [0.1, 0.2, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9], 4),
            ({"patience": 2}, [0.3, 0.2, 0.4, 0.3, 0.2, 0.9, 0.9, 0.9], 5),
            ({"patience": 2, "least": 0.15}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5], 7),
            ({"patience": 2}, [math.nan] * 8, 2),
            ({"patience": 3}, [0.3, math.nan, 0.2, 0.4, math.nan, 0.1, 0.1, 0.9], 7),
            ({"patience": 8}, [0.1] * 8, 8),
        ],
    )
    def test_after_so_many_that_brought_nothing_better(
        self, rules: dict[str, Any], scores: list[float], updates: int
    ) -> None:
        with scripted(*scores):
            run = made(stage(updates=8, early_stopping=rules)).fit()
            assert run.updates == updates
            assert run.fit().updates == updates, "it is over"
        told = [note for note in run.notes if "stopped early" in note]
        assert len(told) == (rules["patience"] < 8)
        assert [row["update"] for row in run.history] == list(range(1, updates + 1))

    def test_less_is_better_where_the_metric_says_so(self) -> None:
        run = by_loss(stage()).fit()
        best, waited = math.inf, 0
        for value in losses(run):
            best, waited = (value, 0) if value < best else (best, waited + 1)
        assert (waited, run.updates) == (3, len(losses(run)))
        assert run.updates < 20
        assert run.evaluate("select")["log_loss"] == min(losses(run))

    def test_it_counts_evaluations_not_updates(self) -> None:
        with scripted(0.5, 0.4, 0.3, 0.2):
            run = made(stage(early_stopping={"patience": 2}), evaluate_every=4).fit()
        assert run.updates == 12

    def test_each_stage_has_its_own(self) -> None:
        with scripted(0.5, 0.4, 0.3, 0.2, 0.1, 0.1):
            run = made(*[stage(early_stopping={"patience": 2})] * 2).fit()
        assert (run.stage_number, run.updates) == (1, 6)


class References(patience.Patience):
    """`best = model.state_dict()`, which holds the very tensors that go on training."""

    def evaluated(self, run: Run) -> None:
        before = self.kept
        super().evaluated(run)
        if self.kept is not None and self.kept is not before:
            self.kept = {"model": run.module.state_dict(), "stack": run.stack.state_dict()}


class Last(patience.Patience):
    """It stops and leaves what stands there."""

    @contextmanager
    def standing_at_best(self, run: Run) -> Iterator[bool]:
        yield False


class OnlyWeights(patience.Patience):
    """The weights of the best are kept, and not the averages that were judged there."""

    @contextmanager
    def standing_at_best(self, run: Run) -> Iterator[bool]:
        if self.ended and self.kept is not None:
            run.module.load_state_dict(self.kept["model"])
        yield False


@contextmanager
def using(kind: type[patience.Patience]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entering, "Patience", kind)
        yield


EMA: dict[str, Any] = {"name": "ema", "decay": 0.5}
BESIDE: dict[str, list[Any]] = {
    "plain": [],
    "averages": [EMA, "precise_bn"],
    "lookahead": [{"name": "lookahead", "k": 2}],
    "several": [{"name": "ema", "decay": [0.3, 0.8]}],
    "snapshots": [{"name": "snapshot", "cycles": 7}],
    "their average": [{"name": "swa", "lr": None, "during": [0.1, 1.0]}, "precise_bn"],
    "calibrated": ["temperature_scaling"],
    "a span": [{**EMA, "during": [0.0, 0.2]}],
}


class TestWhatIsJudged:
    @pytest.mark.parametrize("beside", BESIDE)
    def test_the_best(self, beside: str, tmp_path: Path) -> None:
        run = by_loss(stage(*BESIDE[beside])).fit()
        assert losses(run)[-1] > min(losses(run))
        before = run.state_dict()
        assert run.evaluate("select")["log_loss"] == min(losses(run))
        assert same(before, run.state_dict()), "judging leaves the run where it is"
        run.predictor().save(tmp_path / "p.safetensors")
        again = made().predictor().load(tmp_path / "p.safetensors", make_task().model)
        rows = next(run.batches("select"))
        assert torch.equal(again(rows), run.predictor()(rows))

    def test_whatever_mode_the_model_was_left_in(self) -> None:
        run = by_loss(stage("precise_bn", freeze=["embed"])).fit()
        run.module.eval()
        assert run.evaluate("select")["log_loss"] == min(losses(run)) < losses(run)[-1]
        assert not any(module.training for module in run.module.modules())

    def test_of_what_is_said_not_to_be_restored_the_end(self) -> None:
        run = made(stage(early_stopping={**RULES, "restore": False})).fit()
        assert run.patience.kept is None
        assert run.evaluate("select") == run.history[-1]["metrics"]

    def test_as_long_as_it_trains_what_stands_there(self) -> None:
        run = made().fit(until=3)
        assert run.evaluate("select") == run.history[-1]["metrics"]

    def test_at_its_length_too(self) -> None:
        run = by_loss(stage(updates=6, early_stopping={"patience": 99})).fit()
        assert run.updates == 6
        assert run.evaluate("select")["log_loss"] == min(losses(run)) < losses(run)[-1]

    def test_training_is_what_it_was_without(self) -> None:
        stopped = made().fit()
        plain = made(stage(early_stopping=None)).fit(until=stopped.updates)
        stopped.predictor()
        assert equal(weights(plain.module), weights(stopped.module))
        assert plain.history == stopped.history

    @pytest.mark.parametrize("wrong", [References, Last, OnlyWeights])
    def test_it_is_a_copy_of_all_that_was_judged(self, wrong: type[patience.Patience]) -> None:
        @trap(right=patience.Patience, wrong=wrong)
        def check(kind: type[patience.Patience]) -> None:
            with using(kind):
                run = by_loss(stage(EMA)).fit()
                assert run.evaluate("select")["log_loss"] == min(losses(run))

        check("right")
        check("wrong")


class TestHandedOver:
    def stages(self, start: str) -> Run:
        return made(stage(), stage(updates=2, starts_from=start, early_stopping=None),
                    through=[EMA])  # fmt: skip

    def test_the_best_as_evaluation(self) -> None:
        alone = made(stage(), through=[EMA]).fit()
        run = self.stages("evaluation").fit(until=alone.updates)
        [judged] = run.predictor().members()
        assert equal(judged, alone.predictor().members()[0])
        kept = run.patience.kept
        assert kept is not None
        assert run.patience.waited > 0
        entering.hand_over(run)
        run.stack.open()
        assert equal(judged, weights(run.module))
        states = run.stack.state_dict()["states"]["ema"]
        assert same(kept["stack"]["states"]["ema"]["shadows"][0], states["shadows"][0])

    def test_the_end_as_training(self) -> None:
        alone = made(stage(), through=[EMA]).fit()
        run = self.stages("training").fit(until=alone.updates)
        entering.hand_over(run)
        assert equal(weights(alone.module), weights(run.module))

    @pytest.mark.parametrize("start", ["evaluation", "training"])
    def test_resumed_anywhere(self, start: str, tmp_path: Path) -> None:
        through = self.stages(start).fit()
        for stop in range(1, through.updates + 1):
            run = self.again(start, tmp_path)
            assert run.updates == stop - 1
            run.fit(until=stop)
        run = self.again(start, tmp_path)
        assert same(through.state_dict(), run.state_dict())
        assert through.evaluate() == run.evaluate()

    def again(self, start: str, folder: Path) -> Run:
        return made(*self.stages(start).recipe.stages, through=[EMA], folder=folder)


class TestResumed:
    @pytest.mark.parametrize("stop", [1, 3, 5, 99])
    def test_in_the_middle_and_after_the_end(self, stop: int, tmp_path: Path) -> None:
        through = made(stage(EMA, "precise_bn")).fit()
        made(stage(EMA, "precise_bn"), folder=tmp_path).fit(until=stop)
        run = made(stage(EMA, "precise_bn"), folder=tmp_path)
        assert run.updates == min(stop, through.updates)
        run.fit()
        assert same(through.state_dict(), run.state_dict())
        assert through.evaluate() == run.evaluate()
        assert equal(through.predictor().members()[0], run.predictor().members()[0])

    def test_a_longer_stage_goes_on_from_its_training_weights(self, tmp_path: Path) -> None:
        rules = {"patience": 9}
        long, short = (stage(updates=n, early_stopping=rules) for n in (9, 5))
        made(short, folder=tmp_path).fit().evaluate()
        run = made(long, folder=tmp_path, on_change="continue").fit()
        through = made(long).fit()
        assert equal(weights(through.module), weights(run.module))
        assert through.history == run.history
        assert through.evaluate() == run.evaluate()

    def test_other_patience_is_another_recipe(self, tmp_path: Path) -> None:
        made(folder=tmp_path).fit(until=2)
        with pytest.raises(CheckpointError, match=r"early_stopping.patience 3 -> 4"):
            made(stage(early_stopping={"patience": 4}), folder=tmp_path)

    def test_a_branch(self, tmp_path: Path) -> None:
        """The trunk's best was made without the methods that begin later."""
        later = [{**EMA, "during": [0.5, 1.0]}]
        given = {"updates": 8, "early_stopping": {"patience": 9}}
        alone = made(stage(*later, **given)).fit()
        made(stage(**given), folder=tmp_path, callbacks=[Untold(4)]).fit(until=4)
        run = made(stage(*later, **given))
        branch(run, tmp_path / "checkpoints")
        run.fit()
        assert same(alone.state_dict(), run.state_dict())
        assert alone.evaluate() == run.evaluate()

    @pytest.mark.parametrize("changes", [{}, {"early_stopping": None, "schedule": "plateau"}])
    def test_riders_are_trained_by_themselves(self, changes: dict[str, Any]) -> None:
        """The training goes by what it judges, and they judge something else."""
        rider = Rider("r", [make(EMA)])
        made(stage(**changes), callbacks=[rider]).fit()
        assert rider.missed


class TestRefused:
    def test_without_a_select_part(self) -> None:
        task = replace(make_task(), select=None)
        run = Run(task, stage(), device="cpu", evaluate_every=1)
        with pytest.raises(InputError, match=r"early stopping goes by the select part.*select="):
            run.fit()

    def test_without_evaluations_and_before_the_first_stage_is_trained(self) -> None:
        run = made(stage(early_stopping=None), stage(), evaluate_every=None)
        with pytest.raises(InputError, match=r"early stopping goes by eval.*evaluate_every=N"):
            run.fit()
        assert run.updates == 0

    @pytest.mark.parametrize(
        ("rules", "words"),
        [
            ({"patience": 0}, "early_stopping: patience is 0; it must be a whole number in"),
            ({"patience": 2.5}, "patience is 2.5"),
            ({"least": -0.1}, "least is -0.1"),
            ({"restore": "yes"}, "restore is 'yes'; it must be true or false"),
            (5, r"early_stopping is 5; give settings such as \{\"patience\": 5\}"),
        ],
    )
    def test_bad_settings(self, rules: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            make_stage(early_stopping=rules)

    def test_a_copy_of_a_sharded_model(self) -> None:
        with pytest.raises(InputError, match=r"keeps a copy.*restore.*False"):
            made(strategy="fsdp")

    def test_an_unknown_setting(self) -> None:
        with pytest.raises(UnknownName, match="'patiance'; did you mean 'patience'"):
            make_stage(early_stopping={"patiance": 3})

    def test_settings_may_be_any_mapping(self) -> None:
        given: Mapping[str, Any] = {"patience": 2}
        assert make_stage(early_stopping=given).early_stopping == {
            "patience": 2, "least": 0.0, "restore": True
        }  # fmt: skip
