"""FixMatch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.contract.case import Case, Cost
from tests.contract.fixture import (
    close,
    data,
    equal,
    inputs,
    make_model,
    make_run,
    make_stack,
    noisy,
    resources,
    weights,
)
from tests.methods.traps import trap
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Layer, Method, method
from whet.methods.ema import EMA
from whet.methods.fixmatch import FixMatch, fix_match_losses, interleaved, pseudo_labels
from whet.objectives import make
from whet.stack import Stack

CASE = Case(
    FixMatch(threshold=0.4, mu=2),
    accumulates="each micro-batch draws unlabelled rows and views of its own",
    cost=Cost(rows=5, inputs=26),
)


def labelled(rows: int = 6) -> Batch:
    return Batch.of(data()).take(torch.arange(rows)).replace(indices=torch.arange(10, 10 + rows))


def recording() -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The fixture's resources, and what its views made."""
    made: dict[str, list[Any]] = {"weak": [], "strong": []}

    def kept(name: str, scale: float) -> Any:
        def view(given: Any, generator: torch.Generator) -> Any:
            made[name].append(noisy(scale)(given, generator))
            return made[name][-1]

        return view

    return resources() | {"weak": kept("weak", 0.05), "strong": kept("strong", 0.5)}, made


def join(*parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


# the core ------------------------------------------------------------------------------------
def test_pseudo_labels_by_hand() -> None:
    p = torch.tensor([[0.96, 0.03, 0.01], [0.5, 0.3, 0.2], [0.01, 0.04, 0.95001]])
    labels, sure = pseudo_labels(p.log(), threshold=0.95)
    assert labels.tolist() == [0, 0, 2]
    assert sure.tolist() == [True, False, True]


def test_loss_is_the_official_formula() -> None:
    """The lines of the official code, in torch: masked cross-entropy, mean over all rows."""
    maker = torch.Generator().manual_seed(0)
    weak, strong = (3 * torch.randn(50, 4, generator=maker) for _ in range(2))
    best, targets = torch.softmax(weak.detach(), dim=-1).max(dim=-1)
    mask = best.ge(0.8).float()
    official = (F.cross_entropy(strong, targets, reduction="none") * mask).mean()
    assert 0 < mask.mean() < 1
    assert torch.equal(fix_match_losses(strong, *pseudo_labels(weak, 0.8)).mean(), official)


def test_multi_label_counts_each_label_by_itself() -> None:
    p = torch.tensor([[0.97, 0.5], [0.02, 0.99]])
    strong = torch.tensor([[0.3, 2.0], [-1.0, 0.5]])
    labels, sure = pseudo_labels(p.logit(), 0.95, make("multi-label").family)
    assert labels.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert sure.tolist() == [[True, False], [True, True]]
    each = F.binary_cross_entropy_with_logits(strong, labels, reduction="none")
    expected = torch.stack([each[0, 0] / 2, (each[1, 0] + each[1, 1]) / 2])
    assert torch.allclose(fix_match_losses(strong, labels, sure, make("multi-label")), expected)


def test_every_chunk_holds_all_three_kinds() -> None:
    n, mu = 12, 2
    kinds = torch.tensor([0] * n + [1] * mu * n + [2] * mu * n)
    order = interleaved(len(kinds), 2 * mu + 1)
    assert order.sort().values.tolist() == list(range(len(kinds)))
    for chunk in kinds[order].split(n):
        counts = chunk.bincount(minlength=3)
        assert counts[0] >= 2
        assert (counts[1:] >= 4).all()


# the method ----------------------------------------------------------------------------------
def test_hand_loop_equals_the_method_to_the_bit() -> None:
    given, made = recording()
    mu = 2
    stack = make_stack([FixMatch(threshold=0.4, mu=mu, weight=0.7)], coupled=False, resources=given)
    batches = Batch.of(data()).split(6)[:3]
    for batch in batches:
        stack.step(batch)
    model = make_model(0, coupled=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for batch, weak, strong in zip(batches, made["weak"], made["strong"], strict=True):
        joint = join(batch.inputs, weak, strong)
        order = interleaved(6 * (2 * mu + 1), 2 * mu + 1)
        output = model(**{key: value[order] for key, value in joint.items()})[order.argsort()]
        x, w, s = output.split([6, 12, 12])
        losses = fix_match_losses(s, *pseudo_labels(w, 0.4))
        optimizer.zero_grad()
        (
            F.cross_entropy(x, batch.targets, reduction="sum") / 6 + losses.sum() * (0.7 / mu / 6)
        ).backward()
        optimizer.step()
    assert equal(weights(stack.run.module), weights(model))


def test_views_are_two_views_of_the_same_unlabelled_rows() -> None:
    given, made = recording()
    given |= {
        "weak": lambda x, g: made["weak"].append(x) or x,
        "strong": lambda x, g: made["strong"].append(x) or x,
    }
    stack = make_stack([FixMatch(mu=3)], resources=given)
    stack.step(labelled())
    assert len(made["weak"][0]["floats"]) == 18
    assert equal(made["weak"][0], made["strong"][0])
    whole = inputs(30, seed=7)["floats"]
    assert all((row == whole).all(1).any() for row in made["weak"][0]["floats"])


def test_labelled_rows_come_back_in_order() -> None:
    seen: list[Forward] = []

    @method
    class Outer(Method):
        name: ClassVar[str] = "outer"
        layer: ClassVar[Layer] = Layer.BATCH_SOURCE

        def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
            seen.append(inner(batch))
            return seen[-1]

    batch = labelled().replace(mask=torch.tensor([True, False, True, True, True, True]))
    stack = make_stack([Outer(), FixMatch(mu=2)], coupled=False)
    model = make_model(0, coupled=False)
    stack.step(batch)
    [forward] = seen
    expected = model(**batch.inputs)
    assert forward.batch.indices is not None and forward.mask is not None  # noqa: PT018
    assert forward.batch.indices.tolist() == list(range(10, 16))
    assert equal(forward.batch.inputs, batch.inputs)
    assert forward.mask.tolist() == [True, False, True, True, True, True]
    assert torch.allclose(forward.output, expected, atol=1e-6)
    losses = F.cross_entropy(expected, batch.targets, reduction="none")
    assert torch.allclose(forward.losses, losses, atol=1e-6)
    assert [term.name for term in forward.terms] == ["fixmatch"]


@method
class PerRow(Method):
    """A method inside that adds a term for every row, with or without a target."""

    name: ClassVar[str] = "per_row"
    layer: ClassVar[Layer] = Layer.CONSISTENCY

    def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
        self.batch = batch
        forward = inner(batch)
        return forward.add("ones", torch.ones(batch.size), per="rows", weight=0.5)


def test_methods_inside_see_masked_rows_and_keep_their_weight() -> None:
    inside = PerRow()
    stack = Stack(
        make_model(coupled=False),
        "categorical",
        [FixMatch(threshold=1.0, mu=3), inside],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.0),
        resources=resources(),
    )
    batch = labelled()
    plain = F.cross_entropy(make_model(coupled=False)(**batch.inputs), batch.targets)
    stack.step(batch)
    seen = inside.batch
    assert seen.size == 6 * 7
    assert int(seen.rows_with_target().sum()) == 6
    assert seen.indices is not None
    assert (seen.indices[~seen.rows_with_target()] == -1).all()
    assert math.isclose(stack.loss, plain.item() + 0.5, rel_tol=1e-5)


def test_rate_moves_with_updates_only() -> None:
    stack = make_stack([FixMatch(threshold=0.0, mu=2)])
    stack.gradients(stack.window(labelled()))
    assert math.isnan(stack.methods[0].rate)  # type: ignore[attr-defined]
    stack.update()
    assert stack.methods[0].rate == 1.0  # type: ignore[attr-defined]
    never = make_stack([FixMatch(threshold=1.0, mu=2)])
    never.step(labelled())
    assert never.methods[0].rate == 0.0  # type: ignore[attr-defined]
    again = make_stack([FixMatch(threshold=0.0, mu=2)])
    again.load_state_dict(stack.state_dict())
    assert again.methods[0].rate == 1.0  # type: ignore[attr-defined]


def test_neutral_form_and_effect() -> None:
    plain = weights(make_run().fit().module)
    assert equal(plain, weights(make_run([FixMatch(mu=0)]).fit().module))
    assert not close(plain, weights(make_run([CASE.method]).fit().module))


def test_control_arm_knows_only_the_labelled_rows() -> None:
    """Strong views of the labelled rows under their own targets; unlabelled data plays no part."""
    other = resources() | {"unlabelled": inputs(30, seed=99)}
    runs = [
        make_stack([FixMatch(mu=2, control=True)], resources=given)
        for given in (resources(), other)
    ]
    for stack in runs:
        stack.step(labelled())
    assert equal(weights(runs[0].run.module), weights(runs[1].run.module))
    given, made = recording()
    stack = make_stack([FixMatch(mu=2, control=True)], coupled=False, resources=given)
    batch = labelled().replace(mask=torch.tensor([True, True, False, True, True, True]))
    stack.step(batch)
    model = make_model(coupled=False)
    each = F.cross_entropy(model(**made["strong"][0]), batch.targets.repeat(2), reduction="none")
    x = F.cross_entropy(model(**batch.inputs), batch.targets, reduction="none")
    keep = batch.mask
    expected = x[keep].mean() + each[keep.repeat(2)].sum() / 12
    assert math.isclose(stack.loss, expected.item(), rel_tol=1e-5)


def test_multi_label_trains() -> None:
    hot = F.one_hot(data()["labels"], 3).float()
    batch = Batch({k: v for k, v in data().items() if k != "labels"}, hot).take(slice(0, 6))
    stack = Stack(
        make_model(),
        "multi-label",
        [FixMatch(threshold=0.5, mu=2)],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        resources=resources(),
    )
    assert stack.step(batch)
    assert stack.methods[0].rate == 1.0  # type: ignore[attr-defined]


def test_tensor_inputs_and_rows_without_targets() -> None:
    same: dict[str, Any] = {"unlabelled": torch.randn(20, 4, generator=torch.Generator())}
    same |= {name: lambda x, g: x + 0.1 for name in ("weak", "strong")}
    stack = Stack(
        nn.Linear(4, 3),
        "categorical",
        [FixMatch(threshold=0.0, mu=1)],
        optimizer=lambda p: torch.optim.SGD(p, lr=0.1),
        resources=same,
    )
    before = weights(stack.run.module)
    assert stack.step(Batch(torch.randn(4, 4)))  # unlabelled rows alone still teach
    assert not equal(before, weights(stack.run.module))


# errors --------------------------------------------------------------------------------------
def test_does_not_apply_to_reals() -> None:
    with pytest.raises(NotApplicable, match=r"no labels to be sure of.*vat"):
        Stack(nn.Linear(4, 1), "real", [FixMatch()], resources=resources())


def test_missing_view_is_named_before_training() -> None:
    given = {k: v for k, v in resources().items() if k != "strong"}
    with pytest.raises(InputError, match="needed by fixmatch"):
        make_stack([FixMatch()], resources=given)


def test_view_must_keep_the_rows() -> None:
    half = {k: v[:3] for k, v in inputs(30, seed=7).items()}
    stack = make_stack([FixMatch(mu=1)], resources=resources() | {"weak": lambda x, g: half})
    with pytest.raises(InputError, match="'weak' made 3 rows of 6"):
        stack.step(labelled())


def test_unlabelled_rows_of_another_shape() -> None:
    longer = inputs(30, seed=7)
    longer["tokens"] = torch.cat([longer["tokens"]] * 2, 1)
    stack = make_stack([FixMatch(mu=1)], resources=resources() | {"unlabelled": longer})
    with pytest.raises(InputError, match="Pad sequences to one length"):
        stack.step(labelled())


def test_a_method_inside_must_keep_the_rows() -> None:
    @method
    class Loses(Method):
        name: ClassVar[str] = "loses"
        layer: ClassVar[Layer] = Layer.CONSISTENCY

        def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
            return inner(batch.take(slice(0, 3)))

    with pytest.raises(InputError, match="gave 3 rows for 18"):
        make_stack([FixMatch(mu=1), Loses()]).step(labelled())


# traps ---------------------------------------------------------------------------------------
class ThreeForwards(FixMatch):
    """One call of the model for each kind of row."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
        rows = run.draw("unlabelled", self.mu * batch.size, self).inputs
        weak, strong = (
            inner(Batch(run.resource(name, self)(rows, run.generator(self, name)))).output
            for name in ("weak", "strong")
        )
        values = fix_match_losses(strong, *pseudo_labels(weak, self.threshold))
        return inner(batch).add("fixmatch", values, per="rows", weight=self.weight / self.mu)


@trap(right=FixMatch, wrong=ThreeForwards)
def test_batch_statistics_see_one_forward(kind: Any) -> None:
    stack = make_stack([kind(mu=2)])
    stack.step(labelled())
    assert stack.run.module.norm.num_batches_tracked == 1  # type: ignore[union-attr]


class MeanOfConfident(FixMatch):
    """Divides by the number of confident rows, so that the weight never ramps up."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
        forward = super().forward(run, batch, inner)
        *rest, term = forward.terms
        share = term.values.count_nonzero().clamp(min=1) / len(term.values)
        return forward.replace(terms=tuple(rest)).add(
            "fixmatch", term.values / share, per=term.per, weight=term.weight
        )


@trap(right=FixMatch, wrong=MeanOfConfident)
def test_mean_is_over_all_unlabelled_rows(kind: Any) -> None:
    given, made = recording()
    stack = make_stack([kind(threshold=0.4, mu=3)], coupled=False, resources=given)
    batch = labelled()
    stack.step(batch)
    model = make_model(coupled=False)
    best, targets = model(**made["weak"][0]).softmax(-1).max(-1)
    mask = best.ge(0.4).float()
    assert 0 < mask.mean() < 1
    each = F.cross_entropy(model(**made["strong"][0]), targets, reduction="none")
    plain = F.cross_entropy(model(**batch.inputs), batch.targets)
    assert math.isclose(stack.loss, (plain + (each * mask).mean()).item(), rel_tol=1e-5)


class AverageTeaches(FixMatch):
    """Labels by the averaged weights, which makes it Mean Teacher's cousin."""

    def forward(self, run: Any, batch: Batch, inner: Any) -> Forward:
        rows = run.draw("unlabelled", self.mu * batch.size, self).inputs
        with run.evaluating(), torch.no_grad():
            self.judged = run.module(**run.resource("weak", self)(rows, run.generator(self, "w")))
        return super().forward(run, batch, inner)

    def _labels(self, run: Any, drawn: Batch, weak: Tensor) -> tuple[Tensor, Tensor]:
        return super()._labels(run, drawn, self.judged)


@trap(right=FixMatch, wrong=AverageTeaches)
def test_ema_is_for_evaluation_only(kind: Any) -> None:
    alone = make_run([FixMatch(threshold=0.4, mu=2)]).fit()
    beside = make_run([kind(threshold=0.4, mu=2), EMA(0.9)]).fit()
    assert equal(weights(alone.module), weights(beside.module))


def test_resumes_to_the_bit(tmp_path: Any) -> None:
    whole = make_run([CASE.method]).fit()
    make_run([CASE.method], folder=tmp_path, checkpoint_every=1).fit(until=3)
    rest = make_run([CASE.method], folder=tmp_path).fit()
    assert equal(weights(whole.module), weights(rest.module))
