"""Class weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from tests.contract.case import Case
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.class_weights import (
    ClassWeights,
    effective_weights,
    inverse_weights,
    item_weights,
    weighted_mean,
)
from whet.methods.cutmix import CutMix
from whet.methods.distillation import Distillation
from whet.methods.focal import Focal, focal_losses
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.mixup import MixUp
from whet.methods.r_drop import RDrop
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(ClassWeights(by="effective", beta=0.9))

BATCHES = Batch.of(data()).split(6)
GIVEN = (0.5, 1.0, 4.0)
COUNTS = torch.bincount(data()["labels"], minlength=3).double()


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def learned(window: Any, *methods: Any, **changes: Any) -> list[Tensor]:
    stack = make_stack(methods, coupled=False, **changes)
    stack.gradients(stack.window(window))
    return gradients(stack.run.module)


def by_hand(loss: Any) -> list[Tensor]:
    model = make_model(coupled=False)
    loss(model).backward()
    return gradients(model)


def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


# the weights ---------------------------------------------------------------------------------
def test_inverse_is_sklearns_balanced() -> None:
    labels = data()["labels"].numpy()
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert inverse_weights(COUNTS).tolist() == pytest.approx(theirs.tolist())


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.99, 0.9999])
def test_effective_numbers_by_hand(beta: float) -> None:
    counts = torch.tensor([1.0, 20.0, 500.0]).double()
    numbers = [sum(beta**k for k in range(int(n))) for n in counts]  # 1 + b + ... + b^(n-1)
    wanted = 1 / torch.tensor(numbers).double()
    assert torch.allclose(effective_weights(counts, beta), wanted * 3 / wanted.sum())


def power_in_single_precision(counts: Tensor, beta: float) -> Tensor:
    """As the paper's code is copied, in float32."""
    weights = (1.0 - beta) / (1.0 - torch.tensor(beta).pow(counts.float()))
    return weights * (len(counts) / weights.sum())


@trap(right=effective_weights, wrong=power_in_single_precision)
def test_near_one_it_is_the_inverse(found: Any) -> None:
    """Beta to the n loses its digits: to float32, 1 - 1e-8 is 1, and every weight 0/0."""
    counts = torch.tensor([3.0, 7.0, 90.0])
    inverse = inverse_weights(counts)
    wanted = inverse * 3 / inverse.sum()
    assert torch.allclose(found(counts, 1 - 1e-8).to(wanted), wanted, rtol=1e-3)


# the method against torch --------------------------------------------------------------------
def test_learns_torchs_weighted_loss() -> None:
    def theirs(model: nn.Module) -> Tensor:
        output = call(model, BATCHES[0].inputs)
        return F.cross_entropy(output, BATCHES[0].targets, weight=torch.tensor(GIVEN))

    assert agree(learned(BATCHES[0], ClassWeights(weights=GIVEN)), by_hand(theirs))


def test_counts_the_training_part_and_not_the_batch() -> None:
    counted = learned(BATCHES[0], ClassWeights())
    given = learned(BATCHES[0], ClassWeights(weights=tuple(inverse_weights(COUNTS).tolist())))
    told = learned(BATCHES[0], ClassWeights(counts=tuple(COUNTS.tolist())), data=None)
    assert agree(counted, given)
    assert agree(counted, told)


def test_the_sum_of_weights_is_the_windows() -> None:
    """Micro-batches divide by what all of them weigh, and not each by its own."""
    parts = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 8))]
    whole = learned(Batch.join(parts), ClassWeights(weights=GIVEN))
    assert agree(learned(parts, ClassWeights(weights=GIVEN)), whole)

    def mean_of_means(model: nn.Module) -> Tensor:
        losses = [
            F.cross_entropy(call(model, b.inputs), b.targets, weight=torch.tensor(GIVEN))
            for b in parts
        ]
        return torch.stack(losses).mean()

    assert not agree(by_hand(mean_of_means), whole)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([ClassWeights()]), make_model()
    table = inverse_weights(COUNTS).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        at = stack.run.position()
        stack.step(batch)
        optimizer.zero_grad()
        seeding.seed_default(at)
        losses = F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="none")
        weighted_mean(losses, item_weights(batch.targets, table)).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module))


def test_beta_zero_changes_nothing_to_the_bit() -> None:
    plain = make_stack()
    flat = make_stack([ClassWeights(by="effective", beta=0.0)], data=None)
    for batch in BATCHES:
        plain.step(batch)
        flat.step(batch)
    assert equal(weights(plain.run.module), weights(flat.run.module))


def test_costs_a_forward_at_the_start() -> None:
    stack, calls = make_stack([ClassWeights()]), []
    stack.run.module.head.register_forward_hook(lambda m, args, out: calls.append(len(out)))
    for batch in BATCHES[:3]:
        stack.step(batch)
    assert calls == [6, 6, 6, 6]


# with others ---------------------------------------------------------------------------------
def weighted(model: nn.Module, losses: Tensor, labels: Tensor) -> Tensor:
    return weighted_mean(losses, item_weights(labels, torch.tensor(GIVEN)))


def test_with_label_smoothing_the_row_weighs_what_its_class_does() -> None:
    batch, method = BATCHES[0], ClassWeights(weights=GIVEN)

    def theirs(model: nn.Module) -> Tensor:
        soft = smooth(batch.targets, 0.1, 3)
        losses = F.cross_entropy(call(model, batch.inputs), soft, reduction="none")
        return weighted(model, losses, batch.targets)

    for pair in ([method, LabelSmoothing(0.1)], [LabelSmoothing(0.1), method]):
        assert agree(learned(batch, *pair), by_hand(theirs))


def by_torch(output: Tensor, labels: Tensor) -> Tensor:
    weight = torch.tensor([1.0, 1.0, 10.0])
    return F.cross_entropy(output, labels, weight=weight, label_smoothing=0.1)


def by_the_stack(output: Tensor, labels: Tensor) -> Tensor:
    """The gradient that the stack gives a model whose output is its parameter."""

    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Parameter(output.detach().clone())

        def forward(self, x: Tensor) -> Tensor:
            return self.output + 0 * x

    methods = [ClassWeights(weights=(1.0, 1.0, 10.0)), LabelSmoothing(0.1)]
    stack = Stack(Given(), "categorical", methods,
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    stack.gradients(stack.window((torch.zeros(len(labels), 1), labels)))
    return (output * stack.run.module.output.grad).sum()


@trap(right=by_the_stack, wrong=by_torch)
def test_smoothing_keeps_its_optimum_under_weights(loss: Any) -> None:
    """pytorch#104776: torch weighs smoothed entries; class 2 gets 0.256 instead of 0.033."""
    labels = torch.tensor([0])
    logits = smooth(labels, 0.1, 3).log().requires_grad_()
    [gradient] = torch.autograd.grad(loss(logits, labels), logits)
    assert gradient.abs().max() < 1e-6


def test_with_focal_loss_p_is_the_unweighted_models() -> None:
    batch = BATCHES[0]

    def theirs(model: nn.Module) -> Tensor:
        output = call(model, batch.inputs)
        p = output.softmax(1)[range(6), batch.targets]
        losses = (1 - p) ** 2 * F.cross_entropy(output, batch.targets, reduction="none")
        return weighted(model, losses, batch.targets)

    assert agree(learned(batch, ClassWeights(weights=GIVEN), Focal(2.0)), by_hand(theirs))


@pytest.mark.parametrize("mixing", [MixUp(alpha=1.0, at="floats"), CutMix(at="image")])
def test_a_mixture_weighs_the_mixture_of_the_weights(mixing: Any) -> None:
    """And the window's sum, taken of the rows as they come, is that of the mixed ones."""
    seen: list[Batch] = []

    class Watching(LabelSmoothing):
        def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
            seen.append(batch)
            return inner(batch)

    stack = make_stack([ClassWeights(weights=GIVEN), mixing, Watching()], coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    mixed = seen[0]
    assert mixed.targets.is_floating_point()
    assert ((mixed.targets > 0) & (mixed.targets < 1)).any()
    table = torch.tensor(GIVEN)
    total = table[BATCHES[0].targets].sum()
    assert torch.allclose((mixed.targets @ table).sum(), total)

    def theirs(model: nn.Module) -> Tensor:
        losses = F.cross_entropy(call(model, mixed.inputs), mixed.targets, reduction="none")
        return (losses * (mixed.targets @ table)).sum() / total

    assert agree(gradients(stack.run.module), by_hand(theirs))


def test_terms_keep_their_own_means() -> None:
    found = []
    for methods in ([Distillation()], [Distillation(), ClassWeights(weights=GIVEN)]):
        stack = make_stack(methods, coupled=False)
        stack.gradients(stack.window(BATCHES[0]))
        found.append(stack.terms["distillation"])
    assert found[0] == pytest.approx(found[1])
    text = make_stack([ClassWeights(), RDrop(), MixUp(at="floats"), LabelSmoothing()]).explain()
    assert "mixup > class_weights > label_smoothing > r_drop > supervised" in text


def test_rows_and_tokens_without_a_target() -> None:
    targets = torch.tensor([0, -100, 2, 99, 1, -1])
    mask = torch.tensor([True, False, True, False, True, False])
    inputs = BATCHES[0].inputs

    def theirs(model: nn.Module) -> Tensor:
        output = call(model, inputs)[mask]
        return F.cross_entropy(output, targets[mask], weight=torch.tensor(GIVEN))

    ours = learned(Batch(inputs, targets, mask), ClassWeights(weights=GIVEN))
    assert agree(ours, by_hand(theirs))

    model, twin = nn.Embedding(5, 3), nn.Embedding(5, 3)
    twin.load_state_dict(model.state_dict())
    tokens, labels = torch.tensor([[1, 2, 3]]), torch.tensor([[0, -100, 2]])
    stack = Stack(model, "tokens", [ClassWeights()], data=({"input": tokens}, labels),
                  optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    stack.gradients(stack.window(({"input": tokens}, labels)))
    F.cross_entropy(twin(tokens)[0], labels[0], weight=torch.ones(3)).backward()
    assert torch.allclose(model.weight.grad, twin.weight.grad, atol=1e-7)


def test_soft_targets_of_the_data() -> None:
    soft = torch.softmax(torch.randn(6, 3, generator=seeding.generator(0)), 1)

    def theirs(model: nn.Module) -> Tensor:
        losses = F.cross_entropy(call(model, BATCHES[0].inputs), soft, reduction="none")
        return weighted_mean(losses, soft @ torch.tensor(GIVEN))

    ours = learned(Batch(BATCHES[0].inputs, soft), ClassWeights(weights=GIVEN))
    assert agree(ours, by_hand(theirs))


def test_a_window_that_weighs_nothing() -> None:
    stack = make_stack([ClassWeights(weights=(0.0, 0.0, 0.0))], coupled=False)
    before = weights(stack.run.module)
    stack.step(BATCHES[0])
    assert equal(before, weights(stack.run.module))
    stack.step(Batch(BATCHES[0].inputs))  # and one without targets


# where the counts come from ------------------------------------------------------------------
X, Y = torch.randn(9, 2), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 2])


class Counted(Dataset[Any]):
    """Its samples may not be read."""

    targets: Any = Y.tolist()

    def __len__(self) -> int:
        return 9

    def __getitem__(self, row: int) -> Any:
        raise AssertionError("read")


class Silent(Counted):
    targets: Any = None


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Any:
        while True:
            yield X[0], Y[0]


def stack_on(given: Any, objective: str = "categorical", **settings: Any) -> Stack:
    return Stack(nn.Linear(2, 3), objective, [ClassWeights(**settings)], data=given,
                 optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip


@pytest.mark.parametrize("given", [(X, Y), TensorDataset(X, Y), Counted()], ids=type)
def test_counts_without_reading_samples(given: Any) -> None:
    stack = stack_on(given)
    stack.step((X, Y))
    [method] = stack.methods
    assert method._table.tolist() == pytest.approx([0.5, 1.5, 3.0])  # type: ignore[attr-defined]


@pytest.mark.parametrize("given", [Silent(), Endless(), None], ids=type)
def test_asks_for_counts_where_there_are_none(given: Any) -> None:
    with pytest.raises(InputError, match=r"class_weights: how often .*counts=\(120, 30, 5\)"):
        stack_on(given)
    assert stack_on(given, counts=(6.0, 2.0, 1.0)).step((X, Y))


def test_a_class_that_never_occurs_weighs_no_row() -> None:
    assert stack_on((X, Y.clamp(max=1))).step((X, Y.clamp(max=1)))


@pytest.mark.parametrize("setting", ["weights", "counts"])
def test_as_many_as_outputs(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting} of 2 classes, and the model has 3 outputs"):
        stack_on((X, Y), **{setting: (1.0, 2.0)}).step((X, Y))


def test_data_that_holds_no_classes() -> None:
    with pytest.raises(InputError, match="no row of the training data has a target"):
        stack_on(Batch(X, Y, torch.zeros(9, dtype=torch.bool)))
    with pytest.raises(InputError, match=r"numbered from 0.*holds -1"):
        stack_on((X, Y - 1))


@pytest.mark.parametrize(("objective", "remedy"), [("multi-label", "focal"), ("real", "Leave")])
def test_applies_to_classes_that_exclude_each_other(objective: str, remedy: str) -> None:
    with pytest.raises(NotApplicable, match=f"no classes of which.*{remedy}"):
        stack_on((X, Y), objective)


# a trap of focal's neighbours ----------------------------------------------------------------
def weighed_probability(output: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    weighted = F.cross_entropy(output, labels, weight=table, reduction="none")
    return ((1 - torch.exp(-weighted)) ** 2 * weighted).sum() / table[labels].sum()


def weighed_loss(output: Tensor, labels: Tensor, table: Tensor) -> Tensor:
    return weighted_mean(focal_losses(output, labels, 2.0), item_weights(labels, table))


@trap(right=weighed_loss, wrong=weighed_probability)
def test_one_class_of_any_weight_is_the_plain_loss(loss: Any) -> None:
    """Where all rows are of one class its weight drops out of a weighted mean."""
    output, labels = torch.tensor([[1.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 0])
    plain = focal_losses(output, labels, 2.0).mean().item()
    assert loss(output, labels, torch.tensor([10.0, 1.0])).item() == pytest.approx(plain)
