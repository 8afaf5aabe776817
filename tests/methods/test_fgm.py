"""FGM."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.record_libraries import OfVectors, numbers, recorded
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.fgm import FGM
from whet.methods.pgd import PGD
from whet.methods.random_noise import RandomNoise
from whet.objectives.objective import call
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

CASE = Case(
    FGM(epsilon=1.0).during(0, 1),
    accumulates="one norm over the table belongs to each micro-batch's own gradient",
    processes=FGM(epsilon=1.0, across="global").during(0, 1),
    cost=Cost(forwards=2, backwards=2, copies=2),
)

PARTS = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
Net = nn.Module


def gradients(model: Net) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_stack(method: FGM, window: list[Batch], model: Net | None = None) -> dict[str, Tensor]:
    model = make_model(coupled=False) if model is None else model
    stack = Stack(model, methods=[method], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    stack.gradients(stack.window(window))
    return gradients(model)


def loss_of(model: Net, batch: Batch, items: int) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="sum") / items


def by_formula(window: list[Batch], epsilon: float, weight: float = 1.0) -> dict[str, Tensor]:
    """Clean plus adversarial gradient, each micro-batch from fresh copies, by autograd.grad."""
    items, total = sum(batch.size for batch in window), {}
    for batch in window:
        model = make_model(coupled=False)
        names, parameters = zip(*model.named_parameters(), strict=True)
        clean = torch.autograd.grad(loss_of(model, batch, items), parameters)
        table, g = model.embed.weight, clean[names.index("embed.weight")]
        table.data = table.data + epsilon * g / g.norm()
        moved = torch.autograd.grad(loss_of(model, batch, items), parameters)
        for name, a, b in zip(names, clean, moved, strict=True):
            total[name] = total.get(name, 0.0) + a + weight * b
    return total


def test_formula() -> None:
    assert close(by_stack(FGM(0.7, weight=0.5).during(0, 1), PARTS), by_formula(PARTS, 0.7, 0.5))


# the snippet that is passed around, with epsilon=1 and a substring of a parameter's name ----------
class Snippet:
    def __init__(self, model: Net, name: str = "embed.") -> None:
        self.model, self.name, self.backup = model, name, {}

    def attack(self, epsilon: float = 1.0) -> None:
        for name, param in self.model.named_parameters():
            if param.requires_grad and self.name in name:
                self.backup[name] = param.data.clone()
                norm = torch.norm(param.grad)
                if norm != 0 and not torch.isnan(norm):
                    param.data.add_(epsilon * param.grad / norm)

    def restore(self) -> None:
        for name, param in self.model.named_parameters():
            if name in self.backup:
                param.data = self.backup[name]
        self.backup = {}


def by_snippet(method: FGM, window: list[Batch], model: Net | None = None) -> dict[str, Tensor]:
    model = make_model(coupled=False) if model is None else model
    items, fgm = sum(batch.size for batch in window), Snippet(model)
    for batch in window:
        loss_of(model, batch, items).backward()
        fgm.attack(method.epsilon)
        loss_of(model, batch, items).backward()
        fgm.restore()
    return gradients(model)


def test_oracle_is_the_snippet_to_the_bit_without_accumulation() -> None:
    assert equal(
        by_stack(FGM(0.7).during(0, 1), PARTS[:1]), by_snippet(FGM(0.7).during(0, 1), PARTS[:1])
    )


@trap(right=by_stack, wrong=by_snippet)
def test_attacks_with_the_micro_batchs_own_gradient(run: Callable[..., dict[str, Tensor]]) -> None:
    assert close(run(FGM(1.0).during(0, 1), PARTS), by_formula(PARTS, 1.0))


@trap(right=lambda model: FGM(at="word_emb").begin(model), wrong=lambda m: Snippet(m, "word_emb"))
def test_a_name_that_matches_nothing_is_an_error(begin: Callable[[Net], Any]) -> None:
    model = make_model()
    with_error = False
    try:
        attack = begin(model)
        if attack is not None:
            attack.attack()
    except NotApplicable as error:
        with_error = "embed" in str(error)
    assert with_error


class Spoiled(nn.Module):
    """Its table's gradient is multiplied in the first pass only."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.embed, self.seen, self.factor = nn.Embedding(4, 2), [], factor

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append(self.embed.weight.detach().clone())
        out = self.embed(ids)
        if len(self.seen) == 1:
            out = out.clone()  # a node of its own, whose gradient is spoiled
            out.register_hook(lambda g: g * self.factor)
        return out


def seen_by(kind: Any, factor: float) -> list[Tensor]:
    """The table in both passes."""
    model = Spoiled(factor)
    ids, labels = torch.tensor([1, 2]), torch.tensor([0, 1])
    F.cross_entropy(model(ids), labels).backward()
    if kind is FGM:
        with FGM().attack(model):
            model(ids)
    else:
        snippet = kind(model)
        snippet.attack()
        model(ids)
        snippet.restore()
    return model.seen


@trap(right=FGM, wrong=Snippet)
def test_an_infinite_gradient_moves_nothing(kind: Any) -> None:
    assert torch.equal(*seen_by(kind, float("inf")))


class Unchecked(Snippet):
    """Divides by whatever the norm is."""

    def attack(self, epsilon: float = 1.0) -> None:
        for name, param in self.model.named_parameters():
            self.backup[name] = param.data.clone()
            param.data.add_(epsilon * param.grad / torch.norm(param.grad))


@trap(right=FGM, wrong=Unchecked)
def test_a_norm_of_zero_or_nan_moves_nothing(kind: Any) -> None:
    for factor in (0.0, float("nan")):
        assert torch.equal(*seen_by(kind, factor))


def test_a_zero_gradient_moves_nothing_and_still_makes_the_second_pass() -> None:
    model, calls = make_model(coupled=False), []
    model.head.weight.data.zero_()  # nothing reaches the table
    model.register_forward_hook(lambda *_: calls.append(model.embed.weight.clone()))
    by_stack(FGM().during(0, 1), PARTS[:1], model)
    assert len(calls) == 2
    assert torch.equal(*calls)


@contextmanager
def snippet_attack(model: Net) -> Any:
    fgm = Snippet(model)
    fgm.attack()
    yield
    fgm.restore()


@trap(right=lambda model: FGM().attack(model), wrong=snippet_attack)
def test_restored_when_the_second_pass_raises(attack: Callable[[Net], Any]) -> None:
    model = make_model(coupled=False)
    before = weights(model)
    loss_of(model, PARTS[0], 6).backward()
    with pytest.raises(RuntimeError), attack(model):
        raise RuntimeError
    assert equal(before, weights(model))


@trap(right=lambda model: FGM().attack(model), wrong=snippet_attack)
def test_restores_in_place(attack: Callable[[Net], Any]) -> None:
    model = make_model(coupled=False)
    loss_of(model, PARTS[0], 6).backward()
    place, view = model.embed.weight.data_ptr(), model.embed.weight.detach()
    with attack(model):
        pass
    model.embed.weight.data[1] += 1.0  # an optimizer that holds a flat view of the weights
    assert model.embed.weight.data_ptr() == place
    assert torch.equal(view, model.embed.weight)


class Two(nn.Module):
    """One table that is read, one that is not, positions, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.unused = nn.Embedding(6, 3), nn.Embedding(6, 3)
        self.positions, self.old = nn.Embedding(4, 3), nn.Embedding(6, 3)
        self.old.weight.requires_grad_(False)
        self.head, self.seen = nn.Linear(3, 2), []

    def forward(self, ids: Tensor) -> Tensor:
        self.seen.append({n: p.detach().clone() for n, p in self.named_parameters()})
        at = torch.arange(ids.shape[1])
        return self.head((self.words(ids) + self.old(ids) + self.positions(at)).mean(1))


def skipping(model: Two) -> list[str]:
    fgm = FGM().during(0, 1)
    for _ in range(2):  # reported once
        with fgm.watch(model):
            model(torch.tensor([[1, 2, 3]])).square().sum().backward()
            with fgm.attack(model):
                model(torch.tensor([[1, 2, 3]]))
    return fgm.skipped


def snippet_skipping(model: Two) -> list[str]:
    fgm = Snippet(model, "")
    model(torch.tensor([[1, 2, 3]])).square().sum().backward()
    try:
        fgm.attack()  # torch.norm(None)
    except (TypeError, AttributeError):
        raise AssertionError from None
    return []


@trap(right=skipping, wrong=snippet_skipping)
def test_tables_without_gradient_are_skipped_and_reported(attack: Any) -> None:
    model = Two()
    skipped = attack(model)
    assert skipped == ["old: frozen", "unused: no gradient in some batch"]
    moved = {n for n, p in model.seen[0].items() if not torch.equal(p, model.seen[1][n])}
    assert moved == {"words.weight"}  # positions are excluded


class Optional(nn.Module):
    """Numbers, and words where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head, self.seen = nn.Embedding(6, 3), nn.Linear(3, 2), []

    def forward(self, floats: Tensor, tokens: Tensor | None = None) -> Tensor:
        self.seen.append(self.words.weight.detach().clone())
        return self.head(floats if tokens is None else floats + self.words(tokens).mean(1))


@pytest.mark.parametrize("kind", [FGM, PGD, RandomNoise])
def test_a_batch_without_words_moves_nothing_and_says_so_once(kind: Any) -> None:
    with seeding.borrowed(0):
        model = Optional()
    stack = Stack(model, methods=[kind(epsilon=1.0).during(0, 1)],
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    floats, labels, tokens = torch.ones(2, 3), torch.tensor([0, 1]), torch.tensor([[1], [2]])
    moves = []
    for words in ({}, {"tokens": tokens}, {}):
        model.seen.clear()
        stack.step(Batch({"floats": floats, **words}, labels))
        moves.append(not torch.equal(model.seen[0], model.seen[-1]))
        assert len(model.seen) == (4 if kind is PGD else 2)
    assert moves == [False, True, False]
    [told] = stack.run.notes
    assert "stays where it is (words: no gradient in some batch)" in told


def test_a_run_tells_which_tables_stay() -> None:
    ids, labels = torch.tensor([[1, 2, 3]]).repeat(8, 1), torch.tensor([0, 1] * 4)
    run = Run(Task(Two(), (ids, labels)), Stage(updates=2, methods=[FGM().during(0, 1)])).fit()
    assert [note.partition("(")[2].partition(")")[0] for note in run.notes] == [
        "old: frozen", "unused: no gradient in some batch"
    ]  # fmt: skip


def snippet_on_frozen(model: Net) -> None:
    snippet = Snippet(model)
    loss_of(model, PARTS[0], 6).backward()
    snippet.attack()
    snippet.restore()


@trap(right=lambda model: Stack(model, methods=[FGM().during(0, 1)]), wrong=snippet_on_frozen)
def test_all_frozen_points_to_the_scope_that_works(begin: Callable[[Net], Any]) -> None:
    model, said = make_model(), ""
    model.embed.weight.requires_grad_(False)
    try:
        begin(model)
    except NotApplicable as error:
        said = str(error)
    assert "scope='output'" in said, "nothing was attacked, in silence"


# what an embedding returns ------------------------------------------------------------------------
def by_hand(scope: str, epsilon: float, frozen: bool) -> dict[str, Tensor]:
    """The embedding's output as a leaf of its own, its gradient by autograd.grad."""
    model, batch = make_model(coupled=False), PARTS[0]
    model.embed.weight.requires_grad_(not frozen)
    tokens = batch.inputs["tokens"]
    delta = torch.zeros(*tokens.shape, 6, requires_grad=True)
    handle = model.embed.register_forward_hook(lambda m, a, out: out + delta)
    loss = loss_of(model, batch, 6)
    [g] = torch.autograd.grad(loss, delta, retain_graph=True)
    loss.backward()
    g = g * (tokens != 0).unsqueeze(-1)
    norm = g.norm() if scope == "output" else g.flatten(1).norm(dim=1).view(-1, 1, 1)
    delta = epsilon * g / norm
    loss_of(model, batch, 6).backward()
    handle.remove()
    return gradients(model)


@pytest.mark.parametrize("scope", ["example", "output"])
@pytest.mark.parametrize("frozen", [False, True])
def test_oracle_of_the_output_scopes_to_the_bit(scope: str, frozen: bool) -> None:
    model = make_model(coupled=False)
    model.embed.weight.requires_grad_(not frozen)
    found = by_stack(FGM(0.7, scope=scope).during(0, 1), PARTS[:1], model)
    assert ("embed.weight" in found) != frozen
    assert equal(found, by_hand(scope, 0.7, frozen))


def test_oracle_of_single_examples_is_cleverhans() -> None:
    """fast_gradient_method with norm 2 on the word vectors, as it was recorded."""
    model = nn.Sequential(nn.Embedding(20, 3), OfVectors())
    model[0].weight.data = numbers(20, 3).float()
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    fgm, ids, y = FGM(0.5, scope="example"), torch.arange(20).view(5, 4), [0, 1, 0, 1, 1]
    with fgm.watch(model):
        F.cross_entropy(model(ids), torch.tensor(y)).backward()
        with fgm.attack(model):
            model(ids)
    expected = torch.tensor(recorded("cleverhans")["moved"]).view(5, 4, 3)
    assert torch.allclose(seen[1], expected, atol=1e-6)
    assert (seen[1] - seen[0]).flatten(1).norm(dim=1).tolist() == pytest.approx([0.5] * 5)


def test_per_example_attacks_accumulate() -> None:
    method = FGM(1.0, scope="example").during(0, 1)
    assert close(by_stack(method, PARTS), by_stack(method, [Batch.join(PARTS)]))


def test_the_output_scopes_alone_need_watch() -> None:
    with pytest.raises(InputError, match="watch"), FGM(scope="output").attack(make_model()):
        pass


# in a loop of one's own ---------------------------------------------------------------------------
@pytest.mark.parametrize("scope", ["table", "example", "output"])
@pytest.mark.parametrize("coupled", [False, True])
def test_plain_loop_equals_the_stack_to_the_bit(scope: str, coupled: bool) -> None:
    method = FGM(0.5, scope=scope).during(0, 1)
    stack = make_stack([method], coupled=coupled)
    model = make_model(coupled=coupled)
    optimizer, fgm = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method.clone()
    for batch in PARTS:
        optimizer.zero_grad()
        seeding.seed_default(stack.run.position())
        with fgm.watch(model):
            loss_of(model, batch, batch.size).backward()
            with fgm.attack(model):
                loss_of(model, batch, batch.size).backward()
        optimizer.step()
        stack.step([batch])
    assert equal(weights(model), weights(stack.run.module))


def test_attack_alone_is_enough_for_the_table_without_accumulation() -> None:
    model = make_model(coupled=False)
    loss_of(model, PARTS[0], 6).backward()
    with FGM(0.7).attack(model):
        loss_of(model, PARTS[0], 6).backward()
    assert equal(gradients(model), by_stack(FGM(0.7).during(0, 1), PARTS[:1]))


def test_the_second_pass_moves_no_batch_statistics_and_draws_a_new_mask() -> None:
    still = FGM(0.0).during(0, 1)  # no move: only the passes count
    plain, attacked = make_stack(), make_stack([still])
    for stack in (plain, attacked):
        stack.gradients(stack.window(PARTS[0]))
    assert equal(dict(plain.run.module.named_buffers()), dict(attacked.run.module.named_buffers()))
    once, both = plain.run.module.head.weight.grad, attacked.run.module.head.weight.grad
    assert not torch.allclose(both, 2 * once)


def test_rows_without_a_target_and_sparse_tables() -> None:
    mask = torch.tensor([True, False, True, True, True, False])
    batch = PARTS[0].replace(mask=mask)
    for scope in ("table", "example", "output"):
        some = by_stack(FGM(0.5, scope=scope).during(0, 1), [batch])
        assert close(some, by_stack(FGM(0.5, scope=scope).during(0, 1), [PARTS[0].take(mask)]))
    none = PARTS[0].replace(mask=torch.zeros(6, dtype=torch.bool))
    assert all(not g.any() for g in by_stack(FGM().during(0, 1), [none]).values())
    model = make_model(coupled=False)
    model.embed.sparse = True
    sparse = {n: g.to_dense() for n, g in by_stack(FGM(0.5).during(0, 1), PARTS, model).items()}
    assert close(sparse, by_stack(FGM(0.5).during(0, 1), PARTS))


def test_both_passes_of_a_batch_without_targets() -> None:
    stack = make_stack([FGM(0.5).during(0, 1)], coupled=False)
    window = [PARTS[0], Batch(PARTS[1].inputs)]
    stack.step(window)
    alone = make_stack([FGM(0.5).during(0, 1)], coupled=False)
    alone.step([PARTS[0]])
    assert equal(weights(stack.run.module), weights(alone.run.module))


def test_statistics_go_on_after_the_attack() -> None:
    model = make_model()
    loss_of(model, PARTS[0], 6).backward()
    with FGM().attack(model):
        assert modes.batch_norms(model) == {}
    assert list(modes.batch_norms(model)) == ["norm"]
