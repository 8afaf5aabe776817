"""Every method on a compiled model, and on one that checkpoints its activations.

The compiler's backend is `eager`, the traced graph run as it is. With WHET_TEST_ALL, as in
`make test-all`, it is `aot_eager`, which traces the backward too and makes functional what changes
in place, for three times the time; and then one method goes through `inductor`, where code is
generated.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import config
from torch.utils.checkpoint import checkpoint

from tests.contract.fixture import (
    Net,
    close,
    data,
    make_model,
    make_stack,
    make_task,
    members_of,
    weights,
)
from tests.contract.found import case, names
from tests.contract.test_singles import windows
from whet import methods, seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.method import Method
from whet.run import Run
from whet.stack import Stack
from whet.stage import Stage

every = pytest.mark.parametrize("name", names())
ALL = bool(os.environ.get("WHET_TEST_ALL"))
BACKEND = "aot_eager" if ALL else "eager"
SEEN = Batch.of(data(12, 1))

# the compiler itself looks at `.grad` of what a graph break hands on
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """No graph of another test; and a model that is compiled over and over is an error."""
    torch.compiler.reset()
    with config.patch(fail_on_recompile_limit_hit=True):
        yield
    torch.compiler.reset()


def trained(
    given: Method | None, change: Callable[[Stack], None] = lambda stack: None,
    early: Callable[[Net], None] = lambda model: None, judged: int = 0, members: int = 0,
) -> tuple[dict[str, Tensor], list[Tensor]]:  # fmt: skip
    """Weights after three windows, one of them short, and what was predicted on the way.

    Args:
        given: the method.
        change: done to the stack before it is opened.
        early: done to the model before there is a stack.
        judged: after so many of the windows the model is judged, and after the last.
        members: heads of the model, where the method does not decide.
    """
    model = make_model(members=members or members_of([] if given is None else [given]))
    early(model)
    stack = make_stack([] if given is None else [given], model=model)
    change(stack)
    found = []
    for at, window in enumerate(windows()[2:5]):
        stack.step(window)
        if at < judged or at == 2:
            found.append(stack.predictor()(SEEN))
    return weights(stack.run.module), found


def in_place(model: Net) -> None:
    model.compile(backend=BACKEND)
    called(model, model)


def called(model: Net, compiled: Callable[..., Tensor]) -> None:
    """Have the graph made before any method puts its hooks in, and leave no trace of that."""
    before = weights(model)
    with seeding.borrowed():
        compiled(**SEEN.take(slice(0, 6)).inputs).sum().backward()
    model.load_state_dict(before)
    model.zero_grad()


@every
def test_compiled_equals_plain(name: str) -> None:
    """Compiled in place, and by a graph that is older than the method; judged on the way."""
    method = case(name).method
    plain, predicted = trained(method, judged=2)
    found, also = trained(method, early=in_place, judged=2)
    assert close(found, plain, atol=1e-6)
    for a, b in zip(also, predicted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


@every
def test_checkpointed_activations_equal_plain(name: str) -> None:
    def checkpointed(model: Net) -> None:
        model.checkpointed = True

    method = case(name).method
    (plain, _), (late, _) = trained(method), trained(method, early=checkpointed)
    # the recompute moves running statistics once more, with or without whet: docs/traps.md
    learned = [key for key in plain if "running" not in key and "tracked" not in key]
    assert close({k: plain[k] for k in learned}, {k: late[k] for k in learned}, atol=1e-6)


SCOPES: list[dict[str, Any]] = [
    {"name": "fgm", "scope": "output"},
    {"name": "pgd", "scope": "output", "step_size": 0.5},
    {"name": "random_noise", "scope": "output", "epsilon": 3.0},
    {"name": "freelb", "steps": 2, "step_size": 0.5, "init": 0.5},
    {"name": "fast_fgsm", "epsilon": 0.3, "scope": "embeddings", "watch": 0},
    {"name": "fast_fgsm", "epsilon": 0.3, "scope": "embeddings", "watch": 0, "weight": 0.5},
    {"name": "manifold_mixup", "at": "hidden"},
    {"name": "manifold_mixup", "at": "embedding", "alpha": 2.0},
    {"name": "embedding_noise", "alpha": 50.0},
    {"name": "dropout_schedule", "kind": "linear", "rate": 0.9, "first": 0.5},
    {"name": "stochastic_depth", "rate": 0.9, "at": "norm"},
    {"name": "moco", "queue": 10, "momentum": 0.9, "dim": 4, "at": "head"},
    {"name": "negative_correlation"},
]


@pytest.mark.parametrize("given", SCOPES, ids=lambda given: f"{given['name']}-{len(given)}")
def test_hooks_act_in_a_graph_that_was_made_before_them(given: dict[str, Any]) -> None:
    """By itself such a graph goes on without them, and nobody is told."""
    callables: list[Any] = []

    def make_graph(model: Net) -> None:
        callables.append(torch.compile(model, backend="eager"))
        called(model, callables[0])

    def compiled(stack: Stack) -> None:
        stack.run.model = callables[0]

    method = methods.make(given).during(0, 1)
    (plain, _), (found, _) = trained(method), trained(method, compiled, make_graph)
    assert close(found, plain, atol=1e-6)
    heads = members_of([method])
    without, _ = trained(None, members=heads)
    learned = dict(make_model(members=heads).named_parameters())
    assert max((found[key] - without[key]).abs().max() for key in learned) > 1e-3


def test_precise_statistics_of_a_model_compiled_in_place() -> None:
    """Judged often: each time other lists are filled, which a graph would not notice."""
    method = methods.make("precise_bn")
    _, plain = trained(method, judged=3)
    _, found = trained(method, early=in_place, judged=3)
    _, running = trained(None, judged=3)
    for a, b, c in zip(found, plain, running, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
        assert not torch.allclose(a, c, atol=1e-3)


def test_a_run_of_a_wrapped_model_in_half_precision() -> None:
    """Names in the model begin otherwise then, and Fabric stands around all of it."""

    def run(wrapped: bool) -> Run:
        given = [methods.make(one).during(0, 1) for one in ("ema", "precise_bn", SCOPES[0])]
        task = make_task()
        if wrapped:
            task = replace(task, model=torch.compile(task.model, backend="eager"))
        stage = Stage(updates=4, batch_size=6, optimizer={"name": "sgd", "lr": 0.1}, methods=given)
        return Run(task, stage, device="cpu", precision="bf16", evaluate_every=1).fit()

    plain, found = run(wrapped=False), run(wrapped=True)
    bare = {name.removeprefix("_orig_mod."): t for name, t in weights(found.module).items()}
    assert close(bare, weights(plain.module), atol=1e-6)
    assert torch.allclose(found.predictor()(SEEN), plain.predictor()(SEEN), atol=1e-6)


# ask for no gradient but that of an input
INPUT_GRADIENTS = ("adversarial_consistency", "fast_fgsm", "pgd_inputs", "vat")


class Reentrant(Net):
    """As models do that ask only where a gradient is wanted."""

    def body(self, hidden: Tensor) -> Tensor:
        if self.checkpointed and self.training and torch.is_grad_enabled():
            return checkpoint(super().body, hidden, use_reentrant=True)
        return super().body(hidden)

    def forward(self, tokens: Tensor, floats: Tensor, image: Tensor | None = None) -> Tensor:
        hidden = torch.cat([self.embed(tokens).mean(1), floats], 1)
        return self.head(self.body(hidden))


@every
def test_reentrant_checkpoints_work_or_are_refused(name: str) -> None:
    """The older kind lets nobody ask for the gradient of an input alone; who does says so."""

    def plain(model: Net) -> None:
        model.__class__ = Reentrant

    def older(model: Net) -> None:
        plain(model)
        model.checkpointed = True

    method = case(name).method
    if name in INPUT_GRADIENTS:
        with pytest.raises(NotApplicable, match="use_reentrant=False"):
            trained(method, early=older)
        return
    (now, _), (late, _) = trained(method, early=plain), trained(method, early=older)
    learned = [key for key in now if "running" not in key and "tracked" not in key]
    assert close({k: now[k] for k in learned}, {k: late[k] for k in learned}, atol=1e-6)


if ALL:

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
    def test_generated_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What the compiler makes by default, with a break in the graph and shifted vectors."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        # dropout draws other masks there, unless it is told not to
        monkeypatch.setattr("torch._inductor.config.fallback_random", True)

        def compiled(stack: Stack) -> None:
            stack.run.model = torch.compile(stack.run.module)

        method = methods.make(SCOPES[0]).during(0, 1)
        (plain, _), (found, _) = trained(method), trained(method, compiled)
        assert close(found, plain, atol=1e-5)
