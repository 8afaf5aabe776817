"""FreeLB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, method
from whet.methods.freelb import FreeLB
from whet.methods.sam import SAM
from whet.objectives.objective import call
from whet.stack import Stack
from whet.training import Training

CASE = Case(
    FreeLB(steps=3, step_size=0.5).during(0, 1),
    cost=Cost(forwards=3, backwards=3, copies=1, inputs=3),
)

PARTS = [Batch.of(data()).take(slice(0, 6)), Batch.of(data()).take(slice(6, 10))]
Net = nn.Module


def gradients(model: Net) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def by_stack(
    method: FreeLB, window: list[Batch], model: Net | None = None, *more: Method
) -> dict[str, Tensor]:
    model = make_model(coupled=False) if model is None else model
    stack = Stack(model, methods=[method, *more], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    stack.gradients(stack.window(window))
    return gradients(model)


def loss_of(model: Net, batch: Batch, items: int) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets, reduction="sum") / items


def shifted(model: Net, batch: Batch, delta: Tensor, items: int) -> Tensor:
    """The fixture's loss with embeddings that are looked up by hand."""
    tokens = batch.inputs["tokens"]
    pooled = (model.embed.weight[tokens] + delta).mean(1)
    hidden = model.hidden(torch.cat([pooled, batch.inputs["floats"]], 1))
    logits = model.head(model.dropout(model.norm(hidden).tanh()))
    return F.cross_entropy(logits, batch.targets, reduction="sum") / items


def by_hand(method: FreeLB, window: list[Batch], first: Any = None) -> dict[str, Tensor]:
    """The paper's Algorithm 1, each gradient by autograd.grad and each example on its own."""
    model = make_model(coupled=False)
    items, total = sum(batch.size for batch in window), {}
    parameters = dict(model.named_parameters())
    for batch in window:
        mask = (batch.inputs["tokens"] != 0).unsqueeze(-1).float()
        delta = torch.zeros(*batch.inputs["tokens"].shape, 6) if first is None else first
        for _ in range(method.steps):
            delta = delta.detach().requires_grad_()
            loss = shifted(model, batch, delta, items)
            *found, g = torch.autograd.grad(loss, [*parameters.values(), delta])
            for name, one in zip(parameters, found, strict=True):
                if name == "embed.weight":
                    one = one * (torch.arange(20) != 0).unsqueeze(1)  # padding_idx
                total[name] = total.get(name, 0.0) + one / method.steps
            rows = []
            for row, up in zip(delta.detach(), g * mask, strict=True):
                row = row + method.step_size * up / up.norm()
                if method.epsilon and row.norm() > method.epsilon:
                    row = row * method.epsilon / row.norm()
                rows.append(row)
            delta = torch.stack(rows)
    return total


@pytest.mark.parametrize("epsilon", [0.0, 0.6])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_oracle_is_the_papers_algorithm_by_hand(steps: int, epsilon: float) -> None:
    method = FreeLB(steps=steps, step_size=0.4, epsilon=epsilon).during(0, 1)
    assert close(by_stack(method, PARTS), by_hand(method, PARTS))
    if epsilon and steps == 4:
        assert not close(by_hand(method, PARTS), by_hand(FreeLB(steps, 0.4).during(0, 1), PARTS))


class Watched:
    """What the embedding returns at every step, and the deltas these are made of."""

    def __init__(self, model: Net) -> None:
        self.outputs: list[Tensor] = []
        self.hidden: list[Tensor] = []
        self.model = model
        model.hidden.register_forward_pre_hook(self.saw)
        model.dropout.register_forward_hook(lambda m, a, out: self.hidden.append(out == 0))

    def saw(self, module: nn.Module, args: Any) -> None:
        self.outputs.append(args[0][:, :6].detach().clone())


def test_formula_of_one_step_by_hand() -> None:
    """One word, one example: delta_1 is step_size times the unit gradient."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.seen = nn.Embedding(2, 2), []

        def forward(self, ids: Tensor) -> Tensor:
            out = self.embed(ids)[:, 0]
            self.seen.append(out.detach().clone())
            return out * torch.tensor([3.0, -4.0])

    model = One()
    model.embed.weight.data.zero_()
    batch = Batch(torch.tensor([[1]]), torch.tensor([0]))
    by_stack(FreeLB(steps=2, step_size=0.5).during(0, 1), [batch], model)
    # softmax(0, 0) = 1/2: the loss's gradient is (-1/2 * 3, 1/2 * -4), of length 2.5
    assert torch.allclose(model.seen[1] - model.seen[0], torch.tensor([[-0.3, -0.4]]))


# wrong variants, as they are passed around ------------------------------------------------------
@method
class Loose(FreeLB):
    """Gradients are not divided by K, masks are drawn anew, and padding moves."""

    name: ClassVar[str] = "loose"

    def backward(self, run: Training, forward: Forward, inner: Any) -> None:
        inner(forward)
        for _ in range(1, self.steps):
            for one in self._shift.calls:
                g = one.delta.grad
                one.move(one.delta.detach() + self.step_size * g / g.norm())
            inner(run.again(fresh=True))


@trap(right=FreeLB, wrong=Loose)
def test_the_size_of_the_gradient_is_that_of_one_loss(kind: Any) -> None:
    same = kind(steps=7, step_size=0.0).during(0, 1)  # no move: K times the same pass
    still = by_stack(same, PARTS[:1])
    assert close(still, by_stack(FreeLB(steps=1).during(0, 1), PARTS[:1]))


@trap(right=FreeLB, wrong=Loose)
def test_each_sentence_has_a_norm_of_its_own(kind: Any) -> None:
    model = make_model(coupled=False)
    seen = Watched(model)
    by_stack(kind(steps=2, step_size=0.5).during(0, 1), [PARTS[0].take(slice(1, 3))], model)
    moved = (seen.outputs[1] - seen.outputs[0]) * 5  # the model means over five words
    # a mean over words gives each the same gradient: a row of length 0.5 is 0.5/sqrt(5) for each
    assert torch.allclose(moved.norm(dim=1), torch.full((2,), 0.5 * 5**0.5), rtol=1e-4)


@trap(right=FreeLB, wrong=Loose)
def test_padding_is_not_moved(kind: Any) -> None:
    model = make_model(coupled=False)
    seen: list[Tensor] = []
    method = kind(steps=3, step_size=0.5, init=0.3).during(0, 1)

    def saw(*_: Any) -> None:
        seen.append(method_of().calls[0].delta.detach().clone())

    stack = Stack(model, methods=[method], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    method_of = lambda: stack.methods[0]._shift  # noqa: E731
    model.hidden.register_forward_pre_hook(saw)
    stack.gradients(stack.window(PARTS[:1]))
    padding = PARTS[0].inputs["tokens"] == 0
    assert padding.any()
    assert len(seen) == 3
    assert all(not delta[padding].any() and delta[~padding].any() for delta in seen)


@trap(right=FreeLB, wrong=Loose)
def test_all_steps_have_one_dropout_mask(kind: Any) -> None:
    model = make_model(coupled=True, dropout=0.5)
    seen = Watched(model)
    by_stack(kind(steps=3, step_size=0.1).during(0, 1), PARTS[:1], model)
    assert len(seen.hidden) == 3
    assert seen.hidden[0].any()
    assert all(torch.equal(mask, seen.hidden[0]) for mask in seen.hidden)


@method
class Extra(FreeLB):
    """Moves once more after the last step, for nobody."""

    name: ClassVar[str] = "extra"
    climbs: ClassVar[list[int]] = []

    def _climb(self) -> None:
        self.climbs.append(1)
        super()._climb()

    def backward(self, run: Training, forward: Forward, inner: Any) -> None:
        super().backward(run, forward, inner)
        if self.wasteful:
            self._climb()

    wasteful: ClassVar[bool] = False


@method
class Wasteful(Extra):
    name: ClassVar[str] = "wasteful"
    climbs: ClassVar[list[int]] = []
    wasteful: ClassVar[bool] = True


@trap(right=Extra, wrong=Wasteful)
def test_no_move_after_the_last_step(kind: Any) -> None:
    kind.climbs.clear()
    try:
        by_stack(kind(steps=3).during(0, 1), PARTS[:1])
    except AttributeError as error:
        raise AssertionError from error
    assert len(kind.climbs) == 2


def embed_once(method: FreeLB, window: list[Batch]) -> dict[str, Tensor]:
    """Wrong: the embeddings are looked up once, and the steps' graphs all end at a copy."""
    model = make_model(coupled=False)
    [batch] = window
    tokens = batch.inputs["tokens"]
    once = model.embed(tokens).detach()
    for _ in range(method.steps):
        handle = model.embed.register_forward_hook(lambda m, a, out: once)
        (loss_of(model, batch, batch.size) / method.steps).backward()
        handle.remove()
    return gradients(model)


@trap(right=by_stack, wrong=embed_once)
def test_embeds_anew_so_that_the_table_learns_from_every_step(run: Callable[..., Any]) -> None:
    still = run(FreeLB(steps=3, step_size=0.0).during(0, 1), PARTS[:1])
    assert "embed.weight" in still
    assert close(still, by_stack(FreeLB(steps=1).during(0, 1), PARTS[:1]))


def test_begins_at_random_with_a_length_that_the_sentence_does_not_decide() -> None:
    model = make_model(coupled=False)
    seen = Watched(model)
    tokens = torch.randint(1, 20, (400, 5), generator=torch.Generator().manual_seed(0))
    tokens[:200, 2:] = 0
    batch = Batch({"tokens": tokens, "floats": torch.zeros(400, 4)}, torch.zeros(400).long())
    method = FreeLB(steps=1, init=0.6).during(0, 1)
    found: list[Tensor] = []
    stack = Stack(model, methods=[method], optimizer=lambda p: torch.optim.SGD(p, lr=0.1))
    model.hidden.register_forward_pre_hook(
        lambda *_: found.append(stack.methods[0]._shift.calls[0].delta.detach().clone())
    )
    stack.gradients(stack.window(batch))
    lengths = found[0].flatten(1).norm(dim=1)
    # uniform in ±a has root mean square a/sqrt(3), here over len x dim entries of a = init/sqrt()
    for part in (lengths[:200], lengths[200:]):
        assert part.square().mean().sqrt().item() == pytest.approx(0.6 / 3**0.5, rel=0.03)
    assert seen.outputs[0].isfinite().all()


def test_replayed_by_sam_it_climbs_the_same_way() -> None:
    """A radius so small that the weights do not change: both passes give one gradient."""
    method = FreeLB(steps=3, step_size=0.3, init=0.3).during(0, 1)
    alone = by_stack(method, PARTS)
    assert equal(alone, by_stack(method, PARTS))
    assert close(alone, by_stack(method, PARTS, None, SAM(rho=1e-9)))
    assert not close(alone, by_stack(FreeLB(steps=3, step_size=0.3).during(0, 1), PARTS))


def test_repeated_within_a_micro_batch_it_begins_where_it_began() -> None:
    @method
    class Twice(Method):
        name: ClassVar[str] = "twice"
        layer: ClassVar[Layer] = Layer.BATCH_SOURCE

        def backward(self, run: Training, forward: Forward, inner: Any) -> None:
            inner(forward)
            inner(run.again())

    one = FreeLB(steps=3, step_size=0.3, init=0.3).during(0, 1)
    once, twice = by_stack(one, PARTS[:1]), by_stack(one, PARTS[:1], None, Twice())
    assert close({n: 2 * g for n, g in once.items()}, twice)


def test_two_calls_in_one_forward_share_the_delta() -> None:
    @method
    class Pair(Method):
        """As R-Drop: the batch goes through twice, and both losses count half."""

        name: ClassVar[str] = "pair"
        layer: ClassVar[Layer] = Layer.CONSISTENCY

        def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
            one, two = inner(batch), inner(batch)
            return one.replace(losses=(one.losses + two.losses) / 2)

    one = FreeLB(steps=3, step_size=0.3, init=0.3).during(0, 1)
    assert close(by_stack(one, PARTS), by_stack(one, PARTS, None, Pair()))


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("init", [0.0, 0.3])
def test_plain_loop_equals_the_stack_to_the_bit(coupled: bool, init: float) -> None:
    method = FreeLB(steps=3, step_size=0.3, init=init).during(0, 1)
    stack, model = make_stack([method], coupled=coupled), make_model(coupled=coupled)
    optimizer, freelb = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), method.clone()
    for batch in PARTS:
        optimizer.zero_grad()
        seeding.seed_default(stack.run.position())
        with freelb.attack(model, stack.run.key(method)) as rounds:
            for share in rounds:
                (share * loss_of(model, batch, batch.size)).backward()
        optimizer.step()
        stack.step([batch])
    assert equal(weights(model), weights(stack.run.module))


def test_alone_it_draws_its_own_start_and_keeps_one_mask() -> None:
    model = make_model(dropout=0.5)
    seen = Watched(model)
    torch.manual_seed(0)
    found = []
    for _ in range(2):
        with FreeLB(steps=2, step_size=0.0, init=0.3).attack(model) as rounds:
            for share in rounds:
                (share * loss_of(model, PARTS[0], 6)).backward()
        found.append(seen.outputs[-1])
    assert not torch.equal(*found)
    assert torch.equal(seen.hidden[0], seen.hidden[1])
    assert not torch.equal(seen.hidden[1], seen.hidden[2])


def test_left_early_it_leaves_nothing_behind() -> None:
    model = make_model()
    before = weights(model)

    def broken() -> None:
        with FreeLB(steps=3).attack(model) as rounds:
            for number, share in enumerate(rounds):
                if number == 1:
                    raise RuntimeError
                (share * loss_of(model, PARTS[0], 6)).backward()

    with pytest.raises(RuntimeError):
        broken()
    assert not model.embed._forward_hooks
    assert model.norm.running_mean is not None
    before["norm.running_mean"], before["norm.running_var"] = (
        model.norm.running_mean, model.norm.running_var)  # fmt: skip
    before["norm.num_batches_tracked"] += 1
    assert equal(before, weights(model))


def test_a_frozen_table_can_be_attacked() -> None:
    model = make_model(coupled=False)
    model.embed.weight.requires_grad_(False)
    found = by_stack(FreeLB(steps=3, step_size=0.4).during(0, 1), PARTS, model)
    wanted = by_hand(FreeLB(steps=3, step_size=0.4).during(0, 1), PARTS)
    assert close(found, {n: g for n, g in wanted.items() if n != "embed.weight"})


def test_only_the_first_step_moves_batch_statistics() -> None:
    plain, attacked = make_stack(), make_stack([FreeLB(steps=3, step_size=0.5).during(0, 1)])
    for stack in (plain, attacked):
        stack.gradients(stack.window(PARTS[0]))
    assert equal(dict(plain.run.module.named_buffers()), dict(attacked.run.module.named_buffers()))


def test_rows_without_a_target_stay_where_they_are() -> None:
    mask = torch.tensor([True, False, True, True, True, False])
    method = FreeLB(steps=3, step_size=0.4).during(0, 1)
    some = by_stack(method, [PARTS[0].replace(mask=mask)])
    assert close(some, by_stack(method, [PARTS[0].take(mask)]))


def test_a_model_without_embeddings_is_an_error() -> None:
    with pytest.raises(NotApplicable, match=r"no nn\.Embedding"):
        Stack(nn.Linear(2, 2), methods=[FreeLB().during(0, 1)])
