"""MixUp."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.record_libraries import numbers, recorded
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.label_smoothing import LabelSmoothing, smooth
from whet.methods.mixup import MixUp, mixup
from whet.methods.moco import MoCo
from whet.objectives.families import family
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    MixUp(alpha=0.4, at="floats"), accumulates="rows are mixed within their own micro-batch"
)

BATCHES = Batch.of(data()).split(6)
FLAT = Batch(torch.randn(6, 4, generator=seeding.generator(3)), torch.tensor([0, 1, 2, 0, 1, 2]))


def passed(method: MixUp, batch: Batch, objective: str = "categorical", width: int = 3) -> Batch:
    """The batch that reaches the objective in the first micro-batch."""
    stack = stack_of([method], objective, width)
    seen: list[Batch] = []
    stack.run.objective._width = width
    method.forward(stack.run, batch, seen.append)
    return seen[0]


def stack_of(methods: Any, objective: str = "categorical", width: int = 3) -> Stack:
    seeding.seed_default(0)
    model = nn.Linear(4, width)
    return Stack(model, objective, methods, optimizer=lambda p: torch.optim.SGD(p, lr=0.1))


def drawn(alpha: float, rows: int, run: Any = None) -> tuple[float, Tensor]:
    """λ and permutation as the method draws them at this position."""
    run, method = run or stack_of([]).run, MixUp(alpha)
    share = random.Random(run.key(method)).betavariate(alpha, alpha)
    return share, torch.randperm(rows, generator=run.generator(method))


# the value -----------------------------------------------------------------------------------


def test_formula() -> None:
    x = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    y = np.eye(3, dtype=np.float32)
    order = [2, 0, 1]
    mixed = mixup(torch.tensor(x), torch.tensor(y), torch.tensor(order), 0.3)
    assert np.allclose(mixed[0], 0.3 * x + 0.7 * x[order], atol=1e-6)
    assert np.allclose(mixed[1], 0.3 * y + 0.7 * y[order], atol=1e-6)


def test_equals_timm_given_lambda() -> None:
    """As it was recorded with lambda 0.3: partners from the end on, targets smoothed by 0.1."""
    x, y = numbers(4, 3, 2, 2), smooth(torch.tensor([0, 1, 2, 1]), 0.1, 3)
    inputs, targets = mixup(x, y, torch.arange(3, -1, -1), 0.3)
    theirs, labels = recorded("timm")["mixup"]
    assert inputs.flatten().tolist() == pytest.approx(theirs, abs=1e-15)
    assert targets.flatten().tolist() == pytest.approx(labels, abs=1e-7)


def test_the_method_draws_one_share_and_one_permutation() -> None:
    found = passed(MixUp(alpha=1.0), FLAT)
    share, permutation = drawn(1.0, 6)
    x, y = mixup(FLAT.inputs, F.one_hot(FLAT.targets, 3).float(), permutation, share)
    assert torch.equal(found.inputs, x)
    assert torch.equal(found.targets, y)


def test_share_is_beta_distributed() -> None:
    run, shares = stack_of([]).run, []
    for run.window in range(2000):
        shares.append(drawn(0.4, 2, run)[0])
    shares = np.array(shares)
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / (4 * (2 * 0.4 + 1))) < 0.01


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([MixUp(0.4, at="floats")]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    for run.window, batch in enumerate(BATCHES):
        stack.step(batch)
        share, permutation = drawn(0.4, batch.size, run)
        soft = F.one_hot(batch.targets, 3).float()
        floats, soft = mixup(batch.inputs["floats"], soft, permutation, share)
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        F.cross_entropy(call(model, batch.inputs | {"floats": floats}), soft).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_without_alpha_the_batch_goes_through_as_it_is() -> None:
    assert passed(MixUp(alpha=0.0), FLAT) is FLAT


# traps ---------------------------------------------------------------------------------------


class InPlace(MixUp):
    """x *= lam; x += (1 - lam) * x[perm]: indexes what is already mixed."""

    def _mix(self, batch: Batch, permutation: Tensor, share: float) -> Tensor:
        x = batch.inputs
        x *= share
        x += (1 - share) * x[permutation]
        return x


def test_core_has_gradients_and_changes_nothing_that_it_is_given() -> None:
    x, y = torch.tensor([[0.0], [4.0]], requires_grad=True), torch.eye(2)
    for share in (0.0, 0.25, 0.75, 1.0):
        mixed, soft = mixup(x, y, torch.tensor([1, 0]), share)
        assert torch.equal(mixed, torch.tensor([[4.0 * (1 - share)], [4.0 * share]]))
        assert torch.equal(soft, torch.tensor([[share, 1 - share], [1 - share, share]]))
        [slope] = torch.autograd.grad(mixed[0].sum(), x)
        assert torch.equal(slope, torch.tensor([[share], [1 - share]]))
    assert torch.equal(x, torch.tensor([[0.0], [4.0]]))
    assert torch.equal(y, torch.eye(2))


@trap(right=MixUp, wrong=InPlace)
def test_never_in_place(kind: type[MixUp]) -> None:
    batch = FLAT.map(torch.clone)
    share, permutation = drawn(1.0, 6)
    found = passed(kind(alpha=1.0), batch)
    assert torch.equal(batch.inputs, FLAT.inputs)
    expected = FLAT.inputs * share + FLAT.inputs[permutation] * (1 - share)
    assert torch.allclose(found.inputs, expected)


class AnyInput(MixUp):
    """Mixes token ids: 3.7 becomes token 3."""

    def _check(self, name: str, found: Any) -> None: ...

    def _mix(self, batch: Batch, permutation: Tensor, share: float) -> Any:
        floats = batch.replace(inputs={k: v.float() for k, v in batch.inputs.items()})
        mixed = super()._mix(floats, permutation, share)
        return {k: v.to(batch.inputs[k].dtype) for k, v in mixed.items()}


@trap(right=MixUp, wrong=AnyInput)
def test_token_ids_are_refused(kind: type[MixUp]) -> None:
    message = ""
    try:
        passed(kind(alpha=1.0), BATCHES[0])
    except InputError as error:
        message = str(error)
    assert "mixup: input 'tokens' has dtype torch.int64" in message
    assert "(at='floats'), or mix what the embedding returns (manifold_mixup)" in message


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
def test_a_bare_tensor_of_ids_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"the input has dtype .* Mix what the embedding"):
        passed(MixUp(alpha=1.0), Batch(torch.ones(6, 4, dtype=dtype), FLAT.targets))


def weighed_by_torch(logits: Tensor, a: Tensor, b: Tensor, share: float, w: Tensor) -> Tensor:
    """lam * criterion(out, a) + (1 - lam) * criterion(out, b) with CrossEntropyLoss(weight=w).

    Each half divides by the weights of its own rows, so a row's share depends on its neighbours.
    """
    mean = F.cross_entropy(logits, a, weight=w) * share
    return mean + F.cross_entropy(logits, b, weight=w) * (1 - share)


def weighed_by_target(logits: Tensor, a: Tensor, b: Tensor, share: float, w: Tensor) -> Tensor:
    soft = family("categorical").mix(a, b, share, logits.shape[1])
    each = F.cross_entropy(logits, soft, weight=w, reduction="none")
    return each.sum() / (soft * w).sum()


@trap(right=weighed_by_target, wrong=weighed_by_torch)
def test_class_weights_see_the_mixed_targets(loss: Any) -> None:
    """Every mixed class weighs as its share and weight say, whoever its neighbours are."""
    maker = seeding.generator(4)
    logits = torch.randn(3, 3, generator=maker).double()
    a, b, w = torch.tensor([0, 0, 1]), torch.tensor([2, 2, 2]), torch.tensor([1.0, 2.0, 20.0])
    log_p, share, up, down = logits.log_softmax(1), 0.7, 0.0, 0.0
    for row in range(3):
        for label, part in ((a[row], share), (b[row], 1 - share)):
            up -= part * w[label] * log_p[row, label]
            down += part * w[label]
    assert torch.allclose(loss(logits, a, b, share, w.double()), up / down, atol=1e-6)


def hard_pair(logits: Tensor, a: Tensor, b: Tensor, share: float) -> Tensor:
    """mixup_criterion of the official code, beside a label smoothing that it never sees."""
    return share * F.cross_entropy(logits, a) + (1 - share) * F.cross_entropy(logits, b)


def through_the_targets(logits: Tensor, a: Tensor, b: Tensor, share: float) -> Tensor:
    soft = family("categorical").mix(a, b, share, logits.shape[1])
    return F.cross_entropy(logits, smooth(soft, 0.1, logits.shape[1]))


@trap(right=through_the_targets, wrong=hard_pair)
def test_smoothing_is_not_undone(loss: Any) -> None:
    logits = torch.randn(6, 3, generator=seeding.generator(1))
    a, b = FLAT.targets, FLAT.targets.roll(1)
    expected = 0.3 * F.cross_entropy(logits, a, label_smoothing=0.1)
    expected = expected + 0.7 * F.cross_entropy(logits, b, label_smoothing=0.1)
    assert torch.allclose(loss(logits, a, b, 0.3), expected, atol=1e-6)


class OnTheLoss(MixUp):
    """Mixes the inputs and then the losses of two hard targets, as mixup_criterion does."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        share, permutation = drawn(self.alpha, batch.size, run)
        forward = inner(batch.replace(inputs=self._mix(batch, permutation, share)))
        output, a = forward.output, batch.targets
        return forward.replace(
            losses=share * F.cross_entropy(output, a, reduction="none")
            + (1 - share) * F.cross_entropy(output, a[permutation], reduction="none")
        )


@trap(right=MixUp, wrong=OnTheLoss)
def test_composes_with_label_smoothing_in_a_stack(kind: type[MixUp]) -> None:
    stack = stack_of([LabelSmoothing(0.1), kind(alpha=1.0)])
    model = nn.Linear(4, 3)
    model.load_state_dict(stack.run.module.state_dict())
    share, permutation = drawn(1.0, 6)
    x, y = mixup(FLAT.inputs, F.one_hot(FLAT.targets, 3).float(), permutation, share)
    F.cross_entropy(model(x), smooth(y, 0.1, 3)).backward()
    stack.gradients(stack.window(FLAT))
    assert torch.allclose(model.weight.grad, stack.run.module.weight.grad, atol=1e-7)


class WholeWindow(MixUp):
    """Draws once for all micro-batches of a window."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        micro, run.micro = run.micro, 0
        try:
            return super().forward(run, batch, inner)
        finally:
            run.micro = micro


@trap(right=MixUp, wrong=WholeWindow)
def test_each_micro_batch_draws_its_own(kind: type[MixUp]) -> None:
    run, method = stack_of([]).run, kind(alpha=1.0)
    run.objective._width, seen = 3, []
    for run.micro in (0, 1):
        method.forward(run, FLAT, seen.append)
    assert not torch.equal(seen[0].inputs, seen[1].inputs)


# rows without a target -----------------------------------------------------------------------


class IgnoresMask(MixUp):
    """Permutes all rows, so that labelled rows take in targets that are none."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
        mask = batch.mask
        return super().forward(
            run, batch.replace(mask=None), lambda mixed: inner(mixed.replace(mask=mask))
        )


@trap(right=MixUp, wrong=IgnoresMask)
def test_rows_without_a_target_stay_to_the_bit(kind: type[MixUp]) -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    found = passed(kind(alpha=1.0), FLAT.replace(mask=mask))
    assert torch.equal(found.inputs[~mask], FLAT.inputs[~mask])
    alone = passed(MixUp(alpha=1.0), FLAT.take(mask))
    assert torch.equal(found.inputs[mask], alone.inputs)
    assert torch.equal(found.targets[mask], alone.targets)
    assert torch.equal(found.mask, mask)


def test_what_stands_for_a_missing_target_may_be_anything() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    odd = FLAT.replace(mask=mask, targets=FLAT.targets.masked_fill(~mask, -100))
    assert torch.isfinite(passed(MixUp(alpha=1.0), odd).targets).all()
    nothing = FLAT.replace(targets=None)
    assert passed(MixUp(alpha=1.0), nothing) is nothing


def test_infinite_inputs_of_a_row_without_a_target_stay() -> None:
    inputs = FLAT.inputs.clone()
    inputs[1] = float("inf")
    mask = torch.tensor([True, False, True, True, True, True])
    found = passed(MixUp(alpha=1.0), FLAT.replace(inputs=inputs, mask=mask))
    assert found.inputs[1].isinf().all()
    assert found.inputs[mask].isfinite().all()


# inputs and targets of every kind ------------------------------------------------------------


def test_at_names_what_is_mixed() -> None:
    nest = {"a": {"x": FLAT.inputs, "ids": torch.arange(6)}, "b": (FLAT.inputs, FLAT.inputs + 1)}
    batch = FLAT.replace(inputs=nest)
    found = passed(MixUp(alpha=1.0, at="a.x"), batch).inputs
    share, permutation = drawn(1.0, 6)
    assert torch.equal(found["a"]["x"], torch.lerp(FLAT.inputs[permutation], FLAT.inputs, share))
    assert torch.equal(found["a"]["ids"], torch.arange(6))
    assert torch.equal(found["b"][0], FLAT.inputs)
    found = passed(MixUp(alpha=1.0, at="b"), batch).inputs
    assert torch.equal(found["a"]["x"], FLAT.inputs)
    assert not torch.equal(found["b"][0], FLAT.inputs)
    assert not torch.equal(found["b"][1], FLAT.inputs + 1)


def test_a_name_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no input matches at='flaots'; .*: tokens, floats"):
        passed(MixUp(alpha=1.0, at="flaots"), BATCHES[0])
    with pytest.raises(InputError, match=r"no input matches at='x'; .*at='\*'"):
        passed(MixUp(alpha=1.0, at="x"), FLAT)


def test_reals_and_labels_are_mixed() -> None:
    share, permutation = drawn(1.0, 6)
    reals = torch.arange(6.0)
    found = passed(MixUp(alpha=1.0), FLAT.replace(targets=reals), "real", 1).targets
    assert torch.allclose(found, reals * share + reals[permutation] * (1 - share))
    labels = torch.eye(3, dtype=torch.long).repeat(2, 1)
    found = passed(MixUp(alpha=1.0), FLAT.replace(targets=labels), "multi-label").targets
    assert torch.allclose(found, labels * share + labels[permutation] * (1 - share))


@pytest.mark.parametrize("objective", ["tokens", "masked_tokens", "contrastive"])
def test_does_not_apply_where_targets_have_no_mixture(objective: str) -> None:
    methods = [MoCo(dim=2), MixUp()] if objective == "contrastive" else [MixUp()]
    with pytest.raises(NotApplicable, match=r"mixup does not apply: .* mix"):
        Stack(
            nn.Linear(4, 3), objective, methods, data=torch.ones(4, 4),
            resources={"view": lambda x, g: x},
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_keeps_the_inputs_dtype(dtype: torch.dtype) -> None:
    found = passed(MixUp(alpha=1.0), FLAT.replace(inputs=FLAT.inputs.to(dtype)))
    assert found.inputs.dtype == dtype


def test_a_class_out_of_range_is_named() -> None:
    bad = FLAT.replace(targets=torch.tensor([0, 1, 7, 0, 1, 2]))
    with pytest.raises(InputError, match="targets out of range"):
        stack_of([MixUp(alpha=1.0)]).step([bad])
