"""PGD on embeddings."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from whet import modes
from whet.attack import attack_pass
from whet.embedding import sized, within_
from whet.forward import Forward
from whet.method import LATE, Card, InnerBackward, Layer, Resource, method
from whet.perturbation import Move, Perturbation, Vectors
from whet.settings import number
from whet.training import Training
from whet.world import World


@method
class PGD(Perturbation):
    r"""Projected gradient descent: K steps up on the embeddings; the last point is learned.

    $$\nabla L(E) + \lambda \nabla L(E + \delta_K), \quad \delta_{t+1} =
    \Pi_{\|\delta\|_2 \le \epsilon}\bigl(\delta_t + \alpha\, g_t / \|g_t\|_2\bigr), \quad
    g_t = \nabla_E L(E + \delta_t), \quad \delta_0 = 0$$

    g_t is this micro-batch's own gradient, also where `.grad` holds earlier ones. The first step
    climbs the clean pass's, and the K - 1 passes in between leave no gradient behind. Where a norm
    is zero, NaN or infinite there is no step, and every pass is made all the same. All moved
    passes have one dropout mask, another than the clean pass's, and leave the batch statistics
    alone. One step of α = ε is FGM. A table that is tied to the output layer moves there too.

    Args:
        steps: K, at least 1.
        step_size: α, in the embedding's own units.
        epsilon: ε, radius of the ball that δ is kept in, by the norm that the steps have.
        scope: `table`: E is the whole table, one norm for each. `example`: what the embedding
            returns, one norm for each example over time x dim. `output`: what it returns, one
            norm for each call. The last two leave padding alone and work on frozen tables.
        across: whose gradients move a table in several processes. `local`: each process's own
            rows', for one all-reduce a step. `global`: the whole micro-batch's, for K more
            all-reduces of the tables a micro-batch; equal to one process. The other scopes move
            each row by its own (`output`: each process's rows by theirs).
        at: which nn.Embedding: a glob, a name, or the name of a module above them.
        exclude: globs of embeddings to leave alone.
        weight: λ, of the adversarial loss; 0 makes no pass but the clean one.

    Shapes: tables `(V, D)`; what an embedding returns `(N, T, D)` or `(N, D)`.

    Cost: K + 1 forward and backward passes; 1 copy of the gradients, 3 of the tables or of what
    they return. In the last two scopes a compiled graph breaks at the embedding.

    Raises:
        NotApplicable: no embedding matches, or all tables are frozen and the scope is `table`.
        InputError: used alone, `attack` outside of `watch` in the scopes that need it.

    Paper: Madry et al. 2018, arXiv:1706.06083, there on images and without the clean loss
    (`pgd_inputs`). It begins at a quarter of training; `.during(0, 1)` begins at
    once. `random_noise` is its control.

    >>> import torch
    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([0])
    >>> pgd = PGD(steps=3)
    >>> with pgd.watch(model):          # may be left out for `table` without accumulation
    ...     nn.functional.cross_entropy(model(ids), labels).backward()
    ...     with pgd.attack(model) as rounds:  # tables come back on exit, also after an error
    ...         for weight in rounds:   # gradients of all rounds but the last are dropped
    ...             (weight * nn.functional.cross_entropy(model(ids), labels)).backward()
    """

    steps: int = number(default=3, low=1, whole=True)
    step_size: float = number(default=0.3, low=0.0)

    name: ClassVar[str] = "pgd"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.SECOND_GRADIENT})
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Adversarial embeddings in steps (PGD)", paper="arXiv:1706.06083",
        cost="K + 1 forward and backward passes (4)", tier=2, phase="from a quarter on",
        data="tokens or categories that are embedded",
        avoid_when="at the very start, or where FGM, at half the cost, does as well",
        zh={
            "title": "多步对抗训练（PGD，扰动词嵌入）",
            "cost": "K + 1 次前向和反向传播（默认 4 次）",
            "phase": "训练进行到四分之一之后", "data": "经嵌入层输入的词元或类别特征",
            "avoid_when": "训练刚开始时，或开销减半的 FGM 已有同样效果时",
        },
    )  # fmt: skip

    # the core: torch alone -------------------------------------------------------------------
    @contextmanager
    def attack(
        self, model: nn.Module, world: World | None = None, beside: nn.Module | None = None
    ) -> Iterator[Iterator[float]]:
        """The K rounds after a clean pass; each gives λ, and embeddings move before it.

        Args:
            model: the module.
            world: tables move up the gradients of all its processes, each of which calls this.
            beside: another module that gets gradients, such as a loss with weights of its own.
        """
        modules = (model,) if beside is None else (model, beside)
        parameters = [parameter for module in modules for parameter in module.parameters()]
        vectors = self.vectors(model)
        with ExitStack() as standing:
            standing.enter_context(modes.still_statistics(model))
            move = standing.enter_context(vectors.moving())
            rounds = self._rounds(model, vectors, move, world, parameters)
            # closed, as a loop that is left early does not come back to its generator
            yield standing.enter_context(closing(rounds))

    def _rounds(
        self, model: nn.Module, vectors: Vectors, move: Move, world: World | None,
        parameters: list[nn.Parameter],
    ) -> Generator[float, None, None]:  # fmt: skip
        deltas = self._climbed([], vectors.gradients(world))
        move(deltas)
        for _ in range(self.steps - 1):
            with set_aside(parameters), attack_pass(model):
                yield self.weight
                deltas = self._climbed(deltas, vectors.gradients(world))
            move(deltas)
        yield self.weight

    def _climbed(
        self, deltas: list[Tensor | None], gradients: list[Tensor | None]
    ) -> list[Tensor | None]:
        """Every delta after a step up, and back into the ball."""
        deltas = deltas + [None] * (len(gradients) - len(deltas))
        return [self._step(*each) for each in zip(deltas, gradients, strict=True)]

    def _step(self, delta: Tensor | None, gradient: Tensor | None) -> Tensor | None:
        if gradient is None:
            return delta
        moved = sized(gradient, self.step_size, each=self.each)
        if delta is not None:
            moved += delta
        return within_(moved, self.epsilon, each=self.each)

    # the moments -----------------------------------------------------------------------------
    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        inner(forward)
        if self.weight > 0:
            with self.attack(run.module, self.world(run), run.heads) as rounds:
                for weight in rounds:
                    again = run.again(fresh=True)
                    inner(again.replace(scale=again.scale * weight))

    def absent(self, run: Training) -> None:
        for _ in range(self.steps):
            super().absent(run)


@contextmanager
def set_aside(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Gradients so far out of the way of passes whose gradients are dropped."""
    kept = [(parameter, parameter.grad) for parameter in parameters]
    for parameter, _ in kept:
        # by None and not by zeros in place, which the kept ones would become too
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in kept:
            parameter.grad = grad
