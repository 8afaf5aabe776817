"""Blocks of residual networks left out at random in training."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.contract.case import Case
from tests.contract.fixture import data, equal, make_model, make_stack, weights
from tests.methods.traps import trap
from tests.preparing.networks import ResNet, bert, encoder, images
from whet import seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.methods import stochastic_depth
from whet.methods.stochastic_depth import Skipping, StochasticDepth, rates, skipped
from whet.objectives.objective import call
from whet.stack import Stack

CASE = Case(
    StochasticDepth(rate=0.5, at="norm"), accumulates="blocks are drawn for each micro-batch anew"
)
BATCH = Batch.of(data()).take(slice(0, 6))


def stacked(model: nn.Module, method: Any, **given: Any) -> Stack:
    return Stack(
        model, "categorical", [method], optimizer=lambda p: torch.optim.SGD(p, lr=0.0), **given
    )


def passed(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What enters a module and what leaves it, hooks and all, from now on."""
    seen: list[tuple[Tensor, Tensor]] = []
    module.register_forward_hook(
        lambda m, args, out: seen.append((args[0].detach().clone(), out.detach().clone()))
    )
    return seen


# the value -----------------------------------------------------------------------------------


def of_torchvision(branch: Tensor, p: float, mode: str, generator: torch.Generator) -> Tensor:
    """torchvision.ops.stochastic_depth, by hand: the branch times Bernoulli(1 - p) / (1 - p)."""
    size = [len(branch) if mode == "row" else 1, *[1] * (branch.ndim - 1)]
    noise = (torch.rand(size[0], generator=generator) >= p).float().view(size) / (1.0 - p)
    return branch * noise


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_formula(mode: str) -> None:
    x, branch = torch.randn(16, 3, 4), torch.randn(16, 3, 4)
    found = skipped(x, x + branch, 0.4, mode, seeding.generator(2))
    assert torch.allclose(
        found, x + of_torchvision(branch, 0.4, mode, seeding.generator(2)), atol=1e-6
    )


def test_rates_grow_with_depth() -> None:
    """The paper's survival, 1 - l / L * (1 - p_L) with p_L that of the last."""
    assert rates(5, 0.5) == pytest.approx([1 - (1 - at / 5 * (1 - 0.5)) for at in range(1, 6)])
    assert rates(3, 0.2, "uniform") == [0.2, 0.2, 0.2]


def test_blocks_are_left_out_so_often() -> None:
    model = encoder(norm_first=True, layers=3)
    blocks = dict(model.layers.named_children())
    with Skipping(model, blocks, rates(3, 0.6)):
        seen = [passed(block) for block in blocks.values()]
        model(torch.randn(3000, 2, 8))
    left_out = [float((a == b).flatten(1).all(1).float().mean()) for [(a, b)] in seen]
    assert left_out == pytest.approx([0.2, 0.4, 0.6], abs=0.03)


def test_gradients_are_those_of_the_formula() -> None:
    """A row whose block was left out has the shortcut's gradient, another 1 / (1 - p) times."""
    block = nn.Linear(4, 4)
    x = torch.randn(6, 4, requires_grad=True)
    kept = torch.rand(6, generator=seeding.generator(1)).ge(0.5)[:, None]
    assert 0 < kept.sum() < 6
    skipped(x, x + block(x), 0.5, "row", seeding.generator(1)).sum().backward()
    wanted = 1.0 + kept * 2.0 * block.weight.detach().sum(0)
    assert torch.allclose(x.grad, wanted, atol=1e-6)
    assert torch.allclose(block.bias.grad, torch.full((4,), 2.0 * float(kept.sum())))


@pytest.mark.parametrize("make", [
    ResNet, lambda: nn.Sequential(encoder(True), nn.Flatten(), nn.Linear(40, 3)), bert,
])  # fmt: skip
def test_common_models_are_dropped_in_training_and_whole_when_judged(make: Any) -> None:
    model = make()
    inputs = {
        ResNet: images(8), nn.Sequential: torch.randn(8, 5, 8),
    }.get(type(model), {"input_ids": torch.arange(40).view(8, 5)})  # fmt: skip
    batch = Batch(inputs, torch.zeros(8, dtype=torch.int64))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    stack = stacked(model, StochasticDepth(rate=0.7, rule="uniform"))
    blocks = stack.methods[0]._blocks
    seen = {name: passed(block) for name, block in blocks.items()}
    stack.gradients(stack.window(batch))
    for each in seen.values():
        [(before, after)] = each
        same = (before == after).flatten(1).all(1)
        assert same.any()
    assert len({tuple((a == b).flatten(1).all(1).tolist()) for [(a, b)] in seen.values()}) > 1
    model.eval()
    plain = call(model, inputs)
    model.train()
    with stack.evaluating():
        found = call(model, inputs)
    assert torch.equal(getattr(plain, "logits", plain), getattr(found, "logits", found))


def test_core_in_a_hand_loop_equals_the_stack() -> None:
    stack, model = make_stack([StochasticDepth(rate=0.5, at="norm")]), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = make_stack().run
    for run.window, batch in enumerate(Batch.of(data()).split(6)):
        stack.step(batch)
        key = run.key(StochasticDepth())
        seeding.seed_default(run.position())
        optimizer.zero_grad()
        draw = partial(seeding.generator, key)
        with Skipping(model, {"norm": model.norm}, [0.5], draw=draw):
            nn.functional.cross_entropy(call(model, batch.inputs), batch.targets).backward()
        optimizer.step()
    assert equal(weights(model), weights(stack.run.module))


def test_running_statistics_are_those_of_all_rows() -> None:
    model, plain = ResNet(), ResNet()
    plain.load_state_dict(model.state_dict())
    with Skipping(model, {"layer2.1": model.layer2[1]}, [0.9]):
        model(images())
    plain(images())
    assert torch.equal(model.layer2[1].bn2.running_mean, plain.layer2[1].bn2.running_mean)


# traps ---------------------------------------------------------------------------------------


def unscaled(
    x: Tensor, left: Tensor, rate: float, mode: str = "row", generator: Any = None
) -> Tensor:
    """As the paper trains; its scale belongs to the judged network, where it is forgotten."""
    kept = torch.rand(len(left), generator=generator).ge(rate).view(-1, *[1] * (left.ndim - 1))
    return x + kept * (left - x)


@trap(right=skipped, wrong=unscaled)
def test_the_mean_in_training_is_what_is_judged(drop: Any) -> None:
    x, branch = torch.ones(20_000, 1), torch.full((20_000, 1), 3.0)
    found = drop(x, x + branch, 0.4, "row", seeding.generator(0))
    assert float(found.mean()) == pytest.approx(4.0, rel=0.03)


def for_all(
    x: Tensor, left: Tensor, rate: float, mode: str = "row", generator: Any = None
) -> Tensor:
    """`if torch.rand(1) < p: return x`: one draw, whatever the mode says."""
    return skipped(x, left, rate, "batch", generator)


@trap(right=skipped, wrong=for_all)
def test_rows_are_drawn_one_by_one(drop: Any) -> None:
    x = torch.zeros(64, 2)
    found = drop(x, x + 1.0, 0.5, "row", seeding.generator(0))
    assert len(found.unique()) == 2


class FromTheModels(StochasticDepth):
    """Draws from the generator that dropout draws from, as a layer within the model does."""

    def _drawing(self, run: Any) -> Any:
        return lambda name: None


@trap(right=StochasticDepth, wrong=FromTheModels)
def test_a_second_pass_leaves_the_same_out(kind: type[StochasticDepth]) -> None:
    """An attack would else climb another network's gradient than the one that is trained."""

    class Twice(kind):  # type: ignore[misc, valid-type]
        def forward(self, run: Any, batch: Batch, inner: Any) -> Any:
            super().forward(run, batch, inner)
            return super().forward(run, batch, inner)

    model = ResNet()
    stack = stacked(model, Twice(rate=0.5, rule="uniform"))
    seen = passed(model.layer1[1])
    stack.gradients(stack.window(Batch(images(16), torch.zeros(16, dtype=torch.int64))))
    first, second = [(a == b).flatten(1).all(1) for a, b in seen]
    assert first.any()
    assert torch.equal(first, second)


@trap(right=StochasticDepth, wrong=FromTheModels)
def test_dropout_draws_what_it_draws_without(kind: type[StochasticDepth]) -> None:
    masks = []
    for methods in ([], [kind(rate=0.5, at="norm")]):
        stack = make_stack(methods)
        stack.run.module.dropout.register_forward_hook(lambda m, a, out: masks.append(out == 0))
        stack.step(BATCH)
    assert torch.equal(masks[0], masks[1])


# refusals ------------------------------------------------------------------------------------


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x += self.linear(x)
        return x


class Trusting(Skipping):
    """Takes the difference of a block's output and its input, whatever that is by now."""

    def returned(self, block: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        name, rate = self.rates[block]
        return stochastic_depth.skipped(args[0], output, rate, self.mode, self.draw(name))


@trap(right=Skipping, wrong=Trusting)
def test_a_block_that_changes_its_input_is_told(skipping: type[Skipping]) -> None:
    """Its output is its input: there is no branch, and nothing is ever left out."""
    model, x = nn.Sequential(InPlace()), torch.ones(50, 4)
    told = ""
    with torch.no_grad(), skipping(model, {"0": model[0]}, [0.5]):
        try:
            model(x)
        except NotApplicable as refused:
            told = str(refused)
    assert "0 changes its input in place" in told


def test_what_cannot_be_left_out_is_told() -> None:
    with pytest.raises(NotApplicable, match="no block with a shortcut is found"):
        make_stack([StochasticDepth()])
    with pytest.raises(NotApplicable, match=r"no module matches 'blocks\.\*'.*there are: embed"):
        make_stack([StochasticDepth(at="blocks.*")])
    stack = make_stack([StochasticDepth(at="hidden")])
    with pytest.raises(NotApplicable, match=r"hidden is given .*10.* and returns .*16"):
        stack.step(BATCH)


def test_by_name_parts_stand_for_parts() -> None:
    method = StochasticDepth(at="layer2.* layer1.1")
    stack = stacked(ResNet(), method)
    assert list(stack.methods[0]._blocks) == ["layer1.1", "layer2.0", "layer2.1"]
