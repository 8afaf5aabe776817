"""R-Drop: formula, traps, oracle."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_run, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.methods.label_smoothing import LabelSmoothing
from whet.methods.r_drop import RDrop, r_drop_loss
from whet.stack import Stack

CASE = Case(
    RDrop(),
    accumulates="its two passes differ by dropout, which draws for each micro-batch anew",
    cost=Cost(forwards=2, backwards=2, copies=2, inputs=4),
)


def logits(seed: int, rows: int = 6, classes: int = 5) -> Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))


def test_formula_and_oracle() -> None:
    one, two, targets = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    p, q = Categorical(logits=one), Categorical(logits=two)
    agree = 0.5 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()
    learn = 0.5 * (F.cross_entropy(one, targets) + F.cross_entropy(two, targets))
    found = r_drop_loss(one, two, targets, alpha=0.7)
    torch.testing.assert_close(found, learn + 0.7 * agree)


def by_classes(one: Tensor, two: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """F.kl_div with its default reduction: the mean over classes too."""
    a = F.kl_div(one.log_softmax(-1), two.softmax(-1))
    b = F.kl_div(two.log_softmax(-1), one.softmax(-1))
    learn = 0.5 * (F.cross_entropy(one, targets) + F.cross_entropy(two, targets))
    return learn + alpha * 0.5 * (a + b)


def summed(one: Tensor, two: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """The usual snippet: `.sum()` of the divergence beside a mean cross-entropy."""
    a = F.kl_div(one.log_softmax(-1), two.softmax(-1), reduction="none").sum()
    b = F.kl_div(two.log_softmax(-1), one.softmax(-1), reduction="none").sum()
    learn = 0.5 * (F.cross_entropy(one, targets) + F.cross_entropy(two, targets))
    return learn + alpha * 0.5 * (a + b)


@pytest.mark.filterwarnings("ignore:reduction. 'mean':UserWarning")
@trap(right=r_drop_loss, wrong=by_classes)
def test_trap_reduced_over_classes(loss: Any) -> None:
    """More classes of no probability change nothing."""
    one, two, targets = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    never = torch.full((6, 10), -1e4)
    wide = [torch.cat([z, never], 1) for z in (one, two)]
    torch.testing.assert_close(loss(one, two, targets, 1.0), loss(*wide, targets, 1.0))


@trap(right=r_drop_loss, wrong=summed)
def test_trap_scales_with_the_batch(loss: Any) -> None:
    one, two, targets = logits(0), logits(1), torch.tensor([0, 1, 2, 3, 4, 0])
    twice = loss(one.repeat(2, 1), two.repeat(2, 1), targets.repeat(2), 1.0)
    torch.testing.assert_close(loss(one, two, targets, 1.0), twice)


class AlwaysJoined(RDrop):
    """The batch beside itself in one forward, whatever the model normalises by."""

    def build(self, run: Any) -> None:
        self._joined = True


@trap(right=RDrop, wrong=AlwaysJoined)
def test_trap_a_doubled_batch_changes_batch_statistics(kind: Any) -> None:
    """The unbiased variance of N rows beside themselves is not that of N rows."""
    stack = make_stack([])
    stack.methods = [kind()]
    stack.methods[0].build(stack.run)
    batch = Batch.of(data(6))
    model = make_model()
    with torch.no_grad():
        hidden = torch.cat([model.embed(batch.inputs["tokens"]).mean(1),
                            batch.inputs["floats"]], 1)  # fmt: skip
        variance = model.hidden(hidden).var(0)
    stack.gradients(stack.window(batch))
    once = 0.9 + 0.1 * variance  # and not 0.81 + 0.19 * variance, for two passes
    assert torch.allclose(stack.run.module.norm.running_var, once, atol=1e-6)
    assert stack.run.module.norm.num_batches_tracked == 1


class Silent(RDrop):
    def build(self, run: Any) -> None:
        pass


@trap(right=RDrop, wrong=Silent)
def test_trap_a_model_without_dropout(kind: Any) -> None:
    message = ""
    try:
        make_stack([kind()], coupled=False)
    except NotApplicable as error:
        message = str(error)
    assert "no dropout" in message, "two equal passes were made in silence"


def test_a_rate_that_no_module_shows_counts() -> None:
    """Attention kernels take their dropout from an attribute."""
    model = make_model(coupled=False)
    model.attention_dropout = 0.1  # type: ignore[assignment]
    assert RDrop().name in Stack(model, "categorical", [RDrop()]).explain()


def test_dropout_in_a_frozen_part_does_not_count() -> None:
    """Frozen modules stay in evaluation mode, so that nothing in them drops."""
    model = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), nn.Linear(3, 3))
    model[0].eval()
    with pytest.raises(NotApplicable, match="no dropout"):
        Stack(model, "categorical", [RDrop()])
    model.eval()  # as Hugging Face hands models over: nothing is frozen by that
    assert Stack(model, "categorical", [RDrop()])


def test_auto_is_two_with_any_batch_normalisation() -> None:
    for norm in (nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)):
        method = RDrop()
        Stack(nn.Sequential(nn.Linear(4, 3), norm, nn.Dropout(0.5)), "categorical", [method])
        assert not method._joined


@pytest.mark.parametrize("passes", ["two", "joined"])
def test_core_equals_the_method(passes: str) -> None:
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 3))
    twin = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 3))
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    stack = Stack(model, "categorical", [RDrop(alpha=2.0, passes=passes)], seed=4,
                  optimizer=torch.optim.SGD(model.parameters(), lr=0.1))  # fmt: skip
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        seeding.seed_default(stack.run.position())
        stack.step((x, y))
        stack.run.window -= 1
        seeding.seed_default(stack.run.position())
        stack.run.window += 1
        outputs = twin(torch.cat([x, x])).chunk(2) if passes == "joined" else (twin(x), twin(x))
        optimizer.zero_grad()
        r_drop_loss(*outputs, y, alpha=2.0).backward()
        optimizer.step()
        assert close(weights(model), weights(twin), atol=1e-7)


def test_auto_is_joined_without_batch_normalisation() -> None:
    calls: list[int] = []
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.Linear(16, 3))
    model.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    stack = Stack(model, "categorical", [RDrop()],
                  optimizer=torch.optim.SGD(model.parameters(), lr=0.1))  # fmt: skip
    stack.step((torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])))
    assert calls == [10]
    run = make_run([RDrop()])
    calls.clear()
    run.module.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    run.fit(until=1)
    assert calls == [6, 6, 6, 6]


def test_rows_without_a_target_are_left_out() -> None:
    targets = torch.tensor([0, 1, 2, 0])
    mask = torch.tensor([True, True, False, False])
    x = torch.randn(4, 4)
    found = []
    for batch in (Batch(x, targets, mask), Batch(x[:2], targets[:2])):
        with seeding.borrowed(0):
            model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
        stack = Stack(model, "categorical", [RDrop(passes="two")],
                      optimizer=torch.optim.SGD(model.parameters(), lr=0.1))  # fmt: skip
        model[1].p = 0.0  # the same masks for both
        stack.step(batch)
        found.append(weights(model))
    assert close(*found, atol=1e-7)


def test_composes_with_what_is_outside_and_inside() -> None:
    run = make_run([RDrop(), LabelSmoothing(epsilon=0.1)]).fit()
    plain = make_run([RDrop()]).fit()
    assert not equal(weights(run.module), weights(plain.module))
    assert "label_smoothing > r_drop > supervised" in run.stack.explain()
