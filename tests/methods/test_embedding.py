"""Embeddings found by name, and the shift of what they return."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from whet import methods, seeding
from whet.batch import Batch
from whet.embedding import NOT_WORDS, Shift, hook_points, modules, sized, tables
from whet.errors import NotApplicable
from whet.methods import FGM, FastFGSM, FreeLB
from whet.stack import Stack


class Text(nn.Module):
    """Words, positions and a head; what is pooled is what `attention_mask` keeps."""

    def __init__(self, padding_idx: int | None = None, late: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(12, 4, padding_idx=padding_idx)
        self.positions = nn.Embedding(8, 4)
        self.bag = nn.EmbeddingBag(5, 4)
        self.head, self.late = nn.Linear(4, 3), late

    def body(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.words(ids) + self.positions(torch.arange(ids.shape[1])))

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        if self.late:
            return self.head(checkpoint(self.body, ids, use_reentrant=False).mean(1))
        return self.head(self.body(ids).mean(1))


IDS = torch.tensor([[1, 2, 3, 0], [4, 5, 0, 0]])


def text(**given: Any) -> Text:
    torch.manual_seed(0)
    return Text(**given)


@pytest.mark.parametrize(
    ("at", "exclude", "found"),
    [
        ("*", NOT_WORDS, ["words", "bag"]),
        ("*", (), ["words", "positions", "bag"]),
        ("words", (), ["words"]),
        ("words.weight", (), ["words"]),
        ("*o*", ("pos*",), ["words"]),
    ],
)
def test_found_by_name_or_glob(at: str, exclude: tuple[str, ...], found: list[str]) -> None:
    assert list(modules(text(), at, exclude, "fgm")) == found


def test_found_below_a_module_and_under_either_name() -> None:
    model = nn.ModuleDict({"encoder": text(), "decoder": nn.ModuleDict()})
    model["decoder"]["shared"] = model["encoder"].words
    assert list(modules(model, "encoder", NOT_WORDS, "fgm")) == ["encoder.words", "encoder.bag"]
    assert list(modules(model, "decoder.shared", (), "fgm")) == ["decoder.shared"]
    assert len(modules(model, "*", NOT_WORDS, "fgm")) == 2


def test_no_match_lists_the_candidates() -> None:
    with pytest.raises(NotApplicable, match=r"at='word_embeddings'.*words, positions, bag"):
        modules(text(), "word_embeddings", (), "fgm")
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        modules(nn.Linear(2, 2), "*", (), "fgm")


def test_tables_leave_out_frozen_ones_and_copies() -> None:
    model = text()
    model.words.weight.requires_grad_(False)
    found, frozen = tables(model, "*", NOT_WORDS, "fgm")
    assert (list(found), frozen) == (["bag"], ["words"])
    tied = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": nn.Embedding(3, 2)})
    tied["b"].weight = tied["a"].weight
    assert list(tables(tied, "*", (), "fgm")[0]) == ["a"]
    with pytest.raises(NotApplicable, match="scope='output'"):
        tables(model, "words", (), "fgm")


def test_sized() -> None:
    g = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 2.0]])
    assert torch.equal(sized(g, 2.0), 2 * g / g.norm())
    rows = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(sized(g, 1.0, each=True), rows)


@pytest.mark.parametrize("bad", [0.0, float("inf"), float("nan")])
def test_sized_is_zero_where_the_norm_is_no_use(bad: float) -> None:
    g = torch.tensor([[bad, 0.0], [3.0, 4.0]])
    each = sized(g, 1.0, each=True)
    assert torch.equal(each[0], torch.zeros(2))
    assert torch.allclose(each[1], torch.tensor([0.6, 0.8]))
    if bad != 0.0:
        assert torch.equal(sized(g, 1.0), torch.zeros(2, 2))


def test_sized_in_half_precision() -> None:
    g = torch.full((64, 64), 300.0, dtype=torch.float16)  # its squares are infinite in fp16
    moved = sized(g, 1.0)
    assert moved.dtype == torch.float16
    assert torch.allclose(moved.float(), torch.tensor(1 / 64), rtol=1e-3)


def test_a_shift_of_zeros_changes_no_bit_and_takes_the_gradient() -> None:
    model = text()
    plain = model(IDS)
    plain.square().sum().backward()
    known = model.words.weight.grad
    model.zero_grad()
    with Shift(model, [model.words]) as shift:
        output = model(IDS)
        assert torch.equal(output, plain)
        output.square().sum().backward()
        gradient = shift.calls[0].gradient()
    assert gradient is not None
    assert known is not None
    assert torch.equal(model.words.weight.grad, known)
    summed = torch.zeros(12, 4).index_add_(0, IDS.flatten(), gradient.flatten(0, 1))
    assert torch.allclose(summed, known)
    assert torch.equal(model(IDS), plain)
    assert not model.words._forward_hooks
    assert not model._forward_pre_hooks


def test_a_frozen_embedding_has_a_gradient() -> None:
    model = text()
    model.requires_grad_(False)
    with Shift(model, [model.words]) as shift:
        model(IDS).sum().backward()
        assert shift.calls[0].gradient().abs().sum() > 0


def test_two_calls_on_the_same_ids_share_a_delta() -> None:
    model = text()
    with Shift(model, [model.words]) as shift:
        model(IDS).sum().backward()
        once = shift.calls[0].gradient()
        model(IDS.clone()).sum().backward()
        assert len(shift.calls) == 1
        assert torch.allclose(shift.calls[0].gradient(), 2 * once)
        model(IDS + 1), model(IDS[:1])
        assert len(shift.calls) == 3


def test_recomputed_activations_meet_the_same_delta() -> None:
    found = []
    for late in (False, True):
        model = text(late=late)
        with Shift(model, [model.words]) as shift:
            model(IDS).square().sum().backward()
            first = shift.calls[0].gradient()
            shift.calls[0].move(first)
            model(IDS).square().sum().backward()
            assert len(shift.calls) == 1
            found.append(torch.stack([first, shift.calls[0].gradient()]))
    assert torch.allclose(*found)


def test_padding_from_the_attention_mask_else_the_padding_index() -> None:
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    for padding_idx, given, wanted in [
        (0, {"attention_mask": attention}, attention.bool()),
        (0, {"attention_mask": attention[:, :2]}, IDS != 0),  # of another shape
        (0, {}, IDS != 0),
        (None, {}, torch.ones(2, 4, dtype=torch.bool)),
    ]:
        model = text(padding_idx=padding_idx)
        with Shift(model, [model.words]) as shift:
            model(IDS, **given).sum().backward()
            [call] = shift.calls
            assert torch.equal(call.mask, wanted)
            assert torch.equal(call.gradient() == 0, ~wanted.unsqueeze(-1).expand(2, 4, 4))
            assert call.lengths().flatten().tolist() == wanted.sum(1).tolist()


def test_bags_and_single_ids() -> None:
    bag, single = nn.EmbeddingBag(5, 3), nn.Embedding(5, 3)
    for module, ids in [(bag, torch.tensor([[1, 2], [3, 4]])), (single, torch.tensor([1, 2]))]:
        with Shift(module, [module]) as shift:
            module(ids).sum().backward()
            [call] = shift.calls
            assert call.delta.shape == (2, 3)
            assert call.lengths().shape == (2, 1)
            assert torch.equal(call.gradient(), torch.ones(2, 3))


def test_hook_points_are_placed_once_and_travel_with_copies() -> None:
    model = text()
    assert len(hook_points(model, [model.words])) == 2
    assert hook_points(model, [model.words]) == []
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))  # noqa: S301 - written just now
    with Shift(model, [model.words]) as shift:
        assert torch.equal(twin(IDS), model(IDS))
        assert len(shift.calls) == 1  # the copy's embedding is not the model's
        with Shift(twin, [twin.words]) as other:
            twin(IDS)
        assert len(other.embeddings[0]._forward_hooks) == len(model.words._forward_hooks) == 1


# the compiler looks at `.grad` of what crosses a graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_a_model_that_was_compiled_before_is_shifted() -> None:
    torch._dynamo.reset()
    model = text()
    hook_points(model, [model.words])
    compiled = torch.compile(model, backend="eager")
    plain = compiled(IDS)
    with Shift(model, [model.words], lambda call, at: torch.ones_like(call.delta)) as shift:
        assert not torch.allclose(compiled(IDS), plain)
        compiled(IDS).sum().backward()
        assert shift.calls[0].gradient().any()
        assert len(shift.calls) == 1
    assert torch.equal(compiled(IDS), plain)


def test_rewinds_to_where_a_call_began() -> None:
    model = text()
    with Shift(model, [model.words], lambda call, at: torch.ones_like(call.delta) + at) as shift:
        model(IDS)
        shift.calls[0].move(None)
        shift.rewind()
        assert torch.equal(shift.calls[0].delta, torch.ones(2, 4, 4))


# batches that call no embedding -------------------------------------------------------------------
class Optional(nn.Module):
    """Numbers, and words where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(6, 3), nn.Linear(3, 2)
        self.met: list[Tensor] = []

    def forward(self, floats: Tensor, tokens: Tensor | None = None) -> Tensor:
        met = floats if tokens is None else floats + self.words(tokens).mean(1)
        self.met.append(met.detach().clone())
        return self.head(met)


class Direct(Optional):
    """Reads its table itself."""

    def forward(self, floats: Tensor, tokens: Tensor | None = None) -> Tensor:
        met = floats if tokens is None else floats + self.words.weight[tokens].mean(1)
        self.met.append(met.detach().clone())
        return self.head(met)


def optional(kind: type[Optional] = Optional) -> Optional:
    with seeding.borrowed(0):
        return kind()


FLOATS, LABELS = torch.tensor([[1.0, -0.5, 0.2], [0.1, 0.4, -2.0]]), torch.tensor([0, 1])
TOKENS = torch.tensor([[1, 2], [3, 4]])
ON_EMBEDDINGS: list[tuple[dict[str, Any], int]] = [  # with the passes of a micro-batch
    ({"name": "fgm", "scope": "example"}, 2),
    ({"name": "fgm", "scope": "output"}, 2),
    ({"name": "pgd", "scope": "output"}, 4),
    ({"name": "random_noise", "scope": "example"}, 2),
    ({"name": "freelb"}, 3),
    ({"name": "freelb", "init": 0.5, "steps": 1}, 1),
    ({"name": "fast_fgsm", "scope": "embeddings", "epsilon": 0.3, "watch": 0}, 2),
    ({"name": "fast_fgsm", "scope": "embeddings", "epsilon": 0.3, "step_size": 0.0}, 1),
    ({"name": "vat", "scope": "embeddings"}, 3),
    ({"name": "adversarial_consistency", "scope": "embeddings", "epsilon": 0.3}, 5),
    ({"name": "adversarial_consistency", "scope": "embeddings", "attack": "noise"}, 2),
]


def stack_of(model: Optional, *given: dict[str, Any]) -> Stack:
    acting = [methods.make(one).during(0, 1) for one in given]
    return Stack(model, methods=acting, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


@pytest.mark.parametrize(("given", "passes"), ON_EMBEDDINGS)
def test_a_batch_without_words_stays_and_is_told_of_once(
    given: dict[str, Any], passes: int
) -> None:
    model = optional()
    stack = stack_of(model, given)
    moved = []
    for words in ({"tokens": TOKENS}, {}, {"tokens": TOKENS}, {}):
        model.met.clear()
        assert stack.step(Batch({"floats": FLOATS, **words}, LABELS))
        assert len(model.met) == passes  # whatever the data
        moved.append(not torch.equal(model.met[-1], FLOATS) if not words else
                     passes == 1 or not torch.equal(model.met[0], model.met[-1]))  # fmt: skip
    assert moved == [True, False, True, False]
    [told] = stack.run.notes
    assert told.startswith(f"{given['name']}: what an embedding returns stays where it is")
    assert "(words: not called in some batch)" in told


@pytest.mark.parametrize(("given", "passes"), ON_EMBEDDINGS)
def test_a_model_that_never_calls_its_embedding_is_told_what_to_do(
    given: dict[str, Any], passes: int
) -> None:
    model = optional(Direct)
    stack = stack_of(model, given)
    for _ in range(2):
        assert stack.step(Batch({"floats": FLOATS, "tokens": TOKENS}, LABELS))
    assert len(model.met) == 2 * passes
    [told] = stack.run.notes
    assert "reads the table itself, or is given vectors, never calls it" in told


@pytest.mark.parametrize(("given", "passes"), ON_EMBEDDINGS)
def test_what_is_learned_of_a_batch_without_words_is_the_batch(
    given: dict[str, Any], passes: int
) -> None:
    acting, plain = stack_of(optional(), given), stack_of(optional())
    for one in (acting, plain):
        one.gradients(one.window(Batch({"floats": FLOATS}, LABELS)))
    twice = 2.0 if given["name"] in ("fgm", "pgd", "random_noise") else 1.0
    for a, b in zip(acting.parameters(), plain.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None and b.grad is not None:
            assert torch.allclose(a.grad, twice * b.grad, atol=1e-6)


@pytest.mark.parametrize("name", ["fast_fgsm", "vat", "adversarial_consistency"])
def test_where_weights_are_sharded_it_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass up the loss has no backward then, and the other processes would wait for it."""
    stack = stack_of(optional(), {"name": name, "scope": "embeddings"})
    monkeypatch.setattr(stack.run.world, "sharded", True)
    assert stack.step(Batch({"floats": FLOATS, "tokens": TOKENS}, LABELS))
    with pytest.raises(NotApplicable, match="sharded all processes must make the same passes"):
        stack.step(Batch({"floats": FLOATS}, LABELS))


@pytest.mark.parametrize("given", [
    {"name": "fast_fgsm", "scope": "embeddings", "step_size": 0.0},
    {"name": "adversarial_consistency", "scope": "embeddings", "attack": "noise"},
    {"name": "freelb"},
    {"name": "fgm", "scope": "output"},
])  # fmt: skip
def test_sharded_weights_allow_what_makes_the_same_passes(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stack_of(optional(), given)
    monkeypatch.setattr(stack.run.world, "sharded", True)
    assert stack.step(Batch({"floats": FLOATS}, LABELS))


def test_overfitting_is_watched_on_a_batch_that_has_words() -> None:
    model = optional()
    stack = stack_of(model, {"name": "fast_fgsm", "scope": "embeddings", "watch": 1})
    [method] = stack.methods
    stack.step(Batch({"floats": FLOATS}, LABELS))
    assert method.accuracy is None
    stack.step(Batch({"floats": FLOATS, "tokens": TOKENS}, LABELS))
    assert method.accuracy is not None
    model.met.clear()
    stack.step(Batch({"floats": FLOATS}, LABELS))
    assert len(model.met) == 2 + 6  # and of its own it knows nothing
    assert not torch.equal(model.met[-1], FLOATS)


def test_in_a_loop_of_ones_own_it_is_said_by_skipped() -> None:
    model = optional()

    def loss() -> Tensor:
        return nn.functional.cross_entropy(model(FLOATS), LABELS)

    fgm, freelb = FGM(scope="output"), FreeLB()
    with fgm.watch(model):
        loss().backward()
        with fgm.attack(model):
            loss().backward()
    with freelb.attack(model) as rounds:
        for share in rounds:
            (share * loss()).backward()
    fast = FastFGSM(scope="embeddings")
    with fast.attack(model, loss):
        loss().backward()
    for method in (fgm, freelb, fast):
        assert method.skipped == ["words: not called in some batch"]
