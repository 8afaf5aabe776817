"""Stack: order, clashes, spans, one definition of an update, and what is judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from tests.engine.tiny import linear, rows, same, sgd, stack, state, tiny
from whet import methods, nesting
from whet.batch import Batch
from whet.errors import CheckpointError, Clash, InputError, UnknownName
from whet.forward import Forward
from whet.method import InnerForward, Layer, Method, Placement, Resource, method
from whet.settings import number
from whet.training import Training


def names(found: list[Method]) -> list[str]:
    return [one.key for one in found]


class TestOrder:
    def test_by_layer_and_then_as_listed(self) -> None:
        a = tiny("a", Layer.CONSISTENCY)
        b = tiny("b", Layer.INPUT_MIXING)
        c = tiny("c", Layer.CONSISTENCY)
        assert names(nesting.arrange([a, b, c])) == ["b", "a", "c"]
        assert names(nesting.arrange([c, a, b])) == ["b", "c", "a"]

    def test_outside(self) -> None:
        a = tiny("a", Layer.INPUT_MIXING)
        b = tiny("b", Layer.CONSISTENCY, outside=("a",))
        assert names(nesting.arrange([a, b])) == ["b", "a"]

    def test_outside_steps_over_the_layers_between(self) -> None:
        a = tiny("a", Layer.BATCH_SOURCE)
        between = [tiny("m", Layer.INPUT_MIXING), tiny("n", Layer.CONSISTENCY)]
        b = tiny("b", Layer.SHARPNESS, outside=("a",))
        assert names(nesting.arrange([a, *between, b])) == ["b", "a", "m", "n"]

    def test_outside_within_a_layer_and_of_every_label(self) -> None:
        a, b = tiny("a"), tiny("b", outside=("a",))
        assert names(nesting.arrange([a, b])) == ["b", "a"]
        twins = [a.labelled("x").during(0, 0.5), a.labelled("y").during(0.5)]
        assert names(nesting.arrange([*twins, b])) == ["b", "a:x", "a:y"]

    def test_a_cycle_names_its_members(self) -> None:
        a, b = tiny("a", outside=("b",)), tiny("b", outside=("c",))
        c, d = tiny("c", outside=("a",)), tiny("d")
        with pytest.raises(Clash, match=r"^a, c, b each want to stand outside.*remove one"):
            nesting.arrange([d, a, b, c])

    def test_calls_follow_the_order(self) -> None:
        calls = []

        def wrapping(name: str) -> Any:
            def moment(self: Method, run: Training, subject: Any, inner: Any) -> Any:
                calls.append(f"{name}(")
                result = inner(subject)
                calls.append(")")
                return result

            return moment

        def telling(name: str) -> Any:
            return lambda self, run: calls.append(name)

        outer = tiny(
            "outer", Layer.INPUT_MIXING,
            step=wrapping("step"), gradients=wrapping("gradients"), forward=wrapping("forward"),
            backward=wrapping("backward"), before_update=telling("before1"),
            after_update=telling("after1"),
        )  # fmt: skip
        inner = tiny(
            "inner", step=wrapping("STEP"), forward=wrapping("FORWARD"),
            before_update=telling("before2"), after_update=telling("after2"),
        )  # fmt: skip
        stack(inner, outer).step([rows(2), rows(3)])
        micro = "forward( FORWARD( ) ) backward( )"
        assert " ".join(calls) == (
            f"step( STEP( gradients( {micro} {micro} ) before1 before2 after1 after2 ) )"
        )


def test_explain() -> None:
    @contextmanager
    def view(self: Method, run: Training) -> Iterator[None]:
        yield

    def wrapped(self: Method, run: Training, subject: Any, inner: Any) -> Any:
        return inner(subject)

    told = stack(
        tiny("average", Layer.AVERAGE, evaluating=view, after_update=lambda self, run: None),
        tiny("climb", Layer.SHARPNESS, gradients=wrapped).during(0.5),
        tiny("mix", Layer.INPUT_MIXING, forward=wrapped).labelled("a"),
        tiny("noise", Layer.MODEL_NOISE, forward=wrapped, backward=wrapped).during(0, 0.25),
        tiny("clip", Layer.GRADIENT, before_update=lambda self, run: None),
        tiny("many", Layer.PREDICTION, predictor=lambda self, run, inner: inner()),
        updates=8,
    ).explain()
    assert told.splitlines() == [
        "step        gradients, update",
        "gradients   climb[0.5..1] > every micro-batch",
        "  forward   mix:a > noise[0..0.25] > supervised",
        "  backward  noise[0..0.25] > loss.backward()",
        "update      clip > optimizer > average",
        "evaluate    average > model",
        "predict     many > evaluated model",
    ]


class TestClashes:
    def test_one_identity(self) -> None:
        with pytest.raises(Clash, match=r"ema stands twice.*ema\.during\(0, 0\.5\)"):
            stack(methods.make("ema"), methods.make("ema"))
        nesting.arrange([Damped(), Damped().labelled("more")])
        nesting.arrange([methods.make("ema").during(0, 0.5), methods.make("ema").during(0.5)])

    def test_owners_and_users(self) -> None:
        owns, uses = frozenset({Resource.BACKWARD}), frozenset({Resource.BACKWARD})
        owner, other = tiny("owner", owns=owns), tiny("other", owns=owns)
        user, second = tiny("user", uses=uses), tiny("second", uses=uses)
        assert nesting.clash(user, second) is None
        for pair in ((owner, other), (owner, user), (user, owner)):
            assert nesting.clash(*pair) is Resource.BACKWARD
            with pytest.raises(Clash, match=f"{pair[0].name} and {pair[1].name} both claim the ba"):
                stack(*pair)
        nesting.arrange([user, second])

    def test_per_interval(self) -> None:
        fgm, freelb = methods.make("fgm"), methods.make("freelb")
        with pytest.raises(Clash, match=r"fgm and freelb both claim the second gradient.*fgm\.dur"):
            nesting.arrange([fgm, freelb])
        with pytest.raises(Clash, match="second gradient"):
            nesting.arrange([fgm.during(0, 0.6), freelb.during(0.5)])
        nesting.arrange([fgm.during(0, 0.5), freelb.during(0.5)])

    def test_two_objectives(self) -> None:
        owns = frozenset({Resource.OBJECTIVE})
        one, other = tiny("one", owns=owns), tiny("other", owns=owns)
        stack(one)  # one clashes with nobody
        with pytest.raises(Clash, match="objective"):
            stack(one, other)

    def test_the_learning_rate(self) -> None:
        owner = tiny("warm", owns=frozenset({Resource.LEARNING_RATE}))
        model = linear()
        optimizer = sgd(model.parameters())
        plan = torch.optim.lr_scheduler.ConstantLR(optimizer)
        with pytest.raises(Clash, match=r"warm and the stage's schedule both.*schedule=None"):
            stack(owner, model=model, optimizer=optimizer, scheduler=plan)
        made = stack(owner, model=model, optimizer=optimizer)
        with pytest.raises(Clash, match="warm"):
            made.set_scheduler(plan)

    def test_settings_are_checked_before_training(self) -> None:
        with pytest.raises(InputError, match=r"damped: factor is -1; it must"):
            stack(Damped(-1))


class Logged(Method):
    """Notes the update at which each moment is called."""

    name = "logged"
    layer = Layer.CONSISTENCY

    def __init__(self) -> None:
        self.calls: dict[str, list[int]] = {}

    def _note(self, moment: str, run: Training) -> None:
        self.calls.setdefault(moment, []).append(run.updates)

    def start(self, run: Training) -> None:
        self._note("start", run)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        self._note("forward", run)
        return inner(batch)

    def after_update(self, run: Training) -> None:
        self._note("after_update", run)

    def evaluated(self, run: Training, metrics: Mapping[str, float]) -> None:
        self._note("evaluated", run)

    def end_epoch(self, run: Training) -> None:
        self._note("end_epoch", run)

    @contextmanager
    def evaluating(self, run: Training) -> Iterator[None]:
        self._note("evaluating", run)
        yield

    def predictor(self, run: Training, inner: Any) -> Any:
        self._note("predictor", run)
        return inner()


def trained(span: tuple[float, float], updates: int, extra: int = 0) -> dict[str, list[int]]:
    made = stack(Logged().during(*span), updates=updates)
    made.open()
    for _ in range(updates + extra):
        made.step(rows(4))
        made.predictor()
        made.evaluated({})
        made.end_epoch()
    [logged] = made.methods
    assert isinstance(logged, Logged)
    return logged.calls


class TestSpans:
    def test_within_and_not_after(self) -> None:
        calls = trained((0.25, 0.75), 8)
        assert calls["start"] == [2]
        assert calls["forward"] == [2, 3, 4, 5]
        assert calls["after_update"] == [3, 4, 5, 6]
        for moment in ("evaluating", "predictor", "evaluated", "end_epoch"):
            assert calls[moment] == [2, 3, 4, 5], "the sixth update ends the span"

    def test_the_end_of_the_stage_keeps_what_ends_there(self) -> None:
        calls = trained((0.5, 1.0), 4, extra=2)
        assert calls["evaluating"] == [2, 3, 4, 5, 6]
        assert calls["forward"] == [2, 3, 4, 5]

    def test_cuts_are_floors_of_the_true_product(self) -> None:
        assert trained((0.0, 0.29), 100)["forward"][-1] == 28
        assert trained((0.3, 0.7), 10)["forward"] == [3, 4, 5, 6]
        assert trained((0.34, 0.99), 10)["forward"] == [3, 4, 5, 6, 7, 8]

    def test_a_span_needs_a_length(self) -> None:
        said = r"logged \(0\.5 to 1\) takes part in a frac.*updates=N.*or logged\.during\(0, 1\)"
        with pytest.raises(InputError, match=said):
            stack(Logged().during(0.5))

    def test_a_span_without_an_update(self) -> None:
        with pytest.raises(InputError, match=r"logged\(\)\.during\(0, 0\.2\) takes part in no upd"):
            stack(Logged().during(0, 0.2), updates=4)
        stack(Logged().during(0.9), updates=1)

    def test_bad_spans(self) -> None:
        for span in ((0.5, 0.5), (-0.1, 1.0), (0.0, 1.1), (0.6, 0.5)):
            with pytest.raises(InputError, match="0 <= start < end <= 1"):
                Logged().during(*span)
        late = tiny("late", placements=Placement.START)
        with pytest.raises(InputError, match=r"cannot begin at 0\.5"):
            late.during(0.5)
        late.during(0, 0.5)

    def test_one_hands_over_to_the_next(self) -> None:
        made = stack(
            tiny("a", start=lambda self, run: started.append(("a", run.updates))).during(0, 0.5),
            tiny("b", start=lambda self, run: started.append(("b", run.updates))).during(0.5),
            updates=4,
        )
        started: list[tuple[str, int]] = []
        for _ in range(4):
            made.step(rows(4))
        assert started == [("a", 0), ("b", 2)]

    def test_skipped_updates_do_not_move_a_span(self) -> None:
        made = stack(Logged().during(0.5), updates=4)
        for happened in (True, False, False, True, True):
            made.gradients(made.window(rows(4)))
            made.after_update(happened)
        [logged] = made.methods
        assert isinstance(logged, Logged)
        assert logged.calls["start"] == [2]


class TestUpdate:
    def test_its_parts_are_public_and_in_order(self) -> None:
        calls: list[str] = []
        model = linear()
        optimizer = sgd(model.parameters())
        optimizer.register_step_post_hook(lambda *_: calls.append("step"))
        watcher = tiny(
            before_update=lambda self, run: calls.append(f"before {run.updates}"),
            after_update=lambda self, run: calls.append(f"after {run.updates}"),
        )
        by_parts = stack(watcher, model=model, optimizer=optimizer)
        by_parts.gradients(by_parts.window(rows(4)))
        by_parts.unscale()
        by_parts.before_update()
        assert by_parts.step_optimizer() is True
        by_parts.after_update(True)
        assert calls == ["before 0", "step", "after 1"]
        at_once = stack()
        at_once.gradients(at_once.window(rows(4)))
        assert at_once.update() is True
        assert same(state(model), state(at_once.run.module))

    def test_a_hosts_own_flag_decides(self) -> None:
        calls: list[int] = []
        made = stack(tiny(after_update=lambda self, run: calls.append(run.updates)))
        for happened in (True, False, True):
            made.gradients(made.window(rows(4)))
            made.after_update(happened)
        assert calls == [1, 2]
        assert (made.run.window, made.run.updates) == (3, 2)

    def test_counters(self) -> None:
        made = stack()
        made.step([rows(2), rows(3)])
        made.step(rows(2))
        made.gradients(made.window([rows(2), rows(2), rows(2)]))
        made.after_update(False)
        assert made.run.state_dict() == {
            "window": 3, "updates": 2, "micros": 6, "epoch": 0, "stopped": False, "drawn": {},
        }  # fmt: skip

    def test_a_scheduler_steps_with_real_updates_only(self) -> None:
        model = linear()
        optimizer = sgd(model.parameters())
        plan = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 0.5**update)
        made = stack(model=model, optimizer=optimizer, scheduler=plan)
        rates = []
        for happened in (True, False, True):
            made.gradients(made.window(rows(4)))
            if happened:
                optimizer.step()
            made.after_update(happened)
            rates.append(optimizer.param_groups[0]["lr"])
        assert rates == [0.05, 0.05, 0.025]

    def test_a_step_of_many_kinds(self) -> None:
        made = stack()
        batch = rows(4)
        assert made.step((batch.inputs, batch.targets))
        assert made.step(batch)
        assert made.step([batch, batch])
        assert made.step(made.window([batch]))
        with pytest.raises(InputError, match="at least one batch"):
            made.step([])
        with pytest.raises(InputError, match="cannot read a batch"):
            made.step(3)

    def test_the_loss_is_the_windows(self) -> None:
        made = stack()
        batch = rows(10)
        expected = nn.functional.cross_entropy(made.run.module(batch.inputs), batch.targets)  # type: ignore[arg-type]
        made.step(batch.split(6))
        assert made.loss == pytest.approx(expected.item(), rel=1e-6)


class TestOptimizer:
    def test_a_function_is_given_everything_trainable(self) -> None:
        def build(self: Method, run: Training) -> None:
            run.heads["extra"] = nn.Linear(3, 2)

        model = linear()
        model.bias.requires_grad_(False)
        made = stack(tiny(build=build), model=model)
        held = {id(p) for group in made.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in made.parameters()}
        assert len(held) == 3
        assert made.optimizer is made.optimizer

    def test_an_instance(self) -> None:
        model = linear()
        optimizer = sgd(model.parameters())
        assert stack(model=model, optimizer=optimizer).optimizer is optimizer
        later = stack(model=model, optimizer=None)
        later.optimizer = optimizer
        assert later.step(rows(4))

    def test_none(self) -> None:
        with pytest.raises(InputError, match="the stack has no optimizer: pass optimizer="):
            stack(optimizer=None).step(rows(4))

    def test_an_instance_without_the_heads(self) -> None:
        def build(self: Method, run: Training) -> None:
            run.heads["extra"] = nn.Linear(3, 2)

        model = linear()
        made = stack(tiny(build=build), model=model, optimizer=sgd(model.parameters()))
        with pytest.raises(InputError, match=r"does not hold: extra\.weight, extra\.bias"):
            made.step(rows(4))


class TestJudging:
    def test_modes_come_back(self) -> None:
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
        model[2].eval()
        made = stack(model=model)
        before = [module.training for module in model.modules()]
        with made.evaluating():
            assert not any(module.training for module in model.modules())
        assert [module.training for module in model.modules()] == before

    def test_a_view_within_a_view_changes_nothing(self) -> None:
        entered: list[str] = []

        @contextmanager
        def view(self: Method, run: Training) -> Iterator[None]:
            entered.append(self.key)
            with torch.no_grad():
                run.module.bias.add_(1.0)
            try:
                yield
            finally:
                with torch.no_grad():
                    run.module.bias.sub_(1.0)

        made = stack(tiny("one", evaluating=view), tiny("two", evaluating=view))
        with made.evaluating():
            assert made.run.views == ["one", "two"]
            shifted = made.run.module.bias.detach().clone()
            with made.evaluating():
                assert torch.equal(made.run.module.bias, shifted)
            made.predictor()
            assert torch.equal(made.run.module.bias, shifted)
            assert not made.run.module.training
        assert entered == ["one", "two"]
        assert made.run.views == []
        assert made.run.module.training
        with made.evaluating():
            pass
        assert entered == ["one", "two"] * 2

    def test_an_error_inside(self) -> None:
        made = stack(methods.make("ema"))
        made.step(rows(4))
        before = state(made.run.module)
        with pytest.raises(KeyError), made.evaluating():
            raise KeyError
        assert same(before, state(made.run.module))
        assert made.run.module.training
        assert made.run.views == []
        with made.evaluating():
            pass

    def test_an_error_while_entering(self) -> None:
        @contextmanager
        def broken(self: Method, run: Training) -> Iterator[None]:
            raise KeyError
            yield

        made = stack(tiny("inner", Layer.STATISTICS, evaluating=broken), methods.make("ema"))
        made.step(rows(4))
        before = state(made.run.module)
        with pytest.raises(KeyError):
            made.predictor()
        assert same(before, state(made.run.module))
        assert made.run.module.training

    def test_what_is_judged_is_a_copy(self) -> None:
        made = stack(methods.make({"name": "ema", "decay": 0.5}))
        made.step(rows(4))
        judged = made.predictor()
        before = judged(rows(4))
        for _ in range(3):
            made.step(rows(4))
        assert torch.equal(before, judged(rows(4)))
        assert not torch.equal(before, made.predictor()(rows(4)))


@method
class Damped(Method):
    """Gradients times a factor: a method such as a user writes in a file of their own."""

    factor: float = number(0.5, 0.0)

    name: ClassVar[str] = "damped"
    layer: ClassVar[Layer] = Layer.GRADIENT

    def __post_init__(self) -> None:
        self.seen = 0

    def before_update(self, run: Training) -> None:
        for parameter in run.parameters():
            if parameter.grad is not None:
                parameter.grad *= self.factor

    def after_update(self, run: Training) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


class TestAUsersOwnMethod:
    def test_it_trains(self) -> None:
        half = stack(Damped(), optimizer=lambda p: torch.optim.SGD(p, lr=0.2))
        plain = stack()
        for one in (half, plain):
            one.step(rows(4))
        assert same(state(half.run.module), state(plain.run.module))
        assert "damped > optimizer > damped" in half.explain()

    def test_its_settings(self) -> None:
        made = Damped.of({"name": "damped", "factor": 0.1, "during": [0, 0.5], "label": "x"})
        assert made.settings() == {
            "name": "damped", "factor": 0.1, "during": [0.0, 0.5], "label": "x",
        }  # fmt: skip
        assert made.clone().settings() == made.settings()
        with pytest.raises(InputError, match="damped: factor is -1"):
            stack(Damped(-1))
        with pytest.raises(UnknownName, match="setting of damped 'facto'; did you mean 'factor'"):
            Damped.of({"facto": 1})

    def test_its_state_is_saved(self) -> None:
        first = stack(Damped())
        first.step(rows(4))
        second = stack(Damped())
        second.load_state_dict(first.state_dict())
        [restored] = second.methods
        assert isinstance(restored, Damped)
        assert restored.seen == 1
        assert second.run.updates == 1

    def test_a_resource_it_needs(self) -> None:
        needy = tiny("needy", needs=frozenset({"teacher"}))
        with pytest.raises(
            UnknownName, match=r"resource \(needed by needy.*\) 'teacher'.*are: techer"
        ):
            stack(needy, resources={"techer": 1})


class TestState:
    def test_other_methods_are_refused_with_both_lists(self) -> None:
        saved = stack(Damped(), Logged()).state_dict()
        with pytest.raises(CheckpointError, match=r"\[logged, damped\] and this stack \[ema\]"):
            stack(methods.make("ema")).load_state_dict(saved)

    def test_what_is_carried_survives_until_its_method_starts(self) -> None:
        """A recipe's method that enters the second stage late keeps its state over a resume."""
        first = stack(Damped().during(0.5), updates=4)
        first.carry({"damped": {"seen": 7}})
        first.step(rows(4))
        second = stack(Damped().during(0.5), updates=4)
        second.load_state_dict(first.state_dict())
        for made in (first, second):
            for _ in range(made.run.updates, 3):
                made.step(rows(4))
            [damped] = made.methods
            assert isinstance(damped, Damped)
            assert damped.seen == 8
