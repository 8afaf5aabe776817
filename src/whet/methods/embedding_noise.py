"""Noise in training: on what embeddings return (NEFTune), or on a table's numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import embedding, mixing, modes, seeding
from whet.batch import Batch
from whet.embedding import Call, Shift, Start
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.settings import choice, fields, number
from whet.training import Training

ONLY = {"alpha": "embeddings", "exclude": "embeddings", "sigma": "inputs", "std": "inputs"}


def unit_noise(shape: torch.Size, kind: str, generator: torch.Generator | None) -> Tensor:
    """Numbers of mean 0 on the CPU: `uniform` in [-1, 1], or `gaussian` of the same deviation 1/√3.

    >>> [unit_noise(torch.Size([9999]), kind, torch.Generator()).std().mul(3**0.5).round(decimals=1)
    ...  for kind in ("uniform", "gaussian")]
    [tensor(1.), tensor(1.)]
    """
    if kind == "uniform":
        return torch.rand(shape, generator=generator).mul_(2.0).sub_(1.0)
    return torch.randn(shape, generator=generator).mul_(3.0**-0.5)


def neftune(
    vectors: Tensor, mask: Tensor, alpha: float, generator: torch.Generator | None = None,
    kind: str = "uniform",
) -> Tensor:  # fmt: skip
    """Noise `U(±alpha / sqrt(L D))` for embedded sequences, L the true length, zero at padding.

    Args:
        vectors: `(N, T, D)`, or `(N, D)` for L = 1.
        mask: bool `(N, T)` or `(N,)`, False at padding.
        alpha: α.
        generator: on the CPU; torch's default one where it is None.
        kind: `uniform`, or `gaussian` of the same deviation.

    >>> mask = torch.tensor([[True] * 4, [True, False, False, False]])
    >>> noise = neftune(torch.zeros(2, 4, 9), mask, alpha=3.0)
    >>> bool(noise[0].abs().max() <= 0.5), bool(noise[1].abs().max() <= 1.0), noise[1, 1:].any()
    (True, True, tensor(False))
    """
    lengths = mask.sum(1) if mask.ndim > 1 else mask.long()
    size = alpha / (lengths.clamp(min=1) * vectors.shape[-1]).sqrt()
    drawn = unit_noise(vectors.shape, kind, generator).to(vectors)
    scale = size.view(-1, *[1] * (vectors.ndim - 1)).to(vectors)
    return (drawn * scale).masked_fill(~mask.unsqueeze(-1), 0.0)


def deviations(batches: Iterable[Batch], at: str, who: str) -> dict[str, Tensor]:
    """Standard deviation of every column (dim 1) of the floating inputs, NaN left out; float64.

    The population's, from means and squared deviations that are merged batch by batch.
    """
    count: dict[str, Tensor] = {}
    mean: dict[str, Tensor] = {}
    square: dict[str, Tensor] = {}
    for batch in batches:
        for name, leaf in _floating(who, batch, at).items():
            flat = leaf.detach().double()
            flat = flat.transpose(0, 1).flatten(1) if flat.ndim > 1 else flat[None]
            n = flat.isfinite().sum(1)
            known = torch.where(flat.isfinite(), flat, torch.nan)
            m = known.nanmean(1).nan_to_num(0.0)
            s = torch.nan_to_num(known - m[:, None], 0.0).square().sum(1)
            if name not in count:
                count[name], mean[name], square[name] = n, m, s
                continue
            whole, apart = (count[name] + n).clamp(min=1), m - mean[name]
            square[name] = square[name] + s + apart.square() * count[name] * n / whole
            mean[name] = mean[name] + apart * n / whole
            count[name] = count[name] + n
    return {name: (square[name] / count[name].clamp(min=1)).sqrt() for name in count}


def _floating(who: str, batch: Batch, at: str) -> dict[str, Tensor]:
    _, chosen = mixing.chosen(who, batch.inputs, at)
    found = {name: leaf for name, leaf in chosen.items() if leaf.is_floating_point()}
    if not found:
        raise NotApplicable(
            who, f"none of the inputs that at={at!r} matches is floating, and numbers that stand "
            "for things take no noise. What embeddings return does: scope='embeddings'.",
        )  # fmt: skip
    return found


class _Noise(Shift):
    """A shift in training mode only, of which no gradient is kept."""

    def added(self, module: nn.Module, ids: Tensor, output: Tensor) -> Tensor:
        return super().added(module, ids, output) if self.model.training else output


@method
class EmbeddingNoise(Method):
    r"""Noise in training: on embedded words, smaller for longer texts, or on a table's numbers.

    $$\tilde e_{it} = e_{it} + \frac{\alpha}{\sqrt{L_i D}}\, u_{it}, \quad u \sim U(-1, 1)^D
    \qquad \text{or} \qquad \tilde x_{ij} = x_{ij} + \sqrt 3\, \sigma s_j u_{ij}$$

    with $L_i$ the true length of the text, so that the noise's length is about α/√3 for a text of
    any length, however it is padded; padding itself stays. Of inputs, $s_j$ is the standard
    deviation of a column over the training part: σ is the noise's deviation in its units, a
    constant column stays as it is, and so does a number that is missing (NaN). Nothing is added
    where the model is judged. Passes over the same words within a micro-batch (R-Drop's second, an
    attack's) meet the same noise.

    Args:
        alpha: α >= 0 of `embeddings`, in their own units; 5 to 15 in the paper, for hundreds of
            words of thousands of numbers each. For short texts and small vectors take less:
            α / √(L D) should stay well below the vectors' own deviation.
        sigma: σ >= 0 of `inputs`, in deviations.
        scope: `embeddings`, or `inputs`: the floating ones.
        noise: `uniform` as above, or `gaussian` of the same deviation.
        at: which nn.Embedding, a glob, a name, or the name of a module above them; or which inputs.
        exclude: globs of embeddings to leave alone.
        std: of inputs, their deviation where it is known: 1 for standardised ones; None measures
            it.

    Shapes: what an embedding returns `(N, T, D)` or `(N, D)`; inputs `(N, M)`, or `(N, C, ...)`
    with a deviation for each channel.

    Cost: no pass; 1 copy of what is moved. With `std=None`, inputs are read through once before.
    A compiled graph breaks at each embedding.

    Raises:
        NotApplicable: no embedding, or no floating input, matches `at`; the message lists what the
            model has.
        InputError: there is no training data to measure; a setting of the other scope is given.

    Paper: Jain et al. 2023, arXiv:2310.05914; of inputs, Bishop 1995, Neural Computation 7(1).

    >>> table = nn.Embedding(9, 16, padding_idx=0)
    >>> words = torch.tensor([[3, 4, 5, 0], [6, 0, 0, 0]])
    >>> vectors = table(words)
    >>> vectors = vectors + neftune(vectors, words != 0, alpha=5.0)      # in training only
    """

    alpha: float = number(5.0, 0.0)
    sigma: float = number(0.1, 0.0)
    scope: str = choice("embeddings", "embeddings", "inputs")
    noise: str = choice("uniform", "uniform", "gaussian")
    at: str = "*"
    exclude: tuple[str, ...] = embedding.NOT_WORDS
    std: float | None = number(default=None, low=0.0, open_low=True)  # for type checkers

    name: ClassVar[str] = "embedding_noise"
    layer: ClassVar[Layer] = Layer.MODEL_NOISE
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"alpha": 0.0, "sigma": 0.0}
    card: ClassVar[Card] = Card(
        title="Noise on embeddings (NEFTune) or numbers", paper="arXiv:2310.05914", cost="no pass",
        tier=1, phase="whole training",
        data="tokens or categories that are embedded, or tables of numbers",
        avoid_when="single numbers decide, and to great precision",
        zh={
            "title": "嵌入噪声（NEFTune）与数值噪声", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "经嵌入层输入的词元或类别特征，或数值表格",
            "avoid_when": "结果取决于个别数值的精确大小",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._embeddings: list[nn.Module] = []
        self._deviations: dict[str, Tensor] = {}

    @property
    def acts(self) -> bool:
        """Whether there is any noise."""
        return (self.alpha if self.scope == "embeddings" else self.sigma) > 0.0

    def build(self, run: Training) -> None:
        self._check_scope()
        if self.scope == "embeddings":
            found = embedding.modules(run.module, self.at, self.exclude, self.key)
            self._embeddings = list(found.values())
            embedding.make_ready(run.module, self._embeddings)

    def start(self, run: Training) -> None:
        if self.scope == "inputs" and self.std is None and self.acts:
            self._deviations = deviations(run.data(self.key), self.at, self.key)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if not self.acts:
            return inner(batch)
        if self.scope == "inputs":
            return inner(batch.replace(inputs=self._noisy(run, batch)))
        run.hold(self, self._standing(run))
        return inner(batch)

    @contextmanager
    def _standing(self, run: Training) -> Iterator[None]:
        with _Noise(run.module, self._embeddings, self._started(run.key(self))) as noise:
            yield
            if not noise.calls:
                run.note(
                    f"{self.key}: in some batch no embedding was called in training mode, and "
                    "there was no noise. A model that reads its table itself never has any."
                )

    def _started(self, key: int) -> Start:
        def start(call: Call, at: int) -> Tensor:
            call.delta.requires_grad_(False)  # a constant, not a place to climb from
            return neftune(
                call.delta, call.mask, self.alpha, seeding.generator(key, at), self.noise
            )

        return start

    def _noisy(self, run: Training, batch: Batch) -> Any:
        found = _floating(self.key, batch, self.at)

        def change(name: str, leaf: Tensor) -> Tensor:
            if name not in found:
                return leaf
            drawn = unit_noise(leaf.shape, self.noise, run.generator(self, name)).to(leaf)
            return leaf + drawn * self._size(name, leaf)

        return mixing.map_named(change, batch.inputs)

    def _size(self, name: str, leaf: Tensor) -> Tensor:
        """√3 σ s of every column, in a shape that goes with the input."""
        size = math.sqrt(3.0) * self.sigma
        if self.std is not None:
            return leaf.new_tensor(size * self.std)
        each = (size * self._deviations[name]).to(modes.wide(leaf)).to(leaf)
        return each.view(1, -1, *[1] * (leaf.ndim - 2)) if leaf.ndim > 1 else each

    def _check_scope(self) -> None:
        for field in fields(type(self)):
            given, owner = getattr(self, field.name), ONLY.get(field.name, self.scope)
            if owner != self.scope and given not in (field.default, 0.0):
                raise InputError(
                    f"{self.key}: {field.name} is of scope={owner!r}; leave it out, or choose that."
                )
