"""For each refused pair, the composition that would be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contract.fixture import data, equal, make_stack, weights
from whet import methods, nesting
from whet.batch import Batch
from whet.method import Layer, Method
from whet.stack import Stack


@contextmanager
def unrefused(*pair: Method) -> Iterator[None]:
    """The refusal switched off."""
    kinds = {type(method): vars(type(method))["owns"] for method in pair}
    try:
        for kind in kinds:
            kind.owns = frozenset()
        yield
    finally:
        for kind, owns in kinds.items():
            kind.owns = owns


def forced(*pair: Method) -> torch.Tensor:
    """The embedding's gradient with the refusal switched off."""
    with unrefused(*pair):
        stack = make_stack(pair, coupled=False)
        assert len(nesting.arrange(stack.methods)) == len(pair)
        stack.gradients(stack.window(Batch.of(data())))
    gradient = stack.run.module.embed.weight.grad
    assert gradient is not None
    return gradient


def trained(*pair: Method, **changes: Any) -> Stack:
    """Six updates with the refusal switched off."""
    with unrefused(*pair):
        stack = make_stack(pair, coupled=False, **changes)
        for batch in Batch.of(data()).split(6)[:6]:
            stack.step(batch)
    return stack


def fgm_with_freelb() -> None:
    """What is wanted is FreeLB's mean over K steps plus FGM's one adversarial gradient.

    Nested, FGM attacks in each of FreeLB's K steps at a point that FreeLB moved, or FreeLB climbs
    inside FGM's attack from where FGM pushed it; the order decides, and neither is either paper's
    gradient, nor their sum.
    """
    fgm = methods.make({"name": "fgm", "epsilon": 1.0})
    freelb = methods.make({"name": "freelb", "step_size": 1.0})
    clean = forced()
    wanted = forced(fgm) + forced(freelb) - clean
    one, other = forced(fgm, freelb), forced(freelb, fgm)
    assert not torch.allclose(one, other, rtol=0.01, atol=1e-5)
    for nested in (one, other):
        assert (nested - wanted).norm() > 0.01 * wanted.norm()


def ema_with_swa() -> None:
    """One average is judged; nested, the one further inside overwrites the other in silence."""
    ema = methods.make({"name": "ema", "decay": 0.9})
    swa = methods.make({"name": "swa", "after": 0.0, "lr": None})

    def judged(*pair: Method) -> dict[str, Tensor]:
        stack = trained(*pair)
        with stack.evaluating():
            return weights(stack.run.module)

    assert equal(judged(ema, swa), judged(swa))
    assert equal(judged(swa, ema), judged(ema))
    assert not equal(judged(swa), judged(ema))


def snapshot_with_swa() -> None:
    """The rate is set twice before each update, and what SWA says has no effect."""

    class Watched(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    def rates_of(*pair: Method) -> list[float]:
        rates.clear()
        trained(*pair, optimizer=lambda p: Watched(p, lr=0.1))
        return list(rates)

    rates: list[float] = []
    snapshot = methods.make({"name": "snapshot", "cycles": 2})
    swa = methods.make({"name": "swa", "after": 0.5, "lr": 0.9})
    assert rates_of(swa)[3:] == [0.9 * 0.1] * 3
    assert rates_of(snapshot, swa) == rates_of(swa, snapshot) == rates_of(snapshot)
    assert rates_of(snapshot) != rates_of(swa)


def cutmix_with_mixup() -> None:
    """Each mixes its own input and both mix the target, so that one mixture gets two labels.

    The images hold lambda of a row, the floats s, and its label the product of both, smaller than
    either; the rest goes to rows of which some are in neither input, as the order decides.
    """
    cutmix = methods.make({"name": "cutmix", "at": "image"})
    mixup = methods.make({"name": "mixup", "at": "floats", "alpha": 1.0})

    def reaching(*pair: Method) -> Batch:
        seen: list[Batch] = []

        def note(self: Method, run: Any, batch: Batch, inner: Any) -> Any:
            seen.append(batch)
            return inner(batch)

        watch = type("Watch", (Method,), {"name": "watch", "layer": Layer.TEACHER, "forward": note})
        with unrefused(*pair):
            stack = make_stack([*pair, watch()], coupled=False)
            stack.run.window = 1
            stack.gradients(stack.window(Batch.of(data(12))))
        return seen[0]

    one, other = reaching(cutmix, mixup), reaching(mixup, cutmix)
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    assert not torch.allclose(one.targets, other.targets, atol=0.01)


def farthest(*pair: Method) -> float:
    """How far from the words, in any number, lies what is learned on."""
    seen: list[Tensor] = []
    with unrefused(*pair):
        stack = make_stack(pair, coupled=False)
        embed = stack.run.module.embed
        handle = embed.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
        stack.gradients(stack.window(Batch.of(data())))
        handle.remove()
        words = embed(data()["tokens"]).detach()
    return max((one - words).abs().max().item() for one in seen)


def fast_fgsm_with(other: Method) -> None:
    """Each keeps to its ball alone; nested, their deltas add up and leave both, in either order."""
    fast = methods.make(
        {"name": "fast_fgsm", "scope": "embeddings", "epsilon": 0.1, "watch": 0, "step_size": 2.0}
    )
    alone = max(farthest(fast), farthest(other))
    assert farthest(fast) < 0.1 + 1e-6
    for nested in ((fast, other), (other, fast)):
        assert farthest(*nested) > alone + 0.01


def fast_fgsm_with_fgm() -> None:
    fast_fgsm_with(methods.make({"name": "fgm", "epsilon": 0.3, "scope": "example"}))


def fast_fgsm_with_freelb() -> None:
    fast_fgsm_with(methods.make({"name": "freelb", "step_size": 0.3}))


SHOWN: dict[frozenset[str], Callable[[], None]] = {
    frozenset({"fgm", "freelb"}): fgm_with_freelb,
    frozenset({"fast_fgsm", "fgm"}): fast_fgsm_with_fgm,
    frozenset({"fast_fgsm", "freelb"}): fast_fgsm_with_freelb,
    frozenset({"ema", "swa"}): ema_with_swa,
    frozenset({"snapshot", "swa"}): snapshot_with_swa,
    frozenset({"cutmix", "mixup"}): cutmix_with_mixup,
}


@pytest.mark.parametrize("pair", sorted(map(sorted, SHOWN)), ids="-".join)
def test_the_composition_would_be_wrong(pair: list[str]) -> None:
    SHOWN[frozenset(pair)]()
