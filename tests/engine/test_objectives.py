"""What is learned: every family by hand, masked tokens, contrastive training."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import data, equal, make_model, make_run, make_task, weights
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import InputError, UnknownName
from whet.objectives import FAMILIES, Objective, call, family, logits, make
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

MAKER = torch.Generator().manual_seed(0)
Z = torch.randn(5, 4, generator=MAKER)
Z2 = torch.randn(5, 4, generator=MAKER)
TOKENS = torch.randn(3, 6, 4, generator=MAKER)
CLASSES = torch.tensor([0, 3, 1, 1, 2])
LABELS = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]])


def near(given: Tensor, expected: Any) -> bool:
    return np.allclose(given.numpy(), expected, atol=1e-6) and given.shape == np.shape(expected)


def stack(objective: str, width: int = 4, **changes: Any) -> Stack:
    torch.manual_seed(0)
    given = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1)} | changes
    return Stack(nn.Linear(3, width), objective, **given)


# categorical ---------------------------------------------------------------------------------
def test_categorical() -> None:
    kind, log_p = family("categorical"), special.log_softmax(Z.numpy(), 1)
    rows = np.arange(5)
    assert near(kind.losses(Z, CLASSES), -log_p[rows, CLASSES.numpy()])
    assert near(kind.losses(Z, CLASSES.to(torch.uint8)), -log_p[rows, CLASSES.numpy()])
    soft = torch.rand(5, 4, generator=torch.Generator().manual_seed(1))
    assert near(kind.losses(Z, soft), -(soft.numpy() * log_p).sum(1))
    assert near(kind.probabilities(Z), special.softmax(Z.numpy(), 1))
    p, q = special.softmax(Z.numpy(), 1), special.softmax(Z2.numpy(), 1)
    assert near(kind.divergence(Z, Z2), special.rel_entr(p, q).sum(1))
    assert near(kind.divergence(Z, Z), np.zeros(5))
    assert kind.items(CLASSES, None) == 5
    assert kind.items(CLASSES, torch.tensor([True, False, True, False, False])) == 2
    assert kind.item_mask(CLASSES) is None


def test_categorical_mix_and_smooth() -> None:
    kind, hot = family("categorical"), np.eye(4)
    a, b = CLASSES, CLASSES.flip(0)
    assert near(kind.mix(a, b, 0.7, 4), 0.7 * hot[a.numpy()] + 0.3 * hot[b.numpy()])
    assert near(kind.smooth(a, 0.1, 4), 0.9 * hot[a.numpy()] + 0.1 / 4)
    mixed = kind.mix(a, b, 0.7, 4)
    twice = kind.smooth(mixed, 0.1, 4)
    assert near(twice, 0.9 * mixed.numpy() + 0.1 / 4)  # smoothing keeps what mixing made
    smoothed = F.cross_entropy(Z, a, reduction="none", label_smoothing=0.1)
    assert near(kind.losses(Z, kind.smooth(a, 0.1, 4)), smoothed.numpy())


# multi-label ---------------------------------------------------------------------------------
def test_multi_label() -> None:
    kind, y = family("multi-label"), LABELS.numpy()
    p, q = special.expit(Z.numpy()), special.expit(Z2.numpy())
    assert near(kind.losses(Z, LABELS), -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(1))
    assert near(kind.losses(Z, LABELS.bool()), kind.losses(Z, LABELS.float()).numpy())
    assert near(kind.probabilities(Z), p)
    each = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
    assert near(kind.divergence(Z, Z2), each.mean(1))
    assert near(kind.mix(LABELS, LABELS.flip(0), 0.25, 4), 0.25 * y + 0.75 * y[::-1])
    assert near(kind.smooth(LABELS, 0.2, 4), 0.8 * y + 0.1)
    assert kind.items(LABELS, None) == 5
    extreme = torch.tensor([[200.0, -200.0]])
    assert kind.divergence(extreme, -extreme).isfinite().all()


# real ----------------------------------------------------------------------------------------
def test_real() -> None:
    kind, y = family("real"), Z2.numpy()
    assert near(kind.losses(Z, Z2), ((Z.numpy() - y) ** 2).mean(1))
    assert near(kind.losses(Z[:, 0], Z2[:, 0]), (Z.numpy()[:, 0] - y[:, 0]) ** 2)
    assert near(kind.losses(Z[:, 0], CLASSES), (Z.numpy()[:, 0] - CLASSES.numpy()) ** 2)
    assert near(kind.divergence(Z, Z2), 0.5 * ((Z.numpy() - y) ** 2).mean(1))
    assert near(kind.mix(Z, Z2, 0.3, 4), 0.3 * Z.numpy() + 0.7 * y)
    assert near(kind.mix(CLASSES, CLASSES.flip(0), 0.5, 1), (CLASSES + CLASSES.flip(0)).numpy() / 2)
    assert near(kind.probabilities(Z[:, :1]), Z.numpy()[:, 0])
    assert near(kind.probabilities(Z), Z.numpy())
    with pytest.raises(InputError, match="label smoothing has no meaning"):
        kind.smooth(Z, 0.1, 4)


def broadcasts(output: Tensor, targets: Tensor) -> Tensor:
    """`((output - targets) ** 2)`: (N, 1) against (N,) becomes (N, N)."""
    each = (output - targets).square()
    return each.flatten(1).mean(1) if each.ndim > 1 else each


@trap(right=family("real").losses, wrong=broadcasts)
def test_a_column_against_a_vector_does_not_broadcast(losses: Any) -> None:
    expected = (Z[:, 0] - Z2[:, 0]).square().numpy()
    assert near(losses(Z[:, :1], Z2[:, 0]), expected)
    assert near(losses(Z[:, 0], Z2[:, :1]), expected)
    assert near(losses(Z[:, :1], Z2[:, :1]), expected)


def test_a_column_and_a_vector_train_the_same() -> None:
    x, y = Z[:, :3], Z2[:, 0]
    vector, column = stack("real", 1), stack("real", 1)
    vector.step((x, y))
    column.step((x, y[:, None]))
    assert equal(weights(vector.run.module), weights(column.run.module))


# tokens --------------------------------------------------------------------------------------
def token_targets() -> Tensor:
    targets = torch.randint(0, 4, (3, 6), generator=torch.Generator().manual_seed(2))
    targets[0, 2:], targets[1, 0] = -100, -100
    return targets


def test_tokens() -> None:
    kind, targets = family("tokens"), token_targets()
    log_p = special.log_softmax(TOKENS.numpy(), -1)
    keep = targets.numpy() != -100
    expected = -np.take_along_axis(log_p, targets.clamp(min=0).numpy()[..., None], -1)[..., 0]
    assert near(kind.losses(TOKENS, targets), expected * keep)
    mask = kind.item_mask(targets)
    assert mask is not None
    assert near(mask, keep)
    assert kind.items(targets, None) == 13
    assert kind.items(targets, torch.tensor([True, False, True])) == 8
    soft = kind.smooth(targets, 0.1, 4)
    hot = np.eye(4)[targets.clamp(min=0).numpy()]
    assert near(soft, (0.9 * hot + 0.1 / 4) * keep[..., None])
    assert near(kind.losses(TOKENS, soft), -(soft.numpy() * log_p).sum(-1))
    soft_mask = kind.item_mask(soft)
    assert soft_mask is not None
    assert torch.equal(soft_mask, mask)
    assert kind.items(soft, None) == 13
    flat = kind.divergence(TOKENS, TOKENS.flip(0))
    p, q = np.exp(log_p), np.exp(log_p)[::-1]
    assert near(flat, special.rel_entr(p, q).sum(-1))
    with pytest.raises(InputError, match="no mixture"):
        kind.mix(targets, targets, 0.5, 4)


def test_embeddings_have_no_targets() -> None:
    kind = family("embedding")
    assert near(kind.losses(Z, CLASSES), np.zeros(5))
    assert near(kind.probabilities(Z), Z.numpy())
    assert kind.items(CLASSES, None) == 5
    kind.check(Batch(Z), Z)
    for wrong in (
        lambda: kind.divergence(Z, Z),
        lambda: kind.mix(CLASSES, CLASSES, 0.5, 4),
        lambda: kind.smooth(CLASSES, 0.5, 4),
        lambda: kind.check(Batch(TOKENS), TOKENS),
    ):
        with pytest.raises(InputError):
            wrong()


# rows without a target -----------------------------------------------------------------------
MASK = torch.tensor([True, False, True, True, False])
GIVEN: dict[str, tuple[Tensor, Tensor]] = {
    "categorical": (CLASSES, torch.where(MASK, CLASSES, -1)),
    "multi-label": (LABELS, torch.where(MASK[:, None], LABELS, -1)),
    "real": (Z2, torch.where(MASK[:, None], Z2, math.nan)),
}


@pytest.mark.parametrize("name", GIVEN)
def test_rows_without_a_target_may_hold_anything(name: str) -> None:
    """-1 and NaN are what semi-supervised data hold there; neither loss nor gradient sees them."""
    right, junk = GIVEN[name]
    stacks = [stack(name) for _ in range(3)]
    x = Z[:, :3]
    stacks[0].step(Batch(x[MASK], right[MASK]))
    stacks[1].step(Batch(x, junk, MASK))
    assert all(p.isfinite().all() for p in stacks[1].parameters())
    for a, b in zip(stacks[0].parameters(), stacks[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    before = weights(stacks[2].run.module)
    stacks[2].step(Batch(x, junk, torch.zeros(5, dtype=torch.bool)))
    assert equal(before, weights(stacks[2].run.module))
    assert stacks[2].loss == 0.0


def test_token_rows_without_a_target() -> None:
    objective = make("tokens")
    batch = Batch(TOKENS, token_targets(), torch.tensor([True, False, True]))
    mask = objective.mask(batch)
    assert mask is not None
    assert mask.sum() == 8 == objective.count(batch)
    assert objective.count(Batch(TOKENS)) == 0.0


# errors --------------------------------------------------------------------------------------
def raises(name: str, output: Tensor, targets: Tensor, match: str, **about: Any) -> None:
    with pytest.raises(InputError, match=match):
        family(name).check(Batch(output, targets, **about), output)


def test_classes_out_of_range_name_rows_and_classes() -> None:
    bad = torch.tensor([0, 7, 1, -1, 2])
    raises("categorical", Z, bad, r"4 outputs.*0 to 3; found -1, 7 in rows of the batch 1, 3\.")
    indices = torch.tensor([50, 51, 52, 53, 54])
    raises("categorical", Z, bad, "data set rows 51, 53", indices=indices)
    family("categorical").check(Batch(Z, bad, torch.tensor([True, False, True, False, True])), Z)
    raises("categorical", Z, torch.full((5,), 9), r"found 9 in rows of the batch 0, 1, 2, 3, 4\.")
    many = torch.full((9,), 9)
    raises("categorical", torch.zeros(9, 4), many, r"0, 1, 2, 3, 4, 5, 6, 7, \.\.\.")


def test_tokens_out_of_range_name_rows() -> None:
    bad = token_targets()
    bad[2, 1] = bad[2, 4] = 9
    raises("tokens", TOKENS, bad, r"found 9 in rows of the batch 2\.")
    raises("tokens", TOKENS, bad, r"data set rows 30\.", indices=torch.tensor([10, 20, 30]))


def test_wrong_kinds_of_target() -> None:
    raises("categorical", Z, Z[:, 0], "dtype torch.float32.*use objective='real'")
    raises("categorical", TOKENS, CLASSES[:3], "For one class per token use objective='tokens'")
    raises("categorical", Z, LABELS, r"wants classes \(N,\) or probabilities \(N, C\)")
    raises("multi-label", Z, CLASSES, "a 0/1 column for every output")
    raises("multi-label", Z, LABELS * 2, "rows of the batch 0, 2, 3, 4 do not")
    raises("real", Z, CLASSES, "one output for every target")
    raises("tokens", TOKENS, token_targets()[:, :4], r"targets \(N, T\) and logits \(N, T, V\)")
    holed = Z2.clone()
    holed[1, 2], holed[4, 0] = math.nan, math.inf
    raises("real", Z, holed, r"NaN or infinite in rows of the batch 1, 4\..*Batch.mask")


def test_a_bad_class_in_a_later_batch_is_named_too() -> None:
    one = stack("categorical")
    one.step((Z[:, :3], CLASSES))
    with pytest.raises(InputError, match="found 8 in rows of the batch 4"):
        one.step((Z[:, :3], torch.tensor([0, 1, 2, 3, 8])))


def ignores(output: Tensor, targets: Tensor) -> Tensor:
    """torch's default: the class -100 has a loss of zero, and its row is still counted."""
    return F.cross_entropy(output, targets, reduction="none")


@trap(right=family("categorical").losses, wrong=ignores)
def test_a_class_of_minus_100_is_not_ignored_in_silence(losses: Any) -> None:
    try:
        losses(Z, torch.tensor([0, 1, 2, 3, -100]))
    except IndexError:
        return
    raise AssertionError("no error")


def test_host_check_is_for_classes_alone() -> None:
    """It stands in for a device's assertion; reals and labels that are integers pass it."""
    for name, width in (("real", 4), ("multi-label", 4), ("categorical", 4)):
        one = stack(name, width)
        targets = {"categorical": CLASSES, "multi-label": LABELS, "real": LABELS}[name]
        batch = Batch(Z[:, :3], targets)
        one.step(batch)
        one.objective.check_host(batch)
    with pytest.raises(InputError, match="found 6, 7, 8, 9 in rows"):
        one.objective.check_host(Batch(Z[:, :3], CLASSES + 6))


# the objective around ------------------------------------------------------------------------
def test_outputs_and_inputs_of_models() -> None:
    class Output:
        logits = Z

    assert logits(Z) is Z
    assert logits({"loss": None, "logits": Z}) is Z
    assert logits({"last_hidden_state": Z}) is Z
    assert logits((Z, None)) is Z
    assert logits(Output()) is Z
    with pytest.raises(InputError, match="returned a int without logits"):
        logits(3)
    add = lambda a, b: a + b  # noqa: E731
    assert torch.equal(call(add, {"a": Z, "b": Z2}), Z + Z2)
    assert torch.equal(call(add, (Z, Z2)), Z + Z2)
    assert call(lambda x: x, Z) is Z


def test_names() -> None:
    assert isinstance(make("categorical"), Objective)
    own = make("real")
    assert make(own) is not own  # a copy, that has not seen the model of another stack
    assert make(own).settings() == own.settings()
    assert {make(name).family.name for name in FAMILIES if name != "embedding"} == {
        "categorical", "multi-label", "real", "tokens",
    }  # fmt: skip
    with pytest.raises(UnknownName, match="did you mean 'categorical'"):
        make("categoric")
    with pytest.raises(UnknownName, match="unknown family"):
        family("ordinal")


def test_width_is_probed_without_a_trace() -> None:
    run = make_run().stack.run
    before, state = weights(run.module), torch.default_generator.get_state()
    assert run.objective.width(run, Batch.of(data())) == 3
    assert equal(before, weights(run.module))
    assert torch.equal(state, torch.default_generator.get_state())
    assert run.module.training


# masked tokens -------------------------------------------------------------------------------
WORDS = ["[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]", *(f"w{n}" for n in range(25))]


class Sentences(torch.utils.data.Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": [3, *(5 + (row * 7 + n) % 25 for n in range(8)), 4]}


def collator() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", mask_token="[MASK]",
        cls_token="[CLS]", sep_token="[SEP]",
    )  # fmt: skip
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3)


def bert(dropout: float = 0.1) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForMaskedLM(config)


def pretrained(**changes: Any) -> dict[str, Tensor]:
    task = Task(bert(), Sentences(), objective="masked_tokens", collate=collator())
    stage = Stage(updates=4, batch_size=4, optimizer={"name": "sgd", "lr": 0.5}, **changes)
    return weights(Run(task, stage, 0, device="cpu").fit().module)


def test_masks_are_a_function_of_position() -> None:
    first = pretrained()
    torch.manual_seed(99)  # what was drawn before does not matter
    assert equal(first, pretrained())
    assert equal(first, pretrained(workers=1))


def test_masked_tokens_learn() -> None:
    task = Task(bert(0.0), Sentences(), objective="masked_tokens", collate=collator())
    rate = {"name": "sgd", "lr": 0.5, "momentum": 0.9}
    run = Run(task, Stage(updates=30, batch_size=12, optimizer=rate), device="cpu")
    run.fit(until=1)
    start = run.stack.loss
    assert start > 0.95 * math.log(len(WORDS))
    assert run.fit().stack.loss < 0.9 * start


def mean_of_means(one: Stack, parts: list[Batch]) -> None:
    """What a loop does that divides each micro-batch's mean by the number of micro-batches."""
    assert one.run.optimizer is not None
    for batch in parts:
        output = one.run.module(**batch.inputs).logits
        loss = F.cross_entropy(output.flatten(0, 1), batch.targets.flatten())
        (loss / len(parts)).backward()
    one.run.optimizer.step()


@trap(right=Stack.step, wrong=mean_of_means)
def test_accumulated_tokens_weigh_the_same(step: Any) -> None:
    """Micro-batches with different numbers of masked tokens equal one batch."""
    masking, sentences = collator(), Sentences()
    torch.manual_seed(3)
    parts = [Batch.of(masking([sentences[n] for n in rows])) for rows in ([0], [1, 2, 3], [4, 5])]
    parts[0].targets[0, 4:] = -100  # type: ignore[index]
    objective = make("masked_tokens")
    assert len({objective.count(part) / part.size for part in parts}) == 3
    made = [
        Stack(bert(0.0), "masked_tokens", optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
        for _ in range(2)
    ]
    for one in made:
        one.open()
        one.run.module.train()
    step(made[0], parts)
    made[1].step(Batch.join(parts))
    pairs = zip(made[0].parameters(), made[1].parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)


def test_a_collator_that_masks_nothing() -> None:
    one = Stack(bert(), "masked_tokens", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    ids = torch.full((2, 6), 7)
    with pytest.raises(InputError, match=r"the collator masked nothing.*DataCollator"):
        one.step(Batch({"input_ids": ids}, ids))


# contrastive ---------------------------------------------------------------------------------
def test_contrastive_needs_a_method_that_contrasts() -> None:
    with pytest.raises(InputError, match="put MoCo among the methods"):
        Stack(make_model(), "contrastive", optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def test_contrastive_counts_rows_and_has_no_loss_of_its_own() -> None:
    from whet.methods.moco import MoCo

    moco = MoCo(queue=8, dim=3, at="head", weight=0.0)
    task = make_task()
    given = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.1), "resources": task.resources}
    one = Stack(make_model(), "contrastive", [moco], **given)
    batch = Batch.of(data()).take(slice(0, 6))
    assert one.objective.count(batch) == 6
    assert one.window(batch.replace(targets=None)).items == 6
    one.step(batch)
    assert one.loss == 0.0


def test_contrastive_run_has_nothing_to_judge() -> None:
    task = make_task()
    changes = {"objective": "contrastive", "methods": [{"name": "moco", "queue": 8, "at": "head"}]}
    run = Run(task, Stage(updates=2, batch_size=6, **changes), device="cpu").fit()  # type: ignore[arg-type]
    assert run.history == []
    with pytest.raises(InputError, match="train a probe"):
        run.evaluate("select")
