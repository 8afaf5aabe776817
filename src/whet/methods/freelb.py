"""FreeLB."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import embedding, modes, seeding
from whet.batch import Batch
from whet.embedding import Call, Shift, sized, within_
from whet.forward import Forward
from whet.method import LATE, Card, InnerBackward, InnerForward, Layer, Method, Resource, method
from whet.settings import number
from whet.training import Training


@method
class FreeLB(Method):
    r"""Free large-batch adversarial training: K steps up on the embeddings, each of them learned.

    $$\frac1K \sum_{t=0}^{K-1} \nabla_w L(x + \delta_t), \quad \delta_{t+1} =
    \Pi_{\|\delta\| \le \epsilon}\bigl(\delta_t + \alpha\, g_t / \|g_t\|_2\bigr), \quad
    g_t = \nabla_\delta L(x + \delta_t)$$

    Norms are over a whole example, time x dim. Padding is never moved. All steps of a
    micro-batch have one dropout mask, and only the first moves the batch statistics. In a batch
    that calls no embedding nothing moves, the passes are made all the same, and `run.notes` says
    so once; so does `skipped` in a loop of one's own.

    Args:
        steps: K, at least 1.
        step_size: α, in the embedding's own units.
        epsilon: radius of the ball that δ is kept in; 0 for no bound.
        init: size of δ_0, which is uniform in ±init/sqrt(length x dim); 0 begins at zero.
        at: which nn.Embedding: a glob, a name, or the name of a module above them.
        exclude: globs of embeddings to leave alone.

    Shapes: δ is like what an embedding returns, `(N, T, D)` or `(N, D)`.

    Cost: K forward and backward passes; 2 copies of what the embeddings return. A compiled graph
    breaks at the embedding.

    Raises:
        NotApplicable: no embedding matches.

    Paper: Zhu et al. 2020, arXiv:1909.11764. As all adversarial methods it begins at a
    quarter of training; `.during(0, 1)` begins at once.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([0])
    >>> with FreeLB(steps=3).attack(model) as rounds:
    ...     for share in rounds:        # 1/3; the loss's mean over the steps is learned
    ...         (share * nn.functional.cross_entropy(model(ids), labels)).backward()
    """

    steps: int = number(3, 1, whole=True)
    step_size: float = number(0.1, 0.0)
    epsilon: float = number(0.0, 0.0)
    init: float = number(0.0, 0.0)
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS

    name: ClassVar[str] = "freelb"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.SECOND_GRADIENT})
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"steps": 1, "init": 0.0}
    card: ClassVar[Card] = Card(
        title="Free large-batch adversarial training", paper="arXiv:1909.11764",
        cost="K forward and backward passes (3)", tier=2, phase="from a quarter on",
        data="tokens or categories that are embedded",
        avoid_when="at the very start, which it damages: it begins at a quarter",
        zh={
            "title": "大批量自由对抗训练（FreeLB）", "cost": "K 次前向和反向传播（默认 3 次）",
            "phase": "训练进行到四分之一之后", "data": "经嵌入层输入的词元或类别特征",
            "avoid_when": "训练刚开始时使用会损害模型，因此默认从四分之一处开始",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._model: nn.Module | None = None
        self._embeddings: dict[str, nn.Module] = {}
        self._shift: Shift | None = None
        self.skipped: list[str] = []  # embeddings that some batch did not call

    # the core: torch alone -------------------------------------------------------------------
    def begin(self, model: nn.Module) -> None:
        """Find the model's embeddings."""
        self._embeddings = embedding.modules(model, self.at, self.exclude, self.key)
        self._model, self.skipped = model, []

    @contextmanager
    def attack(self, model: nn.Module, seed: int | None = None) -> Iterator[Iterator[float]]:
        """The K rounds of one micro-batch; each gives 1/K, and δ moves between them.

        Args:
            model: the module.
            seed: of δ_0; drawn from torch's default generator where it is None.
        """
        key = int(torch.randint(1 << 62, ())) if seed is None and self.init > 0 else seed or 0
        with self._shifted(model, key), ExitStack() as still:
            yield self._rounds(model, still)

    def _rounds(self, model: nn.Module, still: ExitStack) -> Iterator[float]:
        generators = [torch.default_generator]
        if torch.cuda.is_initialized():
            generators += torch.cuda.default_generators
        states = [(one, one.get_state()) for one in generators]
        for at in range(self.steps):
            if at == 1:  # ended by `attack`, as a loop that is left early does not come back here
                still.enter_context(modes.still_statistics(model))
            if at > 0:
                self._climb()
                for one, state in states:
                    one.set_state(state)
            yield 1.0 / self.steps

    @contextmanager
    def _shifted(self, model: nn.Module, key: int) -> Iterator[None]:
        if self._model is not model:
            self.begin(model)
        start = (lambda call, at: self._first(call, key, at)) if self.init > 0 else None
        with Shift(model, [*self._embeddings.values()], start) as self._shift:
            try:
                yield
                embedding.uncalled(self._embeddings, self._shift.calls, self.skipped)
            finally:
                self._shift = None

    def _first(self, call: Call, key: int, at: int) -> Tensor:
        """δ_0: uniform, of a length that does not depend on the sentence's."""
        maker = seeding.generator(key, at)
        noise = torch.rand(call.delta.shape, generator=maker).mul_(2).sub_(1)
        room = (call.lengths() * call.delta.shape[-1]).sqrt()
        return call.silent(noise.to(call.delta) * (self.init / room))

    def _climb(self) -> None:
        """One step up the gradient, and back into the ball."""
        assert self._shift is not None
        for call in self._shift.calls:
            gradient = call.gradient()
            if gradient is not None:
                moved = call.delta.detach() + sized(gradient, self.step_size, each=True)
                call.move(within_(moved, self.epsilon, each=True) if self.epsilon > 0 else moved)

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        self.begin(run.module)
        embedding.make_ready(run.module, [*self._embeddings.values()])

    def start(self, run: Training) -> None:
        self.begin(run.module)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.steps > 1 or self.init > 0:
            # held, so that a recompute in the backward meets the same δ
            run.hold(self, self._shifted(run.module, run.key(self)))
        return inner(batch)

    def after_update(self, run: Training) -> None:
        for skipped in self.skipped:
            run.note(embedding.stays(self.key, skipped))

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        inner(forward.replace(scale=forward.scale / self.steps))
        if self.steps > 1:
            with modes.still_statistics(run.module):
                for _ in range(1, self.steps):
                    self._climb()
                    again = run.again()
                    inner(again.replace(scale=again.scale / self.steps))
                assert self._shift is not None
                self._shift.rewind()  # whoever repeats this micro-batch begins at δ_0
