"""Stochastic depth: in training, blocks of a residual network are left out at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once

from whet import compiling, modes, residual, seeding
from whet.batch import Batch
from whet.errors import NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.settings import choice, number
from whet.training import Training

Draw = Callable[[str], torch.Generator | None]


def rates(blocks: int, rate: float, rule: str = "linear") -> list[float]:
    """How often each block is left out: `rate * l / L` for the l-th of L, or `rate` for all.

    >>> rates(4, 0.2)
    [0.05, 0.1, 0.15000000000000002, 0.2]
    """
    if rule == "uniform":
        return [rate] * blocks
    return [rate * number / blocks for number in range(1, blocks + 1)]


def skipped(
    entered: Tensor, left: Tensor, rate: float, mode: str = "row",
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """A block's output with its branch dropped at a rate, and scaled by 1 / (1 - rate) elsewhere.

    Args:
        entered: what entered the block, `(N, ...)`.
        left: what it returned, of the same shape; the branch is the difference.
        rate: p in [0, 1).
        mode: `row` (each row by itself), or `batch` (all or none).
        generator: on the CPU; torch's default one where it is None.

    >>> x = torch.ones(1000, 2)
    >>> y = skipped(x, x + 3.0, 0.25)
    >>> y.unique(), bool(0.2 < y.eq(1.0).float().mean() < 0.3)
    (tensor([1., 5.]), True)
    """
    rows = len(left) if mode == "row" else 1
    kept = torch.rand(rows, generator=generator).ge(rate).to(left.device)
    kept = kept.view(-1, *[1] * (left.ndim - 1))
    return torch.where(kept, entered + (left - entered) / (1.0 - rate), entered)


class Skipping:
    """While it is entered, blocks of a model in training mode are left out at random.

    Args:
        model: the root.
        blocks: the blocks by name, from input to output.
        rates: how often each is left out.
        mode: `row` or `batch`.
        draw: the generator of a block, by its name; torch's default one where it gives None.
        who: the method, for errors.
    """

    def __init__(
        self, model: nn.Module, blocks: Mapping[str, nn.Module], rates: Sequence[float],
        mode: str = "row", draw: Draw = lambda name: None, who: str = "stochastic_depth",
    ) -> None:  # fmt: skip
        self.model, self.mode, self.draw, self.who = model, mode, draw, who
        self.rates = {
            block: (name, rate)
            for (name, block), rate in zip(blocks.items(), rates, strict=True) if rate
        }  # fmt: skip

    def __enter__(self) -> Skipping:
        make_ready(list(self.rates))
        for block in self.rates:
            _STANDING.setdefault(block, []).append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        for block in self.rates:
            _STANDING[block].remove(self)

    def returned(self, block: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The block's output, some of it left out."""
        name, rate = self.rates[block]
        several = isinstance(output, tuple)
        left = output[0] if several and output else output
        entered = next(
            (each for each in (*args, *kwargs.values())
             if isinstance(each, Tensor) and each.is_floating_point()), None,
        )  # fmt: skip
        if not isinstance(left, Tensor) or entered is None or entered.shape != left.shape:
            shapes = [getattr(each, "shape", type(each).__name__) for each in (entered, left)]
            raise NotApplicable(
                self.who, f"{name} is given {shapes[0]} and returns {shapes[1]}: only a block that "
                "returns what has its input's shape can be left out. Name blocks by at=."
            )  # fmt: skip
        if left is entered and next(block.parameters(), None) is not None:
            raise NotApplicable(
                self.who, f"{name} changes its input in place (x += ...), so that nothing says "
                "what its branch added. Write x = x + ... in it."
            )  # fmt: skip
        found = skipped(entered, left, rate, self.mode, self.draw(name))
        return (found, *output[1:]) if several else found


# Hook points in the way of whet.compiling
_STANDING: WeakKeyDictionary[nn.Module, list[Skipping]] = WeakKeyDictionary()


def make_ready(blocks: Sequence[nn.Module]) -> None:
    """Hook points that stay, also in a model that was compiled, and called, before."""
    new = [block for block in blocks if _returned not in block._forward_hooks.values()]
    for block in new:
        block.register_forward_hook(_returned, with_kwargs=True)
    if new:
        compiling.forget_graphs()


@_disable_dynamo
def _returned(block: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    for standing in _STANDING.get(block, ()):
        if block.training:
            output = standing.returned(block, args, kwargs, output)
    return output


@method
class StochasticDepth(Method):
    r"""In training, leave blocks of a residual network out at random, the later the more often.

    $$y = x + \frac{b_\ell}{1 - p_\ell}\, (h_\ell(x) - x), \quad
    b_\ell \sim \mathrm{Bernoulli}(1 - p_\ell), \quad p_\ell = \frac{\ell}{L}\, p$$

    with h a block and $h(x) - x$ its branch, so that the model is used as it is written. Where it
    is judged, every block is whole and nothing is scaled. A block of a transformer is left out with
    attention and feed-forward together. A model that has this built in (timm's `drop_path_rate`,
    `drop_path` of transformers) drops twice: build it with 0.

    Found by themselves are the blocks of residual networks that have the identity as their
    shortcut, and those of transformers. Of post-norm transformers (BERT) h(x) - x is no branch
    that is added, and leaving one out is LayerDrop (Fan et al. 2019) scaled.

    A replay and a second pass over a micro-batch (R-Drop's) leave the same blocks out. Running
    batch statistics are still those of all rows.

    Args:
        rate: p in [0, 1), how often the last block is left out.
        rule: `linear` in the depth, or `uniform`: p for every block.
        mode: `row`, each row by itself, or `batch`, as in the paper: one draw for all rows.
        at: names or globs of blocks, parted by spaces, in place of those that are found; a glob's
            `*` stands for one part of a dotted name (`layer3.*`). They must return what has their
            input's shape, and count as L.

    Shapes: a block takes `(N, ...)` and returns as much, or a tuple that begins with it.

    Cost: no pass, 2 copies of each block's output. A block that is left out is computed all the
    same, so that no time is saved. A compiled graph breaks at each block.

    Raises:
        NotApplicable: no block is found, a name matches nothing, or a block's output has not the
            shape of its input.

    Paper: Huang et al. 2016, arXiv:1603.09382.

    >>> model = nn.TransformerEncoder(
    ...     nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True), 3,
    ...     enable_nested_tensor=False)
    >>> blocks = residual.skippable(model)
    >>> with Skipping(model, blocks, rates(len(blocks), 0.2)):     # around forward and backward
    ...     model(torch.randn(4, 5, 8)).sum().backward()
    """

    rate: float = number(0.1, 0.0, 1.0, open_high=True)
    rule: str = choice("linear", "linear", "uniform")
    mode: str = choice("row", "row", "batch")
    at: str = ""

    name: ClassVar[str] = "stochastic_depth"
    layer: ClassVar[Layer] = Layer.MODEL_NOISE
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0}
    card: ClassVar[Card] = Card(
        title="Stochastic depth", paper="arXiv:1603.09382", cost="no pass", tier=1,
        phase="whole training", data="any, with a deep residual network or transformer",
        avoid_when="the network is shallow, or is trained so briefly that it underfits",
        zh={
            "title": "随机深度（Stochastic Depth）", "cost": "不增加前向或反向传播",
            "phase": "整个训练过程", "data": "任意，模型须为较深的残差网络或 Transformer",
            "avoid_when": "网络很浅，或训练太短、仍在欠拟合",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._blocks: dict[str, nn.Module] = {}

    def build(self, run: Training) -> None:
        self._blocks = _blocks(run.module, self.at, self.key)
        if self.rate:
            make_ready(list(self._blocks.values()))

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        if self.rate:
            every = rates(len(self._blocks), self.rate, self.rule)
            run.hold(self, Skipping(
                run.module, self._blocks, every, self.mode, self._drawing(run), self.key
            ))  # fmt: skip
        return inner(batch)

    def _drawing(self, run: Training) -> Draw:
        key = run.key(self)  # of this micro-batch, also where a block is recomputed late
        return lambda name: seeding.generator(key, name)


def _blocks(model: nn.Module, at: str, who: str) -> dict[str, nn.Module]:
    if not at.strip():
        if not (found := residual.skippable(model)):
            raise NotApplicable(
                who, "no block with a shortcut is found by its form. Name those that add to their "
                "input by at=, such as 'blocks.*'."
            )  # fmt: skip
        return found
    every = {name: module for name, module in model.named_modules() if name}
    wanted: set[str] = set()
    for pattern in at.split():
        matched = [name for name in every if modes.same_depth(name, pattern)]
        if not matched:
            there = ", ".join([*every][:30])
            raise NotApplicable(
                who, f"no module matches {pattern!r} of at={at!r}; there are: {there}"
            )
        wanted.update(matched)
    return {name: module for name, module in every.items() if name in wanted}
