"""The engine on CUDA; run by `make gpu`, and left out everywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contract.fixture import (
    close,
    companions,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    members_of,
    weights,
)  # fmt: skip
from tests.contract.found import case, names
from tests.contract.test_precision import check_overflows, standing
from tests.contract.test_singles import same, schedule, windows
from whet.batch import Batch
from whet.errors import InputError, NonFiniteLoss
from whet.predict import Predictor
from whet.run import Run
from whet.stage import Recipe, Stage

pytestmark = pytest.mark.gpu

# cuBLAS reads it when its first handle is made; without it two runs may differ in the last bit
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

PRECISIONS = ("fp32", "bf16", "fp16")
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def on_cuda(precision: str = "fp32", *methods: Any, **changes: Any) -> Run:
    of_run = {k: changes.pop(k) for k in ("folder", "evaluate_every", "callbacks") if k in changes}
    given: dict[str, Any] = {"updates": 6, "batch_size": 6, "accumulate": 2, "optimizer": SGD}
    stage = Stage(methods=[*methods, *companions(methods)], **(given | changes))
    task = make_task(members=members_of(methods))
    return Run(task, stage, device="cuda", precision=precision, **of_run)


class TestPrecisions:
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_it_trains(self, precision: str) -> None:
        dtypes: set[torch.dtype] = set()
        run = on_cuda(precision, updates=60, evaluate_every=30)
        run.module.hidden.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
        before = run.evaluate("train")["log_loss"]
        run.fit()
        wanted = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        assert dtypes == {wanted[precision]}
        assert all(p.dtype == torch.float32 and p.is_cuda for p in run.module.parameters())
        assert run.evaluate("train")["log_loss"] < before
        assert [row["update"] for row in run.history] == [30, 60]

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_two_runs_are_one(self, precision: str) -> None:
        first, second = on_cuda(precision, "ema").fit(), on_cuda(precision, "ema").fit()
        assert same(first.state_dict(), second.state_dict())
        assert first.evaluate() == second.evaluate()

    @pytest.mark.parametrize("precision", PRECISIONS)
    @pytest.mark.parametrize("stop", [1, 3, 5])
    def test_it_resumes_to_the_bit(self, precision: str, stop: int, tmp_path: Path) -> None:
        through = on_cuda(precision, "ema", schedule="cosine").fit()
        on_cuda(precision, "ema", schedule="cosine", folder=tmp_path).fit(until=stop)
        resumed = on_cuda(precision, "ema", schedule="cosine", folder=tmp_path)
        assert resumed.updates == stop
        assert same(through.state_dict(), resumed.fit().state_dict())
        assert through.evaluate() == resumed.evaluate()

    def test_three_stages_resume(self, tmp_path: Path) -> None:
        def make(folder: Path | None = None) -> Run:
            stages = [
                Stage(updates=3, batch_size=6, optimizer=SGD, methods=["r_drop"]),
                Stage(updates=2, batch_size=8, starts_from="evaluation", freeze=["embed"]),
                Stage(updates=3, batch_size=6, accumulate=3, schedule="linear"),
            ]
            recipe = Recipe(stages, methods=["ema", "precise_bn"])
            return Run(make_task(), recipe, device="cuda", precision="fp16", folder=folder)

        through = make().fit()
        for stop in range(1, 8):
            make(tmp_path).fit(until=stop)
        assert same(through.state_dict(), make(tmp_path).fit().state_dict())

    def test_it_is_near_the_cpu(self) -> None:
        """Without dropout, whose masks another device draws otherwise."""
        stage = Stage(updates=6, batch_size=6, accumulate=2, optimizer=SGD)
        here = Run(make_task(coupled=False), stage, device="cpu").fit()
        there = Run(make_task(coupled=False), stage, device="cuda").fit()
        moved = {name: tensor.cpu() for name, tensor in weights(there.module).items()}
        assert close(weights(here.module), moved, atol=1e-4)

    def test_auto_is_cuda(self) -> None:
        run = Run(make_task(), Stage(updates=1))
        assert run.device.type == "cuda"
        assert run.manifest()["device"].startswith("cuda")
        assert run.manifest()["deterministic"] is True


class TestOverflow:
    def test_a_skipped_update_changes_nothing(self) -> None:
        """The scale is far too large at first; each overflow halves it and leaves all the rest."""
        happened: list[int] = []
        run = on_cuda("fp16", "ema", schedule="cosine", updates=4,
                      callbacks=[lambda run: happened.append(run.updates)])  # fmt: skip
        run.fit(until=1)
        assert run.scaler is not None
        run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 2.0**36})
        before, scale = standing(run), run.scaler.get_scale()
        batches = windows()[1]
        assert run.stack.step(batches) is False
        assert same(before, standing(run))
        assert run.scaler.get_scale() == scale / 2
        assert (run.stack.run.updates, run.stack.run.window) == (1, 2)
        run.fit()
        assert happened == [1, 2, 3, 4]
        assert run.stack.run.window > 5
        assert all(t.isfinite().all() for t in weights(run.module).values())

    @pytest.mark.parametrize("name", names())
    def test_it_moves_nothing_of_any_method(self, name: str) -> None:
        check_overflows(name, "cuda")

    def test_a_loss_that_never_is_finite(self) -> None:
        run = on_cuda("fp16")
        with torch.no_grad():
            run.module.head.bias.fill_(float("nan"))
        with pytest.raises(NonFiniteLoss, match="updates in a row overflowed"):
            run.fit()


class TestMistakes:
    def poisoned(self) -> Any:
        task = make_task()
        task.train["floats"][17] = float("nan")
        return task

    def test_a_nan_is_named_one_step_late(self, tmp_path: Path) -> None:
        from whet import checkpoint

        stage = Stage(updates=20, batch_size=6, optimizer=SGD)
        run = Run(self.poisoned(), stage, device="cuda", folder=tmp_path, checkpoint_every=1)
        at = run.loader.order(0).tolist().index(17) // 6  # type: ignore[attr-defined]
        with pytest.raises(
            NonFiniteLoss, match=rf"update {at} \(window {at}\): inputs of data set rows 17"
        ):
            run.fit()
        for number in checkpoint.numbers(tmp_path / "checkpoints"):
            saved = checkpoint.load(tmp_path / "checkpoints" / f"{number:08d}")
            assert all(t.isfinite().all() for t in saved["model"].values())

    def test_the_step_does_not_wait_for_it(self) -> None:
        stack = make_stack()
        stack.run.module.cuda()
        bad = Batch.of(data())
        bad.inputs["floats"][3] = float("nan")
        assert stack.step(bad)
        with pytest.raises(NonFiniteLoss, match="inputs of rows of the batch 3"):
            stack.step(Batch.of(data()))

    def test_a_target_out_of_range_is_no_assertion_of_the_device(self) -> None:
        stack = make_stack()
        stack.run.module.cuda()
        stack.step(Batch.of(data()))
        wrong = Batch.of(data(seed=1))
        assert wrong.targets is not None
        wrong.targets[5] = 7
        with pytest.raises(InputError, match=r"targets out of range.*found 7"):
            stack.step(wrong)
        assert stack.step(Batch.of(data())), "the device still works"


class TestPredictors:
    def test_a_file_goes_to_a_cpu(self, tmp_path: Path) -> None:
        run = on_cuda("fp32", "ema").fit()
        predictor = run.predictor()
        there = predictor(Batch.of(data(20, 1)))
        assert there.is_cuda
        predictor.save(tmp_path / "p.safetensors")
        here = Predictor.load(tmp_path / "p.safetensors", make_model(4))(Batch.of(data(20, 1)))
        assert torch.allclose(here, there.cpu(), atol=1e-5)
        back = Predictor.load(tmp_path / "p.safetensors", make_model(4).cuda())
        assert torch.equal(back(Batch.of(data(20, 1))), there)

    def test_a_checkpoint_goes_to_a_cpu(self, tmp_path: Path) -> None:
        trained = on_cuda("fp32", "ema", folder=tmp_path).fit(until=3)
        stage = trained.recipe.stages[0]
        here = Run(make_task(), stage, device="cpu", folder=tmp_path)
        assert here.updates == 3
        moved = {name: tensor.cpu() for name, tensor in weights(trained.module).items()}
        assert equal(moved, weights(here.module))
        here.fit()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("name", names())
class TestEveryMethod:
    def made(self, name: str, precision: str, folder: Path | None = None) -> Run:
        method = case(name).method
        return on_cuda(
            precision, method.clone(), updates=4, schedule=schedule(method), folder=folder
        )

    def test_two_runs_are_one_and_a_resumed_one_is_the_same(
        self, name: str, precision: str, tmp_path: Path
    ) -> None:
        first, second = self.made(name, precision).fit(), self.made(name, precision).fit()
        assert same(first.state_dict(), second.state_dict())
        self.made(name, precision, tmp_path).fit(until=2)
        resumed = self.made(name, precision, tmp_path).fit()
        assert same(first.state_dict(), resumed.state_dict())
        batch = Batch.of(data(20, 2))
        predictions = [run.predictor()(batch) for run in (first, second, resumed)]
        assert torch.equal(predictions[0], predictions[1])
        assert torch.equal(predictions[0], predictions[2])
        assert all(t.isfinite().all() for t in weights(first.module).values())


@pytest.mark.parametrize("name", names())
def test_a_plain_loop_equals_the_engine(name: str) -> None:
    method = case(name).method
    run = on_cuda(
        "fp32", method.clone(), optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9}
    ).fit()
    stack = make_stack([method])
    stack.run.module.cuda()
    stack.run.heads.cuda()
    for window in windows()[:6]:
        stack.step(window)
    assert equal(weights(run.module), weights(stack.run.module))


@pytest.mark.parametrize("name", names())
def test_evaluating_leaves_training_untouched(name: str) -> None:
    method = case(name).method
    plain = on_cuda("fp32", method.clone()).fit()
    watched = on_cuda("fp32", method.clone(), evaluate_every=1).fit()
    assert equal(weights(plain.module), weights(watched.module))


def test_the_fixture_without_cuda_is_untouched() -> None:
    """CUDA in the same process changes nothing for a run on the CPU."""
    first = make_run().fit()
    on_cuda("fp32").fit()
    assert equal(weights(first.module), weights(make_run().fit().module))


def test_averages_and_teachers_on_the_host() -> None:
    """Where memory is short on the accelerator: the same training, by way of the host."""
    from whet.methods import EMA, Distillation, FeatureDistillation

    def made(device: str | None) -> Run:
        return on_cuda(
            "fp32", EMA(0.9, device=device), Distillation(2.0, device=device),
            FeatureDistillation(at="hidden", device=device),
        ).fit()  # fmt: skip

    here, there = made(None), made("cpu")
    state = there.stack.state_dict()["states"]["ema"]["shadows"][0]
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}
    assert next(there.task.resources["teacher"].parameters()).device.type == "cpu"
    assert close(weights(here.module), weights(there.module), atol=1e-4)
    batch = Batch.of(data(20, 1))
    assert torch.allclose(here.predictor()(batch).cpu(), there.predictor()(batch).cpu(), atol=1e-4)
