"""Every step takes the passes and the memory that its method's case and card say.

Memory is that of tensors that are alive at once, as the operations make them: it depends on no
allocator, and is the same in every run. Twice: in a model that is nearly all table, where a copy of
anything large is one of the weights, and over so many rows that activations and inputs weigh most.
"""

from __future__ import annotations

import gc
import math
import re
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.contract.case import Cost
from tests.contract.fixture import Net, companions, data, make_model, make_stack, members_of
from tests.contract.found import case, names
from whet import methods, seeding
from whet.batch import Batch
from whet.method import Method
from whet.stack import Stack

STEPS = 3  # the last is counted: by then whoever keeps something has it
TABLE, FEW = 4000, 6  # words, rows: the table holds 97% of the weights
SMALL, MANY = 20, 500


class Alive(TorchDispatchMode):
    """Bytes of all tensors that were made within and are not freed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._known:
                self._made(leaf.untyped_storage())
        self.most = max(self.most, self.bytes)
        return out

    def _made(self, storage: torch.UntypedStorage) -> None:
        self._known.add(storage._cdata)
        self.bytes += storage.nbytes()
        weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


@dataclass
class Passes:
    """Through the model, and through others like it."""

    module: nn.Module
    forwards: int = 0
    backwards: int = 0
    asked: int = 0
    rows: list[int] = field(default_factory=list)

    @contextmanager
    def counted(self) -> Iterator[None]:
        handle = register_module_forward_hook(self._called)
        try:
            yield
        finally:
            handle.remove()

    def _called(self, module: nn.Module, _: Any, output: Tensor) -> None:
        if module is self.module:
            self.forwards += 1
            self.rows.append(len(output))
            if output.requires_grad:
                output.register_hook(self._back)
        elif isinstance(module, Net):
            self.asked += 1

    def _back(self, _: Tensor) -> None:
        self.backwards += 1


@dataclass(frozen=True)
class Measured:
    passes: Passes
    kept: int  # bytes
    most: int
    weights: int
    inputs: int


def stepped(given: Sequence[Method], members: int, words: int, rows: int) -> Measured:
    model = make_model(members=members)
    with seeding.borrowed(0):
        model.embed = nn.Embedding(words, 6, padding_idx=0)
    stack, batch = make_stack(given, model=model), Batch.of(data(rows))
    passes = Passes(stack.run.module)
    gc.freeze()  # what stands already is not looked through
    with Alive() as alive:
        kept = _steps(stack, batch, passes, alive)
    gc.unfreeze()
    return Measured(
        passes, kept, alive.most, sum(p.nbytes for p in model.parameters()),
        sum(leaf.nbytes for leaf in batch.inputs.values()),
    )  # fmt: skip


def _steps(stack: Stack, batch: Batch, passes: Passes, alive: Alive) -> int:
    """Bytes that are held after the steps."""
    for _ in range(STEPS - 1):
        stack.step(batch)
    with passes.counted():
        stack.step(batch)
    stack.run.zero_grad()
    gc.collect()
    return alive.bytes


@cache
def without(beside: tuple[str, ...], members: int, words: int, rows: int) -> Measured:
    return stepped([methods.make(name) for name in beside], members, words, rows)


@cache
def cost_of(name: str) -> Cost:
    """What is measured, in the units of a case."""
    method = case(name).method
    members, beside = members_of([method]), tuple(one.name for one in companions([method]))
    sizes = ((TABLE, FEW), (SMALL, MANY))
    wide, long = (stepped([method], members, *size) for size in sizes)
    plain_wide, plain_long = (without(beside, members, *size) for size in sizes)
    passes, rows = long.passes, sum(long.passes.rows) / MANY
    assert rows == round(rows)
    return Cost(
        passes.forwards, passes.backwards, None if rows == passes.forwards else round(rows),
        passes.asked, kept=round((wide.kept - plain_wide.kept) / wide.weights),
        copies=round((wide.most - plain_wide.most) / wide.weights),
        inputs=_rounded((long.most - plain_long.most) / long.inputs, case(name).cost.inputs),
    )  # fmt: skip


def _rounded(copies: float, said: int) -> int:
    """Up, but for what is said if it is as near: torch's own operations hold some of it."""
    near = copies <= said + 0.2 and (said == 1 or copies > said - 1.2)
    return said if near else max(1, math.ceil(copies))


def written(cost: Cost) -> str:
    """As a case says it, without defaults."""
    said = {name: value for name, value in vars(cost).items() if value != getattr(Cost, name)}
    return f"Cost({', '.join(f'{name}={value}' for name, value in said.items())})"


@pytest.mark.parametrize("name", names())
def test_a_step_takes_what_its_case_says(name: str) -> None:
    found, said = cost_of(name), case(name).cost
    assert found == said, (
        f"a step of {name} takes {written(found)}, and its case says {written(said)}. If that is "
        f"what it is to take, write cost={written(found)} in the CASE of tests/methods/"
        f"test_{name}.py, and say it on the method's card."
    )


@pytest.mark.parametrize("name", names())
def test_its_card_says_the_same(name: str) -> None:
    method, cost = case(name).method, case(name).cost
    said = method.card.cost
    assert ("no pass" in said) <= (cost.forwards == cost.backwards == 1 and cost.asked == 0)
    assert ("+1 forward" in said) == (cost.asked == 1)
    assert ("+1 copy of the" in said) <= (cost.kept + cost.copies > 0)
    if cost.kept + cost.copies > 0:
        assert re.search(r"\bcop(y|ies) ", _section(method, "Cost")), "say what it holds"
    if passes := re.search(r"(\d+|K)(?: \+ (\d+))? forward and backward passes", said):
        count, more = passes.groups()
        number = (method.steps if count == "K" else int(count)) + int(more or 0)
        unlabelled = number if "more for unlabelled rows" in said else 0
        assert cost.forwards == number + unlabelled
    else:
        assert cost.forwards == 1
    if scaled := re.search(r"1 \+ (\d+) mu times the rows", said):
        assert cost.rows == 1 + int(scaled[1]) * method.mu


def _section(method: Method, title: str) -> str:
    found = re.search(rf"{title}: (.*?)\n\n", type(method).__doc__ or "", re.DOTALL)
    return found[1] if found else ""


def test_memory_is_counted_while_it_is_held() -> None:
    with Alive() as alive:
        one = torch.ones(100)
        two = one + one
        view = two[:50]
        del two
        assert alive.bytes == 800  # a view holds its tensor
        del view
        assert (alive.bytes, alive.most) == (400, 800)


def test_a_pass_more_is_seen() -> None:
    stack = make_stack([])
    passes = Passes(stack.run.module)
    with passes.counted():
        stack.step(Batch.of(data(FEW)))
        stack.run.module(*Batch.of(data(FEW)).inputs.values())
    assert (passes.forwards, passes.backwards) == (2, 1)
