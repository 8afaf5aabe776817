"""Methods that begin late where nobody says otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.contract.fixture import data, equal, make_run, make_stack, weights
from tests.contract.found import by_itself, case, late
from tests.contract.test_singles import same, whole
from whet import methods
from whet.batch import Batch
from whet.composition import companions
from whet.errors import CheckpointError, InputError
from whet.method import LATE, Method, Placement
from whet.methods import EMA, FGM
from whet.run import Run
from whet.stack import Stack

every = pytest.mark.parametrize("name", late())


def test_they_are_the_adversarial_ones_and_their_control() -> None:
    assert late() == [
        "adversarial_consistency", "fast_fgsm", "fgm", "free_at", "freelb", "pgd", "pgd_inputs",
        "random_noise", "vat",
    ]  # fmt: skip
    kinds = methods.registry()
    others = {kind.span for name, kind in kinds.items() if name not in late()}
    assert others == {(0.0, 1.0)}
    assert all(kinds[name].placements is Placement.ANYTIME for name in late())


@every
def test_the_first_quarter_is_the_plain_run_to_the_bit(name: str) -> None:
    def at(run: Run, updates: int) -> dict[str, torch.Tensor]:
        return weights(run.fit(until=updates).module)

    plain, attacked = make_run(updates=8), make_run([by_itself(name)], updates=8)
    at_once = make_run([by_itself(name).during(0, 1)], updates=8)
    assert equal(at(plain, 2), at(attacked, 2))
    assert not equal(at(plain, 2), at(at_once, 2))
    first = 4 if name == "free_at" else 3  # whose delta is 0 in its first update
    assert not equal(at(plain, first), at(attacked, first))
    written = make_run([by_itself(name).during(0.25, 1)], updates=8).fit()
    assert equal(weights(attacked.fit().module), weights(written.module))


@every
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumes_before_and_after_it_begins(name: str, stop: int, tmp_path: Path) -> None:
    through = make_run([by_itself(name)], updates=8).fit()
    make_run([by_itself(name)], updates=8, folder=tmp_path).fit(until=stop)
    resumed = make_run([by_itself(name)], updates=8, folder=tmp_path)
    assert resumed.updates == stop
    assert same(whole(through), whole(resumed.fit()))


@every
def test_a_checkpoint_from_the_start_on_is_another_recipe(name: str, tmp_path: Path) -> None:
    make_run([case(name).method], folder=tmp_path).fit(until=2)
    with pytest.raises(CheckpointError, match=r"during \[0\.0, 1\.0\]"):
        make_run([by_itself(name)], folder=tmp_path)


SPANS = [LATE, (0.0, 1.0), (0.5, 1.0), (0.0, 0.25)]


@every
@pytest.mark.parametrize("span", SPANS)
def test_settings_and_copies_keep_the_span(name: str, span: tuple[float, float]) -> None:
    method = by_itself(name) if span == LATE else by_itself(name).during(*span)
    copies = [method.clone(), method.labelled("twin"), methods.make(method), again(method)]
    assert {one.span for one in (method, *copies)} == {span}
    assert again(method.labelled("twin")).settings() == method.labelled("twin").settings()
    during = method.settings().get("during")
    assert during == (None if span == LATE else [*span])
    a, b = span
    assert repr(method).endswith(")" if span == LATE else f").during({a:g}, {b:g})")
    assert (".during" in repr(method)) == (span != LATE)
    assert methods.span(method.settings()) == span


def again(method: Method) -> Method:
    return methods.make(json.loads(json.dumps(method.settings())))


@every
def test_its_own_span_written_out_is_the_same_method(name: str) -> None:
    method = by_itself(name)
    assert method.during(*LATE).settings() == method.settings()
    assert repr(method.during(*LATE)) == repr(method)
    moved = methods.spanning({**method.settings(), "during": [0, 1]}, *LATE)
    assert moved == method.settings()


@every
def test_a_stack_without_a_length_names_both_remedies(name: str) -> None:
    said = (
        rf"^{name} \(0\.25 to 1, its default\) takes part in a fraction of training, .*: pass "
        rf"updates=N to Stack, or {name}\.during\(0, 1\)\."
    )
    with pytest.raises(InputError, match=said):
        make_stack([by_itself(name)], updates=None)
    stack = make_stack([by_itself(name).during(0, 1)], updates=None)
    plain = make_stack(updates=None)
    for one in (stack, plain):
        one.step(Batch.of(data(12)))
        one.step(Batch.of(data(12)))  # free_at's delta is 0 at first
    assert not equal(weights(stack.run.module), weights(plain.run.module))


def test_the_error_names_all_and_which_are_defaults() -> None:
    said = r"^fgm \(0\.25 to 1, its default\), ema \(0\.5 to 1\) takes part"
    with pytest.raises(InputError, match=said):
        Stack(torch.nn.Embedding(3, 2), "categorical", [FGM(), EMA().during(0.5)])


def test_it_begins_in_each_stage_at_a_quarter_also_of_few_updates() -> None:
    for updates, first in ((1, 0), (3, 0), (4, 1), (8, 2)):
        stack = make_stack([FGM()], updates=updates)
        begun = []
        for _ in range(updates):
            stack.step(Batch.of(data(12)))
            begun.append("fgm" in stack.state_dict()["states"])
        assert begun.index(True) == max(0, first - 1)  # it starts where an update ends


def test_companions_of_what_has_a_span_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FGM, "companions", frozenset({"precise_bn"}))
    assert companions([{"name": "fgm"}]) == [{"name": "precise_bn", "during": [0.25, 1.0]}]
    assert companions([{"name": "fgm", "during": [0, 1]}]) == [{"name": "precise_bn"}]
