"""Sharpness-aware minimisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, method
from whet.methods.sam import SAM
from whet.objectives.objective import call
from whet.stack import Stack
from whet.training import Training

CASE = Case(
    SAM(rho=0.2),
    processes=SAM(rho=0.2, across="global"),
    cost=Cost(forwards=2, backwards=2, copies=2),
)

PARTS = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
Net = nn.Module
Ascend = Callable[[Net], Any]


def loss_of(model: Net, batch: Batch, items: int) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="sum") / items


def test_formula() -> None:
    """Squared error of a line through numbers: L = (w.x - y)^2, all by numpy."""
    x, y, w, rho = np.array([1.0, 2.0]), 3.0, np.array([0.5, -0.25]), 0.3
    grad = lambda w: 2 * (w @ x - y) * x  # noqa: E731
    g = grad(w)
    for adaptive, e in [
        (False, rho * g / np.linalg.norm(g)),
        (True, rho * w**2 * g / np.linalg.norm(np.abs(w) * g)),
    ]:
        model = nn.Linear(2, 1, bias=False).double()
        model.weight.data = torch.from_numpy(w[None].copy())
        stack = Stack(
            model, "real", [SAM(rho, adaptive)], optimizer=lambda p: torch.optim.SGD(p, lr=0.1)
        )
        stack.gradients(stack.window((torch.from_numpy(x[None]), torch.tensor([y]).double())))
        assert np.allclose(model.weight.grad.numpy()[0], grad(w + e))
        assert np.array_equal(model.weight.detach().numpy()[0], w)


@pytest.mark.parametrize("adaptive", [False, True])
def test_oracle_is_pytorch_optimizer(adaptive: bool) -> None:
    stack = make_stack([SAM(0.2, adaptive)], coupled=False)
    model = make_model(coupled=False)
    theirs = pytorch_optimizer.SAM(
        model.parameters(), torch.optim.SGD, rho=0.2, adaptive=adaptive, lr=0.1, momentum=0.9
    )
    for _ in range(3):
        theirs.zero_grad()

        def closure() -> Tensor:
            theirs.zero_grad()
            loss = sum(loss_of(model, batch, 10) for batch in PARTS)
            loss.backward()
            return loss

        closure()
        theirs.step(closure)
        stack.step(PARTS)
    assert close(weights(model), weights(stack.run.module))


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("adaptive", [False, True])
def test_plain_loop_equals_the_stack_to_the_bit(coupled: bool, adaptive: bool) -> None:
    sam = SAM(0.2, adaptive)
    stack, model = make_stack([sam], coupled=coupled), make_model(coupled=coupled)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in PARTS:
        optimizer.zero_grad()
        seeding.seed_default(stack.run.position())
        loss_of(model, batch, batch.size).backward()
        seeding.seed_default(stack.run.position())  # the same dropout masks
        with sam.ascend(model), modes.still_statistics(model):
            loss_of(model, batch, batch.size).backward()
        optimizer.step()
        stack.step([batch])
    assert equal(weights(model), weights(stack.run.module))


# traps ------------------------------------------------------------------------------------------
class Branch(nn.Module):
    """The second head is used in the first pass only, as in a model that drops layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.seen = nn.Linear(3, 2), nn.Linear(3, 2), []
        self.never = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(weights(self))
        return self.one(x) + self.two(x) if len(self.seen) == 1 else self.one(x)


@contextmanager
def subtracting(model: Net) -> Iterator[None]:
    """Wrong: keeps the step in mind, and takes it back where there is a gradient again."""
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    steps = {p: 0.05 * p.grad / norm for p in model.parameters() if p.grad is not None}
    with torch.no_grad():
        for p, step in steps.items():
            p.add_(step)
    model.zero_grad()
    yield
    with torch.no_grad():
        for p, step in steps.items():
            if p.grad is not None:
                p.sub_(step)


def branch(ascend: Ascend) -> tuple[Branch, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Branch()
    before, x = weights(model), torch.randn(4, 3)
    model(x).square().mean().backward()
    with ascend(model):
        model(x).square().mean().backward()
    return model, before


@trap(right=SAM().ascend, wrong=subtracting)
def test_parameters_without_gradient_in_the_second_pass_come_back(ascend: Ascend) -> None:
    model, before = branch(ascend)
    assert model.two.weight.grad is None
    assert not torch.equal(model.seen[1]["two.weight"], before["two.weight"])
    assert torch.equal(model.seen[1]["never.weight"], before["never.weight"])
    assert torch.equal(model.two.weight, before["two.weight"])


@trap(right=SAM().ascend, wrong=subtracting)
def test_weights_come_back_to_the_bit(ascend: Ascend) -> None:
    model = make_model(coupled=False)
    before = weights(model)
    loss_of(model, PARTS[0], 6).backward()
    with ascend(model):
        loss_of(model, PARTS[0], 6).backward()
    assert equal(before, weights(model))


@trap(right=SAM().ascend, wrong=subtracting)
def test_weights_come_back_when_the_second_pass_raises(ascend: Ascend) -> None:
    model = make_model(coupled=False)
    before = weights(model)
    loss_of(model, PARTS[0], 6).backward()
    with pytest.raises(RuntimeError), ascend(model):
        raise RuntimeError
    assert all(torch.allclose(before[k], v, atol=1e-6) for k, v in weights(model).items())


@method
class Moving(SAM):
    """Wrong: the second pass moves the batch statistics too."""

    name: ClassVar[str] = "moving"

    def gradients(self, run: Training, window: Any, inner: Any) -> None:
        inner(window)
        with self.ascend(run.module):
            inner(window)


@trap(right=SAM(), wrong=Moving())
def test_batch_statistics_stand_still_in_the_second_pass(sam: SAM) -> None:
    plain, sharp = make_stack(), make_stack([sam])
    for stack in (plain, sharp):
        stack.gradients(stack.window(PARTS))
    assert equal(dict(plain.run.module.named_buffers()), dict(sharp.run.module.named_buffers()))


@method
class PerMicro(SAM):
    """Wrong under accumulation: a closure for each micro-batch drops what has gathered."""

    name: ClassVar[str] = "per-micro"

    def gradients(self, run: Training, window: Any, inner: Any) -> None:
        inner(window)

    def backward(self, run: Training, forward: Forward, inner: Any) -> None:
        inner(forward)
        with self.ascend(run.module):
            inner(run.again())


@trap(right=SAM(0.2), wrong=PerMicro(0.2))
def test_a_window_of_micro_batches_is_one_batch(sam: SAM) -> None:
    stacks = [make_stack([sam], coupled=False) for _ in range(2)]
    for stack, window in zip(stacks, [PARTS, [Batch.join(PARTS)]], strict=True):
        stack.step(window)
    assert close(*(weights(stack.run.module) for stack in stacks))


class Overflow(nn.Module):
    """One parameter's gradient is not finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.good, self.bad = nn.Linear(2, 2), nn.Parameter(torch.ones(2))
        self.bad.register_hook(lambda g: g * value)
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(weights(self))
        return self.good(x) * self.bad


@contextmanager
def naive(model: Net) -> Iterator[None]:
    """Wrong: divides by whatever the norm is."""
    found = [p for p in model.parameters() if p.grad is not None]
    saved = [p.detach().clone() for p in found]
    norm = torch.stack([p.grad.norm() for p in found]).norm()
    with torch.no_grad():
        for p in found:
            p.add_(p.grad * (0.05 / norm))
    yield
    modes.put_back(list(zip(found, saved, strict=True)))


@trap(right=SAM().ascend, wrong=naive)
def test_a_norm_that_is_no_use_moves_nothing(ascend: Ascend) -> None:
    for value, scale in [(float("inf"), 1.0), (float("nan"), 1.0), (1.0, 0.0)]:
        model = Overflow(value)
        (model(torch.ones(1, 2)).sum() * scale).backward()
        with ascend(model):
            model(torch.ones(1, 2))
        assert equal(*model.seen)
        assert len(model.seen) == 2


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_scaler_does_not_change_the_direction(adaptive: bool) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    stacks = [make_stack([SAM(0.2, adaptive)], scaler=one) for one in (None, scaler)]
    for stack in stacks:
        stack.step(PARTS)
    assert close(*(weights(stack.run.module) for stack in stacks))
    no_eps = make_model(coupled=False)
    (loss_of(no_eps, PARTS[0], 6) * 1e-15).backward()  # where a constant below would swallow it
    before = weights(no_eps)
    with SAM(0.2).ascend(no_eps):
        moved = [(p - before[n]).norm() for n, p in no_eps.named_parameters()]
        assert torch.stack(moved).norm().item() == pytest.approx(0.2, rel=1e-3)


@method
class Counter(Method):
    """A queue, as MoCo's: each micro-batch stages one entry that an update commits."""

    name: ClassVar[str] = "counter"
    layer: ClassVar[Layer] = Layer.CONSISTENCY

    def __post_init__(self) -> None:
        self.queue: list[int] = []

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        run.stage(self, batch.size)
        return inner(batch)

    def after_update(self, run: Training) -> None:
        self.queue += run.staged(self)


@method
class Eager(Counter):
    """Wrong: fills its queue in the forward."""

    name: ClassVar[str] = "eager"

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        self.queue.append(batch.size)
        return inner(batch)

    def after_update(self, run: Training) -> None:
        pass


@trap(right=Counter(), wrong=Eager())
def test_a_queue_is_filled_once_though_its_forward_is_replayed(counter: Counter) -> None:
    stack = make_stack([SAM(), counter])
    stack.step(PARTS)
    [queue] = [m.queue for m in stack.methods if isinstance(m, Counter)]
    assert queue == [6, 4]


def test_heads_that_methods_built_ascend_too() -> None:
    @method
    class Built(Method):
        name: ClassVar[str] = "built"
        layer: ClassVar[Layer] = Layer.CONSISTENCY

        def build(self, run: Training) -> None:
            run.heads["built"] = nn.Linear(3, 1)

        def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
            forward = inner(batch)
            seen.append(run.heads["built"].weight.detach().clone())
            return forward.add("built", run.heads["built"](forward.output).square())

    seen: list[Tensor] = []
    stack = make_stack([SAM(0.5), Built()])
    stack.gradients(stack.window(PARTS))
    head = stack.run.heads["built"].weight
    assert not torch.allclose(seen[0], seen[2])
    assert torch.equal(seen[0], head)
    assert torch.equal(seen[2], seen[3])


def test_sparse_and_half_gradients_and_nothing_at_all() -> None:
    model, other = make_model(coupled=False), make_model(coupled=False)
    model.embed.sparse = True
    for one in (model, other):
        loss_of(one, PARTS[0], 6).backward()
    with SAM().ascend(model), SAM().ascend(other):
        assert close(weights(model), weights(other))
    half = nn.Linear(4, 2).half()
    before = weights(half)
    half.weight.grad = torch.full((2, 4), 300.0).half()  # its squares are infinite in fp16
    with SAM(rho=0.5).ascend(half):
        moved = (half.weight - before["weight"]).float().norm()
        assert moved.item() == pytest.approx(0.5, rel=1e-2)
    with SAM().ascend(half):  # no gradient is left
        assert equal(before, weights(half))
