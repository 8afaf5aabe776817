"""A scaler beside fused and foreach optimizers, second backwards, clipping and lost overflows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.fixture import make_stack, weights
from tests.contract.test_singles import flat, same, windows
from tests.engine.tiny import linear, rows, stack, state, tiny
from tests.methods.traps import trap
from whet import methods
from whet.errors import NonFiniteLoss
from whet.forward import Forward
from whet.method import Method
from whet.methods.clip_grad_norm import ClipGradNorm
from whet.methods.fgm import FGM
from whet.stack import Stack
from whet.training import Training

KINDS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad]


def scaler(scale: float = 2.0**10, **changes: Any) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, **changes)


@pytest.mark.parametrize("way", ["fused", "foreach"])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
class TestOptimizers:
    """A fused one unscales and skips by itself, where it is not kept from it."""

    def made(self, kind: Any, way: str, *given: Method, **changes: Any) -> Stack:
        more = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return stack(*given, optimizer=lambda p: kind(p, lr=0.05, **{way: True}, **more), **changes)

    def moved(self, made: Stack) -> dict[str, Any]:
        kept = flat({
            "model": made.run.module.state_dict(), "optimizer": made.optimizer.state_dict()["state"]
        })  # fmt: skip
        return {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}

    def overflow(self, made: Stack) -> None:
        made.gradients(made.window(rows(6, 9)))
        planted = next(p for p in made.parameters() if p.grad is not None)
        assert planted.grad is not None
        planted.grad.view(-1)[0] = float("inf")
        assert made.update() is False

    def test_an_overflow_moves_nothing(self, kind: Any, way: str) -> None:
        plain, struck = self.made(kind, way), self.made(kind, way, scaler=scaler())
        self.overflow(struck)
        if kind is not torch.optim.Adagrad:  # which makes its state before the first step
            assert not struck.optimizer.state, "fused SGD leaves a momentum that nobody wrote"
        assert same(
            {k: v for k, v in self.moved(struck).items() if k.startswith("/model")},
            {k: v for k, v in self.moved(plain).items() if k.startswith("/model")},
        )
        for seed in range(3):
            assert plain.step(rows(6, seed))
            assert struck.step(rows(6, seed))
        before = self.moved(struck)
        self.overflow(struck)
        assert same(before, self.moved(struck))
        assert plain.step(rows(6, 3))
        assert struck.step(rows(6, 3))
        here, there = self.moved(plain), self.moved(struck)
        assert here.keys() == there.keys()
        assert all(torch.allclose(here[k], there[k], rtol=1e-5, atol=1e-7) for k in here)

    def test_clipped_after_unscaling(self, kind: Any, way: str) -> None:
        clips = [ClipGradNorm(0.1), ClipGradNorm(0.1)]
        plain = self.made(kind, way, clips[0])
        scaled = self.made(kind, way, clips[1], scaler=scaler())
        for seed in range(3):
            plain.step(rows(6, seed))
            scaled.step(rows(6, seed))
            assert clips[1].norm == pytest.approx(clips[0].norm, rel=1e-5)
            assert clips[0].norm > 0.1
        ours, theirs = state(scaled.run.module), state(plain.run.module)
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)


AGAIN: list[dict[str, Any]] = [
    {"name": "fgm"},
    {"name": "fgm", "scope": "output"},
    {"name": "fgm", "scope": "example", "weight": 0.5},
    {"name": "pgd", "step_size": 0.5},
    {"name": "pgd", "scope": "output", "weight": 0.5},
    {"name": "pgd_inputs", "epsilon": 0.3, "at": "floats", "clean_weight": 0.5},
    {"name": "random_noise"},
    {"name": "sam", "rho": 0.2},
    {"name": "sam", "rho": 0.5, "adaptive": True},
    {"name": "freelb", "steps": 3, "step_size": 0.5, "init": 0.5, "epsilon": 0.6},
    {"name": "fast_fgsm", "epsilon": 0.3, "at": "floats", "weight": 0.5},
    {"name": "fast_fgsm", "epsilon": 0.3, "scope": "embeddings", "weight": 0.5},
]


class Noting(torch.amp.GradScaler):
    """Notes with which scale each loss went back."""

    def __init__(self, growth: int) -> None:
        super().__init__("cpu", init_scale=2.0**8, growth_interval=growth)
        self.scales: list[float] = []

    def scale(self, outputs: Any) -> Any:
        self.scales.append(self.get_scale())
        return super().scale(outputs)


@pytest.mark.parametrize("given", AGAIN, ids=lambda given: "-".join(map(str, given.values())))
def test_second_backwards_are_under_the_same_scale(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale grows after each window: no pass of the next one is left behind, or unscaled."""
    passes: list[Tensor] = []
    send = Tensor.backward

    def counted(self: Tensor, *args: Any, **more: Any) -> None:
        passes.append(self)
        send(self, *args, **more)

    noting = Noting(growth=1)
    method = methods.make(given).during(0, 1)
    plain, scaled = make_stack([method]), make_stack([method], scaler=noting)
    for at, window in enumerate(windows()[:3]):
        plain.gradients(plain.window(window))
        noting.scales.clear(), passes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "backward", counted)
            scaled.gradients(scaled.window(window))
        assert set(noting.scales) == {2.0 ** (8 + at)}
        assert len(noting.scales) == len(passes) >= 2 * len(window)
        scaled.unscale()
        for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
            assert a.grad is not None and b.grad is not None  # noqa: PT018 - for the checker
            assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        plain.update()
        scaled.before_update()
        scaled.after_update(scaled.step_optimizer())
    assert all(t.isfinite().all() for t in weights(scaled.run.module).values())


def test_an_overflow_of_the_second_pass_alone() -> None:
    """The first is sound, and its gradients must not be learned without the other's."""

    def backward(self: Method, run: Training, forward: Forward, inner: Any) -> None:
        inner(forward)
        again = run.again()
        inner(again.replace(scale=again.scale * factor[0]))

    factor = [1e38]
    made = stack(tiny(backward=backward), scaler=scaler())
    before = state(made.run.module)
    assert made.step(rows(4)) is False
    assert all(torch.equal(before[name], now) for name, now in state(made.run.module).items())
    factor[0] = 1.0
    assert made.step(rows(4))


def test_a_scaler_that_is_switched_off_is_none() -> None:
    """It would skip nothing, so a NaN has to be named before it is learned."""
    made = stack(scaler=scaler(enabled=False))
    assert made.step(rows(4))
    bad = rows(4)
    bad.inputs[2] = float("nan")
    before = state(made.run.module)
    with pytest.raises(NonFiniteLoss, match="inputs of rows of the batch 2"):
        made.step(bad)
    assert all(torch.equal(before[name], now) for name, now in state(made.run.module).items())


def test_batch_statistics_come_back_in_place() -> None:
    """Graphs and captured steps hold the buffers themselves."""
    model = nn.Sequential(linear(dim=5, classes=4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    made = stack(model=model, scaler=scaler(2.0**100))
    pointers = [buffer.data_ptr() for buffer in model.buffers()]
    before = state(model)
    with torch.autocast("cpu", dtype=torch.float16):
        assert made.step([rows(4), rows(6, 1)]) is False
    assert all(torch.equal(before[name], now) for name, now in state(model).items())
    assert pointers == [buffer.data_ptr() for buffer in model.buffers()]


# traps: second backwards --------------------------------------------------------------------------
class Words(nn.Sequential):
    """An embedding, the mean of its vectors, and a head."""

    def forward(self, ids: Tensor) -> Tensor:
        return self[1](self[0](ids).mean(1))


def words() -> Words:
    torch.manual_seed(0)
    return Words(nn.Embedding(9, 4), nn.Linear(4, 3))


IDS, LABELS = torch.tensor([[1, 2, 3], [4, 5, 1]]), torch.tensor([0, 2])


def fgm_by_stack(scaling: Any) -> list[Tensor]:
    """What FGM has the optimizer learn."""
    made = stack(FGM().during(0, 1), model=words(), scaler=scaling)
    made.gradients(made.window((IDS, LABELS)))
    made.unscale()
    return [p.grad for p in made.parameters() if p.grad is not None]


def fgm_by_loop(scaling: Any, between: Callable[[Any], None]) -> list[Tensor]:
    """The same by hand, with something done to the scaler between the passes."""
    model, fgm = words(), FGM()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    with fgm.watch(model):
        scaling.scale(nn.functional.cross_entropy(model(IDS), LABELS)).backward()
        between(optimizer)
        with fgm.attack(model):
            scaling.scale(nn.functional.cross_entropy(model(IDS), LABELS)).backward()
    scaling.step(optimizer)
    return [old - new.detach() for old, new in zip(before, model.parameters(), strict=True)]


def unscaled_between(scaling: Any) -> list[Tensor]:
    """For a norm in true units: `scaler.unscale_(optimizer)` before the attack."""
    return fgm_by_loop(scaling, scaling.unscale_)


def updated_between(scaling: Any) -> list[Tensor]:
    """The whole of a scaler's round after each backward."""

    def between(optimizer: Any) -> None:
        scaling.unscale_(optimizer)
        scaling.update()

    return fgm_by_loop(scaling, between)


@pytest.mark.parametrize("wrong", [unscaled_between, updated_between])
def test_both_passes_are_learned_in_one_unit(wrong: Any) -> None:
    @trap(right=fgm_by_stack, wrong=wrong)
    def check(run: Callable[[Any], list[Tensor]]) -> None:
        for a, b in zip(fgm_by_stack(None), run(scaler()), strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)

    check("right")
    check("wrong")


def test_the_loop_by_hand_is_right_where_nothing_is_done_between() -> None:
    by_hand = fgm_by_loop(scaler(), lambda optimizer: None)
    for a, b in zip(fgm_by_stack(None), by_hand, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


# traps: hooks of an optimizer ---------------------------------------------------------------------
Seen = tuple[list[float], int]  # the norms that were met before updates, and the updates counted


def norm_of(made: Any) -> float:
    return float(torch.cat([p.grad.flatten() for p in made.parameters()]).norm())


def by_moments(optimizer: Any, scaling: Any, batches: list[Any]) -> Seen:
    norms: list[float] = []
    counted: list[int] = []
    seeing = tiny(
        before_update=lambda self, run: norms.append(norm_of(run)),
        after_update=lambda self, run: counted.append(1),
    )
    made = stack(seeing, optimizer=optimizer, scaler=scaling)
    for batch in batches:
        made.step(batch)
    return norms, len(counted)


def by_hooks(optimizer: Any, scaling: Any, batches: list[Any]) -> Seen:
    """A loop with `optimizer.register_step_pre_hook`, and the one after the step."""
    norms: list[float] = []
    counted: list[int] = []
    model = linear()
    made, scaling = optimizer(model.parameters()), scaling or scaler(enabled=False)
    made.register_step_pre_hook(lambda *given: norms.append(norm_of(model)))
    made.register_step_post_hook(lambda *given: counted.append(1))
    for batch in batches:
        made.zero_grad()
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        scaling.scale(loss).backward()
        scaling.step(made)
        scaling.update()
    return norms, len(counted)


def fused(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.05, fused=True)


@trap(right=by_moments, wrong=by_hooks)
def test_gradients_are_met_unscaled_beside_a_fused_optimizer(run: Callable[..., Seen]) -> None:
    batches = [rows(6, seed) for seed in range(3)]
    (norms, _), (expected, _) = run(fused, scaler(), batches), run(fused, None, batches)
    assert norms == pytest.approx(expected, rel=1e-4)


@trap(right=by_moments, wrong=by_hooks)
def test_a_skipped_step_of_a_fused_optimizer_is_not_counted(run: Callable[..., Seen]) -> None:
    broken = rows(6, 1)
    broken.inputs[0, 0] = float("inf")
    _, counted = run(fused, scaler(), [rows(6), broken, rows(6, 2)])
    assert counted == 2
