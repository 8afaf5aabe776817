"""For each refused pair, the composition that would be wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from whet import methods, nesting
from whet.batch import Batch
from whet.margins import MarginHead, with_margin
from whet.method import Layer, Method
from whet.stack import Stack


@contextmanager
def unrefused(*pair: Method) -> Iterator[None]:
    """The refusal switched off."""
    kinds = {type(one): vars(type(one)).get("owns", type(one).owns) for one in pair}
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


def second_passes(one: dict[str, Any], other: dict[str, Any]) -> Callable[[], None]:
    """What is wanted is the clean gradient and what each of the two adds to it by itself.

    Nested, each makes its passes within each pass of the other, at a point that the other moved,
    or along a gradient that holds the other's; the order decides, and neither is the sum.
    """

    def show() -> None:
        a, b = methods.make(one), methods.make(other)
        wanted = forced(a) + forced(b) - forced()
        outer, inner = forced(a, b), forced(b, a)
        assert (outer - inner).norm() > 1e-3 * wanted.norm()
        for nested in (outer, inner):
            assert (nested - wanted).norm() > 0.01 * wanted.norm()

    return show


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


def turns_with(other: dict[str, Any]) -> Callable[[], None]:
    """A row is of two rows in each kind of batch; nested, of four, and one class each tells."""

    def show() -> None:
        both = methods.make({"name": "mixup_or_cutmix", "at": "image", "mixup_alpha": 1.0})
        alone = methods.make(other)

        def most(*pair: Method) -> int:
            with unrefused(*pair):
                stack = make_stack(pair, coupled=False)
                stack.run.objective._width, counts = 12, []
                for stack.run.window in range(8):
                    seen: list[Batch] = []
                    batch = Batch.of(data(12)).replace(targets=torch.arange(12))
                    inner: Any = seen.append
                    for method in reversed(pair):
                        inner = nesting.bind(method.forward, stack.run, inner)
                    inner(batch)
                    counts.append(int((seen[0].targets > 1e-6).sum(1).max()))
            return max(counts)

        assert most(both) == most(alone) == 2
        assert most(both, alone) > 2
        assert most(alone, both) > 2

    return show


def focal_with_negative_correlation() -> None:
    """Either the members' losses are dropped in silence, or they are no focal losses."""
    focal = methods.make({"name": "focal", "gamma": 2.0})
    members = methods.make({"name": "negative_correlation", "penalty": 0.2})

    def learned(*pair: Method) -> dict[str, Tensor]:
        stack = trained(*pair, model=make_model(coupled=False, members=3))
        return weights(stack.run.module)

    assert equal(learned(focal, members), learned(focal))
    other = learned(members, focal)
    assert not close(other, learned(focal), atol=1e-3)
    assert not close(other, learned(members), atol=1e-3)


def farthest(*pair: Method) -> float:
    """How far from the words, or the floats, in any number, lies what is learned on."""
    seen: list[Tensor] = []
    with unrefused(*pair):
        stack = make_stack(pair, coupled=False)
        hidden = stack.run.module.embed if moves_words(pair[0]) else stack.run.module.hidden
        if moves_words(pair[0]):
            handle = hidden.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
        else:
            handle = hidden.register_forward_pre_hook(lambda m, a: seen.append(a[0][:, 6:]))
        stack.gradients(stack.window(Batch.of(data())))
        handle.remove()
        still = stack.run.module.embed(data()["tokens"]).detach()
    before = still if moves_words(pair[0]) else data()["floats"]
    return max((one.detach() - before).abs().max().item() for one in seen)


def moves_words(method: Method) -> bool:
    return getattr(method, "scope", "") != "inputs"


def balls(one: dict[str, Any], other: dict[str, Any]) -> Callable[[], None]:
    """Each keeps to its ball alone; nested, their deltas add up and leave both, in any order."""

    def show() -> None:
        a, b = methods.make(one), methods.make(other)
        alone = max(farthest(a), farthest(b))
        assert farthest(a) < one["epsilon"] + 1e-6
        for nested in ((a, b), (b, a)):
            assert farthest(*nested) > alone + 0.01

    return show


def two_heads(one: str, other: str) -> Callable[[], None]:
    """One scale stands in the layer, and the other method reads angles out of it by its own.

    A cosine of 0.5 at scale 8 is one of 0.13 at scale 30, and at the other order it is none at all
    (1.9): what is learned is neither method, and the order decides.
    """

    def show() -> None:
        settled = {"base": 5.0} if other == "sphereface" else {}  # at once, and not by and by
        a = methods.make({"name": one, "scale": 8.0})
        b = methods.make({"name": other, "scale": 30.0, **settled})
        alone = [forced(a), forced(b)]
        nested = [forced(a, b), forced(b, a)]
        assert (nested[0] - nested[1]).norm() > 0.05 * nested[0].norm()
        for found in nested:
            assert all((found - right).norm() > 0.05 * right.norm() for right in alone)

    return show


def soft_with_a_margin(head: dict[str, Any]) -> Callable[[], None]:
    """Mixing and smoothing mean one loss by a mean of targets and by a mean of losses.

    In cross-entropy these are the same. With a margin, which asks each class for more than it has,
    they are not: which of the two was meant nobody says, and neither is the paper's.
    """

    def show() -> None:
        method = methods.make(head)
        assert isinstance(method, MarginHead)
        run = make_stack([method]).run
        cosines = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).tanh()
        one, other = torch.zeros(50, 3), torch.zeros(50, 3)
        one[:, 0], other[:, 1] = 1.0, 1.0

        def loss(targets: Tensor, margin: bool) -> Tensor:
            moved = with_margin(cosines, targets, lambda c: method.harder(run, c) if margin else c)
            return F.cross_entropy(8.0 * moved, targets)

        for margin in (False, True):
            at_the_mean = loss(0.7 * one + 0.3 * other, margin)
            mean = 0.7 * loss(one, margin) + 0.3 * loss(other, margin)
            assert bool((at_the_mean - mean).abs() > 0.05 * mean) is margin

    return show


def beside_free(other: dict[str, Any]) -> Callable[[], None]:
    """Both move the floats, each within its ball: the inner attack adds its own to δ.

    With the attack outside they leave the ball; inside, what it moves is cut off from δ, which
    never moves.
    """

    def reach(*pair: Method) -> float:
        seen: list[Tensor] = []
        with unrefused(*pair):
            stack = make_stack(pair, coupled=False)
            stack.run.module.hidden.register_forward_pre_hook(lambda m, a: seen.append(a[0][:, 6:]))
            batch = Batch.of(data(6))
            batch = batch.replace(inputs={k: batch.inputs[k] for k in ("tokens", "floats")})
            for _ in range(3):
                stack.step(batch)
        return max((one.detach() - data(6)["floats"]).abs().max().item() for one in seen)

    def show() -> None:
        free, attack = methods.make(FREE), methods.make(other)
        assert reach(free) == pytest.approx(0.3, abs=1e-5)
        assert reach(attack, free) > 0.35
        assert reach(free, attack) == pytest.approx(reach(attack), abs=1e-5)

    return show


FAST = {"name": "fast_fgsm", "scope": "embeddings", "epsilon": 0.1, "watch": 0, "step_size": 2.0}
FGM = {"name": "fgm", "epsilon": 4.0}
FREE = {"name": "free_at", "at": "floats", "epsilon": 0.3, "replays": 2}
FREELB = {"name": "freelb", "step_size": 1.0}
PGD = {"name": "pgd", "step_size": 2.0, "epsilon": 4.0}
INPUTS = {"name": "pgd_inputs", "at": "floats", "epsilon": 0.3, "clean_weight": 0.5}
NOISE = {"name": "random_noise", "epsilon": 4.0}
HEADS: list[dict[str, Any]] = [
    {"name": "arcface", "scale": 8.0}, {"name": "cosface", "scale": 8.0},
    {"name": "sphereface", "scale": 8.0, "base": 5.0},
]  # fmt: skip
SOFT = ("cutmix", "label_smoothing", "manifold_mixup", "mixup", "mixup_or_cutmix")

SHOWN: dict[frozenset[str], Callable[[], None]] = {
    frozenset({"fgm", "freelb"}): second_passes(FGM, FREELB),
    frozenset({"fgm", "pgd"}): second_passes(FGM, PGD),
    frozenset({"fgm", "pgd_inputs"}): second_passes(FGM, INPUTS),
    frozenset({"fgm", "random_noise"}): second_passes(FGM, NOISE),
    frozenset({"freelb", "pgd"}): second_passes(FREELB, PGD),
    frozenset({"freelb", "pgd_inputs"}): second_passes(FREELB, INPUTS),
    frozenset({"freelb", "random_noise"}): second_passes(FREELB, NOISE),
    frozenset({"pgd", "pgd_inputs"}): second_passes(PGD, INPUTS),
    frozenset({"pgd", "random_noise"}): second_passes(PGD, NOISE),
    frozenset({"pgd_inputs", "random_noise"}): second_passes(INPUTS, NOISE),
    frozenset({"fast_fgsm", "fgm"}): balls(FAST, {**FGM, "epsilon": 0.3, "scope": "example"}),
    frozenset({"fast_fgsm", "freelb"}): balls(FAST, {**FREELB, "step_size": 0.3}),
    frozenset({"fast_fgsm", "pgd"}): balls(FAST, {**PGD, "epsilon": 0.3, "scope": "example"}),
    frozenset({"fast_fgsm", "random_noise"}): balls(
        FAST, {**NOISE, "epsilon": 0.3, "scope": "example"}
    ),
    frozenset({"fast_fgsm", "pgd_inputs"}): balls(
        {**FAST, "scope": "inputs", "at": "floats"}, {**INPUTS, "clean_weight": 0.0}
    ),
    frozenset({"fast_fgsm", "free_at"}): beside_free({**FAST, "scope": "inputs", "at": "floats"}),
    frozenset({"free_at", "pgd_inputs"}): beside_free({**INPUTS, "clean_weight": 0.0}),
    frozenset({"ema", "swa"}): ema_with_swa,
    frozenset({"snapshot", "swa"}): snapshot_with_swa,
    frozenset({"cutmix", "mixup"}): cutmix_with_mixup,
    frozenset({"arcface", "cosface"}): two_heads("arcface", "cosface"),
    frozenset({"arcface", "sphereface"}): two_heads("arcface", "sphereface"),
    frozenset({"cosface", "sphereface"}): two_heads("cosface", "sphereface"),
    **{
        frozenset({head["name"], soft}): soft_with_a_margin(head) for head in HEADS for soft in SOFT
    },
    frozenset({"cutmix", "mixup_or_cutmix"}): turns_with({"name": "cutmix", "at": "image"}),
    frozenset({"mixup", "mixup_or_cutmix"}): turns_with(
        {"name": "mixup", "at": "image", "alpha": 1.0}
    ),
    frozenset({"focal", "negative_correlation"}): focal_with_negative_correlation,
}


@pytest.mark.parametrize("pair", sorted(map(sorted, SHOWN)), ids="-".join)
def test_the_composition_would_be_wrong(pair: list[str]) -> None:
    SHOWN[frozenset(pair)]()
