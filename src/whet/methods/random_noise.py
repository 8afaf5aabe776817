"""Random noise of an attack's size: what every gain of an attack is to be compared with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import attack, ball, modes, seeding
from whet.attack import Blend, Inputs
from whet.batch import Batch
from whet.embedding import sized
from whet.errors import InputError
from whet.forward import Forward
from whet.method import (
    LATE,
    Card,
    InnerBackward,
    InnerForward,
    Layer,
    Resource,
    by_settings,
    method,
)
from whet.perturbation import Perturbation
from whet.settings import choice, fields, number
from whet.training import Training
from whet.world import World

ON_INPUTS = ("norm", "clean_weight", "std")
ON_EMBEDDINGS = ("across", "exclude", "weight")


def direction(
    gradient: Tensor, epsilon: float, generator: torch.Generator, *, each: bool = False
) -> Tensor:
    """A random direction of length `epsilon` in the rows that have a gradient.

    Args:
        gradient: `(V, D)` or `(N, T, D)`; where an attack up it would move nothing, this neither.
        epsilon: the length.
        generator: on the CPU, so that the draw is the same on every device.
        each: the length is that of each entry of the first dimension, not of the whole tensor.

    >>> gradient = torch.tensor([[0.0, 0.0], [0.1, -7.0]])
    >>> noise = direction(gradient, 2.0, torch.Generator())
    >>> noise[0].tolist(), round(noise.norm().item(), 4)
    ([0.0, 0.0], 2.0)
    """
    rows = sized(gradient, 1.0, each=each).ne(0).any(-1)
    drawn = torch.randn((int(rows.sum()), gradient.shape[-1]), generator=generator)
    noise = torch.zeros_like(gradient)
    noise[rows] = drawn.to(gradient)
    return sized(noise, epsilon, each=each)


@method
class RandomNoise(Perturbation):
    r"""The control of adversarial methods: the same passes and size, and a random direction.

    $$\nabla L(E) + \lambda \nabla L(E + r), \quad r = \epsilon\, u / \|u\|_2,
    \quad u \sim N(0, 1)$$

    as `fgm`, in the scopes `table`, `example` and `output`: only the rows move that have a
    gradient, and nothing does where FGM would move nothing. As `pgd_inputs` in the scope `inputs`:
    x + δ is learned, δ uniform in ±ε, or of length ε in `l2`; clipped to the valid range where one
    is given, else `notes` says so. Settings are named and mean what they do there: a study compares
    `fgm:epsilon=2` with `random_noise:epsilon=2`, and `pgd_inputs:epsilon=0.1` with
    `random_noise:scope=inputs:epsilon=0.1`. Noise passes have FGM's dropout masks (in `inputs` the
    clean pass's), and of two passes the clean one alone moves batch statistics.

    Args:
        epsilon: ε, in the embedding's own units, or in those that `std` is of.
        scope: `table`: E is the whole table, one norm for each. `example`: what the embedding
            returns, one norm for each example over time x dim. `output`: what it returns, one
            norm for each call. `inputs`: the floating inputs.
        across: whose rows of a table move, and by one norm, in several processes: `local`, each
            process's own; `global`, the whole micro-batch's, for one more all-reduce of the tables
            a micro-batch; equal to one process.
        at: which nn.Embedding, a glob, a name, or the name of a module above them; or which inputs.
        exclude: globs of embeddings to leave alone.
        weight: λ, of the noisy loss on embeddings; 0 makes no second pass.
        norm: of inputs: `linf`: ε bounds every number; `l2`: the length of a row.
        clean_weight: c in [0, 1], of inputs: learns (1 - c) ℓ(x + δ, y) + c ℓ(x, y).
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).

    Resources: `valid_range`, if there is one, as in `pgd_inputs`.

    Shapes: tables `(V, D)`; what an embedding returns `(N, T, D)` or `(N, D)`; inputs `(N, ...)`.

    Cost: on embeddings 2 forward and backward passes and 2 copies of the tables, or of what they
    return; an accelerator is waited for, and in the last two of these scopes a compiled graph
    breaks. On inputs no pass, one in a blend: an attack there has K more.

    Raises:
        NotApplicable: as `fgm` on embeddings; on inputs where there is no loss.
        InputError: a setting of the other kind of scope is given; used alone, `attack` outside of
            `watch`, or on inputs; else as `pgd_inputs`.

    Paper: Miyato, Dai & Goodfellow 2017, arXiv:1605.07725, where it is the control. As the attacks
    do, it begins at a quarter of training; `.during(0, 1)` begins at once.

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    >>> ids, labels = torch.tensor([[1, 2, 3]]), torch.tensor([0])
    >>> noise = RandomNoise(epsilon=1.0)
    >>> with noise.watch(model):          # may be left out for `table` without accumulation
    ...     nn.functional.cross_entropy(model(ids), labels).backward()
    ...     with noise.attack(model, seed=1):  # tables come back on exit, also after an error
    ...         nn.functional.cross_entropy(model(ids), labels).backward()
    """

    scope: str = choice("table", "table", "example", "output", "inputs")
    norm: str = choice("linf", "linf", "l2")  # type: ignore[misc]  # it has a default
    clean_weight: float = number(default=0.0, low=0.0, high=1.0)
    std: float | tuple[float, ...] | None = number(
        default=None, low=0.0, open_low=True, several=True
    )

    name: ClassVar[str] = "random_noise"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    owns: ClassVar[frozenset[Resource]] = by_settings(
        lambda attack: frozenset(
            {Resource.SECOND_GRADIENT, *[Resource.MOVED_INPUTS][: attack.scope == "inputs"]}
        )
    )
    whole_weights: ClassVar[bool | str] = by_settings(
        lambda noise: noise.scope == "table" and "scope='output', 'example' or 'inputs'"
    )
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    card: ClassVar[Card] = Card(
        title="Random noise, the control of attacks", paper="arXiv:1605.07725",
        cost="2 forward and backward passes; on inputs no more", tier=1,
        phase="that of the attack it stands beside",
        data="tokens or categories that are embedded, or floating inputs",
        avoid_when="no attack is tried: it is what they are to be compared with",
        zh={
            "title": "随机噪声（对抗训练的对照）", "cost": "2 次前向和反向传播；扰动输入时不增加",
            "phase": "与所对照的攻击方法相同", "data": "经嵌入层输入的词元或类别特征，或浮点输入",
            "avoid_when": "没有尝试对抗方法时：它只用来与这些方法对照",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        self.notes: list[str] = []
        self._blend, self._inputs = Blend(), Inputs()

    # the core: torch alone -------------------------------------------------------------------
    @contextmanager
    def attack(
        self, model: nn.Module, world: World | None = None, seed: int | None = None
    ) -> Iterator[None]:
        """Embeddings moved by noise, where the clean pass left a gradient, for a `with`.

        Args:
            model: the module.
            world: rows with a gradient in any of its processes move, each of which calls this.
            seed: of the noise; drawn from torch's default generator where it is None.
        """
        if self.scope == "inputs":
            raise InputError(f"{self.key}: attack() moves embeddings; scope='inputs' has none.")
        key = int(torch.randint(1 << 62, ())) if seed is None else seed
        vectors = self.vectors(model)
        with modes.still_statistics(model), vectors.moving() as move:
            move([
                None if gradient is None else
                direction(gradient, self.epsilon, seeding.generator(key, at), each=self.each)
                for at, gradient in enumerate(vectors.gradients(world))
            ])  # fmt: skip
            yield

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        self._check_scope()
        if self.scope == "inputs":
            attack.check_loss(self.key, run)
            self.notes = attack.unclipped(run)
        else:
            super().build(run)

    def start(self, run: Training) -> None:
        self._inputs = Inputs()
        if self.scope != "inputs":
            super().start(run)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.scope != "inputs":
            return super().forward(run, batch, inner)
        return inner(self._noisy(run, batch) if self._blend.moves(batch, self._share) else batch)

    def backward(self, run: Training, forward: Forward, inner: InnerBackward) -> None:
        if self.scope == "inputs":
            self._blend.backward(run, forward, inner, self._share)
            return
        inner(forward)
        if self.weight > 0:
            with self.attack(run.module, self.world(run), self._key(run)):
                again = run.again(fresh=True)
                inner(again.replace(scale=again.scale * self.weight))

    @property
    def _share(self) -> float:
        return 0.0 if self.epsilon == 0.0 else 1.0 - self.clean_weight

    def _key(self, run: Training) -> int:
        if self.across == "local":
            return run.key(self)
        # all processes move one table, and by the same
        return seeding.key(run.seed, run.stage_number, run.window, run.micro, self.key)

    def _noisy(self, run: Training, batch: Batch) -> Batch:
        key, points = run.key(self), {}
        for name, around in self._inputs.balls(self, run, batch, self.norm).items():
            maker = seeding.generator(key, name)
            points[name] = around.at(ball.noise(around.centre, maker, self.norm, rim=True))
        return attack.moved(batch, points)

    def _check_scope(self) -> None:
        inputs = self.scope == "inputs"
        others, kind = (ON_EMBEDDINGS, "embeddings") if inputs else (ON_INPUTS, "inputs")
        for field in fields(type(self)):
            if field.name in others and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{self.key}: {field.name} is of {kind}; leave it out, or choose another "
                    f"scope than {self.scope!r}."
                )
