"""Members: how they begin, and what they answer together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import whet
from tests.contract.fixture import close, equal, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError
from whet.members import Members, drawn_anew
from whet.objectives import FAMILIES
from whet.objectives.pooling import pooled
from whet.predict import Predictor
from whet.stack import Stack


def outputs(*shape: int) -> Tensor:
    return 3 * torch.randn(*shape, generator=seeding.generator(0)).double()


# the joint answer ----------------------------------------------------------------------------
def test_the_joint_answer_has_the_mean_of_the_probabilities() -> None:
    z = outputs(4, 6, 5)
    assert torch.allclose(pooled(z).softmax(-1), z.softmax(-1).mean(0))
    found = pooled(z, FAMILIES["multi-label"])
    assert torch.allclose(found.sigmoid(), z.sigmoid().mean(0))
    assert torch.allclose(pooled(z, FAMILIES["real"]), z.mean(0))
    assert torch.allclose(pooled(z, mean="outputs"), z.mean(0))


def test_weights_are_shares() -> None:
    z = outputs(3, 6, 5)
    shares = torch.tensor([0.5, 0.5, 0.0]).double()
    expected = torch.einsum("k,knc->nc", shares, z.softmax(-1))
    assert torch.allclose(pooled(z, weights=[2, 2, 0]).softmax(-1), expected, atol=1e-6)
    yes = torch.einsum("k,knc->nc", shares, z.sigmoid())
    found = pooled(z, FAMILIES["multi-label"], weights=[2, 2, 0])
    assert torch.allclose(found.sigmoid(), yes, atol=1e-6)


def test_sure_members_give_a_finite_answer() -> None:
    z = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    assert torch.allclose(pooled(z).softmax(-1), torch.full((1, 2), 0.5))
    assert torch.allclose(pooled(z, FAMILIES["multi-label"]).sigmoid(), torch.full((1, 2), 0.5))


@trap(right=pooled, wrong=lambda z: z.mean(0))
def test_the_mean_of_logits_is_another_answer(pool: Any) -> None:
    """One member that is very sure outvotes the others."""
    z = torch.tensor([[[30.0, 0.0]], [[0.0, 2.0]], [[0.0, 2.0]]])
    assert pool(z).argmax(-1).item() == 1


# how members begin ---------------------------------------------------------------------------
def block() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("make", [block, block()], ids=["function", "module"])
def test_members_begin_apart_and_by_seed(make: Any) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (Members(make, 3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert equal(weights(one), weights(same))
    for name in ("0.weight", "3.weight"):
        drawn = [model.members[k].state_dict()[name] for model in (one, other) for k in range(3)]
        assert all(not torch.equal(a, b) for n, a in enumerate(drawn) for b in drawn[:n])


def test_a_module_is_left_as_it_is() -> None:
    model = block()
    model[1].running_mean.fill_(7.0)
    before = weights(model)
    group = Members(model, 2)
    assert equal(before, weights(model))
    assert group.members[0][1].running_mean.abs().sum() == 0  # statistics begin anew too


def test_attention_is_drawn_anew() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    fresh = drawn_anew(layer)
    drawn = [n for n, p in layer.named_parameters() if p.ndim > 1 and not n.startswith("norm")]
    assert "self_attn.in_proj_weight" in drawn
    assert all(not torch.equal(layer.state_dict()[n], fresh.state_dict()[n]) for n in drawn)


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_what_cannot_be_drawn_anew_is_named() -> None:
    with pytest.raises(InputError, match=r"1 \(Bare\) has parameters and no reset_parameters"):
        Members(nn.Sequential(nn.Linear(3, 3), Bare()), 2)
    assert Members(lambda: nn.Sequential(nn.Linear(3, 3), Bare()), 2)


def seeded() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        ((lambda kept=nn.Linear(4, 3): kept), "member 1 shares parameters"),  # noqa: B008
        (seeded, "member 1 begins like member 0"),
        (iter([nn.Linear(4, 3), nn.Linear(4, 2)]).__next__, "one architecture"),
    ],
)
def test_functions_that_do_not_make_members(make: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        Members(make, 2)


@pytest.mark.parametrize(
    ("given", "told"),
    [({"count": 1}, "count is 1"), ({"count": 2, "kind": "classes"}, "kind is 'classes'"),
     ({"count": 2, "mean": "votes"}, "mean is 'votes'")],
)  # fmt: skip
def test_bad_arguments(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        Members(block, **given)


# as a model ----------------------------------------------------------------------------------
def test_trains_and_is_exported_as_one_model(tmp_path: Any) -> None:
    model = whet.Members(block, 3)
    stack = Stack(model, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for _ in range(3):
        stack.step((x, y))
    stack.predictor().save(tmp_path / "p.safetensors")
    loaded = Predictor.load(tmp_path / "p.safetensors", whet.Members(block, 3))
    assert torch.equal(loaded(Batch(x)), stack.predictor()(Batch(x)))
    with torch.no_grad():
        each = torch.stack([member.eval()(x).softmax(-1) for member in model.members])
    assert torch.allclose(loaded(Batch(x)), each.mean(0), atol=1e-6)
    assert close(weights(model), loaded.members()[0])


def test_inputs_by_name_and_outputs_with_logits() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = nn.Linear(4, 3)

        def forward(self, floats: Tensor) -> dict[str, Tensor]:
            return {"logits": self.part(floats)}

    group, x = Members(Named, 2), torch.randn(5, 4)
    each = torch.stack([member(floats=x)["logits"] for member in group.members])
    assert torch.allclose(group(floats=x), pooled(each))
