"""Every method in half precision: it trains and resumes, and an overflow moves nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.fixture import (
    companions,
    data,
    equal,
    make_model,
    make_task,
    members_of,
    weights,
)
from tests.contract.found import case, names
from tests.contract.test_singles import flat, same, schedule, windows
from whet import device as devices
from whet import nesting
from whet.batch import Batch
from whet.run import Run
from whet.stage import Stage

every = pytest.mark.parametrize("name", names())
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9}
FAR = 2.0**60  # a scale at which every loss overflows


@pytest.fixture(autouse=True)
def _fp16_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs refuse it, as it is slow there; what a scaler and methods do is the same."""
    monkeypatch.setattr(devices, "check", lambda device, precision: None)


def made(name: str, precision: str, device: str = "cpu", **changes: Any) -> Run:
    """A run in half precision; in fp16 its scale is one that overflows nowhere by itself."""
    method = case(name).method.clone()
    stage = Stage(
        updates=6, batch_size=6, accumulate=2, optimizer=SGD, schedule=schedule(method),
        methods=[method, *companions([method])],
    )  # fmt: skip
    fresh = Run(
        make_task(members=members_of([method])),
        stage,
        device=device,
        precision=precision,
        **changes,
    )
    if precision == "fp16" and fresh.updates == 0:
        set_scale(fresh, 2.0**8)
    return fresh


def set_scale(run: Run, scale: float) -> None:
    assert run.scaler is not None
    run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": scale})


def standing(run: Run) -> dict[str, Any]:
    """All that a skipped update must leave as it is, copied."""
    stack = run.stack
    stack.open()  # methods have no state before
    # who brings a schedule sets the rate of an update before it is known whether that happens: a
    # function of the updates, so that the next try has the same
    bound = not any(map(nesting.brings_schedule, stack.methods))
    kept = {
        "model": run.module.state_dict(), "heads": stack.run.heads.state_dict(),
        "methods": stack.state_dict()["states"],
        "optimizer": stack.optimizer.state_dict()["state"],
        "rates": [group["lr"] for group in stack.optimizer.param_groups if bound],
        "schedule": None if stack.run.scheduler is None else stack.run.scheduler.last_epoch,
        "updates": [run.updates, stack.run.updates],
    }  # fmt: skip
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in flat(kept).items()}


def overflow(run: Run, batches: list[Batch]) -> None:
    """A window whose scaled gradients are not finite: skipped, and nothing has moved."""
    before = standing(run)
    set_scale(run, FAR)
    assert run.stack.step(batches) is False
    assert same(before, standing(run))
    assert run.scaler is not None
    assert run.scaler.get_scale() == FAR / 2
    set_scale(run, 2.0**8)


def left_out(run: Run, batches: list[Batch]) -> None:
    """A window that is sound, and whose update a host says did not happen."""
    run.stack.gradients(run.stack.window(batches))
    run.stack.after_update(False)


def check_overflows(name: str, device: str = "cpu") -> None:
    """At the first window and in the middle; afterwards no later step shows that there was one.

    Data go on: what is drawn beside a window is that window's, whether it was learned or not.
    """
    struck, plain = made(name, "fp16", device), made(name, "fp16", device)
    for run, skip in ((struck, overflow), (plain, left_out)):
        skip(run, windows()[5])
        run.fit(until=3)
        drawn = dict(run.stack.run.draws.taken)
        skip(run, windows()[4])
        assert drawn.keys() == run.stack.run.draws.taken.keys()
        assert all(run.stack.run.draws.taken[key] > drawn[key] for key in drawn)
        run.fit()
    assert equal(weights(plain.module), weights(struck.module))
    ours, theirs = struck.stack.state_dict(), plain.stack.state_dict()
    assert same(ours["states"], theirs["states"])
    assert ours["position"] == theirs["position"]
    batch = Batch.of(data(20, 2))
    assert torch.equal(struck.predictor()(batch), plain.predictor()(batch))


@every
def test_an_overflow_moves_nothing(name: str) -> None:
    check_overflows(name)


@every
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_trains_and_resumes(name: str, precision: str, tmp_path: Path) -> None:
    dtypes: set[torch.dtype] = set()
    through = made(name, precision)
    handle = through.module.hidden.register_forward_hook(lambda *args: dtypes.add(args[2].dtype))
    through.fit()
    handle.remove()
    assert (torch.bfloat16 if precision == "bf16" else torch.float16) in dtypes
    assert all(p.dtype == torch.float32 for p in through.module.parameters())
    assert all(tensor.isfinite().all() for tensor in weights(through.module).values())
    made(name, precision, folder=tmp_path).fit(until=2)
    resumed = made(name, precision, folder=tmp_path)
    assert resumed.updates == 2
    assert same(through.state_dict(), resumed.fit().state_dict())
    batch = Batch.of(data(20, 2))
    assert torch.equal(through.predictor()(batch), resumed.predictor()(batch))
    assert through.predictor()(batch).dtype == torch.float32


@every
def test_fp16_learns_what_fp32_learns(name: str) -> None:
    """A second pass at another scale than the first, or none, would lead elsewhere."""
    start = dict(make_model(members=members_of([case(name).method])).named_parameters())
    half, full = made(name, "fp16").fit(until=2), made(name, "fp32").fit(until=2)
    ours, theirs = weights(half.module), weights(full.module)
    learned = torch.cat([(theirs[key] - start[key]).flatten() for key in start])
    apart = torch.cat([(theirs[key] - ours[key]).flatten() for key in start])
    assert apart.norm() < 0.1 * learned.norm()
