"""Observers that ride on a training judge what they would have judged in a run of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.fixture import companions, data, equal, make_stage, make_task, weights
from tests.contract.found import case, names
from whet import predict
from whet.batch import Batch
from whet.branching import Untold, branch
from whet.method import Method, Placement
from whet.methods import EMA, SWA, LabelSmoothing, Lookahead, PreciseBN, Snapshot
from whet.riding import Rider, carries
from whet.run import Run
from whet.stage import Recipe

SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.9}


def observers() -> list[str]:
    return [name for name in names() if case(name).method.placements is Placement.OBSERVER]


def host(beside: Sequence[Method], *riders: Rider, folder: Path | None = None, **more: Any) -> Run:
    given = {"updates": 8, "evaluate_every": 2, "optimizer": SGD} | more
    engine = {"evaluate_every": given.pop("evaluate_every"), "checkpoint_every": 1}
    return Run(make_task(), make_stage(beside, **given), 0, device="cpu", folder=folder, log=None,
               callbacks=riders, **engine)  # fmt: skip


def judged(predictor: predict.Predictor) -> torch.Tensor:
    return predictor(Batch.of(data(20, 2)))


def same(alone: Run, run: Run, rider: Rider) -> bool:
    history = [{"update": row["update"], "metrics": row["metrics"]} for row in alone.history]
    return (
        equal(weights(alone.module), weights(run.module))
        and torch.equal(judged(alone.predictor()), judged(rider.predictor(run)))
        and history == rider.history
        and not rider.missed
    )


def every(methods: Sequence[Method]) -> list[Method]:
    return [*methods, *(m.during(*methods[0].span) for m in companions(methods))]


def test_there_are_observers() -> None:
    assert {"ema", "precise_bn"} <= set(observers())


@pytest.mark.parametrize("name", observers())
@pytest.mark.parametrize("span", [(0.0, 1.0), (0.5, 1.0)])
def test_as_in_a_run_of_their_own(name: str, span: tuple[float, float]) -> None:
    methods = every([case(name).method.during(*span)])
    rider = Rider("it", methods)
    run = host([], rider).fit()
    alone = host(methods).fit()
    assert same(alone, run, rider)
    assert rider.explain(run) == alone.stack.explain()
    assert equal(weights(host([]).fit().module), weights(run.module))


@pytest.mark.parametrize(
    "methods",
    [[EMA((0.5, 0.9))], [SWA(lr=None, after=0.25), PreciseBN()], [SWA(lr=None, every=None, swag=2),
     PreciseBN()], [EMA(0.5), PreciseBN()]],
)  # fmt: skip
@pytest.mark.parametrize("beside", [[], [LabelSmoothing(0.1), Lookahead(k=2)]])
def test_beside_methods_of_the_run(methods: list[Method], beside: list[Method]) -> None:
    assert carries(beside)
    rider = Rider("it", methods)
    assert same(host([*beside, *methods]).fit(), host(beside, rider).fit(), rider)


@pytest.mark.parametrize("stop", [1, 4, 5, 7])
def test_resumed(stop: int, tmp_path: Path) -> None:
    methods: list[Method] = [EMA(0.5).during(0.5, 1.0), PreciseBN().during(0.25, 1.0)]
    host([], Rider("it", methods), folder=tmp_path).fit(until=stop)
    rider = Rider("it", methods)
    run = host([], rider, folder=tmp_path)
    assert run.updates == stop
    assert same(host(methods).fit(), run.fit(), rider)


def test_on_a_trunk_and_its_branch(tmp_path: Path) -> None:
    methods: list[Method] = [EMA(0.5)]
    trunk = host([], Rider("it", methods), Rider("other", [EMA(0.9)]), folder=tmp_path)
    trunk.callbacks.append(Untold(4))
    trunk.fit(until=4)
    rider, late, stranger = Rider("it", methods), Rider("new", methods), Rider("other", [EMA(0.9)])
    run = host([], rider, late, stranger)
    branch(run, tmp_path / "checkpoints")
    run.fit()
    assert same(host(methods).fit(), run, rider)
    assert same(host([EMA(0.9)]).fit(), run, stranger)
    assert late.missed, "nobody averaged the trunk's weights for it"


def test_on_a_second_stage() -> None:
    def stages(beside: Sequence[Method], *riders: Rider) -> Run:
        recipe = Recipe([make_stage(updates=4, optimizer=SGD),
                         make_stage(beside, updates=4, optimizer=SGD)])  # fmt: skip
        return Run(make_task(), recipe, 0, device="cpu", evaluate_every=2, log=None,
                   callbacks=riders)  # fmt: skip

    rider = Rider("it", [EMA(0.5)], stage=1)
    assert same(stages([EMA(0.5)]).fit(), stages([], rider).fit(), rider)


def test_what_a_rider_costs_is_its_own_time() -> None:
    rider = Rider("it", [EMA(0.5)])
    host([], rider).fit()
    assert len(rider.seconds) == 8
    assert all(second > 0 for second in rider.seconds)


def test_several_do_not_disturb_each_other() -> None:
    riders = [Rider("a", [EMA(0.5)]), Rider("b", [PreciseBN()]), Rider("c", [EMA(0.5)])]
    run = host([], *riders).fit()
    assert same(host([EMA(0.5)]).fit(), run, riders[0])
    assert same(host([PreciseBN()]).fit(), run, riders[1])
    assert riders[0].history == riders[2].history


def test_who_looks_at_what_is_judged_carries_nobody() -> None:
    """A snapshot is of the weights that are judged at that moment: with EMA, of the average."""
    assert not carries([Snapshot(cycles=2)])
    assert not carries([EMA(0.5)])
    rider = Rider("it", [EMA(0.5)])
    assert not same(host([Snapshot(cycles=2), EMA(0.5)]).fit(),
                    host([Snapshot(cycles=2)], rider).fit(), rider)  # fmt: skip
