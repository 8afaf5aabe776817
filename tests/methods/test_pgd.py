"""PGD on embeddings."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.embedding import within_
from whet.errors import InputError, NotApplicable
from whet.method import method
from whet.methods.fgm import FGM
from whet.methods.pgd import PGD
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    PGD(steps=3, step_size=0.4, epsilon=0.7).during(0, 1),
    accumulates="one norm over the table belongs to each micro-batch's own gradient",
    processes=PGD(steps=3, step_size=0.4, epsilon=0.7, across="global").during(0, 1),
    cost=Cost(forwards=4, backwards=4, copies=4),
)

PARTS = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
Net = nn.Module


def gradients(model: Net) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_stack(method: PGD | FGM, window: list[Batch], model: Net | None = None) -> dict[str, Tensor]:
    model = make_model(coupled=False) if model is None else model
    stack = Stack(model, methods=[method], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    stack.gradients(stack.window(window))
    return gradients(model)


def loss_of(model: Net, batch: Batch, items: int) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="sum") / items


# the value -----------------------------------------------------------------------------------
def by_formula(window: list[Batch], pgd: PGD) -> dict[str, Tensor]:
    """Clean plus adversarial gradient, each micro-batch from fresh copies, by autograd.grad."""
    items, total = sum(batch.size for batch in window), {}
    for batch in window:
        model = make_model(coupled=False)
        names, parameters = zip(*model.named_parameters(), strict=True)
        clean = moved = torch.autograd.grad(loss_of(model, batch, items), parameters)
        table, delta = model.embed.weight, 0.0
        start = table.detach().clone()
        for _ in range(pgd.steps):
            g = moved[names.index("embed.weight")]
            delta = delta + pgd.step_size * g / g.norm()
            delta = delta * (pgd.epsilon / delta.norm()).clamp(max=1.0)
            table.data = start + delta
            moved = torch.autograd.grad(loss_of(model, batch, items), parameters)
        for name, a, b in zip(names, clean, moved, strict=True):
            total[name] = total.get(name, 0.0) + a + pgd.weight * b
    return total


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 9.0])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_formula(steps: int, epsilon: float) -> None:
    pgd = PGD(steps=steps, step_size=0.4, epsilon=epsilon, weight=0.5).during(0, 1)
    assert close(by_stack(pgd, PARTS), by_formula(PARTS, pgd))


def test_one_step_of_the_balls_radius_is_fgm() -> None:
    """To the bit, with dropout too: the moved pass draws the mask that FGM's does."""
    one = PGD(steps=1, step_size=0.7, epsilon=0.7).during(0, 1)
    assert equal(by_stack(one, PARTS), by_stack(FGM(0.7).during(0, 1), PARTS))
    assert equal(
        by_stack(one, PARTS, make_model()), by_stack(FGM(0.7).during(0, 1), PARTS, make_model())
    )


# the snippet that is passed around, with K=3, alpha=0.3, epsilon=1 -----------------------------
class Snippet:
    def __init__(self, model: Net, name: str = "embed.") -> None:
        self.model, self.name = model, name
        self.emb_backup: dict[str, Tensor] = {}
        self.grad_backup: dict[str, Tensor] = {}

    def attack(self, epsilon: float, alpha: float, first: bool) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and self.name in name:
                if first:
                    self.emb_backup[name] = param.data.clone()
                norm = torch.norm(param.grad)
                if norm != 0 and not torch.isnan(norm):
                    param.data.add_(alpha * param.grad / norm)
                    param.data = self.project(name, param.data, epsilon)

    def restore(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and self.name in name:
                param.data = self.emb_backup[name]
        self.emb_backup = {}

    def project(self, name: str, data: Tensor, epsilon: float) -> Tensor:
        r = data - self.emb_backup[name]
        if torch.norm(r) > epsilon:
            r = epsilon * r / torch.norm(r)
        return self.emb_backup[name] + r

    def backup_grad(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and param.grad is not None:
                self.grad_backup[name] = param.grad.clone()

    def restore_grad(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and param.grad is not None:
                param.grad = self.grad_backup[name]

    def zero_grad(self) -> None:
        for param in self.model.parameters():
            if param.grad is not None:
                param.grad.zero_()


class Aliased(Snippet):
    """The copy of the gradients forgotten: zeros in place are the kept gradients' zeros too."""

    def backup_grad(self) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and param.grad is not None:
                self.grad_backup[name] = param.grad


class ByLargest(Snippet):
    """Clipped number by number, the ball of the other norm: on a table it never cuts anything."""

    def project(self, name: str, data: Tensor, epsilon: float) -> Tensor:
        r = (data - self.emb_backup[name]).clamp(-epsilon, epsilon)
        return self.emb_backup[name] + r


class ByWeights(Snippet):
    """The ball around the origin: what is pulled back is the table itself."""

    def project(self, name: str, data: Tensor, epsilon: float) -> Tensor:
        return data * (epsilon / torch.norm(data)).clamp(max=1.0)


def by_snippet(kind: type[Snippet]) -> Callable[..., dict[str, Tensor]]:
    def run(pgd: PGD, window: list[Batch], model: Net | None = None) -> dict[str, Tensor]:
        model = make_model(coupled=False) if model is None else model
        items, snippet = sum(batch.size for batch in window), kind(model)
        for batch in window:
            loss_of(model, batch, items).backward()
            snippet.backup_grad()
            for t in range(pgd.steps):
                snippet.attack(pgd.epsilon, pgd.step_size, first=t == 0)
                if t != pgd.steps - 1:
                    snippet.zero_grad()
                else:
                    snippet.restore_grad()
                loss_of(model, batch, items).backward()
            snippet.restore()
        return gradients(model)

    return run


def by_hand(pgd: PGD, batch: Batch) -> dict[str, Tensor]:
    """The snippet's loop with the distance kept by itself: `(w + a) - w` is not a."""
    model = make_model(coupled=False)
    start, delta = model.embed.weight.detach().clone(), torch.zeros(20, 6)
    loss_of(model, batch, batch.size).backward()
    clean = {name: p.grad.clone() for name, p in model.named_parameters()}
    for t in range(pgd.steps):
        g = model.embed.weight.grad
        delta = delta + pgd.step_size * g / g.norm()
        if delta.norm() > pgd.epsilon:
            delta = delta * (pgd.epsilon / delta.norm())
        model.embed.weight.data.copy_(start + delta)
        model.zero_grad()
        if t == pgd.steps - 1:
            for name, p in model.named_parameters():
                p.grad = clean[name]
        loss_of(model, batch, batch.size).backward()
    return gradients(model)


@pytest.mark.parametrize("epsilon", [0.5, 9.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_oracle_is_the_hand_loop_to_the_bit_without_accumulation(
    steps: int, epsilon: float
) -> None:
    pgd = PGD(steps=steps, step_size=0.3, epsilon=epsilon).during(0, 1)
    assert equal(by_stack(pgd, PARTS[:1]), by_hand(pgd, PARTS[0]))
    assert close(by_stack(pgd, PARTS[:1]), by_snippet(Snippet)(pgd, PARTS[:1]), atol=1e-7)


NARROW = PGD(steps=4, step_size=0.5, epsilon=0.6).during(0, 1)


@trap(right=by_stack, wrong=by_snippet(Aliased))
def test_the_clean_gradient_is_kept_apart(run: Callable[..., dict[str, Tensor]]) -> None:
    assert close(run(NARROW, PARTS[:1]), by_formula(PARTS[:1], NARROW))


@trap(right=by_stack, wrong=by_snippet(ByLargest))
def test_the_ball_has_the_norm_of_the_steps(run: Callable[..., dict[str, Tensor]]) -> None:
    assert close(run(NARROW, PARTS[:1]), by_formula(PARTS[:1], NARROW))


@trap(right=by_stack, wrong=by_snippet(ByWeights))
def test_the_ball_is_around_the_table(run: Callable[..., dict[str, Tensor]]) -> None:
    assert close(run(NARROW, PARTS[:1]), by_formula(PARTS[:1], NARROW))


@trap(right=by_stack, wrong=by_snippet(Snippet))
def test_attacks_with_the_micro_batchs_own_gradient(run: Callable[..., dict[str, Tensor]]) -> None:
    assert close(run(NARROW, PARTS), by_formula(PARTS, NARROW))


@trap(right=lambda model: PGD(at="word_emb").begin(model), wrong=lambda m: Snippet(m, "word_emb"))
def test_a_name_that_matches_nothing_is_an_error(begin: Callable[[Net], Any]) -> None:
    told = ""
    try:
        begin(make_model())
    except NotApplicable as error:
        told = str(error)
    assert "embed" in told  # the snippet trains on without an attack


def test_distances_are_pulled_back_by_their_norm() -> None:
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    rows = within_(delta.clone(), 1.0, each=True)
    assert torch.allclose(rows, torch.tensor([[0.6, 0.8], [0.3, 0.4]]))
    assert within_(delta.clone(), 1.0).norm() == pytest.approx(1.0)
    assert torch.equal(within_(delta.clone(), 6.0), delta)
    assert not within_(delta.clone(), 0.0).any()
    big = torch.tensor([[300.0, 400.0]], dtype=torch.float16)  # squares are beyond its range
    assert torch.allclose(within_(big, 5.0).float(), torch.tensor([[3.0, 4.0]]))


# what a pass leaves behind ---------------------------------------------------------------------
@contextmanager
def snippet_attack(model: Net) -> Any:
    snippet = Snippet(model)

    def rounds() -> Any:
        for t in range(3):
            snippet.attack(1.0, 0.3, first=t == 0)
            yield 1.0

    yield rounds()
    snippet.restore()


attacks = {"right": lambda model: PGD().attack(model), "wrong": snippet_attack}


@trap(**attacks)
def test_restored_when_a_pass_raises(attack: Callable[[Net], Any]) -> None:
    def broken(model: Net, fatal: int) -> None:
        with attack(model) as rounds:
            for at, _ in enumerate(rounds):
                if at == fatal:
                    raise RuntimeError
                loss_of(model, PARTS[0], 6).backward()

    for fatal in range(3):
        model = make_model(coupled=False)
        before = weights(model)
        loss_of(model, PARTS[0], 6).backward()
        with pytest.raises(RuntimeError):
            broken(model, fatal)
        assert equal(before, weights(model))


@trap(**attacks)
def test_restores_in_place(attack: Callable[[Net], Any]) -> None:
    model = make_model(coupled=False)
    loss_of(model, PARTS[0], 6).backward()
    place, view = model.embed.weight.data_ptr(), model.embed.weight.detach()
    with attack(model) as rounds:
        for _ in rounds:
            loss_of(model, PARTS[0], 6).backward()
    model.embed.weight.data[1] += 1.0  # an optimizer that holds a flat view of the weights
    assert model.embed.weight.data_ptr() == place
    assert torch.equal(view, model.embed.weight)


@pytest.mark.parametrize("fatal", [0, 1])
def test_a_round_that_raises_or_ends_early_leaves_the_clean_gradient(fatal: int) -> None:
    for leave in (False, True):
        model = make_model()
        loss_of(model, PARTS[0], 6).backward()
        clean = gradients(model)
        try:
            with PGD(steps=3).attack(model) as rounds:
                for at, _ in enumerate(rounds):
                    loss_of(model, PARTS[0], 6).backward()
                    if at == fatal:
                        assert not equal(clean, gradients(model))
                        if leave:
                            break
                        raise RuntimeError
        except RuntimeError:
            assert not leave
        assert equal(clean, gradients(model))
        assert list(modes.batch_norms(model)) == ["norm"]


class Infinite(nn.Module):
    """Its table's gradient is infinite in one pass."""

    def __init__(self, bad: int) -> None:
        super().__init__()
        with seeding.borrowed(0):
            self.embed = nn.Embedding(4, 2)
        self.bad, self.seen = bad, []

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append(self.embed.weight.detach().clone())
        out = self.embed(ids)
        if len(self.seen) == self.bad:
            out = out.clone()  # a node of its own, whose gradient is spoiled
            out.register_hook(lambda g: g * float("inf"))
        return out


def rounds_on(model: Net, kind: Any) -> None:
    ids, labels = torch.tensor([1, 2]), torch.tensor([0, 1])
    F.cross_entropy(model(ids), labels).backward()
    with attacks["right" if kind is PGD else "wrong"](model) as rounds:
        for _ in rounds:
            F.cross_entropy(model(ids), labels).backward()


@pytest.mark.parametrize("bad", [1, 2])
def test_an_infinite_gradient_is_no_step(bad: int) -> None:
    @trap(right=PGD, wrong=Snippet)
    def check(kind: Any) -> None:
        model = Infinite(bad)
        rounds_on(model, kind)
        assert len(model.seen) == 4
        assert torch.equal(model.seen[bad - 1], model.seen[bad])
        assert not torch.equal(model.seen[bad], model.seen[bad + 1])

    check("right"), check("wrong")


def test_a_zero_gradient_moves_nothing_and_still_makes_every_pass() -> None:
    model, seen = make_model(coupled=False), []
    model.head.weight.data.zero_()  # nothing reaches the table
    model.register_forward_hook(lambda *_: seen.append(model.embed.weight.clone()))
    by_stack(PGD(steps=3).during(0, 1), PARTS[:1], model)
    assert len(seen) == 4
    assert all(torch.equal(seen[0], one) for one in seen)


# dropout and batch statistics ------------------------------------------------------------------
@method
class Loose(PGD):
    """Rounds as they come: each draws a mask and moves the running statistics."""

    name: ClassVar[str] = "loose"

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        snippet = Snippet(run.module)
        kept = [(p, p.grad.clone()) for p in run.module.parameters() if p.grad is not None]
        for t in range(self.steps):
            snippet.attack(self.epsilon, self.step_size, first=t == 0)
            for p, grad in kept:
                p.grad = grad.clone() if t == self.steps - 1 else torch.zeros_like(grad)
            inner(run.again(fresh=True))
        snippet.restore()


def masks_and_statistics(kind: type[PGD]) -> tuple[list[Tensor], dict[str, Tensor]]:
    stack = make_stack([kind(steps=3, step_size=0.5).during(0, 1)])
    masks: list[Tensor] = []
    stack.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
    stack.gradients(stack.window(PARTS[0]))
    return masks, dict(stack.run.module.named_buffers())


@trap(right=PGD, wrong=Loose)
def test_the_attack_climbs_the_network_that_learns(kind: type[PGD]) -> None:
    masks, _ = masks_and_statistics(kind)
    assert len(masks) == 4
    assert not torch.equal(masks[0], masks[1])
    assert all(torch.equal(masks[1], mask) for mask in masks[1:])


@trap(right=PGD, wrong=Loose)
def test_the_number_of_rounds_changes_no_later_draw(kind: type[PGD]) -> None:
    drawn = []
    for steps in (1, 4):
        stack = make_stack([kind(steps=steps).during(0, 1)])
        stack.gradients(stack.window(PARTS[0]))
        drawn.append(torch.rand(()))
    assert drawn[0] == drawn[1]


@trap(right=PGD, wrong=Loose)
def test_moved_passes_leave_batch_statistics_alone(kind: type[PGD]) -> None:
    plain = make_stack()
    plain.gradients(plain.window(PARTS[0]))
    assert equal(masks_and_statistics(kind)[1], dict(plain.run.module.named_buffers()))


# what an embedding returns ---------------------------------------------------------------------
def output_by_hand(pgd: PGD, frozen: bool) -> dict[str, Tensor]:
    """The embedding's output as a leaf of its own, its gradient by autograd.grad."""
    model, batch = make_model(coupled=False), PARTS[0]
    model.embed.weight.requires_grad_(not frozen)
    tokens = batch.inputs["tokens"]
    words = (tokens != 0).unsqueeze(-1)
    delta = torch.zeros(*tokens.shape, 6)
    handle = model.embed.register_forward_hook(lambda m, a, out: out + delta)
    loss_of(model, batch, 6).backward()

    def norm(x: Tensor) -> Tensor:
        return x.norm() if pgd.scope == "output" else x.flatten(1).norm(dim=1).view(-1, 1, 1)

    for _ in range(pgd.steps):
        delta = delta.detach().requires_grad_()
        [g] = torch.autograd.grad(loss_of(model, batch, 6), delta)
        moved = delta.detach() + pgd.step_size * (g * words) / norm(g * words)
        far = norm(moved) > pgd.epsilon
        delta = torch.where(far, moved * (pgd.epsilon / norm(moved)), moved)
    loss_of(model, batch, 6).backward()
    handle.remove()
    return gradients(model)


@pytest.mark.parametrize("scope", ["example", "output"])
@pytest.mark.parametrize("frozen", [False, True])
def test_oracle_of_the_output_scopes_to_the_bit(scope: str, frozen: bool) -> None:
    model = make_model(coupled=False)
    model.embed.weight.requires_grad_(not frozen)
    pgd = PGD(steps=3, step_size=0.5, epsilon=0.8, scope=scope).during(0, 1)
    found = by_stack(pgd, PARTS[:1], model)
    assert ("embed.weight" in found) != frozen
    assert equal(found, output_by_hand(pgd, frozen))


def test_per_example_attacks_accumulate() -> None:
    pgd = PGD(steps=3, step_size=0.5, epsilon=0.8, scope="example").during(0, 1)
    assert close(by_stack(pgd, PARTS), by_stack(pgd, [Batch.join(PARTS)]))


def test_the_output_scopes_alone_need_watch() -> None:
    pgd = PGD(scope="output").during(0, 1)
    with pytest.raises(InputError, match=r"with pgd\.watch"), pgd.attack(make_model()) as rounds:
        next(rounds)


def test_all_frozen_points_to_the_scope_that_works() -> None:
    model = make_model()
    model.embed.weight.requires_grad_(False)
    with pytest.raises(NotApplicable, match="scope='output'"):
        Stack(model, methods=[PGD().during(0, 1)])


# in a loop of one's own ------------------------------------------------------------------------
@pytest.mark.parametrize("scope", ["table", "example", "output"])
@pytest.mark.parametrize("coupled", [False, True])
def test_plain_loop_equals_the_stack_to_the_bit(scope: str, coupled: bool) -> None:
    pgd = PGD(scope=scope, weight=0.5).during(0, 1)
    stack, model = make_stack([pgd], coupled=coupled), make_model(coupled=coupled)
    optimizer, pgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), pgd.clone()
    for batch in PARTS:
        optimizer.zero_grad()
        seeding.seed_default(stack.run.position())
        with pgd.watch(model):
            loss_of(model, batch, batch.size).backward()
            with pgd.attack(model) as rounds:
                for weight in rounds:
                    (weight * loss_of(model, batch, batch.size)).backward()
        optimizer.step()
        stack.step([batch])
    assert close(weights(model), weights(stack.run.module), atol=1e-7)


def test_a_loss_with_weights_of_its_own_stands_beside() -> None:
    model, scale = make_model(coupled=False), nn.Linear(1, 1)

    def loss() -> Tensor:
        return scale(loss_of(model, PARTS[0], 6).view(1)).sum()

    loss().backward()
    once = scale.bias.grad.clone()
    with PGD(steps=3).attack(model, beside=scale) as rounds:
        for _ in rounds:
            loss().backward()
    assert torch.equal(scale.bias.grad, 2 * once)  # clean and last; those between are dropped


def test_rows_without_a_target_and_sparse_tables() -> None:
    mask = torch.tensor([True, False, True, True, True, False])
    batch = PARTS[0].replace(mask=mask)
    for scope in ("table", "example", "output"):
        some = by_stack(PGD(scope=scope).during(0, 1), [batch])
        assert close(some, by_stack(PGD(scope=scope).during(0, 1), [PARTS[0].take(mask)]))
    none = PARTS[0].replace(mask=torch.zeros(6, dtype=torch.bool))
    assert all(not g.any() for g in by_stack(PGD().during(0, 1), [none]).values())
    model = make_model(coupled=False)
    model.embed.sparse = True
    sparse = {n: g.to_dense() for n, g in by_stack(PGD().during(0, 1), PARTS, model).items()}
    assert close(sparse, by_stack(PGD().during(0, 1), PARTS))


def test_ids_that_are_drawn_anew_are_moved_from_the_pass_in_which_they_appear() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head, self.passes = nn.Embedding(9, 4), nn.Linear(4, 3), 0

        def forward(self, ids: Tensor) -> Tensor:
            self.passes += 1
            out = self.embed(ids)
            if self.passes > 1:  # another word stands in a place, as in masked modelling
                out = out + self.embed(ids.roll(self.passes, 1))
            return self.head(out.mean(1))

    model = Masked()
    batch = Batch(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 2]))
    found = by_stack(PGD(scope="output").during(0, 1), [batch], model)
    assert model.passes == 4
    assert all(g.isfinite().all() for g in found.values())
