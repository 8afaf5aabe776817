"""For each refused pair, the composition that would be wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.contract.fixture import data, make_stack
from whet import methods, nesting
from whet.batch import Batch
from whet.method import Method


def forced(*pair: Method) -> torch.Tensor:
    """The embedding's gradient with the refusal switched off."""
    kinds = [type(method) for method in pair]
    owned = [kind.owns for kind in kinds]
    try:
        for kind in kinds:
            kind.owns = frozenset()
        stack = make_stack(pair, coupled=False)
        assert len(nesting.arrange(stack.methods)) == len(pair)
        stack.gradients(stack.window(Batch.of(data())))
    finally:
        for kind, owns in zip(kinds, owned, strict=True):
            kind.owns = owns
    gradient = stack.run.module.embed.weight.grad
    assert gradient is not None
    return gradient


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


SHOWN: dict[frozenset[str], Callable[[], None]] = {
    frozenset({"fgm", "freelb"}): fgm_with_freelb,
}


@pytest.mark.parametrize("pair", sorted(map(sorted, SHOWN)), ids="-".join)
def test_the_composition_would_be_wrong(pair: list[str]) -> None:
    SHOWN[frozenset(pair)]()
