"""Random noise, the control of adversarial methods."""

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
from tests.methods.pictures import IMAGES, drawn, given_to, learned, pictures
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.fgm import FGM
from whet.methods.pgd_inputs import PGDInputs
from whet.methods.random_noise import RandomNoise, direction
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    RandomNoise(epsilon=2.0).during(0, 1),
    accumulates="the noise is drawn for each micro-batch anew",
    processes=RandomNoise(epsilon=2.0, across="global").during(0, 1),
    cost=Cost(forwards=2, backwards=2, copies=2),
)

PARTS = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
SCOPES = ["table", "example", "output"]
Net = nn.Module


def gradients(model: Net) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def loss_of(model: Net, batch: Batch, items: int) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="sum") / items


def stack_of(*methods: Any, model: Net | None = None) -> Stack:
    model = make_model(coupled=False) if model is None else model
    return Stack(model, methods=methods, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def moved_by(method: Any, window: list[Batch]) -> list[Tensor]:
    """What the table, or in the other scopes what it returns, moves by in each second pass."""
    stack, seen = stack_of(method), list[Tensor]()
    table = stack.run.module.embed.weight if method.scope == "table" else None

    def look(module: nn.Module, args: Any, out: Tensor) -> None:
        seen.append((out if table is None else table).detach().clone())

    stack.run.module.embed.register_forward_hook(look)
    stack.gradients(stack.window(window))
    return [after - before for before, after in zip(seen[::2], seen[1::2], strict=True)]


# on embeddings -------------------------------------------------------------------------------
def test_formula_by_hand() -> None:
    """Clean plus noisy gradient, by autograd.grad, with the noise that the position gives."""
    method = RandomNoise(0.7, weight=0.5).during(0, 1)
    stack = stack_of(method)
    stack.gradients(stack.window(PARTS[:1]))
    model = make_model(coupled=False)
    names, parameters = zip(*model.named_parameters(), strict=True)
    clean = torch.autograd.grad(loss_of(model, PARTS[0], 6), parameters)
    rows = clean[names.index("embed.weight")].ne(0).any(1)
    maker = seeding.generator(stack.run.key(stack.methods[0]), 0)
    noise = torch.zeros(20, 6)
    noise[rows] = torch.randn(int(rows.sum()), 6, generator=maker)
    model.embed.weight.data.add_(0.7 * noise / noise.norm())
    noisy = torch.autograd.grad(loss_of(model, PARTS[0], 6), parameters)
    expected = {n: a + 0.5 * b for n, a, b in zip(names, clean, noisy, strict=True)}
    assert 3 < rows.sum() < 19  # padding and words of other rows have no gradient
    assert close(gradients(stack.run.module), expected)


class WholeTable(RandomNoise):
    """`epsilon * randn / norm` of the whole table: most of it in words that do not occur."""

    @contextmanager
    def attack(self, model: Net, world: Any = None, seed: int | None = None) -> Any:
        vectors = self.vectors(model)
        maker = seeding.generator(seed or 0)

        def drawn(like: Tensor) -> Tensor:
            noise = torch.randn(like.shape, generator=maker)
            return self.epsilon * noise / noise.norm()

        with modes.still_statistics(model), vectors.moving() as move:
            move([drawn(g) for g in vectors.gradients()])
            yield


@trap(right=RandomNoise, wrong=WholeTable)
def test_moves_what_fgm_moves_as_far_as_fgm(kind: type[RandomNoise]) -> None:
    """A table of 20 words, 3 of them in the batch: the same rows, and the same length."""
    few = PARTS[0].replace(inputs=PARTS[0].inputs | {"tokens": PARTS[0].inputs["tokens"] % 3 + 1})
    for scope in SCOPES if kind is RandomNoise else ["table"]:
        [attack], [noise] = (
            moved_by(m, [few])
            for m in (FGM(0.7, scope).during(0, 1), kind(0.7, scope).during(0, 1))
        )
        assert torch.equal(attack.ne(0).any(-1), noise.ne(0).any(-1))
        lengths = (1,) if scope == "example" else ()
        a, n = (t.flatten(1).norm(dim=1) if lengths else t.norm() for t in (attack, noise))
        assert torch.allclose(a, n, rtol=1e-4)
        cosine = F.cosine_similarity(attack.flatten(), noise.flatten(), dim=0)
        assert cosine.abs() < 0.9


def test_directions_have_no_mean_and_are_new_in_each_micro_batch() -> None:
    gradient = torch.ones(4, 3)
    many = torch.stack([direction(gradient, 1.0, seeding.generator(n)) for n in range(2000)])
    assert many.mean(0).abs().max() < 0.03
    assert torch.allclose(many.flatten(1).norm(dim=1), torch.ones(2000), atol=1e-5)
    first, second = moved_by(RandomNoise(0.7).during(0, 1), [PARTS[0], PARTS[0]])
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("spoil", [0.0, float("nan"), float("inf")])
def test_nothing_moves_where_fgm_moves_nothing(spoil: float) -> None:
    gradient = torch.ones(4, 3)
    gradient[2] = spoil
    each = direction(gradient, 1.0, torch.Generator(), each=True)
    assert torch.allclose(each.norm(dim=1), torch.tensor([1.0, 1.0, 0.0, 1.0]))
    whole = direction(gradient if spoil else 0 * gradient, 1.0, torch.Generator())
    assert not whole.any()


@pytest.mark.parametrize("scope", SCOPES)
def test_padding_stays(scope: str) -> None:
    [noise] = moved_by(RandomNoise(0.7, scope).during(0, 1), PARTS[:1])
    padding = torch.arange(20) == 0 if scope == "table" else PARTS[0].inputs["tokens"] == 0
    assert padding.any()
    assert not noise[padding].any()


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("coupled", [False, True])
def test_plain_loop_equals_the_stack_to_the_bit(scope: str, coupled: bool) -> None:
    stack = make_stack([RandomNoise(0.5, scope).during(0, 1)], coupled=coupled)
    model, noise = make_model(coupled=coupled), RandomNoise(0.5, scope).during(0, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in PARTS:
        optimizer.zero_grad()
        seeding.seed_default(stack.run.position())
        with noise.watch(model):
            loss_of(model, batch, batch.size).backward()
            with noise.attack(model, seed=stack.run.key(stack.methods[0])):
                loss_of(model, batch, batch.size).backward()
        optimizer.step()
        stack.step([batch])
    assert equal(weights(model), weights(stack.run.module))


def test_passes_masks_and_statistics_are_fgms() -> None:
    """With no length, only the passes count: then both are the same method, to the bit."""
    stacks = [make_stack([m]) for m in (FGM(0.0).during(0, 1), RandomNoise(0.0).during(0, 1))]
    for stack in stacks:
        for batch in PARTS:
            stack.step([batch])
    assert equal(*(weights(stack.run.module) for stack in stacks))


def test_alone_the_noise_is_drawn_from_torchs_generator() -> None:
    model, found = make_model(coupled=False), []
    for seed in (0, 0, 1):
        model.zero_grad()
        loss_of(model, PARTS[0], 6).backward()
        with seeding.borrowed(seed), RandomNoise().attack(model):
            found.append(model.embed.weight.detach().clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@contextmanager
def by_data(model: Net) -> Any:
    """Added before and taken away after: an error leaves it there, and w + r - r is not w."""
    noise = torch.randn(20, 6)
    noise = noise / noise.norm()
    model.embed.weight.data.add_(noise)
    yield
    model.embed.weight.data.sub_(noise)


@trap(right=lambda model: RandomNoise(1.0).attack(model), wrong=by_data)
def test_tables_come_back_to_the_bit_also_after_an_error(attack: Callable[[Net], Any]) -> None:
    for fails in (False, True):
        model = make_model(coupled=False)
        before = weights(model)
        loss_of(model, PARTS[0], 6).backward()
        try:
            with attack(model):
                assert not equal(before, weights(model))
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        assert equal(before, weights(model))


# on inputs -----------------------------------------------------------------------------------
def floats(**changes: Any) -> RandomNoise:
    given = {"epsilon": 0.3, "scope": "inputs", "at": "floats"} | changes
    return RandomNoise(**given).during(0, 1)


def test_inputs_move_by_the_uniform_noise_of_the_position() -> None:
    stack = make_stack([floats()], coupled=False)
    x = PARTS[0].inputs["floats"]
    [seen] = given_to(stack, PARTS[0])
    assert torch.allclose(seen, x + 0.3 * drawn(stack, x), atol=1e-6)
    model = make_model(coupled=False)
    F.cross_entropy(call(model, PARTS[0].inputs | {"floats": seen}), PARTS[0].targets).backward()
    assert close(gradients(stack.run.module), gradients(model))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_is_as_large_as_the_attack(norm: str) -> None:
    """In the norm that bounds both, in pixels."""
    std, batch = 0.25, IMAGES.replace(inputs=(IMAGES.inputs - 0.5) / 0.25)
    about = {"epsilon": 0.2, "norm": norm, "std": std}
    far = []
    for method in (
        PGDInputs(**about).during(0, 1),
        RandomNoise(scope="inputs", **about).during(0, 1),
    ):
        pixels = (learned(pictures([method]), batch, "0") - batch.inputs) * std
        rows = pixels.flatten(1)
        far.append(rows.norm(dim=1) if norm == "l2" else rows.abs().amax(1))
    assert torch.allclose(far[1], torch.full((6,), 0.2), rtol=0.1)
    assert torch.allclose(far[0], far[1], rtol=0.1)


def test_inputs_are_clipped_and_rows_without_a_target_stay() -> None:
    stack = pictures([RandomNoise(0.5, "inputs").during(0, 1)], valid_range=(0.0, 1.0))
    moved = learned(stack, IMAGES, "0")
    assert moved.min() == 0
    assert moved.max() == 1
    mask = torch.tensor([True, False, True, True, False, True])
    moved = learned(make_stack([floats(norm="l2")]), PARTS[0].replace(mask=mask))
    assert torch.equal((moved != PARTS[0].inputs["floats"]).any(1), mask)
    stack = make_stack([floats()], coupled=False)
    assert torch.equal(learned(stack, Batch(PARTS[0].inputs)), PARTS[0].inputs["floats"])


def test_a_blend_is_the_sum_of_both_and_the_clean_pass_moves_statistics() -> None:
    found = {}
    for clean in (0.0, 0.3, 1.0):
        stack = make_stack([floats(clean_weight=clean)], coupled=False)
        assert len(given_to(stack, PARTS[0])) == (2 if clean == 0.3 else 1)
        found[clean] = gradients(stack.run.module)
    both = {n: 0.3 * found[1.0][n] + 0.7 * found[0.0][n] for n in found[0.0]}
    assert close(found[0.3], both)
    plain, blend = make_stack(), make_stack([floats(clean_weight=0.5)])
    for stack in (plain, blend):
        stack.gradients(stack.window(PARTS[0]))
    assert equal(dict(plain.run.module.named_buffers()), dict(blend.run.module.named_buffers()))


class SameForAll(RandomNoise):
    """One draw for the batch, as `noise = randn(x.shape[1:])`."""

    def _noisy(self, run: Any, batch: Batch) -> Batch:
        x = batch.inputs["floats"]
        noise = torch.rand(x.shape[1:], generator=run.generator(self)) * 2 - 1
        inputs = batch.inputs | {"floats": x + self.epsilon * noise}
        return batch.replace(inputs=inputs)


@trap(right=RandomNoise, wrong=SameForAll)
def test_each_row_has_noise_of_its_own(kind: Any) -> None:
    stack = make_stack([kind(0.3, "inputs", at="floats").during(0, 1)], coupled=False)
    noise = learned(stack, PARTS[0]) - PARTS[0].inputs["floats"]
    assert not torch.allclose(noise[0], noise[1], atol=1e-3)


# errors --------------------------------------------------------------------------------------
def test_mistakes_are_named() -> None:
    for changes in ({"norm": "l2"}, {"clean_weight": 0.5}, {"std": 0.5}):
        with pytest.raises(InputError, match=f"{next(iter(changes))} is of inputs; leave it out"):
            make_stack([RandomNoise(**changes).during(0, 1)])
    for changes in ({"weight": 0.5}, {"across": "global"}, {"exclude": ()}):
        with pytest.raises(InputError, match=f"{next(iter(changes))} is of embeddings"):
            make_stack([floats(**changes)])
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        pictures([RandomNoise().during(0, 1)])
    with pytest.raises(NotApplicable, match="at='word_emb'"):
        make_stack([RandomNoise(at="word_emb").during(0, 1)])
    with pytest.raises(
        NotApplicable, match="none of the inputs that at='tokens' matches is floating"
    ):
        make_stack([floats(at="tokens")]).step(PARTS[0])
    with pytest.raises(InputError, match="attack"), floats().attack(make_model()):
        pass
    notes = pictures([RandomNoise(0.1, "inputs").during(0, 1)]).methods[0].notes
    assert notes == ["no resource valid_range: x + delta is not clipped"]
