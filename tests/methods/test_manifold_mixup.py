"""MixUp inside the model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import Net, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import hidden, modes, seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.hidden import Mixing, Place, places
from whet.method import Layer
from whet.methods.distillation import Distillation, distillation_losses
from whet.methods.feature_distillation import FeatureDistillation, feature_distances
from whet.methods.manifold_mixup import ManifoldMixUp, mixed_inside
from whet.methods.mixup import MixUp
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.methods.self_distillation import SelfDistillation
from whet.mixing import Mixture
from whet.objectives.objective import call
from whet.stack import Stack
from whet.tasks.intents import TextEncoder

CASE = Case(
    ManifoldMixUp(at="embedding hidden"),
    accumulates="rows are mixed within their own micro-batch",
    cost=Cost(inputs=3),
)

BATCHES = Batch.of(data()).split(6)
FLAT = Batch(torch.randn(6, 4, generator=seeding.generator(3)), torch.tensor([0, 1, 2, 0, 1, 2]))
ORDER = torch.tensor([2, 0, 1])
WORDS = torch.tensor([[3, 5, 0, 0], [4, 6, 7, 8], [9, 2, 3, 0]])


class Deep(nn.Module):
    """Three blocks and a head."""

    def __init__(self, out: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3))
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(4, out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))

    def by_hand(self, x: Tensor, after: int, order: Tensor, share: float) -> Tensor:
        for at, block in enumerate(self.blocks):
            x = block(x)
            x = share * x + (1 - share) * x[order] if at == after else x
        return self.head(x)


def deep(**given: Any) -> Deep:
    with seeding.borrowed(0):
        return Deep(**given)


def stack_of(methods: Any, objective: str = "categorical", model: Any = None, **more: Any) -> Stack:
    return Stack(
        deep() if model is None else model, objective, methods,
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1), **more,
    )  # fmt: skip


def drawn(alpha: float, rows: int, places: int, run: Any) -> tuple[float, int, Tensor]:
    """Lambda, the layer's number and the permutation as the method draws them at this position."""
    draws = random.Random(run.key(ManifoldMixUp()))
    share = draws.betavariate(alpha, alpha)
    permutation = torch.randperm(rows, generator=run.generator(ManifoldMixUp()))
    return share, draws.choice(range(places)), permutation


def soft(targets: Tensor, order: Tensor, share: float, width: int = 3) -> Tensor:
    y = F.one_hot(targets, width).float()
    return share * y + (1 - share) * y[order]


# the value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 2])
def test_formula(after: int) -> None:
    model, x = deep(), FLAT.inputs[:3]
    with mixed_inside(model, f"blocks.{after}", ORDER, 0.3):
        found = model(x)
    assert torch.allclose(found, model.by_hand(x, after, ORDER, 0.3), atol=1e-6)
    assert torch.equal(model(x), model.by_hand(x, -1, ORDER, 0.3))


def test_layer_lambda_and_partners_are_drawn_anew_for_each_window() -> None:
    stack, model, seen = stack_of([ManifoldMixUp(at="blocks.*")]), deep(), set()
    for stack.run.window in range(8):
        share, after, order = drawn(1.0, 6, 3, stack.run)
        model.zero_grad()
        logits = model.by_hand(FLAT.inputs, after, order, share)
        F.cross_entropy(logits, soft(FLAT.targets, order, share)).backward()
        stack.gradients(stack.window(FLAT))
        for ours, theirs in zip(stack.run.module.parameters(), model.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
        seen.add(after)
    assert seen == {0, 1, 2}


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([ManifoldMixUp()]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    for run.window, batch in enumerate(BATCHES):
        stack.step(batch)
        share, _, order = drawn(1.0, batch.size, 1, run)
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        with mixed_inside(model, "embedding", order, share):
            logits = call(model, batch.inputs)
        target = F.one_hot(batch.targets, 3).float()
        F.cross_entropy(logits, torch.lerp(target[order], target, share)).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_words_that_mixup_refuses_are_mixed_where_they_are_embedded() -> None:
    with pytest.raises(InputError, match=r"manifold_mixup"):
        make_stack([MixUp(at="tokens")]).step(BATCHES[0])
    stack, seen = make_stack([ManifoldMixUp()]), []
    stack.run.module.embed.register_forward_hook(lambda m, args, out: seen.append(out))
    share, _, order = drawn(1.0, 6, 1, stack.run)
    stack.step(BATCHES[0])
    vectors = make_model().embed(BATCHES[0].inputs["tokens"])
    assert torch.allclose(seen[-1], share * vectors + (1 - share) * vectors[order], atol=1e-6)


def test_makes_one_pass() -> None:
    stack, calls = stack_of([ManifoldMixUp(at="blocks.*")]), []
    stack.run.objective._width = 3
    stack.run.module.register_forward_hook(lambda *args: calls.append(1))
    stack.step(FLAT)
    assert calls == [1]


def test_without_alpha_the_batch_goes_through_as_it_is() -> None:
    seen: list[Batch] = []
    ManifoldMixUp(alpha=0.0).forward(stack_of([]).run, FLAT, seen.append)
    assert seen[0] is FLAT


# traps ---------------------------------------------------------------------------------------


class OtherPartners(ManifoldMixUp):
    """Draws the partners once for the vectors and once more for the targets."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        share, _, _ = drawn(self.alpha, batch.size, 1, run)
        order = torch.randperm(batch.size, generator=run.generator(self, "targets"))
        targets = soft(batch.targets, order, share, 6)
        return super().forward(run, batch, lambda mixed: inner(mixed.replace(targets=targets)))


@trap(right=ManifoldMixUp, wrong=OtherPartners)
def test_targets_have_the_vectors_partners(kind: type[ManifoldMixUp]) -> None:
    """Each row has a word and a class of its own, embedded as itself: what comes out is both."""
    model = nn.Sequential(nn.Embedding(6, 6), nn.Flatten())
    model[0].weight.data = torch.eye(6)
    rows = Batch(torch.arange(6)[:, None], torch.arange(6))
    stack = stack_of([kind()], model=model)
    for stack.run.window in range(5):
        seen: list[Any] = []
        stack.methods[0].forward(stack.run, rows, lambda b, s=seen: s.append((model(b.inputs), b)))
        stack.run.close_micro()
        assert torch.allclose(seen[0][0], seen[0][1].targets, atol=1e-6)


@contextmanager
def hooked(model: nn.Module, at: str, order: Tensor, share: float) -> Iterator[None]:
    """A hook that mixes whatever passes, judged or not."""
    module = dict(model.named_modules())[at]
    handle = module.register_forward_hook(
        lambda m, args, out: share * out + (1 - share) * out[order] if len(out) == 3 else out
    )
    yield
    handle.remove()


@trap(right=mixed_inside, wrong=hooked)
def test_evaluation_is_untouched(context: Any) -> None:
    model, x = deep(), FLAT.inputs[:3]
    plain = model(x)
    with context(model, "blocks.1", ORDER, 0.3):
        mixed = model(x)
        with modes.evaluation_mode(model):
            assert torch.equal(model(x), plain)
    assert not torch.allclose(mixed, plain)


class OwnMask(Mixing):
    """The model keeps the row's own mask: the longer partner's last words are thrown away."""

    def arrived(self, args: Any, kwargs: Any) -> Any:
        super().arrived(args, kwargs)
        return args, kwargs


class NoMask(Mixing):
    """What the table holds for padding is mixed in like a word."""

    def arrived(self, args: Any, kwargs: Any) -> Any:
        found = super().arrived(args, kwargs)
        self._mask = None
        return found


def text(padding_vector: float = 0.0) -> TextEncoder:
    with seeding.borrowed(0):
        model = TextEncoder(12, 3, width=8, heads=2, dropout=0.0, longest=4)
    model.words.weight.data[0] = padding_vector
    return model


def encoded(model: TextEncoder, x: Tensor, padding: Tensor) -> Tensor:
    """The encoder from its words' vectors on."""
    x = x + model.positions.weight[None, :4]
    for block in model.blocks:
        x = block(x, padding)
    true = (~padding).unsqueeze(2)
    return model.head((model.norm(x) * true).sum(1) / true.sum(1))


def union_of_masks(kind: type[Mixing]) -> None:
    model = text(padding_vector=7.0)
    real = WORDS.ne(0)
    vectors = model.words(WORDS) * real.unsqueeze(2)
    mixed = 0.6 * vectors + 0.4 * vectors[ORDER]
    wanted = encoded(model, mixed, ~(real | real[ORDER]))
    [place] = places(model, "embedding", ("*position*",), "test")
    with kind(model, place, Mixture(ORDER, 0.6), "test"):
        assert torch.allclose(model(WORDS), wanted, atol=1e-6)


@trap(right=Mixing, wrong=OwnMask)
def test_a_mixture_is_as_long_as_the_longer_row(kind: type[Mixing]) -> None:
    union_of_masks(kind)


@trap(right=Mixing, wrong=NoMask)
def test_padding_adds_nothing(kind: type[Mixing]) -> None:
    union_of_masks(kind)


class Masked(nn.Module):
    """A mean over what `attention_mask` keeps, as models of transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.seen = nn.Embedding(12, 3), []
        self.layer = nn.Linear(3, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, types: Tensor) -> Tensor:
        self.seen.append((input_ids, attention_mask, types))
        kept = attention_mask.unsqueeze(2)
        return (self.layer(self.words(input_ids)) * kept).sum(1) / kept.sum(1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_the_models_attention_mask_is_the_union(dtype: torch.dtype) -> None:
    model = Masked()
    real = WORDS.ne(0)
    inputs = {"input_ids": WORDS, "attention_mask": real.to(dtype), "types": WORDS % 2}
    with mixed_inside(model, "embedding", ORDER, 0.6):
        found = model(**inputs)
    ids, mask, types = model.seen[-1]
    assert mask.dtype == dtype
    assert torch.equal(mask.bool(), real | real[ORDER])
    assert torch.equal(ids, torch.where(real, WORDS, WORDS[ORDER]))
    assert torch.equal(types, WORDS % 2)
    vectors = model.words(WORDS) * real.unsqueeze(2)
    mixed = model.layer(0.6 * vectors + 0.4 * vectors[ORDER])
    kept = (real | real[ORDER]).unsqueeze(2)
    assert torch.allclose(found, (mixed * kept).sum(1) / kept.sum(1), atol=1e-6)


def test_at_a_later_layer_the_mask_stays_and_padding_adds_nothing() -> None:
    model, real = Masked(), WORDS.ne(0)
    with mixed_inside(model, "layer", ORDER, 0.6):
        found = model(input_ids=WORDS, attention_mask=real.long(), types=WORDS % 2)
    assert torch.equal(model.seen[-1][1], real.long())
    vectors = model.layer(model.words(WORDS)) * real.unsqueeze(2)
    mixed, kept = 0.6 * vectors + 0.4 * vectors[ORDER], real.unsqueeze(2)
    assert torch.allclose(found, (mixed * kept).sum(1) / kept.sum(1), atol=1e-6)


class FromGlobal(ManifoldMixUp):
    """Draws the layer from Python's own generator: a replay mixes another one."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        every = self._places
        self._places = [random.choice(every)]
        try:
            return super().forward(run, batch, inner)
        finally:
            self._places = every


@trap(right=ManifoldMixUp, wrong=FromGlobal)
def test_the_layer_is_drawn_by_position(kind: type[ManifoldMixUp]) -> None:
    stack = stack_of([kind(at="blocks.*")])
    for stack.run.window in range(10):
        found = []
        for _ in range(2):
            stack.gradients(stack.window(FLAT))
            found.append([p.grad.clone() for p in stack.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Again(Mixing):
    """Mixes whenever the layer returns: called twice, its rows are of up to four."""

    def returned(self, output: Any) -> Any:
        self._calls = 0
        return super().returned(output)


class Twice(nn.Module):
    """One block called twice, as in models that share their layers."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.block(x))


@trap(right=Mixing, wrong=Again)
def test_a_layer_that_is_called_twice_is_refused(kind: type[Mixing]) -> None:
    model, message = Twice(), ""
    try:
        with kind(model, places(model, "block", (), "test")[0], Mixture(ORDER, 0.3), "test"):
            model(FLAT.inputs[:3])
    except NotApplicable as error:
        message = str(error)
    assert "block is called more than once in a pass" in message


class Innermost(ManifoldMixUp):
    """Stands inside of R-Drop and draws partners for both of its copies together."""

    layer = Layer.MODEL_NOISE


@trap(right=ManifoldMixUp, wrong=Innermost)
def test_both_passes_of_r_drop_mix_the_same_rows(kind: type[ManifoldMixUp]) -> None:
    """With next to no dropout they agree; with other partners they never could."""
    methods = [RDrop(passes="joined"), kind(at="blocks.*")]
    stack = stack_of(methods, model=deep(dropout=1e-9))
    for _ in range(4):
        stack.step(FLAT)
        assert stack.terms["r_drop"] < 1e-7


class Untold(ManifoldMixUp):
    """Nobody is told: the teacher's answer to one row is held against the answer to a mixture."""

    @contextmanager
    def _standing(self, run: Any, place: Place, mixture: Mixture) -> Iterator[None]:
        with Mixing(run.module, place, mixture, self.key):
            yield


@trap(right=ManifoldMixUp, wrong=Untold)
def test_a_teacher_is_asked_of_both_rows(kind: type[ManifoldMixUp]) -> None:
    with seeding.borrowed(5):
        teacher = nn.Linear(4, 3)
    stack = stack_of(
        [kind(at="blocks.0"), Distillation(weight=1.0)], resources={"teacher": teacher}
    )
    share, _, order = drawn(1.0, 6, 1, stack.run)
    stack.gradients(stack.window(FLAT))
    model, taught = deep(), teacher(FLAT.inputs).detach()
    logits = model.by_hand(FLAT.inputs, 0, order, share)
    own, other = (distillation_losses(logits, t, 5.0) for t in (taught, taught[order]))
    (share * own + (1 - share) * other).mean().backward()
    assert torch.allclose(stack.run.module.head.weight.grad, model.head.weight.grad, atol=1e-6)


@trap(right=ManifoldMixUp, wrong=Untold)
def test_its_own_teacher_is_asked_of_both_rows(kind: type[ManifoldMixUp]) -> None:
    stack = stack_of([kind(at="blocks.0"), SelfDistillation()])
    share, _, order = drawn(1.0, 6, 1, stack.run)
    stack.gradients(stack.window(FLAT))
    model = deep()  # which its teacher is at first
    student, taught = model.by_hand(FLAT.inputs, 0, order, share), model(FLAT.inputs)
    own, other = (distillation_losses(student, t, 1.0) for t in (taught, taught[order]))
    expected = (share * own + (1 - share) * other).mean().item()
    assert stack.terms["self_distillation"] == pytest.approx(expected, abs=1e-6)


@trap(right=ManifoldMixUp, wrong=Untold)
def test_a_teachers_features_are_those_of_both_rows(kind: type[ManifoldMixUp]) -> None:
    with seeding.borrowed(5):
        teacher = deep().eval()
        nn.init.normal_(teacher.blocks[0][0].weight)
    stack = stack_of(
        [kind(at="blocks.0"), FeatureDistillation(at="blocks.1")],
        resources={"teacher": teacher},
        data=(FLAT.inputs, FLAT.targets),
    )
    share, _, order = drawn(1.0, 6, 1, stack.run)
    stack.gradients(stack.window(FLAT))
    model = deep()
    h = model.blocks[0](FLAT.inputs)
    student = model.blocks[1](share * h + (1 - share) * h[order])
    taught = teacher.blocks[1](teacher.blocks[0](FLAT.inputs)).detach()
    own, other = (feature_distances(student, t, "l2") for t in (taught, taught[order]))
    expected = (share * own + (1 - share) * other).mean().item()
    assert stack.terms["feature_distillation"] == pytest.approx(expected, abs=1e-6)


@trap(right=ManifoldMixUp, wrong=Untold)
def test_a_query_has_both_of_its_keys(kind: type[ManifoldMixUp]) -> None:
    """With a head that is the identity, and keys far from the queue, each key weighs its share."""
    moco = MoCo(queue=4, dim=4, at="head", temperature=1.0)
    stack = stack_of([kind(at="blocks.2"), moco], resources={"view": lambda x, g: x})
    share, _, order = drawn(1.0, 6, 1, stack.run)
    stack.gradients(stack.window(FLAT))
    [keys] = stack.run.staged(stack.methods[1])
    model = deep()
    h = model.blocks[2](model.blocks[1](model.blocks[0](FLAT.inputs)))
    h = share * h + (1 - share) * h[order]
    projected = stack.run.heads["moco"](h)
    [method] = [one for one in stack.methods if one.name == "moco"]
    losses = share * method.losses(projected, keys) + (1 - share) * method.losses(
        projected, keys[order]
    )
    assert stack.terms["moco"] == pytest.approx(losses.mean().item(), abs=1e-5)


# rows without a target -----------------------------------------------------------------------


def test_rows_without_a_target_stay_to_the_bit() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    odd = FLAT.inputs.clone()
    odd[1] = float("inf")  # what no label belongs to may be anything, and must reach nobody
    stack, seen = stack_of([ManifoldMixUp(at="blocks.0")]), []
    stack.run.module.blocks[0].register_forward_hook(lambda m, args, out: seen.append(out))
    stack.step(FLAT.replace(inputs=odd, mask=mask))
    plain = deep().blocks[0](odd)
    assert torch.equal(seen[-1][~mask].nan_to_num(9.0), plain[~mask].nan_to_num(9.0))
    assert not torch.equal(seen[-1][mask], plain[mask])
    assert seen[-1][mask].isfinite().all()
    nothing = FLAT.replace(targets=None)
    ManifoldMixUp().forward(stack.run, nothing, seen.append)
    assert seen[-1] is nothing


# layers, targets and refusals ----------------------------------------------------------------


def test_reals_and_labels_are_mixed() -> None:
    stack, seen = stack_of([ManifoldMixUp(at="blocks.0")], "real", deep(out=1)), []
    share, _, order = drawn(1.0, 6, 1, stack.run)
    reals = torch.arange(6.0)
    stack.methods[0].forward(stack.run, FLAT.replace(targets=reals), seen.append)
    assert torch.allclose(seen[0].targets, share * reals + (1 - share) * reals[order])
    labels = torch.eye(3, dtype=torch.long).repeat(2, 1)
    stack = stack_of([ManifoldMixUp(at="blocks.0")], "multi-label")
    stack.methods[0].forward(stack.run, FLAT.replace(targets=labels), seen.append)
    assert torch.allclose(seen[1].targets, share * labels + (1 - share) * labels[order])


def test_globs_stand_for_one_part_of_a_name() -> None:
    found = places(deep(), "blocks.* head blocks.1", (), "test")
    assert [place.name for place in found] == ["blocks.0", "blocks.1", "blocks.2", "head"]
    assert [place.name for place in places(Net(), "embedding norm", (), "test")] == [
        "embedding", "norm",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("at", "told"),
    [
        ("blcoks.*", r"no layer matches 'blcoks\.\*' .*: embedding, blocks, blocks\.0"),
        ("", "names no layer"),
        ("embedding", r"no nn\.Embedding"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(at: str, told: str) -> None:
    with pytest.raises(NotApplicable, match=told):
        stack_of([ManifoldMixUp(at=at)])


def test_layers_that_cannot_be_mixed_are_refused() -> None:
    with pytest.raises(NotApplicable, match="lstm is recurrent"):
        places(nn.ModuleDict({"lstm": nn.LSTM(2, 2)}), "lstm", (), "test")
    model = deep()
    model.spare = nn.Linear(4, 4)
    with pytest.raises(NotApplicable, match="spare was not called in the forward pass"):
        stack_of([ManifoldMixUp(at="spare")], model=model).step(FLAT)
    turned = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (6, 4)), nn.Linear(4, 3))
    with pytest.raises(NotApplicable, match=r"0 returned shape \(24,\) for 6 rows"):
        stack_of([ManifoldMixUp(at="0")], model=turned).step(FLAT)


def test_another_number_of_rows_than_the_batchs_is_refused() -> None:
    model = deep()
    with mixed_inside(model, "blocks.0", ORDER, 0.3):
        assert model(FLAT.inputs).shape == (6, 3)  # the batch twice
        with pytest.raises(InputError, match="was given 4 rows where a batch of 3"):
            model(FLAT.inputs[:4])


@pytest.mark.parametrize("objective", ["tokens", "masked_tokens"])
def test_does_not_apply_where_targets_have_no_mixture(objective: str) -> None:
    with pytest.raises(NotApplicable, match=r"manifold_mixup does not apply: .* mixture"):
        stack_of([ManifoldMixUp(at="blocks.0")], objective)


def test_a_model_in_evaluation_mode_is_not_given_mixed_targets() -> None:
    stack = stack_of([ManifoldMixUp(at="blocks.0")], model=deep().eval())
    with pytest.raises(InputError, match=r"Call model\.train\(\)"):
        stack.step(FLAT)


def test_nothing_stands_after_a_step_or_an_error() -> None:
    stack = stack_of([ManifoldMixUp(at="blocks.0")])
    stack.step(FLAT)
    with pytest.raises(RuntimeError):
        stack.step(FLAT.replace(inputs=FLAT.inputs[:, :2]))
    assert not any(hidden._STANDING[module] for module in stack.run.module.modules()
                   if module in hidden._STANDING)  # fmt: skip
    assert stack.run.mixture is None
