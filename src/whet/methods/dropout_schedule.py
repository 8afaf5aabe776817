"""Dropout that comes and goes with training: early, late, or along a line."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable imports the compiler at once
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from whet import compiling, modes
from whet.batch import Batch
from whet.errors import InputError, NotApplicable
from whet.forward import Forward
from whet.method import Card, InnerForward, Layer, Method, method
from whet.settings import choice, number
from whet.training import Training

WITHIN = (nn.MultiheadAttention, nn.RNNBase)  # drop by themselves, at their attribute `dropout`


def share(
    kind: str, progress: float, cut: float = 0.2, first: float = 0.0, last: float = 1.0
) -> float:  # fmt: skip
    """Which share of the dropout there is at a point of training.

    Args:
        kind: `early` (all of it at 0, in a straight line to none at the cut), `early_constant` (all
            of it before the cut, none after), `late` (none before the cut), `linear` (from `first`
            to `last`).
        progress: fraction of training that is over, in [0, 1].
        cut: where an early dropout ends or a late one begins, in (0, 1].
        first: share at the start of `linear`.
        last: share at its end.

    >>> [round(share("early", at / 10), 2) for at in range(4)]
    [1.0, 0.5, 0.0, 0.0]
    >>> share("late", 0.1), share("late", 0.2), share("linear", 0.25)
    (0.0, 1.0, 0.25)
    """
    if kind == "linear":
        return first + (last - first) * progress
    if kind == "early":
        return max(0.0, 1.0 - progress / cut)
    return float((progress < cut) == (kind == "early_constant"))


def dropouts(
    model: nn.Module, at: str = "*", exclude: Sequence[str] = (), who: str = "dropout_schedule"
) -> dict[str, nn.Module]:
    """What drops in a model, by name: dropout layers, attention and recurrent layers of torch.

    Raises:
        NotApplicable: nothing matches; the message lists what there is.
    """
    every = {n: m for n, m in model.named_modules() if isinstance(m, (_DropoutNd, *WITHIN))}
    found: dict[str, nn.Module] = {
        name: module for name, module in every.items()
        if fnmatch.fnmatchcase(name, at) and not any(modes.match([name], one) for one in exclude)
    }  # fmt: skip
    if not found:
        there = ", ".join(every) or "none: add nn.Dropout(0.1) before its last layer"
        raise NotApplicable(
            who, f"no dropout matches at={at!r}, exclude={tuple(exclude)!r}; there are: {there}."
        )
    return found


@contextmanager
def dropping(
    modules: Sequence[nn.Module], share: float, rate: float | None = None
) -> Iterator[None]:  # fmt: skip
    """Modules that drop do it at a share of their rates, or of one, for a `with`.

    >>> import torch
    >>> layer, x = nn.Dropout(0.5), torch.ones(1000)
    >>> with dropping([layer], 0.2):
    ...     print(bool(0.07 < layer(x).eq(0).float().mean() < 0.13), layer(x).max())
    True tensor(1.1111)
    >>> layer.p
    0.5
    """
    before = [(module, _at(module), getattr(module, _at(module))) for module in modules]
    stood = [(module, _STANDING.get(module)) for module in modules]
    handles = [_ready(module) for module in modules]
    try:
        for module, name, own in before:
            wanted = share * (_STANDING.get(module, own) if rate is None else rate)
            if name == "p":  # in a compiled graph a rate is a constant: the hook has the true one
                _STANDING[module], wanted = wanted, 0.0
            setattr(module, name, wanted)
        yield
    finally:
        for module, name, own in before:
            setattr(module, name, own)
        for module, standing in stood:
            _STANDING.pop(module, None)
            if standing is not None:
                _STANDING[module] = standing
        for handle in handles:
            if handle is not None:
                handle.remove()


def _at(module: nn.Module) -> str:
    return "dropout" if isinstance(module, WITHIN) else "p"


# Hook points in the way of whet.compiling
_STANDING: WeakKeyDictionary[nn.Module, float] = WeakKeyDictionary()


def _ready(module: nn.Module) -> RemovableHandle | None:
    if isinstance(module, WITHIN) or _dropped in module._forward_hooks.values():
        return None
    return module.register_forward_hook(_dropped, with_kwargs=True)


@_disable_dynamo
def _dropped(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> Tensor | None:
    rate = _STANDING.get(module, 0.0)
    if not (rate and module.training):
        return None
    try:
        setattr(module, "p", rate)  # noqa: B010 - to the type checker it may be a submodule
        found: Tensor = module.forward(*args, **kwargs)
    finally:
        setattr(module, "p", 0.0)  # noqa: B010
    return found


@method
class DropoutSchedule(Method):
    r"""Dropout at a rate that depends on how far training is.

    $$p_t = s_t\, p, \qquad s_t = \max(0, 1 - t / c) \;\text{(early)}, \quad
    s_t = [t \ge c] \;\text{(late)}, \quad s_t = a + (b - a)\, t \;\text{(linear)}$$

    with t the fraction of the stage that is over. Early dropout is for networks that underfit:
    at the start it makes the gradients of batches more alike, and what it costs later is spared.
    Late dropout is for networks that overfit. It is the rate of nn.Dropout and its kin, of torch's
    own attention and of its recurrent layers; dropout that a model calls as a function, at a number
    of its own, is not reached. Outside of training steps the modules have the rates that they were
    made with.

    Args:
        kind: `early`, `early_constant` (the full rate up to the cut), `late`, or `linear`.
        cut: c in (0, 1], the fraction of the stage where an early dropout ends or a late one
            begins. In the paper, 50 of 300 epochs or fewer.
        first: a in [0, 1], the share of `linear` at the start of the stage.
        last: b in [0, 1], its share at the end.
        rate: p in [0, 1) of all that match; None for the rate that each was made with.
        at: which modules that drop, a glob or a name.
        exclude: globs, or names of modules above them, to leave at their rates.

    Shapes: any.

    Cost: no pass. A compiled graph breaks at each dropout layer; it is made anew for each rate of
    torch's attention, which `exclude` can leave out.

    Raises:
        NotApplicable: nothing matches `at`; the message lists what drops.
        InputError: nobody knows the length of the stage; all rates are 0 and `rate` is None.

    Paper: Liu et al. 2023, arXiv:2303.01500.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1), nn.Linear(8, 2))
    >>> layers = list(dropouts(model).values())
    >>> for step in range(10):
    ...     with dropping(layers, share("early", step / 10)):    # around forward and backward
    ...         model(torch.ones(3, 4)).sum().backward()
    """

    kind: str = choice("early", "early", "early_constant", "late", "linear")
    cut: float = number(0.2, 0.0, 1.0, open_low=True)
    first: float = number(0.0, 0.0, 1.0)
    last: float = number(1.0, 0.0, 1.0)
    rate: float | None = number(
        default=None, low=0.0, high=1.0, open_high=True
    )  # for type checkers
    at: str = "*"
    exclude: tuple[str, ...] = ()

    name: ClassVar[str] = "dropout_schedule"
    layer: ClassVar[Layer] = Layer.MODEL_NOISE
    whole_weights: ClassVar[bool | str] = False
    neutral: ClassVar[dict[str, Any]] = {"kind": "linear", "first": 1.0, "last": 1.0}
    card: ClassVar[Card] = Card(
        title="Early, late or scheduled dropout", paper="arXiv:2303.01500", cost="no pass", tier=1,
        phase="early: the first fifth; late: what follows it",
        data="any, with dropout in the model, or with a rate given",
        avoid_when="the network's dropout is right as it is: early helps where it underfits, late "
        "where it overfits",
        zh={
            "title": "早期、后期与按进度变化的 dropout", "cost": "不增加前向或反向传播",
            "phase": "early：前五分之一；late：其后的训练",
            "data": "任意，模型须含 dropout 层，或给定比率",
            "avoid_when": "模型现有的 dropout 已经合适：early 用于欠拟合，late 用于过拟合",
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        self._modules: list[nn.Module] = []

    def build(self, run: Training) -> None:
        self._modules = list(dropouts(run.module, self.at, self.exclude, self.key).values())
        rates = [getattr(module, _at(module)) for module in self._modules]
        if not any(rates) and not self.rate:
            raise InputError(
                f"{self.key}: all dropout of the model is at rate 0; say at which it should be: "
                "rate=0.1."
            )
        new = [_ready(module) for module in self._modules]
        if any(handle is not None for handle in new):
            compiling.forget_graphs()

    def start(self, run: Training) -> None:
        if run.total is None:
            raise InputError(
                f"{self.key} goes by how far the stage is, so that its length must be known: pass "
                "updates=N to Stack."
            )

    def forward(self, run: Training, batch: Batch, inner: InnerForward) -> Forward:
        now = share(self.kind, run.progress, self.cut, self.first, self.last)
        run.hold(self, dropping(self._modules, now, self.rate))
        return inner(batch)
