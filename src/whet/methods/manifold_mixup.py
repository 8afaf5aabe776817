"""MixUp inside the model: of embedded words, or of what a layer drawn at random returns."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from whet import hidden, mixing
from whet.batch import Batch
from whet.errors import InputError
from whet.forward import Forward
from whet.hidden import Mixing, Place
from whet.method import Card, InnerForward, Layer, Method, Resource, method
from whet.mixing import Mixture
from whet.settings import number
from whet.training import Training


@contextmanager
def mixed_inside(
    model: nn.Module, at: str, permutation: Tensor, share: float, exclude: tuple[str, ...] = ()
) -> Iterator[None]:
    """The model mixes the rows of its passes at one layer, for a `with`, in training mode.

    Args:
        model: the module.
        at: `embedding`, or the name of one layer.
        permutation: int64 `(N,)`, each row's partner.
        share: λ of the row itself.
        exclude: globs of embeddings to leave alone.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    >>> x = torch.eye(2)
    >>> with mixed_inside(model, "0", torch.tensor([1, 0]), 0.75):
    ...     mixed = model(x)
    >>> h = model[0](x)
    >>> torch.allclose(mixed, model[1](0.75 * h + 0.25 * h[[1, 0]]))
    True
    """
    [place] = hidden.places(model, at, exclude, "mixed_inside")
    with Mixing(model, place, Mixture(permutation, share), "mixed_inside"):
        yield


@method
class ManifoldMixUp(Method):
    r"""Train on rows that are mixed inside the model, and on their targets in the same shares.

    $$\tilde h_i = \lambda h_i + (1 - \lambda) h_{\pi(i)}, \quad
    \tilde y_i = \lambda y_i + (1 - \lambda) y_{\pi(i)}, \quad
    \lambda \sim \mathrm{Beta}(\alpha, \alpha), \quad h = g_\ell(x)$$

    with the layer ℓ drawn out of those that `at` names, one ℓ, λ and permutation for each
    micro-batch. By default h is what the embeddings return, so that words and categories can be
    mixed, whose numbers cannot. The targets are mixed, not the losses. What compares the model's
    answers to single rows (`distillation`, `moco`) counts a mixed row as both of its rows, in their
    shares. Rows without a target stay as they are, to the bit.

    Padding adds nothing to a mixture. With `at="embedding"` a mixture is as long as the longer of
    its rows, at any λ: the model is given the union of the two masks (`attention_mask`), and ids in
    which the padding of a row is filled by its partner's words, which say so to a model that looks
    for padding there (`padding_idx`). At a later layer the mask has been used already, and stays
    the row's own: of a longer partner only so much is mixed in as the row is long. So mix sequences
    of unequal lengths at the embedding.

    Args:
        alpha: α >= 0 of the Beta distribution; 0 mixes nothing, 1 draws λ uniformly. Verma et al.
            take 2 for images.
        at: which layers, names or globs parted by spaces: `embedding` stands for all embeddings
            together, `blocks.*` for `blocks.0`, `blocks.1`, ..., but nothing below them.
        exclude: globs of embeddings that have no row for each row of the batch (positions).

    Shapes: what a layer returns `(N, ...)`, floating, or a tuple that begins with it; targets
    `(N,)` become `(N, C)`.

    Cost: no pass; 2 copies of the layer's output. A compiled graph breaks at each layer of `at`.

    Raises:
        InputError: the model is trained in evaluation mode.
        NotApplicable: a pattern matches no layer; a layer is not called, or called twice, or
            returns no rows; the objective's targets have no mixture (tokens, embeddings).

    Paper: Verma et al. 2019, arXiv:1806.05236; of embedded words, Guo et al. 2019,
    arXiv:1905.08941.

    >>> import torch
    >>> model = nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2))
    >>> words, y = torch.randint(9, (4, 5)), torch.eye(2)[[0, 1, 1, 0]]      # soft targets
    >>> share, permutation = random.betavariate(1.0, 1.0), torch.randperm(4)
    >>> with mixed_inside(model, "embedding", permutation, share):
    ...     logits = model(words)
    >>> loss = nn.functional.cross_entropy(logits, share * y + (1 - share) * y[permutation])
    """

    alpha: float = number(1.0, 0.0)
    at: str = hidden.WORDS
    exclude: tuple[str, ...] = ("*position*",)

    name: ClassVar[str] = "manifold_mixup"
    layer: ClassVar[Layer] = Layer.INPUT_MIXING
    uses: ClassVar[frozenset[Resource]] = frozenset({Resource.HARD_TARGETS})
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0}
    card: ClassVar[Card] = Card(
        title="Manifold and embedding MixUp", paper="arXiv:1806.05236", cost="no pass", tier=1,
        phase="whole training", data="tokens or categories that are embedded, or any with at=",
        avoid_when="targets hang on single words, or on where something lies",
        zh={
            "title": "隐层与词嵌入混合（Manifold MixUp）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程",
            "data": "经嵌入层输入的词元或类别特征；设置 at= 后适用于任意数据",
            "avoid_when": "标签取决于个别词语，或取决于目标所在的位置",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._places: list[Place] = []

    def build(self, run: Training) -> None:
        mixing.check_targets(self.key, run)
        self._places = hidden.places(run.module, self.at, self.exclude, self.key)
        hidden.make_ready(run.module, self._places)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.alpha == 0.0 or batch.targets is None:
            return inner(batch)
        if not run.module.training:
            raise InputError(
                f"{self.key}: the model is in evaluation mode, where no rows are mixed, and their "
                "targets would be. Call model.train() before training."
            )
        draws = random.Random(run.key(self))  # noqa: S311 - a draw, no secret
        share = draws.betavariate(self.alpha, self.alpha)
        place = draws.choice(self._places)
        permutation = mixing.permutation_of_known(batch, run.generator(self))
        soft = mixing.mixed_targets(run, batch, permutation, share)
        run.hold(self, self._standing(run, place, Mixture(permutation, share)))
        return inner(batch.replace(targets=soft))

    @contextmanager
    def _standing(self, run: Training, place: Place, mixture: Mixture) -> Iterator[None]:
        with Mixing(run.module, place, mixture, self.key):
            run.mixture = mixture
            try:
                yield
            finally:
                run.mixture = None
