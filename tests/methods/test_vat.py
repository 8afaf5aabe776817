"""Virtual adversarial training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, inputs, make_model, make_stack, weights
from tests.contract.found import case, names
from tests.methods.pictures import IMAGES, given_to, learned, pictures
from tests.methods.traps import trap
from whet import modes, seeding
from whet.agreement import OfInputs
from whet.attack import attack_pass
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.fixmatch import FixMatch
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.methods.vat import VAT, virtual_point
from whet.objectives import family
from whet.objectives.families import Categorical
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    VAT(epsilon=0.5, at="floats", weight=2.0).during(0, 1),
    accumulates="the direction that it begins with is drawn for each micro-batch anew",
    cost=Cost(forwards=6, backwards=5, copies=2, inputs=7),
)

PARTS = Batch.of(data()).split(6)
KL = family("categorical").divergence


def small(**changes: Any) -> VAT:
    given = {"epsilon": 0.5, "at": "floats", "weight": 2.0, "unlabelled": 0} | changes
    return VAT(**given).during(0, 1)


def gradients(stack: Stack, batch: Any = PARTS[0]) -> dict[str, Tensor]:
    stack.gradients(stack.window(batch))
    return {n: p.grad.clone() for n, p in stack.run.module.named_parameters() if p.grad is not None}


def expected(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters)
    return dict(zip(names, found, strict=True))


def direction(vat: VAT, stack: Stack, x: Tensor) -> Tensor:
    """The unit rows that the power iteration begins with."""
    d = torch.randn(x.shape, generator=seeding.generator(stack.run.key(vat, 0), ""))
    return d / d.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


# the value -----------------------------------------------------------------------------------
@pytest.mark.parametrize("xi", [1e-3, 0.1, 10.0])
def test_oracle_is_the_linear_softmax_of_two_classes(xi: float) -> None:
    """r lies along w1 - w2, and the divergence there is 1/2 eps^2 |w1 - w2|^2 p (1 - p)."""
    maker = seeding.generator(0)
    w, x = (torch.randn(n, 5, generator=maker, dtype=torch.float64) for n in (2, 7))
    p = x @ w.T
    moved = virtual_point(lambda x: KL(p, x @ w.T), x, 0.01, xi, generator=maker)
    apart = w[0] - w[1]
    assert torch.allclose((moved - x).norm(dim=1), torch.full((7,), 0.01, dtype=torch.float64))
    cosine = F.cosine_similarity(moved - x, apart.expand(7, 5)).abs()
    assert cosine.min() > 1 - 1e-9
    of_one = p.softmax(1)[:, 0]
    quadratic = 0.5 * 0.01**2 * apart.square().sum() * of_one * (1 - of_one)
    assert torch.allclose(KL(p, moved @ w.T), quadratic, rtol=0.03)


def by_hand(model: nn.Module, x: Tensor, d: Tensor, vat: VAT) -> Tensor:
    """The paper's loop, each row on its own: the term's values, with a graph."""
    values = []
    for row, unit in zip(x.split(1), d.split(1), strict=True):
        p = model(row).detach().softmax(1)
        for _ in range(vat.iterations):
            leaf = (min(vat.xi, vat.epsilon) * unit).requires_grad_()
            q = model(row + leaf).log_softmax(1)
            [g] = torch.autograd.grad((p * (p.log() - q)).sum(), leaf)
            unit = g / g.norm()
        q = model(row + vat.epsilon * unit).log_softmax(1)
        values.append((p * (p.log() - q)).sum())
    return torch.stack(values)


@pytest.mark.parametrize("vat", [small(at="*"), small(at="*", xi=0.01, iterations=3)], ids=repr)
def test_formula_by_hand(vat: VAT) -> None:
    """The norm is over all dimensions of a row, whatever their number."""
    stack, model = pictures([vat]), pictures([]).run.module
    x = IMAGES.inputs
    values = by_hand(model, x, direction(vat, stack, x), vat)
    loss = F.cross_entropy(model(x), IMAGES.targets) + vat.weight * values.mean()
    assert close(gradients(stack, IMAGES), expected(model, loss), atol=1e-5)


def test_unlabelled_rows_are_in_the_mean() -> None:
    vat = small(unlabelled=2)
    seen = given_to(make_stack([vat], coupled=False), PARTS[0])
    assert [len(floats) for floats in seen] == [6, 6, 6, 12, 12, 12]
    stack, model = make_stack([vat], coupled=False), make_model(coupled=False)
    drawn = make_stack([vat]).run.draw("unlabelled", 12, vat).inputs
    assert torch.equal(drawn["floats"], seen[3])
    pool = inputs(30, seed=7)["floats"]
    assert all((pool == row).all(1).any() for row in seen[3])
    z = call(model, PARTS[0].inputs)
    values = [
        KL(call(model, given).detach(), call(model, given | {"floats": moved}))
        for given, moved in ((PARTS[0].inputs, seen[2]), (drawn, seen[5]))
    ]
    loss = F.cross_entropy(z, PARTS[0].targets) + 2.0 * torch.cat(values).mean()
    assert close(gradients(stack), expected(model, loss), atol=1e-6)


def test_rows_without_a_target_count_and_are_enough() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    seen = given_to(make_stack([small(unlabelled=1)], coupled=False), PARTS[0].replace(mask=mask))
    assert [len(floats) for floats in seen] == [6, 6, 6]
    assert (seen[2] != seen[0]).any(1).all()
    for batch in (PARTS[0].replace(mask=mask), Batch(PARTS[0].inputs)):
        stack, model = make_stack([small()], coupled=False), make_model(coupled=False)
        z = call(model, batch.inputs)
        values = KL(z.detach(), call(model, batch.inputs | {"floats": seen[2]}))
        loss = 2.0 * values.mean()
        if batch.mask is not None:
            loss = loss + F.cross_entropy(z[mask], batch.targets[mask])
        assert close(gradients(stack, batch), expected(model, loss), atol=1e-6)


def test_passes_and_what_follows_draws_the_same() -> None:
    assert len(given_to(make_stack([small()]), PARTS[0])) == 3
    assert len(given_to(make_stack([small(iterations=3)]), PARTS[0])) == 5
    assert len(given_to(make_stack([small(weight=0.0)]), PARTS[0])) == 1
    assert len(given_to(make_stack([small(epsilon=0.0)]), PARTS[0])) == 1
    after = []
    for methods in ([], [VAT(at="floats").during(0, 1)]):
        stack = make_stack(methods)
        stack.gradients(stack.window(PARTS[0]))
        after.append(torch.rand(3))
    assert torch.equal(*after)


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
            moved = virtual_point(lambda x, p=p: KL(p, out(x)), x, 0.5, generator=maker)
        optimizer.zero_grad()
        with modes.kept_statistics(model):
            (F.cross_entropy(z, batch.targets) + 2.0 * KL(p, out(moved)).mean()).backward()
        optimizer.step()
        stack.step(batch)
        assert close(weights(model), weights(stack.run.module), atol=1e-6)


# embeddings ----------------------------------------------------------------------------------
def returned(stack: Stack, batch: Batch) -> list[Tensor]:
    """What the embedding returns in each pass."""
    seen: list[Tensor] = []
    stack.run.module.embed.register_forward_hook(lambda m, a, out: seen.append(out.detach()))
    stack.gradients(stack.window(batch))
    return seen


@pytest.mark.parametrize("frozen", [False, True])
def test_embeddings_move_by_epsilon_and_padding_stays(frozen: bool) -> None:
    stack = make_stack([VAT(0.7, scope="embeddings", unlabelled=0).during(0, 1)], coupled=False)
    stack.run.module.embed.weight.requires_grad_(not frozen)
    clean, looked, moved = returned(stack, PARTS[0])
    padding = PARTS[0].inputs["tokens"] == 0
    assert padding.any()
    for one in (looked, moved):
        assert torch.allclose((one - clean).flatten(1).norm(dim=1), torch.tensor(0.7), atol=1e-5)
        assert torch.equal(one[padding], clean[padding])
    # the table's mean over time makes g alike at every word: r does not depend on d there
    words = (moved - clean)[0][~padding[0]]
    assert torch.allclose(words, words[0].expand_as(words), atol=1e-5)


def test_embeddings_by_hand() -> None:
    vat = VAT(0.5, 2.0, scope="embeddings", unlabelled=0).during(0, 1)
    model = make_model(coupled=False)
    clean, _, moved = returned(make_stack([vat], coupled=False), PARTS[0])
    z = call(model, PARTS[0].inputs)
    handle = model.embed.register_forward_hook(lambda m, a, out: out + (moved - clean))
    term = KL(z.detach(), call(model, PARTS[0].inputs)).mean()
    handle.remove()
    loss = F.cross_entropy(z, PARTS[0].targets) + 2.0 * term
    assert close(gradients(make_stack([vat], coupled=False)), expected(model, loss), atol=1e-6)


class Hidden(nn.Module):
    """Words, with or without the embedding in an activation checkpoint."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        if self.inside:
            both = lambda ids: self.embed(ids).tanh()  # noqa: E731
            return self.head(checkpoint(both, ids, use_reentrant=False).mean(1))
        bend = lambda rows: rows.tanh()  # noqa: E731
        return self.head(checkpoint(bend, self.embed(ids), use_reentrant=False).mean(1))


@pytest.mark.parametrize("inside", [False, True])
def test_an_embedding_within_a_checkpoint_is_refused(inside: bool) -> None:
    """The recompute would meet it where it is not moved any more, and give a wrong gradient."""
    stack = Stack(Hidden(inside), "categorical", [VAT(scope="embeddings").during(0, 1)],
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    batch = (torch.randint(0, 20, (4, 5)), torch.tensor([0, 1, 2, 0]))
    if not inside:
        assert stack.step(batch)
        return
    with pytest.raises(NotApplicable, match="checkpoint the layers above it"):
        stack.step(batch)


# families and neighbours ---------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "targets"), [("real", torch.rand(6, 3)), ("multi-label", torch.ones(6, 3))]
)
def test_labels_and_reals(kind: str, targets: Tensor) -> None:
    batch, divergence = IMAGES.replace(targets=targets), family(kind).divergence
    moved = learned(pictures([small(at="*")], kind), batch, "0")
    lengths = (moved - IMAGES.inputs).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor(0.5), atol=1e-5)
    stack, model = pictures([small(at="*")], kind), pictures([]).run.module
    z = model(IMAGES.inputs)
    loss = family(kind).losses(z, targets).mean() + 2 * divergence(z.detach(), model(moved)).mean()
    assert close(gradients(stack, batch), expected(model, loss), atol=1e-6)


def test_tokens_count_where_they_have_a_target() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(20, 6, padding_idx=0), nn.Linear(6, 4)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).cumsum(1).tanh())

    ids = torch.randint(1, 20, (3, 5), generator=seeding.generator(3))
    tags = torch.where(torch.rand(3, 5, generator=seeding.generator(4)) > 0.4, ids % 4, -100)
    with seeding.borrowed(0):
        model = Tagger()
    vat = VAT(1.0, scope="embeddings").during(0, 1)
    stack = Stack(model, "tokens", [vat], optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
                  resources={"unlabelled": ids})  # fmt: skip
    outputs: list[Tensor] = []
    model.register_forward_hook(lambda m, a, out: outputs.append(out.detach()))
    stack.gradients(stack.window((ids, tags)))
    assert len(outputs) == 3
    kept = tags != -100
    mean = KL(outputs[0], outputs[2])[kept].mean()
    assert stack.terms["vat"] == pytest.approx(mean.item(), rel=1e-5)
    assert "unlabelled rows are left out" in stack.methods[0].notes[0]


@pytest.mark.parametrize("passes", ["two", "joined"])
def test_it_takes_place_within_each_pass_of_r_drop(passes: str) -> None:
    """So that p and what is compared with it have one mask; the mean is over both."""
    stack = make_stack([small(), RDrop(passes=passes)])
    seen = given_to(stack, PARTS[0])
    assert [len(x) for x in seen] == ([6] * 6 if passes == "two" else [12] * 3)
    tiny = make_stack([small(epsilon=1e-3), RDrop(passes=passes)])
    tiny.step(PARTS[0])
    assert abs(tiny.terms["vat"]) < 1e-5 < tiny.terms["r_drop"]
    assert tiny.run.module.norm.num_batches_tracked == 1


@pytest.mark.parametrize("name", [name for name in names() if name != "vat"])
def test_beside_every_method_both_passes_are_of_one_network(name: str) -> None:
    """Where nothing moves nothing diverges: masks, noise, mixtures and shifts are the same."""
    stack = make_stack([case(name).method, small(epsilon=3e-4)])
    for batch in PARTS[:3]:
        stack.step(batch)
        assert abs(stack.terms["vat"]) < 1e-5


def test_it_sees_the_unlabelled_rows_of_fixmatch() -> None:
    stack = make_stack([small(unlabelled=3), FixMatch(mu=2)])
    assert [len(x) for x in given_to(stack, PARTS[0])] == [30, 30, 30]


def test_points_stay_in_the_valid_range() -> None:
    stack = pictures([VAT(epsilon=3.0).during(0, 1)], valid_range=(0.0, 1.0))
    moved = learned(stack, IMAGES, "0")
    assert moved.min() == 0.0
    assert moved.max() == 1.0
    assert stack.methods[0].notes == []
    free = pictures([VAT(epsilon=3.0).during(0, 1)])
    assert learned(free, IMAGES, "0").max() > 1.0
    assert free.methods[0].notes == ["no resource valid_range: x + delta is not clipped"]


def test_epsilon_is_in_pixels_where_inputs_are_normalised() -> None:
    std = torch.tensor((0.2, 0.5, 1.0)).view(1, 3, 1, 1)
    batch = IMAGES.replace(inputs=(IMAGES.inputs - 0.5) / std)
    moved = learned(pictures([VAT(epsilon=0.3, std=(0.2, 0.5, 1.0)).during(0, 1)]), batch, "0")
    lengths = ((moved - batch.inputs) * std).flatten(1).norm(dim=1)
    assert torch.allclose(lengths, torch.tensor(0.3), atol=1e-5)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match=r"xi is 1e-06; it must lie in \[0.001, 10\]"):
        make_stack([small(xi=1e-6)])
    with pytest.raises(InputError, match="std is of inputs"):
        make_stack([VAT(scope="embeddings", std=0.5).during(0, 1)])
    with pytest.raises(NotApplicable, match="no distribution"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), VAT().during(0, 1)],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        pictures([VAT(scope="embeddings").during(0, 1)])


# traps ---------------------------------------------------------------------------------------
def official(far: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, **more: Any) -> Tensor:
    """ξ as in the paper and its code, 1e-6."""
    return virtual_point(far, x, epsilon, 1e-6, **more)


@trap(right=virtual_point, wrong=official)
def test_the_gradient_is_none_of_rounding_errors(point: Any) -> None:
    """|cos| with the direction in float64; of the paper's ξ it is 0.46 here in float32."""
    with seeding.borrowed(0):
        model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 10))
        x = torch.rand(256, 20)

    def moved(find: Any, x: Tensor, net: nn.Module, **more: Any) -> Tensor:
        p = net(x).detach()
        maker = seeding.generator(1)
        return (find(lambda v: KL(p, net(v)), x, 1.0, generator=maker, **more) - x).double()

    found = moved(point, x, model)
    true = moved(virtual_point, x.double(), model.double(), xi=1e-3)
    assert F.cosine_similarity(found, true).abs().mean() > 0.99


class Reversed(VAT):
    """KL(p(x + r) || p(x))."""

    def _apart(self, run: Any, batch: Any, output: Tensor, *more: Any) -> Tensor:
        right = Categorical.divergence
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Categorical, "divergence", lambda self, p, q: right(self, q, p))
            return super()._apart(run, batch, output, *more)


class Attached(VAT):
    """The prediction at home is drawn towards that at x + r as well."""

    def _apart(self, run: Any, batch: Any, output: Tensor, *more: Any) -> Tensor:
        rows = batch.replace(targets=None, mask=None, indices=None)
        around = self._inputs.balls(self, run, rows, "l2")
        places = OfInputs(self, run, rows, more[0], run.key(self, 0), around=around)
        self.move(run, places, output, lambda q: KL(output.detach(), q))
        return KL(output, places.output())


def learns_kl_from_home(kind: Any) -> None:
    vat = kind(0.5, 2.0, at="floats", unlabelled=0).during(0, 1)
    moved = learned(make_stack([vat.clone()], coupled=False), PARTS[0])
    model = make_model(coupled=False)
    z = call(model, PARTS[0].inputs)
    q = call(model, PARTS[0].inputs | {"floats": moved}).log_softmax(1)
    p = z.detach().softmax(1)
    loss = F.cross_entropy(z, PARTS[0].targets) + 2 * (p * (p.log() - q)).sum(1).mean()
    assert close(gradients(make_stack([vat], coupled=False)), expected(model, loss), atol=1e-6)


test_the_divergence_is_from_home = trap(right=VAT, wrong=Reversed)(learns_kl_from_home)
test_home_gets_no_gradient = trap(right=VAT, wrong=Attached)(learns_kl_from_home)


class Twice(VAT):
    """The term comes from a helper that adds the supervised loss, which the loop adds as well."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        found = super().forward(run, batch, inner)
        return found.add("again", found.losses)


class ByBackward(VAT):
    """The power iteration by `backward()`, after the supervised one and without zeroing."""

    def move(self, run: Any, places: Any, p: Tensor, far: Any) -> None:
        places.start(1.0, rim=True)
        far(places.output()).sum().backward()
        super().move(run, places, p, far)


test_the_supervised_gradient_counts_once = trap(right=VAT, wrong=Twice)(learns_kl_from_home)
test_the_power_iteration_leaves_no_gradient = trap(right=VAT, wrong=ByBackward)(learns_kl_from_home)


class Moving(VAT):
    """Passes over moved and unlabelled rows in training mode, as they stand."""

    def _standing(self, run: Any) -> Any:
        return seeding.borrowed()


@trap(right=VAT, wrong=Moving)
def test_batch_statistics_are_of_the_labelled_rows(kind: Any) -> None:
    plain = make_stack()
    stack = make_stack([kind(at="floats", unlabelled=2).during(0, 1)])
    for one in (plain, stack):
        one.gradients(one.window(PARTS[0]))
    assert equal(*(dict(one.run.module.named_buffers()) for one in (plain, stack)))


class NewMasks(VAT):
    """Each pass draws its own dropout: what diverges is dropout, and r climbs another network."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        seeds = iter(range(1, 99))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seeding, "replaying", lambda stood: seeding.borrowed(next(seeds)))
            return super().forward(run, batch, inner)


@trap(right=VAT, wrong=NewMasks)
def test_all_passes_have_one_dropout_mask(kind: Any) -> None:
    stack = make_stack([kind(at="floats", unlabelled=0).during(0, 1)])
    masks: list[Tensor] = []
    stack.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
    stack.gradients(stack.window(PARTS[0]))
    assert len(masks) == 3
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def by_dim_1(far: Callable[[Tensor], Tensor], x: Tensor, epsilon: float, **more: Any) -> Tensor:
    """`F.normalize(g)`, whose norm is along dimension 1: of each pixel over the channels."""
    point = (x + epsilon * F.normalize(torch.randn(x.shape))).requires_grad_()
    [g] = torch.autograd.grad(far(point).sum(), point)
    return x + epsilon * F.normalize(g)


@trap(right=virtual_point, wrong=by_dim_1)
def test_a_row_has_one_norm_whatever_its_rank(point: Any) -> None:
    for shape in ((6, 3, 4, 4), (6, 2, 3), (6, 3), (6,)):
        x = torch.rand(shape, generator=seeding.generator(1))
        p = x.flatten(1) if x.ndim > 1 else x[:, None]
        w = torch.randn(p.shape[1], 3, generator=seeding.generator(2))

        def far(v: Tensor, p: Tensor = p, w: Tensor = w) -> Tensor:
            return KL(p @ w, v.reshape(p.shape) @ w)

        lengths = (point(far, x, 0.3) - x).reshape(6, -1).norm(dim=1)
        assert torch.allclose(lengths, torch.tensor(0.3), atol=1e-5)
