"""Free adversarial training: one backward for the weights and for the perturbation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from whet import attack, mixing
from whet.attack import Inputs
from whet.ball import Ball, boxed, signs
from whet.batch import Batch, map_leaves
from whet.forward import Forward, Window
from whet.method import (
    LATE,
    Card,
    InnerForward,
    InnerWindow,
    Layer,
    Method,
    Resource,
    method,
)
from whet.settings import number
from whet.training import Training
from whet.world import World


def climbed(
    delta: Tensor, gradient: Tensor | None, epsilon: float | Tensor, step_size: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The perturbation after a signed step of `step_size * epsilon`, kept within ±epsilon.

    It is written to `out` where that is given; the gradient may be, where nobody needs it any more.

    >>> climbed(torch.tensor([0.1, 0.0]), torch.tensor([2.0, -3.0]), 0.3).tolist()
    [0.30000001192092896, -0.30000001192092896]
    """
    if gradient is None:
        return delta.detach()
    radius = epsilon.to(delta) if isinstance(epsilon, Tensor) else epsilon
    return boxed(signs(gradient, out).mul_(step_size * radius).add_(delta.detach()), radius)


@method
class FreeAT(Method):
    r"""Free adversarial training: each window is learned m times, its perturbation climbs beside.

    $$g = \nabla_{w, \delta}\, \ell(x + \delta, y), \quad w \leftarrow w - \eta\, g_w, \quad
    \delta \leftarrow \mathrm{clip}_{\pm\epsilon}\bigl(\delta + \alpha\,\mathrm{sign}\,
    g_\delta\bigr)$$

    with one backward for both gradients, and α = step_size · ε. δ begins at 0 and goes on from
    window to window by the place of a row in its micro-batch; a shorter one takes and moves its
    first rows only. x + δ is clipped to the valid range where one is given; without one nothing is
    clipped, and `notes` says so. Where a gradient is 0, NaN or infinite there is no step, and rows
    without a target stay as they are. δ climbs all that is learned, terms of other methods
    included, and moves with updates that happened.

    **Updates.** A stage's length, spans and schedules count updates, so that a stage of n updates
    sees n / m windows of the data and takes the time of n plain updates: compared with as many
    updates without it, it has the paper's epochs divided by m, and milestones stand where they
    stood. Of m windows that the loader gives the first is learned m times and the others are left
    out. Where m and the windows of an epoch have a common factor, an epoch's last is learned once
    more, and in every m-th epoch less often, so that a loader with a fixed order comes to all.

    Args:
        epsilon: ε, from 0, in the units that `std` is of; 8/255 for images in [0, 1].
        replays: m, at least 1; 1 keeps δ and replays nothing.
        step_size: α/ε.
        std: what the inputs, and so ε, are divided by: a number, or one per channel (dim 1).
        at: which inputs: `*` for every floating one; a name, glob, position.

    Resources: `valid_range`, if there is one, as in `pgd_inputs`.

    Shapes: inputs `(N, ...)`.

    Cost: 1 forward and backward pass, with a gradient of the inputs; a copy of the window and one
    of its inputs, which checkpoints hold too. Of several processes each keeps the δ of its rows.

    Raises:
        InputError: no floating input matches, `std` or the range fit no channels, or the first
            batch lies outside of the range.
        NotApplicable: there is no loss.

    Paper: Shafahi et al. 2019, arXiv:1904.12843. It begins at a quarter of training;
    `.during(0, 1)` begins at once. `fast_fgsm` is as quick; `random_noise` is the control.

    >>> from torch import nn
    >>> model, x, y = nn.Linear(3, 2), torch.rand(4, 3), torch.tensor([0, 1, 1, 0])
    >>> optimizer, delta = torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(4, 3)
    >>> for _ in range(4):                              # m replays of the batch
    ...     noise = delta.clone().requires_grad_()
    ...     optimizer.zero_grad()
    ...     loss = nn.functional.cross_entropy(model((x + noise).clamp(0, 1)), y)
    ...     loss.backward()
    ...     optimizer.step()
    ...     delta = climbed(delta, noise.grad, epsilon=8 / 255)
    """

    epsilon: float = number(8 / 255, 0.0)
    replays: int = number(4, 1, whole=True)
    step_size: float = number(1.0, 0.0)
    std: float | tuple[float, ...] | None = number(None, 0.0, open_low=True, several=True)
    at: str = "*"

    name: ClassVar[str] = "free_at"
    span = LATE
    layer: ClassVar[Layer] = Layer.ADVERSARIAL_INPUT
    outside: ClassVar[tuple[str, ...]] = ("class_weights",)  # it weighs the window that is learned
    owns: ClassVar[frozenset[Resource]] = frozenset({Resource.MOVED_INPUTS})
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"epsilon": 0.0, "replays": 1}
    card: ClassVar[Card] = Card(
        title="Free adversarial training", paper="arXiv:1904.12843",
        cost="1 pass, with a gradient of the inputs; sees 1/m of the windows", tier=2,
        phase="from a quarter on", data="floating inputs",
        avoid_when="accuracy on clean inputs is what counts, or training is short",
        zh={
            "title": "免费对抗训练（Free-AT）",
            "cost": "1 次前向和反向传播，另求输入梯度；只用到 1/m 的批次",
            "phase": "训练进行四分之一之后", "data": "浮点输入",
            "avoid_when": "只看重干净样本上的准确率，或训练步数很少时",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self.notes: list[str] = []
        self._world = World()
        self._forget()

    def _forget(self) -> None:
        self._inputs = Inputs()
        self._kept: Window | None = None
        self._left = 0  # replays of it that are still to come
        self._deltas: list[dict[str, Tensor]] = []  # of each micro-batch of a window
        self._balls: dict[str, Ball] = {}  # of the micro-batch that is being learned
        self._leaves: dict[str, Tensor] = {}

    # the moments -----------------------------------------------------------------------------
    def build(self, run: Training) -> None:
        attack.check_loss(self.key, run)
        self.notes = attack.unclipped(run)

    def start(self, run: Training) -> None:
        self._world = run.world
        self._forget()

    def gradients(self, run: Training, window: Window, inner: InnerWindow) -> None:
        if self._left > 0 and self._kept is not None:
            if self._kept.batches[0].device != run.device:  # it comes from a checkpoint
                self._kept = self._kept.to(run.device)
            run.current = window = self._kept  # its totals weigh the losses, whoever asks for them
        inner(window)

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.epsilon == 0.0 or batch.targets is None or batch.spare:
            return inner(batch)
        run.hold(self, self._climbing(run, batch))  # one leaf, however often this is called
        points = {
            name: around.valid(around.centre + self._leaves[name])
            for name, around in self._balls.items()
        }
        return inner(attack.moved(batch, points))

    def after_update(self, run: Training) -> None:
        window = run.current
        assert window is not None
        for micro, batch in enumerate(window.batches):
            self._take(micro, run.staged_at(self, micro) or self._none(batch))
        if self._left > 0:
            self._left -= 1
        elif self.replays > 1:
            copies = tuple(batch.map(torch.clone) for batch in window.batches)
            self._kept, self._left = replace(window, batches=copies), self.replays - 1

    def end_epoch(self, run: Training) -> None:
        # without a shift the windows to come would stand at the same places ever again
        common = math.gcd(run.window // max(run.epoch, 1), self.replays)
        if common == 1 or self._kept is None or run.epoch % (self.replays // common) > 0:
            return
        round_ends = run.epoch % self.replays == 0  # all places had their turn: back to the first
        self._left = max(self._left - (common - 1), 0) if round_ends else self._left + 1

    # the perturbation ------------------------------------------------------------------------
    @contextmanager
    def _climbing(self, run: Training, batch: Batch) -> Iterator[None]:
        self._balls = self._inputs.balls(self, run, batch)
        stored = self._deltas[run.micro] if run.micro < len(self._deltas) else {}
        for name, around in self._balls.items():
            self._leaves[name] = _first(stored.get(name), around.centre).requires_grad_()
        try:
            yield  # until all passes of the micro-batch have added to the leaves' gradients
            run.stage(self, {name: self._step(name, leaf) for name, leaf in self._leaves.items()})
        finally:
            self._balls, self._leaves = {}, {}

    def _step(self, name: str, leaf: Tensor) -> Tensor:
        slope = leaf.grad  # nobody else has it
        return climbed(leaf, slope, self._balls[name].radius, self.step_size, out=slope)

    def _take(self, micro: int, moved: Mapping[str, Tensor]) -> None:
        while len(self._deltas) <= micro:
            self._deltas.append({})
        here = self._deltas[micro]
        for name, rows in moved.items():
            before = here.get(name)
            if before is None or before.shape[1:] != rows.shape[1:] or len(before) <= len(rows):
                here[name] = rows
            else:
                here[name] = torch.cat([rows, before[len(rows) :].to(rows)])

    def _none(self, batch: Batch) -> dict[str, Tensor]:
        """No rows of a delta, by the names that other processes have some of."""
        if self.epsilon == 0.0 or self._world.size == 1:
            return {}
        _, chosen = mixing.chosen(self.key, batch.inputs, self.at)
        return {name: leaf[:0] for name, leaf in chosen.items() if leaf.is_floating_point()}

    # state -----------------------------------------------------------------------------------
    def state_dict(self) -> dict[str, Any]:
        kept = self._kept if self._left > 0 else None
        return {
            "left": self._left, "deltas": [self._joined_rows(each) for each in self._deltas],
            "kept": kept and {
                "totals": [kept.items, kept.rows, kept.micros],
                "batches": [self._whole(batch) for batch in kept.batches],
            },
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._left, kept = state["left"], state["kept"]
        self._deltas = [
            {name: delta[self._world.share(len(delta))] for name, delta in each.items()}
            for each in state["deltas"]
        ]
        if kept is not None:
            items, rows, micros = kept["totals"]
            batches = tuple(map(self._share, kept["batches"]))
            self._kept = Window(batches, items, rows, micros)

    def _joined(self, tensor: Tensor | None, spare: bool = False) -> list[Tensor]:
        """A tensor's rows in all processes; nothing where nobody has any."""
        return self._world.joined([None if spare else tensor])

    def _joined_rows(self, each: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: self._joined(each[name]) for name in sorted(each)}
        return {name: rows[0] if rows else each[name] for name, rows in found.items()}

    def _whole(self, batch: Batch) -> dict[str, Any]:
        """A batch's rows in all processes."""
        found: dict[str, Any] = {
            "inputs": map_leaves(lambda x: self._joined(x, batch.spare)[0], batch.inputs)
        }
        for name in ("targets", "mask", "indices"):
            joined = self._joined(getattr(batch, name), batch.spare)
            found[name] = joined[0] if joined else None
        return found

    def _share(self, given: Mapping[str, Any]) -> Batch:
        """This process's rows of a batch."""
        whole = Batch(**given)
        rows = self._world.share(whole.size)
        if rows.start < rows.stop or not self._world.sharded:
            return whole.take(rows)
        one = whole.take(slice(0, 1))
        return one.replace(mask=torch.zeros(1, dtype=torch.bool), spare=True)


def _first(delta: Tensor | None, x: Tensor) -> Tensor:
    """As many rows of a delta as x has; zeros for those that have none yet."""
    if delta is None or delta.shape[1:] != x.shape[1:]:
        return torch.zeros_like(x)
    rows = delta.detach().to(x)
    if len(rows) >= len(x):
        return rows if len(rows) == len(x) else rows[: len(x)]
    return torch.cat([rows, x.new_zeros((len(x) - len(rows), *x.shape[1:]))])
