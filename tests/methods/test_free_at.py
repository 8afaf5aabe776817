"""Free adversarial training."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import close, data, equal, make_run, make_stack, weights
from tests.methods.pictures import given_to, pictures
from tests.methods.traps import trap
from whet import seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.methods.fgm import FGM
from whet.methods.fixmatch import FixMatch
from whet.methods.free_at import FreeAT, climbed
from whet.methods.moco import MoCo
from whet.methods.r_drop import RDrop
from whet.methods.sam import SAM
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage
from whet.task import Task

CASE = Case(
    FreeAT(epsilon=0.3, replays=3, at="floats").during(0, 1),
    cost=Cost(inputs=2),
)

MAKER = seeding.generator(1)
BATCHES = [
    Batch(torch.rand(n, 3, 4, 4, generator=MAKER), torch.randint(0, 3, (n,), generator=MAKER))
    for n in (6, 6, 6, 6, 4, 6, 6, 6, 6, 4, 6, 6)
]
PARTS = Batch.of(data()).split(6)


def state(stack: Stack) -> Any:
    [free] = [method for method in stack.methods if method.name == "free_at"]
    return free


def delta(stack: Stack, name: str = "", micro: int = 0) -> Tensor:
    return state(stack)._deltas[micro][name]


# the value -----------------------------------------------------------------------------------
def by_hand(model: nn.Module, epsilon: Any, m: int, windows: list[Batch], updates: int) -> Tensor:
    """The official loop: the noise is as large as a batch, and the last one takes a slice."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    noise = torch.zeros(6, 3, 4, 4)
    done = 0
    for batch in windows[::m]:
        for _ in range(m):
            if done == updates:
                break
            n = batch.size
            part = noise[:n].clone().requires_grad_()
            losses = F.cross_entropy(
                model((batch.inputs + part).clamp(0.0, 1.0)), batch.targets, reduction="none"
            )
            optimizer.zero_grad()
            losses.dot(torch.full((n,), 1.0 / n)).backward()
            assert part.grad is not None
            noise[:n] += epsilon * part.grad.sign()
            noise[:n] = torch.clamp(noise[:n], -epsilon, epsilon)
            optimizer.step()
            done += 1
    return noise


@pytest.mark.parametrize("m", [1, 2, 4])
def test_hand_loop_to_the_bit(m: int) -> None:
    """Of twelve windows, two of which are short; the fifth is learned where m is 1, 2 or 4."""
    stack = pictures([FreeAT(0.1, m).during(0, 1)], valid_range=(0.0, 1.0))
    model = pictures([]).run.module
    for batch in BATCHES:
        assert stack.step(batch)
    noise = by_hand(model, 0.1, m, BATCHES, 12)
    assert equal(weights(stack.run.module), weights(model))
    assert torch.equal(delta(stack), noise)
    assert 0.09 < noise.abs().max() <= 0.1 + 1e-6


def test_core_is_the_step_of_the_method() -> None:
    stack = pictures([FreeAT(0.1, 2, step_size=0.5, std=(0.2, 0.5, 1.0)).during(0, 1)])
    batch = BATCHES[0]
    radius = (0.1 / torch.tensor([0.2, 0.5, 1.0])).view(1, 3, 1, 1)
    model, part = pictures([]).run.module, torch.zeros(6, 3, 4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        part = part.detach().requires_grad_()
        optimizer.zero_grad()
        F.cross_entropy(model(batch.inputs + part), batch.targets).backward()
        optimizer.step()
        part = climbed(part, part.grad, radius, 0.5)
        stack.step(batch)
        assert torch.allclose(delta(stack), part, atol=1e-6)
    assert close(weights(stack.run.module), weights(model), atol=1e-6)
    assert (delta(stack) / radius).abs().max().item() == pytest.approx(1.0)


def test_core_changes_nothing_that_it_is_given() -> None:
    before, slope = torch.tensor([0.1, 0.0, 0.2]), torch.tensor([2.0, -3.0, math.nan])
    given = before.clone().requires_grad_(), slope.clone()
    moved = climbed(*given, 0.3)
    assert torch.equal(given[0], before)
    assert torch.equal(given[1].nan_to_num(7.0), slope.nan_to_num(7.0))
    assert torch.allclose(moved, torch.tensor([0.3, -0.3, 0.2]))
    assert not moved.requires_grad
    assert torch.equal(climbed(*given, torch.tensor(0.3), out=given[1]), moved)
    assert torch.equal(given[1], moved)


# updates, windows, epochs ----------------------------------------------------------------------
def test_a_stage_of_n_updates_sees_a_part_of_the_windows() -> None:
    stack = make_stack([FreeAT(0.3, 3, at="floats").during(0, 1)])
    seen = [given_to(stack, batch) for batch in PARTS]
    assert [len(passes) for passes in seen] == [1] * len(PARTS)
    steps = make_stack([FreeAT(0.0, 3).during(0, 1)])
    for at, batch in enumerate(PARTS):
        [floats] = given_to(steps, batch)
        steps.update()
        assert torch.equal(floats, PARTS[at - at % 3].inputs["floats"])
    assert steps.run.updates == steps.run.window == len(PARTS)


def counted(rows: int, epochs: int, m: int) -> list[int]:
    """How often each of the windows was learned."""
    x = torch.arange(rows, dtype=torch.float32)[:, None]
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, torch.zeros(rows, dtype=torch.long)), batch_size=1
    )
    times = [0] * rows

    class Note(nn.Linear):
        def forward(self, given: Tensor) -> Tensor:
            if self.training and torch.is_grad_enabled():
                times[int(given)] += 1
            return super().forward(given)

    stage = Stage(epochs=epochs, optimizer={"name": "sgd", "lr": 0.01},
                  methods=[FreeAT(0.0, m).during(0, 1)])  # fmt: skip
    Run(Task(Note(1, 2), loader), stage, device="cpu").fit()
    return times


@pytest.mark.parametrize(("windows", "m"), [(6, 2), (6, 3), (6, 4), (5, 3), (4, 4), (3, 6)])
def test_a_fixed_order_comes_to_every_window(windows: int, m: int) -> None:
    """In each m epochs once; by `update % m` alone, a multiple of m would show few of them."""
    times, rounds, common = counted(windows, 3 * m, m), 3, math.gcd(windows, m)
    assert sum(times) == rounds * m * windows
    assert max(times) <= rounds * (m + 1)
    assert min(times) >= rounds * (m - common + 1)


def test_every_window_is_learned_m_times() -> None:
    assert counted(5, 3, 3) == [3, 3, 3, 3, 3]  # the windows 0 and 3, then 1 and 4, then 2
    assert counted(4, 1, 2) == [2, 0, 2, 0]
    assert counted(4, 2, 2) == [2, 2, 3, 1]  # 0 and 2, which is learned once more, 1 and 3


def test_nothing_is_kept_where_nothing_is_replayed() -> None:
    stack = make_stack([FreeAT(0.3, 1, at="floats").during(0, 1)])
    for batch in PARTS[:3]:
        stack.step(batch)
    assert state(stack)._kept is None
    saved = state(stack).state_dict()
    assert saved["kept"] is None
    assert saved["deltas"][0]["floats"].shape == (6, 4)


def test_a_skipped_step_neither_counts_as_a_replay_nor_takes_a_window() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    stack = make_stack([FreeAT(0.3, 2, at="floats").during(0, 1)], scaler=scaler)

    def skipped(batch: Batch) -> None:
        stack.gradients(stack.window(batch))
        next(p for p in stack.parameters() if p.grad is not None).grad.view(-1)[0] = math.inf
        assert stack.update() is False

    skipped(PARTS[0])
    assert state(stack)._kept is None
    assert state(stack)._deltas == []
    stack.step(PARTS[1])
    before = delta(stack, "floats").clone()
    skipped(PARTS[2])
    assert torch.equal(delta(stack, "floats"), before)
    [floats] = given_to(stack, PARTS[3])
    assert torch.allclose(floats, PARTS[1].inputs["floats"] + before)


def test_each_process_continues_with_its_rows() -> None:
    """What two processes have is one state, of which each takes its own again."""
    stacks = [make_stack([FreeAT(0.3, 4, at="floats").during(0, 1)]) for _ in range(2)]
    for stack, batch in zip(stacks, (PARTS[0], PARTS[1].take(slice(0, 5))), strict=True):
        stack.step(batch)
    kept = [state(stack)._kept.batches[0] for stack in stacks]

    class Two:
        """Joins what both methods ask for, in the order of their asking."""

        size, rank, sharded = 2, 0, False

        def __init__(self) -> None:
            self.asked: list[Any] = []
            self.answers: Any = None

        def joined(self, parts: list[Any]) -> list[Tensor]:
            self.asked.append(parts[0])
            known = [parts[0]] if self.answers is None else [parts[0], next(self.answers)]
            found = [one for one in known if one is not None]
            return [torch.cat(found)] if found else []

        def share(self, rows: int) -> slice:
            half = (rows + 1) // 2
            return slice(0, half) if self.rank == 0 else slice(half, rows)

    other, first = Two(), Two()
    state(stacks[1])._world = other
    state(stacks[1]).state_dict()
    first.answers = iter(other.asked)
    state(stacks[0])._world = first
    whole = state(stacks[0]).state_dict()
    assert whole["deltas"][0]["floats"].shape == (11, 4)
    for rank, (stack, batch) in enumerate(zip(stacks, kept, strict=True)):
        world, fresh = Two(), FreeAT(0.3, 4, at="floats").during(0, 1)
        world.rank = rank
        fresh._world = world  # type: ignore[assignment]
        fresh.load_state_dict(whole)
        assert fresh._kept is not None
        assert equal(fresh._kept.batches[0].inputs, batch.inputs)
        assert torch.equal(fresh._kept.batches[0].targets, batch.targets)
        assert torch.equal(fresh._deltas[0]["floats"], delta(stack, "floats"))
        assert fresh._left == 3


# rows and neighbours -----------------------------------------------------------------------------
def test_rows_without_a_target_stay_as_they_are() -> None:
    mask = torch.tensor([True, False, True, True, False, True])
    stack = make_stack([FreeAT(0.3, 2, at="floats").during(0, 1)])
    batch = PARTS[0].replace(mask=mask)
    stack.step(batch)
    [floats] = given_to(stack, batch)
    assert torch.equal(floats[~mask], batch.inputs["floats"][~mask])
    assert (floats[mask] != batch.inputs["floats"][mask]).all()
    unlabelled = make_stack([FreeAT(0.3, 2, at="floats").during(0, 1)])
    unlabelled.step(Batch(PARTS[0].inputs))
    assert state(unlabelled)._deltas == [{}]


def test_the_gradient_is_of_all_that_is_learned() -> None:
    """R-Drop's two passes, and FGM's second, add up in δ's gradient; SAM's second counts."""
    for other, passes in ((RDrop(passes="two"), 2), (FGM(0.5).during(0, 1), 2), (SAM(0.1), 2)):
        stack = make_stack([FreeAT(0.3, 2, at="floats").during(0, 1), other])
        assert len(given_to(stack, PARTS[0])) == passes
        stack.update()
        assert delta(stack, "floats").abs().max().item() == pytest.approx(0.3, rel=1e-5)
        [second, *_] = given_to(stack, PARTS[1])
        assert torch.allclose(second, PARTS[0].inputs["floats"] + delta(stack, "floats"))


def test_the_rows_of_fixmatch_keep_their_place() -> None:
    stack = make_stack([FreeAT(0.3, 2, at="floats").during(0, 1), FixMatch(threshold=0.4, mu=2)])
    for batch in PARTS[:3]:
        stack.step(batch)
    moved = delta(stack, "floats").ne(0).any(1)
    assert len(moved) == 30
    assert moved.sum() == 6


def test_reals_and_labels() -> None:
    for kind, targets in (("real", torch.rand(6, 3)), ("multi-label", torch.ones(6, 3))):
        stack = pictures([FreeAT(0.1).during(0, 1)], kind)
        stack.step(BATCHES[0].replace(targets=targets))
        assert delta(stack).abs().max().item() == pytest.approx(0.1)


def test_mistakes_are_named() -> None:
    with pytest.raises(NotApplicable, match="scope='embeddings'"):
        make_stack([FreeAT(at="tokens").during(0, 1)]).step(PARTS[0])
    with pytest.raises(InputError, match="as the model sees the input"):
        pictures([FreeAT().during(0, 1)], valid_range=(0.0, 0.5)).step(BATCHES[0])
    with pytest.raises(NotApplicable, match="no loss of its own"):
        Stack(nn.Linear(4, 3), "contrastive", [MoCo(dim=2), FreeAT().during(0, 1)],
              data=torch.ones(4, 4), resources={"view": lambda x, g: x})  # fmt: skip
    said = "no resource valid_range: x + delta is not clipped"
    assert pictures([FreeAT().during(0, 1)]).methods[0].notes == [said]


# traps -------------------------------------------------------------------------------------------
class Anew(FreeAT):
    """δ begins at 0 with every window, as the noise of PGD does."""

    def after_update(self, run: Any) -> None:
        taken = self._left == 0
        super().after_update(run)
        if taken and run.updates > 1:
            self._deltas = []


class Whole(FreeAT):
    """The noise is never sliced: a short batch gets a noise of its own, and the old one is gone."""

    def _take(self, micro: int, moved: Any) -> None:
        self._deltas = self._deltas[:micro]
        super()._take(micro, moved)


class Accumulating(FreeAT):
    """`noise.grad` is not zeroed between the replays."""

    def _step(self, name: str, leaf: Tensor) -> Tensor:
        before = getattr(self, "_sum", torch.zeros_like(leaf))
        self._sum = leaf.grad + before if len(before) == len(leaf) else leaf.grad
        return climbed(leaf, self._sum, self._balls[name].radius, self.step_size)


def is_the_official_loop(kind: Any) -> None:
    stack = pictures([kind(0.1, 2).during(0, 1)], valid_range=(0.0, 1.0))
    model = pictures([]).run.module
    for batch in BATCHES:
        stack.step(batch)
    assert torch.equal(delta(stack), by_hand(model, 0.1, 2, BATCHES, 12))


test_delta_goes_on_across_windows = trap(right=FreeAT, wrong=Anew)(is_the_official_loop)
test_delta_is_sliced_for_a_short_batch = trap(right=FreeAT, wrong=Whole)(is_the_official_loop)
test_each_replay_has_its_own_gradient = trap(right=FreeAT, wrong=Accumulating)(is_the_official_loop)


class Early(FreeAT):
    """The step overwrites the gradient after each backward pass: the next one adds to δ."""

    def backward(self, run: Any, forward: Any, inner: Any) -> None:
        inner(forward)
        for name, leaf in self._leaves.items():
            self._step(name, leaf)


class Apart(FreeAT):
    """The step has memory of its own."""

    def _step(self, name: str, leaf: Tensor) -> Tensor:
        return climbed(leaf, leaf.grad, self._balls[name].radius, self.step_size)


@trap(right=FreeAT, wrong=Early)
def test_all_passes_add_up_before_the_step(kind: Any) -> None:
    found = []
    for one in (kind, Apart):
        stack = make_stack([one(0.3, 2, at="floats").during(0, 1), FGM(5.0).during(0, 1)])
        for batch in PARTS[:4]:
            stack.step(batch)
        found.append(delta(stack, "floats"))
    assert torch.equal(*found)


class Looping(FreeAT):
    """m updates for each window: epochs are not divided, and milestones come m times too soon."""

    def step(self, run: Any, window: Any, inner: Any) -> None:
        for _ in range(self.replays):
            inner(window)


@trap(right=FreeAT, wrong=Looping)
def test_milestones_and_lengths_count_updates(kind: Any) -> None:
    rates: list[float] = []
    stack = make_stack([kind(0.3, 2, at="floats").during(0, 1)])
    optimizer = stack.optimizer
    stack.set_scheduler(torch.optim.lr_scheduler.MultiStepLR(optimizer, [3], 0.1))
    for batch in PARTS[:6]:
        stack.step(batch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.01, 0.01])
    assert stack.run.updates == 6


def test_a_run_stopped_within_the_replays_goes_on_with_them(tmp_path: Any) -> None:
    free = [FreeAT(0.3, 4, at="floats").during(0, 1)]
    through = make_run(free).fit()
    make_run(free, folder=tmp_path).fit(until=2)
    resumed = make_run(free, folder=tmp_path)
    assert state(resumed.stack)._left == 2
    resumed.fit()
    assert equal(weights(through.module), weights(resumed.module))
    assert torch.equal(delta(through.stack, "floats"), delta(resumed.stack, "floats"))
