"""One Stack in four hosts: the same weights to the bit, also when each is stopped and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract import fixture
from tests.hosts import alike
from whet.method import Method
from whet.methods import EMA, SAM, SWA, ClipGradNorm, MoCo, PreciseBN

SETS: dict[str, list[Method]] = {
    "seven": alike.methods(),
    # a window seen twice, a rate over the schedule, epochs, gradients that are whole
    "others": [SAM(), SWA(after=0.25, every=None, lr=0.5), PreciseBN(), ClipGradNorm(0.5)],
    "built": [MoCo(queue=16, dim=4, at="head"), EMA(0.8)],
}


def plain(folder: Path, methods: list[Method]) -> tuple[Any, Any]:
    loop = alike.Loop(methods)
    return loop.train(), loop.model


def huggingface(folder: Path, methods: list[Method]) -> tuple[Any, Any]:
    host = alike.trainer(folder, methods=methods)
    host.train()
    assert host.state.global_step == alike.UPDATES
    return host, host.model


def lightning(folder: Path, methods: list[Method]) -> tuple[Any, Any]:
    host, trainer = alike.module(methods=methods), alike.lightning(folder)
    trainer.fit(host, alike.loader(), alike.held_out())
    assert trainer.global_step == alike.UPDATES
    return host, host.model


@pytest.mark.parametrize("names", SETS)
@pytest.mark.parametrize("host", [plain, huggingface, lightning])
def test_the_same_weights_as_the_engine(host: Any, names: str, tmp_path: Path) -> None:
    run = alike.engine(methods=SETS[names]).fit()
    other, model = host(tmp_path, SETS[names])
    assert run.updates == other.stack.run.updates == alike.UPDATES
    assert run.stack.run.epoch == other.stack.run.epoch == alike.EPOCHS
    assert alike.differing(fixture.weights(run.module), fixture.weights(model)) == []
    with run.stack.evaluating():
        judged = fixture.weights(run.module)
    assert alike.differing(judged, alike.judged(other, model)) == []
    assert alike.differing(judged, fixture.weights(model)) != []  # what is judged is another thing


@pytest.mark.parametrize("stop", [3, 4])  # within an epoch, and at its end
def test_the_loop_continues(stop: int) -> None:
    whole, first, second = alike.Loop().train(), alike.Loop().train(0, stop), alike.Loop()
    second.load(first.state())
    second.train(stop)
    assert_same(whole, whole.model, second, second.model)


@pytest.mark.parametrize("stop", [3, 6])
def test_the_engine_continues(stop: int, tmp_path: Path) -> None:
    whole = alike.engine().fit()
    alike.engine(tmp_path).fit(stop)
    second = alike.engine(tmp_path)
    assert second.updates == stop
    second.fit()
    assert alike.differing(fixture.weights(whole.module), fixture.weights(second.module)) == []
    with whole.stack.evaluating(), second.stack.evaluating():
        assert alike.differing(fixture.weights(whole.module), fixture.weights(second.module)) == []


@pytest.mark.parametrize("kind", [alike.Ordered, alike.Plain])
@pytest.mark.parametrize("names", ["seven", "built"])
def test_the_trainer_continues(kind: Any, names: str, tmp_path: Path) -> None:
    about: dict[str, Any] = {
        "kind": kind, "methods": SETS[names], "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    whole = alike.trainer(tmp_path, **about)
    whole.train()
    for stop in (3, 4):
        second = alike.trainer(tmp_path / "second", **about)
        second.model.head.weight.data.zero_()  # nothing of it is its own
        second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))
        assert second.stack.run.updates == alike.UPDATES
        assert_same(whole, whole.model, second, second.model)


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")  # and is said so
@pytest.mark.parametrize("names", ["seven", "built"])
def test_lightning_continues(names: str, tmp_path: Path) -> None:
    every = alike.checkpoints(tmp_path)
    whole = alike.module(methods=SETS[names])
    alike.lightning(tmp_path, enable_checkpointing=True, callbacks=[every]).fit(
        whole, alike.loader(), alike.held_out()
    )
    second = alike.module(methods=SETS[names])
    again = alike.checkpoints(tmp_path / "second")
    trainer = alike.lightning(tmp_path, enable_checkpointing=True, callbacks=[again])
    last = tmp_path / "epoch=1.ckpt"
    trainer.fit(second, alike.loader(), alike.held_out(), ckpt_path=last)
    assert second.stack.run.updates == trainer.global_step == alike.UPDATES
    assert_same(whole, whole.model, second, second.model)


def assert_same(one: Any, first: Any, other: Any, second: Any) -> None:
    assert alike.differing(fixture.weights(first), fixture.weights(second)) == []
    assert alike.differing(alike.judged(one, first), alike.judged(other, second)) == []
