"""A temperature in the training loss."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case
from tests.contract.fixture import close, data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.methods.distillation import Distillation
from whet.methods.focal import Focal, focal_losses
from whet.methods.temperature import Temperature, tempered
from whet.objectives.objective import call
from whet.predict import Predictor
from whet.stack import Stack

CASE = Case(Temperature(3.0, judged="tempered"))

BATCHES = Batch.of(data()).split(6)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def learned(*methods: Any) -> list[Tensor]:
    stack = make_stack(methods, coupled=False)
    stack.gradients(stack.window(BATCHES[0]))
    return gradients(stack.run.module)


def by_hand(loss: Any) -> list[Tensor]:
    model = make_model(coupled=False)
    loss(call(model, BATCHES[0].inputs), BATCHES[0].targets).backward()
    return gradients(model)


def agree(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-7) for a, b in zip(ours, theirs, strict=True))


def test_learns_the_divided_logits() -> None:
    assert agree(learned(Temperature(3.0)), by_hand(lambda z, y: F.cross_entropy(z / 3.0, y)))


def test_the_gradient_is_the_formulas() -> None:
    """(softmax(z/T) - y) / T."""
    z = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    [found] = torch.autograd.grad(F.cross_entropy(tempered(z, 2.0), torch.tensor([0])), z)
    wanted = ((z / 2).softmax(1) - torch.tensor([[1.0, 0, 0]])) / 2
    assert torch.allclose(found, wanted)


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([Temperature(2.0)], coupled=False), make_model(coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch in BATCHES:
        stack.step(batch)
        optimizer.zero_grad()
        F.cross_entropy(tempered(call(model, batch.inputs), 2.0), batch.targets).backward()
        optimizer.step()
    assert close(weights(model), weights(stack.run.module))


def test_temperature_one_changes_nothing_to_the_bit() -> None:
    plain, ours = make_stack(), make_stack([Temperature(1.0, judged="tempered")])
    for batch in BATCHES:
        plain.step(batch)
        ours.step(batch)
    assert equal(weights(plain.run.module), weights(ours.run.module))
    assert torch.equal(plain.predictor()(BATCHES[0]), ours.predictor()(BATCHES[0]))


def test_what_is_judged_and_saved(tmp_path: Any) -> None:
    for judged, divisor in (("plain", 1.0), ("tempered", 3.0)):
        stack = make_stack([Temperature(3.0, judged=judged)], coupled=False)
        stack.step(BATCHES[0])
        output = call(stack.run.module.eval(), BATCHES[1].inputs).detach()
        predictor = stack.predictor()
        assert torch.allclose(predictor(BATCHES[1]), (output / divisor).softmax(1))
        predictor.save(tmp_path / judged)
        loaded = Predictor.load(tmp_path / judged, make_model(1, coupled=False))
        assert torch.equal(loaded(BATCHES[1]), predictor(BATCHES[1]))


def test_a_teacher_meets_the_plain_output_and_focal_the_divided_one() -> None:
    found = []
    for methods in ([Distillation()], [Temperature(3.0), Distillation()]):
        stack = make_stack(methods, coupled=False)
        stack.gradients(stack.window(BATCHES[0]))
        found.append(stack.terms["distillation"])
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    wanted = by_hand(lambda z, y: focal_losses(z / 3.0, y, 2.0).mean())
    for order in ([Temperature(3.0), Focal(2.0)], [Focal(2.0), Temperature(3.0)]):
        assert agree(learned(*order), wanted)


def test_labels_and_tokens() -> None:
    x, labels = torch.ones(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    model = nn.Linear(2, 2)
    stack = stack_of(model, "multi-label")
    stack.gradients(stack.window((x, labels)))
    assert stack.loss == pytest.approx(
        F.binary_cross_entropy_with_logits(model(x) / 2, labels).item()
    )
    table, tokens = nn.Embedding(4, 3), torch.tensor([[1, 2, 3]])
    targets = torch.tensor([[0, -100, 2]])
    stack = stack_of(table, "tokens")
    stack.gradients(stack.window(({"input": tokens}, targets)))
    assert stack.loss == pytest.approx(F.cross_entropy(table(tokens)[0] / 2, targets[0]).item())


def stack_of(model: nn.Module, objective: str) -> Stack:
    return Stack(model, objective, [Temperature(2.0)],
                 optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip


def test_reals_have_no_probabilities() -> None:
    with pytest.raises(NotApplicable, match="no probabilities to temper"):
        stack_of(nn.Linear(2, 1), "real")


def of_probabilities(z: Tensor, temperature: float) -> Tensor:
    """The probabilities divided, and a softmax of that: as sharpening is written at times."""
    return z.softmax(-1) / temperature


@trap(right=tempered, wrong=of_probabilities)
def test_it_is_the_logits_that_are_divided(divided: Any) -> None:
    """At T = 1/2 odds of 3 to 1 become 9 to 1; a softmax of p / T makes 2.7 to 1 of them."""
    z = torch.tensor([[math.log(3.0), 0.0]])
    assert divided(z, 0.5).softmax(-1)[0, 0].item() == pytest.approx(0.9)


def test_half_precision_is_widened() -> None:
    assert tempered(torch.ones(1).half(), 3.0).dtype == torch.float32
    assert tempered(torch.ones(1).double(), 3.0).dtype == torch.float64
