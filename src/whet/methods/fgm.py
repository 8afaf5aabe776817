"""FGM on embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import nn

from whet import modes
from whet.embedding import sized
from whet.forward import Forward
from whet.method import LATE, Card, InnerBackward, Layer, Resource, method
from whet.perturbation import Perturbation
from whet.training import Training
from whet.world import World


@method
class FGM(Perturbation):
    r"""Fast gradient method: train on embeddings moved up the gradient, besides the clean ones.

    $$\nabla L(E) + \lambda \nabla L(E + r), \quad r = \epsilon\, g / \|g\|_2,
    \quad g = \nabla_E L$$

    g is this micro-batch's own gradient, also where `.grad` holds earlier ones. Where its norm is
    zero, NaN or infinite nothing is moved, and the second pass is made all the same: the number
    of passes never depends on the data. The second pass draws a new dropout mask and leaves the
    batch statistics alone. A table that is tied to the output layer moves there too; one that has
    no gradient, or is frozen, stays where it is, as does in the other scopes an embedding that a
    batch does not call. `run.notes` says so once; in a loop of one's own, `skipped`.

    Args:
        epsilon: length of r, in the embedding's own units; 5 for Miyato's normalised embeddings.
        scope: `table`: E is the whole table, one norm for each. `example`: what the embedding
            returns, one norm for each example over time x dim. `output`: what it returns, one
            norm for each call. The last two leave padding alone and work on frozen tables.
        across: whose gradient moves a table in several processes. `local`: each process's own
            rows', for one all-reduce a step. `global`: the whole micro-batch's, for one more
            all-reduce of the tables a micro-batch; equal to one process. The other scopes move
            each row by its own (`output`: each process's rows by theirs).
        at: which nn.Embedding: a glob, a name, or the name of a module above them.
        exclude: globs of embeddings to leave alone.
        weight: λ, of the adversarial loss; 0 makes no second pass.

    Shapes: tables `(V, D)`; what an embedding returns `(N, T, D)` or `(N, D)`.

    Cost: 2 forward and backward passes; 2 copies of the tables, or of what they return. In the
    last two scopes a compiled graph breaks at the embedding.

    Raises:
        NotApplicable: no embedding matches, or all tables are frozen and the scope is `table`.
        InputError: used alone, `attack` outside of `watch` in the scopes that need it.

    Paper: Miyato, Dai & Goodfellow 2017, arXiv:1605.07725. It damages a model at the very start and
    so begins at a quarter of training; `.during(0, 1)` begins at once. `random_noise`, of the same
    length, is the control to compare it with.

    >>> import torch
    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([0])
    >>> fgm = FGM(epsilon=1.0)
    >>> with fgm.watch(model):          # may be left out for `table` without accumulation
    ...     nn.functional.cross_entropy(model(ids), labels).backward()
    ...     with fgm.attack(model):     # tables come back on exit, also after an error
    ...         nn.functional.cross_entropy(model(ids), labels).backward()
    """

    name: ClassVar[str] = "fgm"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.SECOND_GRADIENT})
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Adversarial embeddings (FGM)", paper="arXiv:1605.07725",
        cost="2 forward and backward passes", tier=1, phase="from a quarter on",
        data="tokens or categories that are embedded",
        avoid_when="at the very start, which it damages: it begins at a quarter",
        zh={
            "title": "对抗训练（FGM，扰动词嵌入）", "cost": "2 次前向和反向传播",
            "phase": "训练进行到四分之一之后", "data": "经嵌入层输入的词元或类别特征",
            "avoid_when": "训练刚开始时使用会损害模型，因此默认从四分之一处开始",
        },
    )  # fmt: skip

    # the core: torch alone -------------------------------------------------------------------
    @contextmanager
    def attack(self, model: nn.Module, world: World | None = None) -> Iterator[None]:
        """Embeddings moved up the gradient of the clean pass, for the length of a `with`.

        In a `world` tables move up the gradient of all processes, each of which must call this.
        """
        vectors = self.vectors(model)
        with modes.still_statistics(model), vectors.moving() as move:
            move([
                None if gradient is None else sized(gradient, self.epsilon, each=self.each)
                for gradient in vectors.gradients(world)
            ])  # fmt: skip
            yield

    # the moments -----------------------------------------------------------------------------
    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        inner(forward)
        if self.weight > 0:
            with self.attack(run.module, self.world(run)):
                again = run.again(fresh=True)
                inner(again.replace(scale=again.scale * self.weight))
