"""MoCo: a row's two views agree, against a queue of earlier rows."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from whet import compiling, cosine, modes, reducing, seeding
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, Placement, method
from whet.objectives import call, info_nce, logits
from whet.settings import number
from whet.teachers import follow
from whet.training import Training


def unit_vectors(rows: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Random directions `(rows, dim)`."""
    return F.normalize(torch.randn(rows, dim, generator=generator), dim=1)


@torch.no_grad()
def enqueue(queue: Tensor, keys: Tensor, at: int) -> int:
    """Write keys `(N, D)` into the ring `(Q, D)` from `at` on, in place; the next place to write.

    N need not divide Q; of more than Q keys the last Q stay.

    >>> ring = torch.zeros(3, 1)
    >>> enqueue(ring, torch.tensor([[1.0], [2.0]]), at=2), ring.flatten().tolist()
    (1, [2.0, 0.0, 1.0])
    """
    size = len(queue)
    start, kept = at + max(len(keys) - size, 0), keys[-size:]
    places = torch.arange(start, start + len(kept), device=queue.device) % size
    queue.index_copy_(0, places, kept.to(queue))
    return (at + len(keys)) % size


@method
class MoCo(Method):
    """A query finds its row's other view among the keys of earlier rows.

    $$\\ell_i = -\\log \\frac{\\exp(q_i k_i / T)}{\\exp(q_i k_i / T) + \\sum_j \\exp(q_i n_j / T)},
    \\quad \\theta_k \\leftarrow m\\,\\theta_k + (1 - m)\\,\\theta_q$$

    Queries come from the model; keys from a second model that follows it by momentum and is never
    in the optimizer; negatives from a queue of past keys. Logits are against the queue as it was
    before this update, and the keys enter it after. The momentum update stands after the
    optimizer's step rather than before the next forward, which is the same moment but for the
    first: the key encoder begins as a copy, where the official order's first update does nothing.

    With objective `contrastive` the model is trained on one view, and keys are of another. With an
    objective that has targets the batch stays as it is, its own forward gives the queries, and the
    term is added to the loss.

    The key encoder is in training mode, so that batch normalisation uses the statistics of the
    keys' batch; its running statistics are those of the model. On one device there is nothing to
    shuffle between, and batch statistics can tell a positive from the queue: prefer models
    without batch normalisation, or read the loss with care.

    Args:
        queue: Q, number of negatives, from 1. It need not be a multiple of the batch.
        momentum: m in [0, 1].
        temperature: T, above 0.
        dim: width of queries and keys.
        hidden: width of the head's hidden layer (MoCo v2); None for a linear head (v1).
        weight: factor of the term, from 0.
        at: name of the module whose input are the features (a classifier); None for the model's
            output.

    Resources: `view`, a function `(inputs, generator) -> inputs`.

    Cost: 1 more forward without gradient; +1 copy of the model and its head, + the queue.

    Raises:
        InputError: there is no module `at`, the features are not `(N, D)`, or their width is
            known neither from the module nor from data.
        NotApplicable: the weights are in half precision, where a momentum of 0.999 is lost.

    Paper: He et al. 2019, arXiv:1911.05722; v2: Chen et al. 2020, arXiv:2003.04297.

    >>> model, head = nn.Linear(4, 8), nn.Linear(8, 3)
    >>> moco = MoCo(queue=16, dim=3)
    >>> moco.begin(model, head)
    >>> view, other = torch.randn(2, 5, 4)
    >>> keys = moco.keys(other)
    >>> loss = moco.losses(head(model(view)), keys).mean()
    >>> loss.backward()
    >>> moco.update(model, head, [keys])        # after optimizer.step()
    """

    queue: int = number(4096, 1, whole=True)
    momentum: float = number(0.999, 0.0, 1.0)
    temperature: float = number(0.2, 0.0, open_low=True)
    dim: int = number(128, 1, whole=True)
    hidden: int | None = number(None, 1, whole=True)
    weight: float = number(1.0, 0.0)
    at: str | None = None

    contrasts: ClassVar[bool] = True
    name: ClassVar[str] = "moco"
    layer: ClassVar[Layer] = Layer.TEACHER
    needs: ClassVar[frozenset[str]] = frozenset({"view"})
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    placements: ClassVar[Placement] = Placement.START  # the optimizer holds its head from then on
    card: ClassVar[Card] = Card(
        title="MoCo", paper="arXiv:1911.05722", cost="+1 forward, +1 copy of the model", tier=1,
        phase="pre-training", data="views",
        avoid_when="views do not keep what matters; batches are small and normalised",
        zh={
            "title": "动量对比学习（MoCo）", "cost": "多 1 次前向传播，多存一份模型",
            "phase": "预训练阶段", "data": "每个样本的多个增强视图",
            "avoid_when": "增强视图丢失了关键信息；批次小且使用批归一化",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._encoder: nn.Module = nn.Identity()
        self._head: nn.Module = nn.Identity()
        self._queue = torch.empty(0)
        self._pointer = 0

    # the core: torch alone -------------------------------------------------------------------
    def head(self, width: int) -> nn.Module:
        """A projection from features `(N, width)` to `(N, dim)`."""
        if self.hidden is None:
            return nn.Linear(width, self.dim)
        return nn.Sequential(
            nn.Linear(width, self.hidden), nn.ReLU(), nn.Linear(self.hidden, self.dim)
        )

    def begin(
        self, model: nn.Module, head: nn.Module, generator: torch.Generator | None = None
    ) -> None:
        """Keys from the model's present weights on, against random directions."""
        self._encoder = copy.deepcopy(model).requires_grad_(False)
        self._head = copy.deepcopy(head).requires_grad_(False)
        like = next(head.parameters())
        self._queue = unit_vectors(self.queue, self.dim, generator).to(like)
        self._pointer = 0

    @torch.no_grad()
    def keys(self, inputs: Any) -> Tensor:
        """Unit vectors `(N, dim)` of the key encoder, whose running statistics stand still."""
        with modes.still_statistics(self._encoder):
            z: Tensor = self._head(self.features(self._encoder, inputs))
        return F.normalize(z.to(self._queue), dim=1)

    def features(self, model: nn.Module, inputs: Any) -> Tensor:
        """What a model's head is put on: `(N, D)`."""
        if self.at is None:
            return self._flat(logits(call(model, inputs)))
        with compiling.entering(model, self.at) as seen:
            call(model, inputs)
        return self._last(seen)

    def losses(self, projected: Tensor, keys: Tensor) -> Tensor:
        """Losses `(N,)` of projected queries `(N, dim)` against the queue as it stands."""
        queries = F.normalize(projected.to(self._queue), dim=1)
        return info_nce(queries, keys, self._queue, self.temperature)

    def update(self, model: nn.Module, head: nn.Module, keys: Sequence[Tensor]) -> None:
        """Follow the model, then take keys into the queue; call it after the optimizer's step."""
        follow(self._encoder, model, self.momentum)
        follow(self._head, head, self.momentum)
        for some in keys:
            self._pointer = enqueue(self._queue, some, self._pointer)

    def _last(self, seen: Sequence[Tensor]) -> Tensor:
        if not seen:
            raise InputError(
                f"{self.key}: the module at={self.at!r} was not called in the model's forward. "
                "Name one that is."
            )
        return self._flat(seen[-1])

    def _flat(self, features: Tensor) -> Tensor:
        if features.ndim != 2:
            raise InputError(
                f"{self.key}: features have shape {tuple(features.shape)}; they must be (N, D). "
                "Name with at= a module that receives one vector per row, such as the classifier."
            )
        return features

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        parameters = [p for p in run.module.parameters() if p.is_floating_point()]
        if any(p.dtype in (torch.float16, torch.bfloat16) for p in parameters):
            raise NotApplicable(
                self.key,
                "the model's weights are in half precision, where steps of 1 - momentum are lost. "
                "Keep them in fp32 and train with precision='bf16' or 'fp16' (mixed).",
            )
        with seeding.borrowed(seeding.key(run.seed, self.key)):
            head = self.head(self._width(run))
        dtype = next((p.dtype for p in parameters), torch.get_default_dtype())
        run.heads[self.key] = head.to(run.device, dtype)

    def _width(self, run: Training) -> int:
        if self.at is not None:
            modules = dict(run.module.named_modules())
            linear = [name for name, one in modules.items() if hasattr(one, "in_features")]
            if self.at not in modules:
                raise InputError(
                    f"{self.key}: the model has no module {self.at!r}; modules that receive "
                    f"features are: {', '.join(linear) or 'none'}."
                )
            compiling.make_ready(modules[self.at])
            if self.at in linear:
                return int(modules[self.at].in_features)
        if run.train is None:
            raise InputError(
                f"{self.key}: the width of the features is not known before training. Name a "
                "Linear module with at=, or pass data= to Stack."
            )
        with seeding.borrowed(), torch.no_grad(), modes.evaluation_mode(run.module):
            batch = next(iter(run.data(f"{self.key}:width")))
            return self.features(run.module, batch.inputs).shape[1]

    def start(self, run: Training) -> None:
        # without the rank, which is 0 in one process: of several, all have one queue
        maker = seeding.generator(run.seed, run.stage_number, 0, self.key, "queue")
        self.begin(run.module, run.heads[self.key], maker)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        view = run.resource("view", self)
        other = view(batch.inputs, run.generator(self, "view"))
        if run.objective.family.name == "embedding":
            batch = batch.replace(inputs=view(batch.inputs, run.generator(self, "query")))
        forward, features = self._query(run, batch, inner)
        alike = cosine.applied(self._encoder, cosine.standing(run.module))
        with seeding.borrowed(run.key(self, "keys")), run.autocast(), alike:
            _copy_modes(run.module, self._encoder)
            keys = self.keys(other)
        with run.autocast():
            projected = run.heads[self.key](features)
        run.stage(self, keys)
        losses = self.losses(projected, keys)
        if run.mixture is not None:  # queries are of two rows, and keys of one
            losses = run.mixture.blended(
                self.key, losses, lambda rows: self.losses(projected, keys[rows])
            )
        return forward.add("moco", losses, per="rows", weight=self.weight)

    def _query(self, run: Training, batch: Batch, inner: InnerForward) -> tuple[Forward, Tensor]:
        if self.at is None:
            forward = inner(batch)
            return forward, self._flat(forward.output)
        with compiling.entering(run.module, self.at) as seen:
            forward = inner(batch)
        return forward, self._last(seen)

    def after_update(self, run: Training) -> None:
        self.update(run.module, run.heads[self.key], reducing.gathered(run, self))

    def state_dict(self) -> dict[str, Any]:
        return {
            "encoder": self._encoder.state_dict(), "head": self._head.state_dict(),
            "queue": self._queue, "pointer": self._pointer,
        }  # fmt: skip

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._encoder.load_state_dict(state["encoder"])
        self._head.load_state_dict(state["head"])
        self._queue.copy_(state["queue"])
        self._pointer = state["pointer"]


def _copy_modes(source: nn.Module, target: nn.Module) -> None:
    for ours, theirs in zip(target.modules(), source.modules(), strict=True):
        ours.training = theirs.training
