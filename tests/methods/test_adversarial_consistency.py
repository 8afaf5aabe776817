"""Adversarial consistency."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.pictures import IMAGES, given_to, learned, pictures
from tests.methods.traps import trap
from whet import modes, seeding
from whet.attack import attack_pass
from whet.attack import plain as plain_pass
from whet.ball import noise
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.adversarial_consistency import AdversarialConsistency, farthest_point
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.methods.vat import VAT
from whet.objectives import family
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    AdversarialConsistency(epsilon=0.3, weight=3.0, at="floats").during(0, 1),
    accumulates="the random start is drawn for each micro-batch anew",
    processes=(
        AdversarialConsistency(0.3, 3.0, at="floats", unlabelled=0, attack="fgm").during(0, 1)
    ),
    cost=Cost(forwards=10, backwards=9, copies=2, inputs=7),
)

PARTS = Batch.of(data()).split(6)
KL = family("categorical").divergence


def small(**changes: Any) -> AdversarialConsistency:
    given = {"epsilon": 0.3, "weight": 3.0, "at": "floats", "unlabelled": 0}
    return AdversarialConsistency(**(given | changes)).during(0, 1)


def gradients(stack: Stack, batch: Any = PARTS[0]) -> dict[str, Tensor]:
    stack.gradients(stack.window(batch))
    return {n: p.grad.clone() for n, p in stack.run.module.named_parameters() if p.grad is not None}


def expected(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return dict(zip(names, found, strict=True))


# the value -----------------------------------------------------------------------------------
def by_hand(model: nn.Module, x: Tensor, about: AdversarialConsistency, start: Tensor) -> Tensor:
    """Where each image stands after the attack, one by one."""
    moved, eps = [], about.epsilon
    for image, first in zip(x.split(1), start.split(1), strict=True):
        z = model(image).detach()
        delta = torch.zeros_like(image) if about.attack in ("fgm", "fgsm") else eps * first
        for _ in range({"pgd": about.steps, "noise": 0}.get(about.attack, 1)):
            leaf = delta.clone().requires_grad_()
            q = model(image + leaf).log_softmax(1)
            p = z.softmax(1)
            up = (p * (p.log() - q)).sum() if about.attack == "pgd" else -q[0, z.argmax()]
            [g] = torch.autograd.grad(up, leaf)
            step = eps * (about.step_size if about.attack == "pgd" else 1.0)
            if about.shape == "linf":
                delta = (delta + step * g.sign()).clamp(-eps, eps)
            else:
                delta = delta + step * g / g.norm()
                delta = delta * min(1.0, eps / delta.norm().item())
        moved.append(image + delta)
    return torch.cat(moved)


EVERY = [
    small(at="*"), small(at="*", norm="l2", step_size=0.8), small(at="*", attack="fgsm"),
    small(at="*", attack="fgm"), small(at="*", attack="noise"),
    small(at="*", attack="noise", norm="l2"), small(at="*", steps=1, step_size=2.0),
]  # fmt: skip


@pytest.mark.parametrize("about", EVERY, ids=repr)
def test_formula_by_hand(about: AdversarialConsistency) -> None:
    stack, model = pictures([about]), pictures([]).run.module
    x, maker = IMAGES.inputs, seeding.generator(stack.run.key(about, 0), "")
    start = noise(x, maker, about.shape, rim=about.attack == "noise")
    moved = by_hand(model, x, about, start)
    assert torch.allclose(learned(pictures([about.clone()]), IMAGES, "0"), moved, atol=2e-4)
    z = model(x)
    loss = F.cross_entropy(z, IMAGES.targets) + 3.0 * KL(z.detach(), model(moved)).mean()
    assert close(gradients(stack, IMAGES), expected(model, loss), atol=2e-4)
    assert stack.terms["adversarial_consistency"] > 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_oracle_is_the_linear_softmax_of_two_classes(norm: str) -> None:
    """The farthest point is a corner, or the rim's along w1 - w2, on one side or the other."""
    maker = seeding.generator(0)
    w, x = (torch.randn(n, 5, generator=maker, dtype=torch.float64) for n in (2, 7))
    p, apart = x @ w.T, w[0] - w[1]
    moved = farthest_point(lambda x: KL(p, x @ w.T), x, 0.1, (1.0,) * 40, norm, generator=maker)
    side = apart.sign() if norm == "linf" else apart / apart.norm()
    ends = torch.stack([(0.1 * side).expand(7, 5), (-0.1 * side).expand(7, 5)])
    assert (moved - x - ends).abs().amax(2).min(0).values.max() < 1e-9


def test_passes_are_those_of_the_card() -> None:
    for attack, passes in (("pgd", 5), ("fgsm", 3), ("fgm", 3), ("noise", 2)):
        seen = given_to(make_stack([small(attack=attack)]), PARTS[0])
        assert len(seen) == passes
        more = given_to(make_stack([small(attack=attack, unlabelled=2)]), PARTS[0])
        assert [len(x) for x in more] == [6] * passes + [12] * passes
    assert len(given_to(make_stack([small(weight=0.0)]), PARTS[0])) == 1


@pytest.mark.parametrize("coupled", [False, True])
def test_core_in_a_plain_loop_equals_the_stack(coupled: bool) -> None:
    stack, model = make_stack([small()], coupled=coupled), make_model(coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in PARTS:

        def out(floats: Tensor, batch: Batch = batch) -> Tensor:
            seeding.seed_default(stack.run.position())
            return call(model, batch.inputs | {"floats": floats})

        x = batch.inputs["floats"]
        z = out(x)
        p = z.detach()
        with attack_pass(model):
            maker = seeding.generator(stack.run.key(stack.methods[0], 0), "floats")
            moved = farthest_point(lambda x, p=p: KL(p, out(x)), x, 0.3, generator=maker)
        optimizer.zero_grad()
        with modes.kept_statistics(model):
            (F.cross_entropy(z, batch.targets) + 3.0 * KL(p, out(moved)).mean()).backward()
        optimizer.step()
        stack.step(batch)
        assert close(weights(model), weights(stack.run.module), atol=1e-6)


@pytest.mark.parametrize("attack", ["pgd", "fgsm", "fgm", "noise"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_embeddings_move_within_epsilon_and_padding_stays(attack: str, norm: str) -> None:
    about = AdversarialConsistency(
        0.2, scope="embeddings", attack=attack, norm=norm, unlabelled=0
    ).during(0, 1)
    stack = make_stack([about], coupled=False)
    seen: list[Tensor] = []
    stack.run.module.embed.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    stack.gradients(stack.window(PARTS[0]))
    delta, padding = seen[-1] - seen[0], PARTS[0].inputs["tokens"] == 0
    far = delta.abs().flatten(1).amax(1) if about.shape == "linf" else delta.flatten(1).norm(dim=1)
    assert (far <= 0.2 + 1e-5).all()
    assert (far > 0.05).all()
    assert not delta[padding].any()
    assert stack.run.module.embed.weight.grad is not None


@pytest.mark.parametrize(
    ("kind", "targets"), [("real", torch.rand(6, 3)), ("multi-label", torch.ones(6, 3))]
)
def test_labels_and_reals(kind: str, targets: Tensor) -> None:
    batch, divergence = IMAGES.replace(targets=targets), family(kind).divergence
    moved = learned(pictures([small(at="*")], kind), batch, "0")
    stack, model = pictures([small(at="*")], kind), pictures([]).run.module
    z = model(IMAGES.inputs)
    loss = family(kind).losses(z, targets).mean() + 3 * divergence(z.detach(), model(moved)).mean()
    assert close(gradients(stack, batch), expected(model, loss), atol=1e-6)
    if kind == "multi-label":
        moved = learned(pictures([small(at="*", attack="fgsm")], kind), batch, "0")
        assert (moved - IMAGES.inputs).abs().max().item() == pytest.approx(0.3, rel=1e-4)


def test_rows_without_a_target_count() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    batch = PARTS[0].replace(mask=mask)
    seen = given_to(make_stack([small(attack="fgsm", unlabelled=1)], coupled=False), batch)
    assert [len(x) for x in seen] == [6, 6, 6]
    assert (seen[2] != seen[0]).any(1).all()


def test_beside_vat_and_r_drop() -> None:
    """Both compare with the one pass over the batch; each of R-Drop's passes has its own."""
    stack = make_stack([small(), VAT(0.5, at="floats", unlabelled=0).during(0, 1)])
    assert len(given_to(stack, PARTS[0])) == 7
    assert set(stack.terms) == {"supervised", "vat", "adversarial_consistency"}
    tiny = make_stack([small(epsilon=1e-3), RDrop(passes="two")])
    tiny.step(PARTS[0])
    assert abs(tiny.terms["adversarial_consistency"]) < 1e-4 < tiny.terms["r_drop"]


def test_points_stay_in_the_valid_range() -> None:
    moved = learned(pictures([small(at="*")], valid_range=(0.0, 1.0)), IMAGES, "0")
    assert moved.min() == 0.0
    assert moved.max() == 1.0
    assert learned(pictures([small(at="*")]), IMAGES, "0").max() > 1.0


def test_mistakes_are_named() -> None:
    for attack in ("fgm", "fgsm"):
        with pytest.raises(NotApplicable, match="Use attack='pgd' or 'noise'"):
            pictures([small(attack=attack)], "real")
    with pytest.raises(InputError, match="std is of inputs"):
        make_stack([small(scope="embeddings", std=0.5)])
    with pytest.raises(NotApplicable, match="no distribution"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), AdversarialConsistency().during(0, 1)],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip


# traps ---------------------------------------------------------------------------------------
class FromHome(AdversarialConsistency):
    """PGD up the divergence that begins at x, where it is 0 whatever the direction."""

    def move(self, run: Any, places: Any, p: Tensor, far: Any) -> None:
        for _ in range(self.steps):
            places.climb(far, self.step_size)


@trap(right=AdversarialConsistency, wrong=FromHome)
def test_a_divergence_is_climbed_from_where_it_has_a_gradient(kind: Any) -> None:
    """At x it has none, and what rounding leaves of it points anywhere."""
    with seeding.borrowed(0):
        model = nn.Linear(4, 3).double()
    x = torch.rand(6, 4, dtype=torch.float64, generator=seeding.generator(1))
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda m, a: seen.append(a[0].detach()))
    stack = Stack(model, "categorical", [kind(0.1, unlabelled=0, norm="l2").during(0, 1)],
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    stack.gradients(stack.window((x, torch.tensor([0, 1, 2, 0, 1, 2]))))
    assert KL(model(x), model(seen[1])).min() > 1e-9


class Supervised(AdversarialConsistency):
    """Up the loss of the true class: rows without one do not move, and it is told by r itself."""

    def move(self, run: Any, places: Any, p: Tensor, far: Any) -> None:
        kind = run.objective.family
        targets = run._batch.known_targets()
        rows = run._batch.rows_with_target()
        places.climb(lambda out: kind.losses(out, targets) * rows, 1.0, home=True)


@trap(right=AdversarialConsistency, wrong=Supervised)
def test_rows_move_without_a_target(kind: Any) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    stack = make_stack(
        [kind(0.3, at="floats", attack="fgsm", unlabelled=0).during(0, 1)], coupled=False
    )
    moved = learned(stack, PARTS[0].replace(mask=mask))
    assert (moved != PARTS[0].inputs["floats"]).any(1).all()


class Attached(AdversarialConsistency):
    """The prediction at home is drawn towards that at x + r as well."""

    def _apart(self, run: Any, batch: Any, output: Tensor, *more: Any) -> Tensor:
        moved = batch.inputs["floats"] + self.epsilon
        rows = batch.replace(inputs=batch.inputs | {"floats": moved}, targets=None)
        return KL(output, plain_pass(run, rows).output)


class Detached(AdversarialConsistency):
    """The same move, and no gradient for the prediction at home."""

    def move(self, run: Any, places: Any, p: Tensor, far: Any) -> None:
        places.points["floats"] = places.points["floats"] + self.epsilon


@trap(right=Detached, wrong=Attached)
def test_home_gets_no_gradient(kind: Any) -> None:
    model, x = make_model(coupled=False), PARTS[0].inputs["floats"]
    z = call(model, PARTS[0].inputs)
    there = call(model, PARTS[0].inputs | {"floats": x + 0.3})
    loss = F.cross_entropy(z, PARTS[0].targets) + 3.0 * KL(z.detach(), there).mean()
    stack = make_stack([kind(0.3, 3.0, at="floats", unlabelled=0).during(0, 1)], coupled=False)
    assert close(gradients(stack), expected(model, loss), atol=1e-6)


class Moving(AdversarialConsistency):
    """Passes over moved and unlabelled rows in training mode, as they stand."""

    def _standing(self, run: Any) -> Any:
        return seeding.borrowed()


@trap(right=AdversarialConsistency, wrong=Moving)
def test_batch_statistics_are_of_the_labelled_rows(kind: Any) -> None:
    plain, stack = make_stack(), make_stack([kind(0.3, at="floats", unlabelled=2).during(0, 1)])
    for one in (plain, stack):
        one.gradients(one.window(PARTS[0]))
    assert equal(*(dict(one.run.module.named_buffers()) for one in (plain, stack)))


class NewMasks(AdversarialConsistency):
    """Each pass draws its own dropout: what diverges is dropout."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        seeds = iter(range(1, 99))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seeding, "replaying", lambda stood: seeding.borrowed(next(seeds)))
            return super().forward(run, batch, inner)


@trap(right=AdversarialConsistency, wrong=NewMasks)
def test_all_passes_have_one_dropout_mask(kind: Any) -> None:
    stack = make_stack([kind(0.3, at="floats", unlabelled=0).during(0, 1)])
    masks: list[Tensor] = []
    stack.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
    stack.gradients(stack.window(PARTS[0]))
    assert len(masks) == 5
    assert all(torch.equal(mask, masks[0]) for mask in masks)
