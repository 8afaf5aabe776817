"""One autocast block around all of training: its casts of weights are not those of old weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet import modes, seeding
from whet.batch import Batch
from whet.method import Method
from whet.methods import EMA, FGM, SAM, Lookahead
from whet.objectives.objective import call

BATCHES = Batch.of(data()).split(6)[:4]
Net = nn.Module


def block() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


def by_itself(model: Net) -> Net:
    """A model of which each forward is a block of its own: what is right."""
    plain = model.forward

    def forward(*args: Any, **given: Any) -> Tensor:
        with block():
            return plain(*args, **given).float()

    model.forward = forward
    return model


def loss_of(model: Net, batch: Batch) -> Tensor:
    return F.cross_entropy(call(model, batch.inputs), batch.targets)


def by_stack(model: Net) -> None:
    stack = make_stack(model=model)
    for batch in BATCHES:
        stack.step(batch)


def by_hand(model: Net) -> None:
    """Wrong within a block: all forwards are of the first weights."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()


@trap(right=by_stack, wrong=by_hand)
def test_updates_within_a_block_are_seen(train: Callable[[Net], None]) -> None:
    model, other = make_model(coupled=False), by_itself(make_model(coupled=False))
    with block():
        train(model)
    train(other)
    assert equal(weights(model), weights(other))


class Tied(nn.Module):
    """The table of words is the output layer too, so that a cast is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)

    def forward(self, tokens: Tensor, **rest: Tensor) -> Tensor:
        return F.linear(self.embed(tokens).mean(1), self.embed.weight)[:, :3]


def tied() -> Net:
    with seeding.borrowed(0):
        return Tied()


@pytest.mark.parametrize("make", [lambda: make_model(coupled=False), tied])
@pytest.mark.parametrize(
    "method", [SAM(0.5), Lookahead(k=2), FGM(1.0).during(0, 1), EMA(0.5)], ids=lambda m: m.key
)
def test_methods_that_write_weights(method: Method, make: Callable[[], Net]) -> None:
    """What is learned, and what is judged on the way."""
    found = []
    for model, around in [(make(), block()), (by_itself(make()), nullcontext())]:
        stack, judged = make_stack([method], model=model), []
        with around:
            for batch in BATCHES:
                stack.step(batch)
                with stack.evaluating(), torch.no_grad():
                    judged.append(call(model, batch.inputs).float())
        found.append((weights(model), torch.stack(judged)))
    assert equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@contextmanager
def climbing(model: Net) -> Iterator[None]:
    """Wrong within a block: the second pass is of the casts that the first one made."""
    moving = [p for p in model.parameters() if p.grad is not None]
    saved = [(p, p.detach().clone()) for p in moving]
    norm = torch.stack([p.grad.norm() for p in moving]).norm()
    with torch.no_grad():
        for p in moving:
            p.add_(0.5 * p.grad / norm)
    model.zero_grad()
    yield
    modes.put_back(saved)


@trap(right=SAM(0.5).ascend, wrong=climbing)
def test_the_second_pass_of_sam_is_of_moved_weights(ascend: Callable[[Net], Any]) -> None:
    found = []
    for model, around in [
        (make_model(coupled=False), block()),
        (by_itself(make_model(coupled=False)), nullcontext()),
    ]:
        with around:
            loss_of(model, BATCHES[0]).backward()
            with ascend(model):
                loss_of(model, BATCHES[0]).backward()
        found.append({n: p.grad for n, p in model.named_parameters()})
    assert close(*found)
