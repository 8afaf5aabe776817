"""Noise on embeddings and on numbers, in training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import embedding, seeding
from whet.batch import Batch
from whet.embedding import Shift
from whet.errors import InputError, NotApplicable
from whet.methods.embedding_noise import EmbeddingNoise, deviations, neftune, unit_noise
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    EmbeddingNoise(alpha=5.0),
    accumulates="noise is drawn for each micro-batch by itself",
    cost=Cost(inputs=3),
)

BATCH = Batch.of(data()).take(slice(0, 6))
WORDS = torch.tensor([[3, 5, 1, 2, 4, 6, 1, 1], [4, 2, 0, 0, 0, 0, 0, 0]])
TABLE = torch.randn(400, 3, generator=seeding.generator(1)) * torch.tensor([1.0, 50.0, 0.0]) + 7.0
CLASSES = torch.randint(3, (400,), generator=seeding.generator(2))


def embedded(stack: Stack, batch: Batch = BATCH) -> list[Tensor]:
    """What the embedding returns, noise and all, in the passes over a batch."""
    seen: list[Tensor] = []
    handle = stack.run.module.embed.register_forward_hook(lambda m, a, out: seen.append(out))
    stack.gradients(stack.window(batch))
    handle.remove()
    return [one.detach() for one in seen]


def table(method: Any, inputs: Any = TABLE, **given: Any) -> Stack:
    with seeding.borrowed(0):
        model = nn.Linear(3, 3)
    return Stack(
        model, "categorical", [method], optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        **{"data": (inputs, CLASSES), **given},
    )  # fmt: skip


def added(method: Any, inputs: Tensor = TABLE, **given: Any) -> Tensor:
    """What is added to a table in one pass."""
    stack, seen = table(method, inputs, **given), []
    stack.open()
    method = stack.methods[0]
    method.forward(stack.run, Batch(inputs, CLASSES), seen.append)
    return seen[0].inputs - inputs


# the value -----------------------------------------------------------------------------------


def official(vectors: Tensor, mask: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """The paper's: noise * mask, times alpha / sqrt(length * width), length from the mask."""
    noise = torch.rand(vectors.shape, generator=generator) * 2 - 1
    delta = noise * mask.unsqueeze(2)
    dims = mask.sum(1) * vectors.shape[-1]
    return delta * (alpha / torch.sqrt(dims)).view(-1, 1, 1)


def test_formula() -> None:
    vectors, mask = torch.zeros(2, 8, 6), WORDS.ne(0)
    ours = neftune(vectors, mask, 5.0, seeding.generator(4))
    assert torch.allclose(ours, official(vectors, mask, 5.0, seeding.generator(4)), atol=1e-6)


def test_length_of_the_noise_is_alpha_over_the_root_of_three() -> None:
    mask = torch.arange(60)[None] < torch.tensor([60, 5])[:, None]
    noise = neftune(torch.zeros(2, 60, 400), mask, 5.0, seeding.generator(0))
    assert torch.allclose(noise.flatten(1).norm(dim=1), torch.tensor(5 / math.sqrt(3)), rtol=0.03)


@pytest.mark.parametrize("kind", ["uniform", "gaussian"])
def test_both_kinds_have_one_deviation(kind: str) -> None:
    drawn = unit_noise(torch.Size([100_000]), kind, seeding.generator(0))
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 3**-0.5) < 0.01
    assert (drawn.abs().max() <= 1.0) == (kind == "uniform")


def test_the_method_draws_by_position() -> None:
    stack = make_stack([EmbeddingNoise(alpha=5.0)])
    ids = BATCH.inputs["tokens"]
    vectors = make_model().embed(ids).detach()
    noise = neftune(vectors, ids.ne(0), 5.0, seeding.generator(stack.run.key(stack.methods[0]), 0))
    assert torch.allclose(embedded(stack)[0], vectors + noise)
    assert torch.equal(embedded(stack)[0], embedded(stack)[0])  # a replay
    stack.run.window = 1
    assert not torch.allclose(embedded(stack)[0], vectors + noise)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([EmbeddingNoise(alpha=5.0)]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    key: list[int] = []

    def noisy(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        noise = neftune(output, args[0].ne(0), 5.0, seeding.generator(key[-1], 0))
        return output + noise.detach()

    model.embed.register_forward_hook(noisy)
    for run.window, batch in enumerate(Batch.of(data()).split(6)):
        stack.step(batch)
        key.append(run.key(EmbeddingNoise()))
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        F.cross_entropy(call(model, batch.inputs), batch.targets).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_makes_one_pass_and_keeps_no_gradient_of_the_noise() -> None:
    stack, calls = make_stack([EmbeddingNoise()]), []
    embed = stack.run.module.embed
    embed.register_forward_hook(
        lambda m, args, out: calls.append(embedding._STANDING[m][0].calls[0].delta.requires_grad)
    )
    stack.step(BATCH)
    assert calls == [False]


def test_inputs_take_noise_in_units_of_their_columns_deviation() -> None:
    for kind in ("uniform", "gaussian"):
        noise = added(EmbeddingNoise(scope="inputs", sigma=0.2, noise=kind))
        spread = TABLE.std(0, correction=0)
        assert torch.allclose(noise.std(0)[:2], 0.2 * spread[:2], rtol=0.08)
        assert torch.equal(noise[:, 2], torch.zeros(400))  # a constant column


def test_deviations_are_those_of_all_rows_to_float64() -> None:
    far = TABLE.double() + 1e6
    far[::7, 0] = torch.nan
    found = deviations([Batch(far[:33]), Batch(far[33:34]), Batch(far[34:])], "*", "test")
    wanted = np.nanstd(far.numpy(), axis=0)
    assert np.allclose(found[""].numpy(), wanted, rtol=1e-9, atol=1e-9)
    channels = torch.randn(40, 2, 5) * torch.tensor([1.0, 3.0])[:, None]
    found = deviations([Batch(channels[:10]), Batch(channels[10:])], "*", "test")
    assert torch.allclose(found[""], channels.double().std((0, 2), correction=0))


def test_a_known_deviation_is_not_measured() -> None:
    noise = added(EmbeddingNoise(scope="inputs", sigma=0.5, std=2.0), data=None)
    assert torch.allclose(noise.std(0), torch.tensor(1.0), rtol=0.08)
    with pytest.raises(InputError, match="reads the training data"):
        added(EmbeddingNoise(scope="inputs"), data=None)


def test_missing_numbers_stay_missing_and_alone() -> None:
    holes = TABLE.clone()
    holes[::5, 1] = torch.nan
    noise = added(EmbeddingNoise(scope="inputs"), holes)
    assert torch.equal(noise.isnan(), holes.isnan())


# traps ---------------------------------------------------------------------------------------


def of_transformers(vectors: Tensor, mask: Tensor, alpha: float, generator: Any) -> Tensor:
    """The hook of transformers: its length is the padded one, and padding is moved as well."""
    from transformers.integrations.neftune import neftune_post_forward_hook

    module = nn.Embedding(2, 2).train()
    module.neftune_noise_alpha = alpha
    with seeding.borrowed(0):
        return neftune_post_forward_hook(module, (), vectors) - vectors


@trap(right=neftune, wrong=of_transformers)
def test_padding_stays(noise: Any) -> None:
    moved = noise(torch.zeros(2, 8, 6), WORDS.ne(0), 5.0, seeding.generator(0))
    assert not moved[1, 2:].any()
    assert moved[1, :2].all()


@trap(right=neftune, wrong=of_transformers)
def test_the_same_words_take_the_same_noise_however_they_are_padded(noise: Any) -> None:
    """Four words among a hundred: by the padded length the noise is a fifth."""
    mask = torch.arange(100)[None] < torch.tensor([[4]])
    largest = noise(torch.zeros(1, 100, 64), mask, 5.0, seeding.generator(0)).abs().max()
    assert largest == pytest.approx(5.0 / math.sqrt(4 * 64), rel=0.02)


class Standing(EmbeddingNoise):
    """A hook that is always there, as one is that was registered and forgotten."""

    def build(self, run: Any) -> None:
        super().build(run)
        Shift(run.module, self._embeddings, self._started(1)).__enter__()


@trap(right=EmbeddingNoise, wrong=Standing)
def test_no_noise_at_evaluation(kind: type[EmbeddingNoise]) -> None:
    stack = make_stack([kind(alpha=5.0)])
    plain = make_model().eval()
    with stack.evaluating():
        found = call(stack.run.module, BATCH.inputs)
    assert torch.equal(found, call(plain, BATCH.inputs))
    assert torch.equal(stack.predictor()(BATCH), call(plain, BATCH.inputs).softmax(1))


class Kept(EmbeddingNoise):
    """Draws from the generator that dropout draws from: its masks are others from then on."""

    def _started(self, key: int) -> Any:
        return lambda call, at: neftune(call.delta, call.mask, self.alpha)


@trap(right=EmbeddingNoise, wrong=Kept)
def test_dropout_draws_what_it_draws_without_noise(kind: type[EmbeddingNoise]) -> None:
    masks = []
    for methods in ([], [kind(alpha=5.0)]):
        stack = make_stack(methods)
        stack.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
        stack.step(BATCH)
    assert torch.equal(masks[0], masks[1])


class InAbsoluteUnits(EmbeddingNoise):
    """x + sigma * randn_like(x): nothing in a column of millions, all of one of hundredths."""

    def _size(self, name: str, leaf: Tensor) -> Tensor:
        return leaf.new_tensor(self.sigma)


@trap(right=EmbeddingNoise, wrong=InAbsoluteUnits)
def test_the_unit_of_a_column_does_not_matter(kind: type[EmbeddingNoise]) -> None:
    one = added(kind(scope="inputs", sigma=0.1))
    other = added(kind(scope="inputs", sigma=0.1), TABLE * 1000.0) / 1000.0
    assert torch.allclose(one, other, atol=1e-3, rtol=1e-3)


# scopes and refusals -------------------------------------------------------------------------


def test_inputs_of_a_mapping() -> None:
    method = EmbeddingNoise(scope="inputs", at="floats", sigma=0.5)
    stack, seen = make_stack([method]), []
    stack.open()
    stack.methods[0].forward(stack.run, BATCH, seen.append)
    assert torch.equal(seen[0].inputs["tokens"], BATCH.inputs["tokens"])
    assert torch.equal(seen[0].inputs["image"], BATCH.inputs["image"])
    assert not torch.equal(seen[0].inputs["floats"], BATCH.inputs["floats"])


def test_attention_mask_says_what_is_padding() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.embed(ids).mean(1))

    model = Masked()
    stack = Stack(
        model, "categorical", [EmbeddingNoise()], optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
    )
    given = {"ids": WORDS, "attention_mask": WORDS.ne(0).long()}
    [found] = embedded(stack, Batch(given, torch.tensor([0, 1])))
    moved = (found - model.embed(WORDS)).ne(0).any(2)
    assert torch.equal(moved, WORDS.ne(0))


def test_what_does_not_apply_is_told() -> None:
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        table(EmbeddingNoise())
    with pytest.raises(NotApplicable, match=r"none of the inputs .* is floating"):
        make_stack([EmbeddingNoise(scope="inputs", at="tokens")]).open()
    with pytest.raises(InputError, match="alpha is of scope='embeddings'"):
        table(EmbeddingNoise(scope="inputs", alpha=3.0))
    with pytest.raises(InputError, match="sigma is of scope='inputs'"):
        make_stack([EmbeddingNoise(sigma=0.3)])


class Direct(nn.Module):
    """Reads its table itself."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.embed.weight).mean(1)


def test_no_noise_is_told_once() -> None:
    ids, given = WORDS.clone(), torch.tensor([0, 1])
    for model, count in [(Direct(), 1), (nn.Sequential(nn.Embedding(9, 3), Mean()), 0)]:
        stack = Stack(model, methods=[EmbeddingNoise()],
                      optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
        for _ in range(2):
            stack.step((ids, given))
        assert len(stack.run.notes) == count
        assert all("reads its table itself" in note for note in stack.run.notes)


class Mean(nn.Module):
    def forward(self, vectors: Tensor) -> Tensor:
        return vectors.mean(1)
