"""One accumulation window: exact weights, what methods may hold, repeat, stage and draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from tests.engine.tiny import linear, rows, same, stack, state, tiny
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import InputError, NonFiniteLoss, UnknownName
from whet.forward import Forward
from whet.method import Method
from whet.objectives import Objective
from whet.stack import Stack
from whet.training import Training
from whet.trouble import PATIENCE

Gradients = Callable[[Sequence[Batch]], list[Tensor]]


def gradients(made: Stack, window: Sequence[Batch]) -> list[Tensor]:
    made.gradients(made.window(list(window)))
    return [p.grad.clone() for p in made.parameters() if p.grad is not None]


def of_the_stack(window: Sequence[Batch]) -> list[Tensor]:
    return gradients(stack(model=linear().double()), window)


def mean_of_means(window: Sequence[Batch]) -> list[Tensor]:
    """What a loop gives that divides each micro-batch's mean loss by the number of them."""
    model = linear().double()
    for batch in window:
        assert batch.targets is not None
        (nn.functional.cross_entropy(model(batch.inputs), batch.targets) / len(window)).backward()
    return [p.grad for p in model.parameters() if p.grad is not None]


def wide(count: int, seed: int = 0) -> Batch:
    return rows(count, seed).map(lambda t: t.double() if t.is_floating_point() else t)


@trap(right=of_the_stack, wrong=mean_of_means)
def test_unequal_micro_batches_equal_one_batch(window_of: Gradients) -> None:
    whole = wide(10)
    [*expected] = of_the_stack([whole])
    for a, b in zip(window_of(whole.split(6)), expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14)


def trained(step: Callable[[nn.Module, list[Batch]], None]) -> dict[str, Tensor]:
    """An epoch of 16 rows in micro-batches of 3, two to a window: the tail is of one and short."""
    model = linear().double()
    parts = wide(16).split(3)
    for at in range(0, len(parts), 2):
        step(model, parts[at : at + 2])
    return state(model)


def engine_step(model: nn.Module, window: list[Batch]) -> None:
    stack(model=model).step(window)


def constant_weight_step(model: nn.Module, window: list[Batch]) -> None:
    """Divides by the number of micro-batches there should be, in the tail as well."""
    made = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in window:
        assert batch.targets is not None
        (nn.functional.cross_entropy(model(batch.inputs), batch.targets) / 2).backward()
    made.step()


@trap(right=engine_step, wrong=constant_weight_step)
def test_tail_windows_equal_one_batch(step: Callable[[nn.Module, list[Batch]], None]) -> None:
    whole = trained(lambda model, window: engine_step(model, [Batch.join(window)]))
    found = trained(step)
    assert all(torch.allclose(found[name], whole[name], rtol=1e-12) for name in whole)


class TestRowsWithoutTarget:
    mask = torch.tensor([True, False, True, True, False, True])

    def masked(self) -> Batch:
        return wide(6).replace(mask=self.mask)

    def test_they_are_forwarded_and_not_counted(self) -> None:
        sizes: list[int] = []
        made = stack(model=linear().double())
        made.run.module.register_forward_hook(lambda *args: sizes.append(len(args[2])))
        found = gradients(made, [self.masked()])
        assert sizes == [6]
        labelled = wide(6).take(self.mask)
        for a, b in zip(found, of_the_stack([labelled]), strict=True):
            assert torch.allclose(a, b, rtol=1e-12)

    def test_over_micro_batches(self) -> None:
        """Two rows with a target in one, none at all in another, no targets tensor in a third."""
        parts = [*self.masked().split(4), wide(3, 1).replace(mask=torch.zeros(3, dtype=torch.bool)),
                 Batch(wide(2, 2).inputs)]  # fmt: skip
        labelled = wide(6).take(self.mask)
        for a, b in zip(of_the_stack(parts), of_the_stack([labelled]), strict=True):
            assert torch.allclose(a, b, rtol=1e-12)

    @pytest.mark.parametrize("scaled", [False, True])
    def test_a_window_without_any(self, scaled: bool) -> None:
        """It counts as an update that changes nothing, also where a scaler waits for gradients."""
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
        made = stack(scaler=scaler)
        before = state(made.run.module)
        assert made.step(Batch(rows(4).inputs))
        assert made.loss == 0.0
        assert same(before, state(made.run.module))
        assert made.step(rows(4))
        assert made.run.updates == 2
        assert not same(before, state(made.run.module))

    def test_what_they_hold_does_not_matter(self) -> None:
        odd = self.masked()
        assert odd.targets is not None
        odd.targets[~self.mask] = -1
        for a, b in zip(of_the_stack([odd]), of_the_stack([self.masked()]), strict=True):
            assert torch.equal(a, b)


class TestTerms:
    @pytest.mark.parametrize("per", ["items", "rows", "micros"])
    def test_each_has_its_own_normaliser(self, per: Any) -> None:
        """Six rows, five with a target, in micro-batches of four and two."""

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            found: Forward = inner(batch)
            return found.add("size", found.output.square().sum(1), per, weight=0.5)

        whole = wide(6).replace(mask=torch.tensor([True] * 5 + [False]))
        found = gradients(stack(tiny(forward=forward), model=linear().double()), whole.split(4))
        model = linear().double()
        output = model(whole.inputs)
        assert whole.targets is not None
        loss = nn.functional.cross_entropy(output[:5], whole.targets[:5])
        normaliser = {"items": 5, "rows": 6, "micros": 2}[per]
        (loss + 0.5 * output.square().sum() / normaliser).backward()
        for a, p in zip(found, model.parameters(), strict=True):
            assert p.grad is not None
            assert torch.allclose(a, p.grad, rtol=1e-12)

    def test_scale_is_of_the_whole(self) -> None:
        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            found: Forward = inner(batch)
            return found.add("size", found.output.square().sum(1)).replace(scale=0.25)

        made = stack(tiny(forward=forward))
        made.step(rows(6))
        quarter = made.loss
        plain = stack(tiny(forward=lambda self, run, batch, inner: forward(
            self, run, batch, inner).replace(scale=1.0)))  # fmt: skip
        plain.step(rows(6))
        assert quarter == pytest.approx(plain.loss / 4)


class TestHold:
    """What a method changes in a forward stands until that micro-batch's backward is through."""

    def held(self, log: list[str], **moments: Any) -> Method:
        @contextmanager
        def change(micro: int) -> Iterator[None]:
            log.append(f"enter {micro}")
            try:
                yield
            finally:
                log.append(f"leave {micro}")

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            run.hold(self, change(run.micro))
            run.hold(self, change(run.micro))  # as where the forward is replayed
            found: Forward = inner(batch)
            log.append("forward")
            return found

        return tiny("held", forward=forward, **moments)

    def test_until_after_the_backward(self) -> None:
        def backward(self: Method, run: Training, forward: Forward, inner: Any) -> None:
            inner(forward)
            log.append("backward")

        log: list[str] = []
        stack(self.held(log, backward=backward)).step([rows(2), rows(2)])
        micro = "enter {0} forward backward leave {0}"
        assert " ".join(log) == f"{micro.format(0)} {micro.format(1)}"

    @pytest.mark.parametrize("moment", ["forward", "backward"])
    def test_also_on_an_error(self, moment: str) -> None:
        def broken(self: Method, run: Training, subject: Any, inner: Any) -> None:
            raise KeyError

        log: list[str] = []
        inner = tiny("broken", **{moment: broken})
        made = stack(self.held(log), inner)
        with pytest.raises(KeyError):
            made.step(rows(2))
        assert log[-1] == "leave 0"
        assert log.count("enter 0") == log.count("leave 0") == 1

    def test_two_methods_leave_in_reverse(self) -> None:
        log: list[str] = []

        def hold(name: str) -> Method:
            @contextmanager
            def change() -> Iterator[None]:
                log.append(name)
                yield
                log.append(f"/{name}")

            def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
                run.hold(self, change())
                return inner(batch)

            return tiny(name, forward=forward)

        stack(hold("a"), hold("b")).step(rows(2))
        assert log == ["a", "b", "/b", "/a"]


class TestAgain:
    def test_the_same_masks_or_fresh_ones(self) -> None:
        outputs: list[Tensor] = []

        def backward(self: Method, run: Training, forward: Forward, inner: Any) -> None:
            outputs.extend([forward.output, run.again().output, run.again().output])
            outputs.extend([run.again(fresh=True).output, run.again().output])
            inner(forward)

        model = nn.Sequential(nn.Linear(5, 32), nn.Dropout(0.5), nn.Linear(32, 3))
        stack(tiny(backward=backward), model=model).step([rows(3), rows(3)])
        for first, *equal, fresh, last in (outputs[:5], outputs[5:]):
            assert all(torch.equal(first, other) for other in (*equal, last))
            assert not torch.equal(first, fresh)
        assert not torch.equal(outputs[0], outputs[5])

    def test_it_goes_through_the_methods_around(self) -> None:
        calls: list[str] = []

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
            calls.append("around")
            return inner(batch)

        def backward(self: Method, run: Training, forward: Forward, inner: Any) -> None:
            run.again()
            inner(forward)

        stack(tiny("a", forward=forward), tiny("b", backward=backward)).step(rows(2))
        assert calls == ["around"] * 2

    def test_outside_of_a_micro_batch(self) -> None:
        made = stack(tiny(before_update=lambda self, run: run.again()))
        with pytest.raises(InputError, match=r"run\.again\(\) belongs inside a micro-batch"):
            made.step(rows(2))


class TestStaged:
    def method(self, log: list[Any], times: int = 1) -> Method:
        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
            run.stage(self, (run.window, run.micro, batch.size))
            return inner(batch)

        def gradients(self: Method, run: Training, window: Any, inner: Any) -> None:
            for _ in range(times):
                inner(window)

        def after(self: Method, run: Training) -> None:
            log.append(run.staged(self))

        return tiny("queue", forward=forward, gradients=gradients, after_update=after)

    def test_a_replay_stages_once(self) -> None:
        log: list[Any] = []
        made = stack(self.method(log, times=3))
        made.step([rows(2), rows(3)])
        made.step(rows(4))
        assert log == [[(0, 0, 2), (0, 1, 3)], [(1, 0, 4)]]

    def test_a_skipped_update_forgets(self) -> None:
        log: list[Any] = []
        made = stack(self.method(log))
        made.gradients(made.window([rows(2), rows(3)]))
        made.after_update(False)
        [queue] = made.methods
        assert made.run.staged(queue) == []
        made.step(rows(4))
        assert log == [[(1, 0, 4)]]


class Noisy(Dataset[Tensor]):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, row: int) -> Tensor:
        return torch.tensor([float(row), torch.rand(()).item()])


class TestDraw:
    def drawn(self, window_sizes: Sequence[Sequence[int]], pool: Any, times: int = 1,
              share: int = 1, **changes: Any) -> list[list[Any]]:  # fmt: skip
        """What a method draws beside each micro-batch, `share` rows to each of the batch's."""
        log: list[list[Any]] = []

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
            log.append(run.draw("pool", share * batch.size, self).inputs.tolist())
            return inner(batch)

        def gradients(self: Method, run: Training, window: Any, inner: Any) -> None:
            for _ in range(times):
                inner(window)

        made = stack(
            tiny(forward=forward, gradients=gradients), resources={"pool": pool}, **changes
        )
        for sizes in window_sizes:
            made.step([rows(size) for size in sizes])
        self.made = made
        return log

    @pytest.mark.parametrize("share", [1, 2])
    def test_epochs_without_replacement(self, share: int) -> None:
        """Batches of unequal sizes leave no row out and repeat none."""
        pool = torch.arange(10.0)
        found = self.drawn([[3, 3], [3, 1], [4], [2, 3, 1]], pool, share=share)
        flat = [row for part in found for row in part]
        assert len(flat) == 20 * share
        for at in range(0, len(flat), 10):
            assert sorted(flat[at : at + 10]) == list(range(10))
        assert flat[:10] != flat[10:20]

    def test_a_replay_draws_the_same(self) -> None:
        pool = torch.arange(10.0)
        plain = self.drawn([[3, 2], [4]], pool)
        replayed = self.drawn([[3, 2], [4]], pool, times=2)
        assert replayed == [*plain[:2], *plain[:2], plain[2], plain[2]]

    def test_gradients_without_an_update_draw_the_same_again(self) -> None:
        once = self.drawn([[3], [3]], torch.arange(10.0))
        self.drawn([], torch.arange(10.0))
        made = self.made
        made.gradients(made.window(rows(3)))
        made.gradients(made.window(rows(3)))
        made.update()
        made.step(rows(3))
        assert made.run.draws.taken == {"pool": 6}
        assert len(once) == 2

    def test_a_skipped_update_goes_on(self) -> None:
        whole = self.drawn([[3], [3]], torch.arange(10.0))
        first = self.drawn([], torch.arange(10.0))
        self.made.gradients(self.made.window(rows(3)))
        self.made.after_update(False)
        self.made.step(rows(3))
        assert first == whole

    def test_a_dataset_with_augmentation(self) -> None:
        plain = self.drawn([[3], [4], [2]], Noisy())
        assert self.drawn([[3], [4], [2]], Noisy(), times=2)[::2] == plain
        rows_drawn = [int(row[0]) for part in plain[:2] for row in part]
        assert sorted(rows_drawn) == list(range(7))
        noise = [row[1] for part in plain for row in part]
        assert len(set(noise)) == len(noise)

    def test_drawing_does_not_move_dropout(self) -> None:
        model = nn.Sequential(nn.Dropout(0.5), linear())
        self.drawn([[4], [4]], Noisy(), model=model)
        plain = stack(model=nn.Sequential(nn.Dropout(0.5), linear()))
        for _ in range(2):
            plain.step(rows(4))
        assert same(state(model), state(plain.run.module))

    def test_seed_and_stage_decide(self) -> None:
        pool = torch.arange(30.0)
        assert self.drawn([[9]], pool) == self.drawn([[9]], pool)
        assert self.drawn([[9]], pool) != self.drawn([[9]], pool, seed=1)
        assert self.drawn([[9]], pool) != self.drawn([[9]], pool, stage=1)

    def test_it_resumes(self) -> None:
        pool = torch.arange(10.0)
        whole = self.drawn([[3, 2], [4], [4, 3]], pool)
        first = self.drawn([[3, 2], [4]], pool)
        saved = self.made.state_dict()
        rest = self.drawn([], pool)
        self.made.load_state_dict(saved)
        self.made.step([rows(4), rows(3)])
        assert first + rest == whole

    def test_bad_resources(self) -> None:
        class Stream(IterableDataset[Tensor]):
            def __iter__(self) -> Iterator[Tensor]:
                yield torch.zeros(2)

        for pool in (torch.zeros(0, 2), Stream()):
            with pytest.raises(InputError, match=r"resource 'pool' of tiny must have rows"):
                self.drawn([[2]], pool)
        made = stack(tiny(forward=lambda self, run, batch, inner: run.draw("poll", 2, self)),
                     resources={"pool": rows(3).inputs})  # fmt: skip
        with pytest.raises(UnknownName, match=r"needed by tiny.*\) 'poll'; did you mean 'pool'"):
            made.step(rows(2))


class TestScaler:
    def made(self, *methods: Method, scale: float = 8.0, **changes: Any) -> Stack:
        model = nn.Sequential(linear(dim=5, classes=4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        return stack(*methods, model=model, scaler=scaler, **changes)

    def overflow(self, made: Stack) -> bool:
        made.gradients(made.window(rows(6)))
        planted = next(p for p in made.parameters() if p.grad is not None)
        assert planted.grad is not None
        planted.grad[0] = float("inf")
        return made.update()

    def test_a_skipped_update_restores_buffers(self) -> None:
        def build(self: Method, run: Training) -> None:
            run.heads["norm"] = nn.BatchNorm1d(3)

        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
            found = inner(batch)
            run.heads["norm"](found.output)
            return found

        made = self.made(tiny(build=build, forward=forward))
        made.step(rows(6))
        kept = [state(made.run.module), state(made.run.heads)]
        assert self.overflow(made) is False
        assert same(kept[0], state(made.run.module))
        assert same(kept[1], state(made.run.heads))
        assert made.run.scaler is not None
        assert made.run.scaler.get_scale() == 4.0
        assert made.step(rows(6))
        assert int(made.run.module[1].num_batches_tracked) == 2

    def test_fifty_in_a_row(self) -> None:
        made = self.made()
        for _ in range(PATIENCE - 1):
            assert self.overflow(made) is False
        with pytest.raises(NonFiniteLoss, match=rf"{PATIENCE} updates in a row overflowed.*bf16"):
            self.overflow(made)

    def test_an_update_between_begins_the_count_anew(self) -> None:
        made = self.made()
        for _ in range(PATIENCE - 1):
            self.overflow(made)
        assert made.step(rows(6))
        for _ in range(PATIENCE - 1):
            assert self.overflow(made) is False

    def test_methods_see_true_gradients(self) -> None:
        norms: list[float] = []

        def before(self: Method, run: Training) -> None:
            norms.append(float(nn.utils.get_total_norm([p.grad for p in run.parameters()])))  # type: ignore[misc]

        self.made(tiny(before_update=before), scale=1024.0).step(rows(6))
        self.made(tiny(before_update=before), scale=1.0).step(rows(6))
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)

    def test_growth_is_no_skip(self) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1)
        made = stack(scaler=scaler)
        assert all(made.step(rows(4)) for _ in range(3))
        assert scaler.get_scale() == 64.0


class TestNaN:
    def test_in_a_second_pass(self) -> None:
        """The first pass is sound, and what a method adds in its second is not (SAM, FreeLB)."""

        def backward(self: Method, run: Training, forward: Forward, inner: Any) -> None:
            inner(forward)
            again = run.again()
            inner(again.replace(losses=again.losses * float("nan")))

        made = stack(tiny(backward=backward))
        before = state(made.run.module)
        with pytest.raises(NonFiniteLoss, match="rows of the batch 0, 1"):
            made.step(rows(2))
        assert same(before, state(made.run.module))

    def test_in_a_term(self) -> None:
        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            found: Forward = inner(batch)
            return found.add("fine", found.output.sum(1)).add("bad", found.output.sum(1) / 0)

        with pytest.raises(NonFiniteLoss, match=r"stage 2, update 0 \(window 0\): term bad\. Look"):
            stack(tiny(forward=forward), stage=2).step(rows(2))

    def test_rows_without_target_are_not_blamed(self) -> None:
        batch = rows(4).replace(mask=torch.tensor([True, False, True, True]))
        batch.inputs[1:3] = float("nan")
        with pytest.raises(NonFiniteLoss, match=r"rows of the batch 2\. Look"):
            stack().step(batch)

    def test_finite_losses_whose_sum_is_not(self) -> None:
        def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Forward:
            found: Forward = inner(batch)
            return found.replace(losses=found.losses * 0 + 3e38, scale=100.0)

        with pytest.raises(NonFiniteLoss, match="its sum"):
            stack(tiny(forward=forward)).step(rows(8))

    def test_the_row_at_fault_where_normalisation_spreads_it(self) -> None:
        batch = rows(6).replace(indices=torch.arange(6) + 50)
        batch.inputs[4, 1] = float("inf")
        with pytest.raises(NonFiniteLoss, match=r": inputs of data set rows 54\. Look"):
            stack(model=nn.Sequential(linear(), nn.BatchNorm1d(3))).step(batch)

    def test_sound_rows_whose_loss_is_not(self) -> None:
        model = linear()
        with torch.no_grad():
            model.bias[0] = float("inf")
        with pytest.raises(NonFiniteLoss, match=r": rows of the batch 0, 1, 2\. Look"):
            stack(model=model).step(rows(3))

    def test_many_rows_are_cut_short(self) -> None:
        batch = rows(20)
        batch.inputs[:] = float("inf")
        with pytest.raises(NonFiniteLoss, match=r"8, 9 and 10 more\. Look"):
            stack().step(batch)

    def test_training_goes_on_where_it_is_caught(self) -> None:
        made = stack()
        bad = rows(4)
        bad.inputs[0] = float("nan")
        made.step(rows(4))
        with pytest.raises(NonFiniteLoss):
            made.step(bad)
        assert made.step(rows(4))
        assert made.run.updates == 2


class TestLate:
    """On an accelerator the loss is looked at one step later; here a CPU passes for one."""

    @pytest.fixture(autouse=True)
    def _late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from whet import trouble

        monkeypatch.setattr(trouble, "at_once", lambda loss: False)

    def bad(self) -> Batch:
        batch = rows(4).replace(indices=torch.tensor([30, 31, 32, 33]))
        batch.inputs[2] = float("nan")
        return batch

    def test_one_step_late(self) -> None:
        made = stack()
        made.step(rows(4))
        assert made.step(self.bad())
        with pytest.raises(
            NonFiniteLoss, match=r"stage 0, update 1 \(window 1\): inputs of data set rows 32"
        ):
            made.step(rows(4))

    @pytest.mark.parametrize("ask", ["settle", "state_dict", "predictor", "evaluating"])
    def test_before_anything_is_kept_or_judged(self, ask: str) -> None:
        made = stack()
        made.step(self.bad())
        with pytest.raises(NonFiniteLoss, match="update 0"):
            getattr(made, ask)()

    def test_nothing_is_said_of_sound_windows(self) -> None:
        made = stack()
        for _ in range(3):
            made.step(rows(4))
            made.settle()


def test_no_output_outlives_its_window_part() -> None:
    """Logits of a language model are large: those of one micro-batch go before the next come."""
    import weakref

    alive: list[int] = []
    outputs: list[weakref.ref[Tensor]] = []

    def forward(self: Method, run: Training, batch: Batch, inner: Any) -> Any:
        alive.append(sum(output() is not None for output in outputs))
        found = inner(batch)
        outputs.append(weakref.ref(found.output))
        return found

    stack(tiny(forward=forward)).step([rows(2), rows(2), rows(2), rows(2)])
    assert alive == [0, 0, 0, 0]


def test_the_window_is_counted_before_any_forward() -> None:
    made = stack()
    window = made.window([rows(3), rows(2).replace(mask=torch.tensor([True, False]))])
    assert (window.items, window.rows, window.micros) == (4, 5, 2)
    assert isinstance(made.objective, Objective)
