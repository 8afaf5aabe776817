"""MoCo."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import (
    close,
    data,
    equal,
    make_model,
    make_run,
    make_stack,
    make_task,
    noisy,
    resources,
    weights,
)
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Layer, Method, method
from whet.methods.moco import MoCo, enqueue, follow, unit_vectors
from whet.objectives import info_nce
from whet.run import Run
from whet.stack import Stack
from whet.stage import Recipe, Stage

CASE = Case(
    MoCo(queue=10, momentum=0.9, dim=4, at="head"),
    accumulates="the views are drawn per micro-batch, and keys enter the queue with the update",
)


def small(**changes: Any) -> MoCo:
    return MoCo(**({"queue": 10, "momentum": 0.9, "dim": 4, "at": "head"} | changes))


def batches(count: int = 3) -> list[Batch]:
    return Batch.of(data()).split(6)[:count]


def moco_of(stack: Stack) -> MoCo:
    [found] = [one for one in stack.methods if isinstance(one, MoCo)]
    return found


def plain_sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def pretrain(moco: MoCo, model: nn.Module | None = None, **changes: Any) -> Stack:
    given = {"optimizer": plain_sgd, "data": data(), "resources": resources()} | changes
    return Stack(model or make_model(coupled=False), "contrastive", [moco], **given)


# the core ------------------------------------------------------------------------------------
def test_loss_is_the_paper_s() -> None:
    """Algorithm 1: logits = cat([l_pos, l_neg], dim=1); CrossEntropyLoss(logits / t, zeros)."""
    maker = torch.Generator().manual_seed(0)
    q, k, bank = unit_vectors(7, 5, maker), unit_vectors(7, 5, maker), unit_vectors(11, 5, maker)
    l_pos = torch.bmm(q.view(7, 1, 5), k.view(7, 5, 1)).view(7, 1)
    l_neg = torch.mm(q, bank.T)
    logits = torch.cat([l_pos, l_neg], dim=1) / 0.07
    labels = torch.zeros(7, dtype=torch.long)
    expected = F.cross_entropy(logits, labels, reduction="none")
    assert torch.allclose(info_nce(q, k, bank, 0.07), expected, atol=1e-5)


def test_follow_by_hand() -> None:
    slow, fast = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        slow.weight.fill_(2.0)
        fast.weight.fill_(12.0)
    fast(torch.tensor([[0.0], [2.0]]))
    follow(slow, fast, momentum=0.9)
    assert math.isclose(slow.weight.item(), 0.9 * 2 + 0.1 * 12, rel_tol=1e-6)
    assert fast.weight.item() == 12.0
    assert slow.num_batches_tracked == 1


def test_more_keys_than_places_keep_the_last() -> None:
    ring = torch.zeros(4, 1)
    keys = torch.arange(1.0, 12.0)[:, None]
    at = enqueue(ring, keys, at=3)
    one, spot = torch.zeros(4, 1), 3
    for key in keys:  # one at a time
        spot = enqueue(one, key[None], spot)
    assert at == spot == (3 + 11) % 4
    assert torch.equal(ring, one)
    assert sorted(ring.flatten().tolist()) == [8.0, 9.0, 10.0, 11.0]


# the method ----------------------------------------------------------------------------------
def recording() -> tuple[dict[str, Any], list[Any]]:
    made: list[Any] = []

    def view(given: Any, generator: torch.Generator) -> Any:
        made.append(noisy(0.2)(given, generator))
        return made[-1]

    return resources() | {"view": view}, made


def test_hand_loop_equals_the_method_to_the_bit() -> None:
    given, made = recording()
    stack = make_stack([small(weight=0.5)], coupled=False, resources=given, seed=0)
    head = copy.deepcopy(stack.run.heads["moco"])
    for batch in batches():
        stack.step(batch)
    model, moco = make_model(coupled=False), small()
    moco.begin(model, head, seeding.generator(0, 0, 0, "moco", "queue"))
    optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1, momentum=0.9)
    caught: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    for batch, other in zip(batches(), made, strict=True):
        keys = moco.keys(other)
        plain = F.cross_entropy(model(**batch.inputs), batch.targets, reduction="sum") / 6
        loss = plain + moco.losses(head(caught[-1]), keys).sum() * (0.5 / 6)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        moco.update(model, head, [keys])
    assert equal(weights(stack.run.module), weights(model))
    assert equal(weights(stack.run.heads["moco"]), weights(head))
    assert torch.equal(moco_of(stack)._queue, moco._queue)


def test_official_order_gives_the_same() -> None:
    """The paper's Algorithm 1, written out: its momentum update stands before the keys."""
    given, made = recording()
    start = copy.deepcopy(pretrain(small(at=None), resources=given))
    stack = pretrain(small(at=None), resources=given)
    for batch in batches():
        stack.step(batch)
    start.open()
    f_q = nn.Sequential(Keywords(start.run.module), start.run.heads["moco"])
    f_k, bank = copy.deepcopy(f_q), moco_of(start)._queue.clone()
    optimizer = plain_sgd(f_q.parameters())
    at = 0
    for key_view, query_view in zip(made[::2], made[1::2], strict=True):
        with torch.no_grad():
            for slow, fast in zip(f_k.parameters(), f_q.parameters(), strict=True):
                slow.mul_(0.9).add_(fast * 0.1)
            k = F.normalize(f_k(key_view), dim=1)
        q = F.normalize(f_q(query_view), dim=1)
        scores = torch.cat([(q * k).sum(1, keepdim=True), q @ bank.T], dim=1) / 0.2
        optimizer.zero_grad()
        F.cross_entropy(scores, torch.zeros(6, dtype=torch.long)).backward()
        optimizer.step()
        for key in k:
            bank[at], at = key, (at + 1) % 10
    assert close(weights(stack.run.module), weights(f_q[0].model))
    assert close(weights(stack.run.heads["moco"]), weights(f_q[1]))
    assert torch.allclose(moco_of(stack)._queue, bank, atol=1e-6)
    assert moco_of(stack)._pointer == at == 18 % 10


class Keywords(nn.Module):
    """A model that takes its mapping as one argument."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: dict[str, Tensor]) -> Tensor:
        return self.model(**given)  # type: ignore[no-any-return]


def test_neutral_form_and_effect() -> None:
    for at in ("head", None):
        changes: dict[str, Any] = {"optimizer": {"name": "sgd", "lr": 0.1}}
        plain = weights(make_run(**changes).fit().module)
        neutral = make_run([small(weight=0.0, at=at)], **changes).fit()
        assert equal(plain, weights(neutral.module))
        assert not close(plain, weights(make_run([small(at=at)], **changes).fit().module))


def test_v2_head_and_width_from_data() -> None:
    stack = make_stack([small(hidden=7, at=None)])
    widths = [p.shape for p in stack.run.heads["moco"].parameters()]
    assert widths == [(7, 3), (7,), (4, 7), (4,)]
    assert stack.step(batches(1)[0])


def test_keys_are_staged_once_however_often_the_forward_runs() -> None:
    @method
    class Twice(Method):
        name: ClassVar[str] = "twice"
        layer: ClassVar[Layer] = Layer.CONSISTENCY

        def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
            inner(batch)
            return inner(batch)

    stack = make_stack([small(), Twice()])
    stack.step(batches(2))
    assert moco_of(stack)._pointer == 12 % 10


def test_accumulated_keys_enter_in_order() -> None:
    given, _ = recording()
    stack = make_stack([small(queue=30)], coupled=False, resources=given)
    seen: list[Tensor] = []
    moco, keys = moco_of(stack), moco_of(stack).keys
    moco.keys = lambda inputs: seen.append(keys(inputs)) or seen[-1]  # type: ignore[func-returns-value,method-assign]
    stack.step(Batch.of(data()).split(6)[-3:])  # the last has four rows
    assert moco._pointer == 16
    assert torch.equal(moco._queue[:16], torch.cat(seen))


def test_skipped_update_moves_nothing() -> None:
    stack = make_stack([small()])
    stack.open()
    before = copy.deepcopy(moco_of(stack).state_dict())
    stack.gradients(stack.window(batches(1)[0]))
    stack.after_update(False)
    after = moco_of(stack).state_dict()
    assert equal(before["encoder"], after["encoder"])
    assert torch.equal(before["queue"], after["queue"])
    assert after["pointer"] == 0


def test_key_encoder_takes_the_model_s_modes() -> None:
    stack = make_stack([small()])
    stack.open()
    stack.run.module.norm.eval()  # type: ignore[union-attr,operator]
    stack.step(batches(1)[0])
    assert not moco_of(stack)._encoder.norm.training  # type: ignore[union-attr]


def test_mixed_precision() -> None:
    stack = make_stack([small()])
    run = stack.run
    run.autocast = lambda: torch.autocast("cpu", torch.bfloat16)

    def model(**given: Tensor) -> Tensor:
        with run.autocast():
            return run.module(**given).float()  # type: ignore[no-any-return]

    run.model = model
    stack.step(batches(2))
    assert moco_of(stack)._queue.dtype == torch.float32
    assert moco_of(stack)._pointer == 12 % 10
    assert all(p.grad is not None and p.grad.isfinite().all() for p in run.heads.parameters())


def test_pretraining_learns() -> None:
    """The loss falls below that of guessing, log(1 + queue), on views never trained on."""
    guess = math.log(1 + 64)
    stack = pretrain(
        MoCo(queue=64, momentum=0.9, dim=8, hidden=16, at="head", temperature=0.2),
        optimizer=lambda p: torch.optim.Adam(p, lr=0.01),
    )
    losses = []
    for _ in range(25):
        for batch in Batch.of(data()).split(20):
            stack.step(batch)
            losses.append(stack.loss)
    assert sum(losses[-6:]) / 6 < 0.8 * guess
    with pytest.raises(InputError, match="train a probe on them"):
        judge(stack)


def judge(stack: Stack) -> None:
    from whet.evaluation import evaluate

    evaluate(stack.predictor(), batches())


def test_pretraining_stage_hands_over_to_a_supervised_one() -> None:
    """The task's select part belongs to the task's objective: pre-training is not judged on it."""
    optimizer = {"name": "sgd", "lr": 0.1}
    first = Stage(
        updates=3, batch_size=6, objective="contrastive", methods=[small()], optimizer=optimizer
    )
    run = Run(
        make_task(),
        Recipe([first, Stage(updates=2, batch_size=6, optimizer=optimizer)]),
        device="cpu",
    ).fit()
    assert [row["stage"] for row in run.history] == [1]


# errors --------------------------------------------------------------------------------------
def test_unknown_module_lists_candidates() -> None:
    with pytest.raises(InputError, match=r"no module 'haed'; .* are: hidden, head"):
        make_stack([small(at="haed")])


def test_width_needs_data_or_a_linear() -> None:
    with pytest.raises(InputError, match="Name a Linear module with at=, or pass data="):
        make_stack([small(at=None)], data=None)


def test_features_must_be_vectors() -> None:
    model = nn.Sequential(nn.Embedding(20, 4), nn.Linear(4, 3))
    stack = Stack(
        model, "tokens", [small(at="1")], optimizer=plain_sgd, resources={"view": lambda x, g: x}
    )
    with pytest.raises(InputError, match=r"features have shape \(2, 5, 4\)"):
        stack.step((torch.ones(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.long)))


def test_module_that_is_not_called() -> None:
    model = nn.Linear(4, 3)
    model.spare = nn.Linear(2, 2)
    stack = Stack(
        model,
        "categorical",
        [small(at="spare")],
        optimizer=plain_sgd,
        resources={"view": lambda x, g: x},
    )
    with pytest.raises(InputError, match="'spare' was not called"):
        stack.step((torch.ones(2, 4), torch.tensor([0, 1])))


def test_half_precision_weights() -> None:
    with pytest.raises(NotApplicable, match=r"half precision.*fp32"):
        Stack(make_model().bfloat16(), "categorical", [small()], resources=resources())


# traps ---------------------------------------------------------------------------------------
class EnqueuesFirst(MoCo):
    """Keys enter the queue before the logits, so that a positive stands among its negatives."""

    def losses(self, projected: Tensor, keys: Tensor) -> Tensor:
        self._pointer = enqueue(self._queue, keys, self._pointer)
        return super().losses(projected, keys)

    def update(self, model: nn.Module, head: nn.Module, keys: Any) -> None:
        super().update(model, head, [])


@trap(right=MoCo, wrong=EnqueuesFirst)
def test_logits_are_against_the_old_queue(kind: Any) -> None:
    given, made = recording()
    stack = pretrain(kind(queue=10, dim=4, at=None), resources=given)
    stack.open()
    old, head = moco_of(stack)._queue.clone(), copy.deepcopy(stack.run.heads["moco"])
    model = make_model(coupled=False)
    stack.step(batches(1)[0])
    k, q = (F.normalize(head(model(**view)), dim=1) for view in made)
    scores = torch.cat([(q * k).sum(1, keepdim=True), q @ old.T], dim=1) / 0.2
    expected = F.cross_entropy(scores, torch.zeros(6, dtype=torch.long))
    assert math.isclose(stack.loss, expected.item(), rel_tol=1e-5)


class ForgetsPosition(MoCo):
    """Saves the queue and not where it is written next."""

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"pointer": 0}


@trap(right=MoCo, wrong=ForgetsPosition)
def test_queue_position_is_in_the_checkpoint(kind: Any) -> None:
    def stack() -> Stack:
        return make_stack([kind(queue=10, momentum=0.9, dim=4, at="head")])

    whole, first, rest = stack(), stack(), stack()
    for batch in batches(4):
        whole.step(batch)
    for batch in batches(4)[:3]:
        first.step(batch)
    rest.run.module.load_state_dict(weights(first.run.module))
    rest.optimizer.load_state_dict(first.optimizer.state_dict())
    rest.load_state_dict(copy.deepcopy(first.state_dict()))
    rest.step(batches(4)[3])
    assert torch.equal(moco_of(rest)._queue, moco_of(whole)._queue)
    assert equal(weights(rest.run.module), weights(whole.run.module))


def enqueue_slice(queue: Tensor, keys: Tensor, at: int) -> int:
    """The official lines without their assert: a slice that ends with the ring."""
    queue[at : at + len(keys)] = keys[: len(queue) - at]
    return (at + len(keys)) % len(queue)


@trap(right=enqueue, wrong=enqueue_slice)
def test_queue_need_not_be_a_multiple_of_the_batch(write: Any) -> None:
    ring = torch.zeros(5, 1)
    at = write(ring, torch.tensor([[1.0], [2.0], [3.0]]), 0)
    at = write(ring, torch.tensor([[4.0], [5.0], [6.0]]), at)
    assert ring.flatten().tolist() == [6.0, 2.0, 3.0, 4.0, 5.0]
    assert at == 1


class ParametersOnly(MoCo):
    """Follows by `parameters()` alone: the key encoder's running statistics stay at the start."""

    def update(self, model: nn.Module, head: nn.Module, keys: Any) -> None:
        kept = {name: b.clone() for name, b in self._encoder.named_buffers()}
        super().update(model, head, keys)
        for name, buffer in self._encoder.named_buffers():
            buffer.copy_(kept[name])


@trap(right=MoCo, wrong=ParametersOnly)
def test_key_encoder_has_the_model_s_statistics(kind: Any) -> None:
    stack = make_stack([kind(queue=10, dim=4, at="head")])
    for batch in batches():
        stack.step(batch)
    model, encoder = stack.run.module, moco_of(stack)._encoder
    assert equal(dict(model.named_buffers()), dict(encoder.named_buffers()))
    assert model.norm.num_batches_tracked == 3  # type: ignore[union-attr]


class EnqueuesInForward(MoCo):
    """Fills the queue in the forward, and again when it is replayed."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
        forward = super().forward(run, batch, inner)
        self._queue = self._queue.clone()
        self._pointer = enqueue(self._queue, run.staged(self)[-1], self._pointer)
        return forward

    def update(self, model: nn.Module, head: nn.Module, keys: Any) -> None:
        super().update(model, head, [])


@method
class Replays(Method):
    """SAM's passes: the gradients of a window, twice."""

    name: ClassVar[str] = "replays"
    layer: ClassVar[Layer] = Layer.SHARPNESS

    def gradients(self, run: Any, window: Any, inner: Any) -> None:
        inner(window)
        run.zero_grad()
        inner(window)


@trap(right=MoCo, wrong=EnqueuesInForward)
def test_queue_is_filled_once_when_gradients_are_taken_twice(kind: Any) -> None:
    stack = make_stack([kind(queue=10, dim=4, at="head"), Replays()])
    stack.step(batches(1)[0])
    assert moco_of(stack)._pointer == 6


class EncoderInOptimizer(MoCo):
    """Registers the key encoder with what is trained: weight decay then shrinks it."""

    def start(self, run: Any) -> None:
        super().start(run)
        run.optimizer.add_param_group({"params": list(self._encoder.parameters())})


@trap(right=MoCo, wrong=EncoderInOptimizer)
def test_key_encoder_is_not_in_the_optimizer(kind: Any) -> None:
    stack = make_stack(
        [kind(queue=10, momentum=1.0, dim=4, at="head")],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.1),
    )
    stack.step(batches(1)[0])
    held = {id(p) for group in stack.optimizer.param_groups for p in group["params"]}
    moco = moco_of(stack)
    assert not held & {id(p) for p in moco._encoder.parameters()}
    assert held >= {id(p) for p in stack.run.heads.parameters()}
    assert not any(p.requires_grad for p in moco._encoder.parameters())
    assert equal(
        weights(moco._encoder), weights(make_model()) | dict(moco._encoder.named_buffers())
    )


def test_resumes_to_the_bit(tmp_path: Any) -> None:
    whole = make_run([CASE.method]).fit()
    make_run([CASE.method], folder=tmp_path, checkpoint_every=1).fit(until=3)
    rest = make_run([CASE.method], folder=tmp_path).fit()
    assert equal(weights(whole.module), weights(rest.module))
    assert equal(weights(whole.stack.run.heads), weights(rest.stack.run.heads))
