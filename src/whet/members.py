"""Members: several models of one kind, begun apart and trained together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import compiling, seeding
from whet.errors import InputError, NotApplicable
from whet.objectives import logits
from whet.objectives.families import FAMILIES
from whet.objectives.pooling import MEANS, pooled

RESETS = ("reset_parameters", "_reset_parameters")  # the second is attention's, in torch


class Joint(nn.Module):
    """The members' outputs `(K, N, ...)` as one; what enters here is what methods look at."""

    def __init__(self, kind: str, mean: str) -> None:
        super().__init__()
        self.kind, self.mean = kind, mean

    def forward(self, outputs_K: Tensor) -> Tensor:
        """The output whose probabilities are the mean of the members' ones."""
        return pooled(outputs_K, FAMILIES[self.kind], mean=self.mean)


class Members(nn.Module):
    """K models that begin apart and answer as one: the mean of their probabilities.

    Its output is the logarithm of that mean, so that softmax gives the mean back. Trained as it
    is, the loss is that of the joint answer; `negative_correlation` trains members by their own
    losses, from independently (penalty 0) to nearly jointly. It may be a whole model, or the last
    part of one: heads on a shared trunk.

    Args:
        make: a function that makes a member, called K times under seeds of their own; or a module,
            of which K copies are drawn anew (`reset_parameters` of each of its parts).
        count: K, at least 2.
        seed: decides how the members begin, beside their numbers.
        kind: `categorical`, `tokens`, `multi-label`, `real` or `embedding`: what outputs are.
        mean: `probabilities`, or `outputs` for the mean of the logits.

    Shapes: each member gives `(N, ...)`, and so does the whole.

    Cost: K forward and backward passes, K times the memory of a member.

    Raises:
        InputError: members share parameters or begin alike, or parameters of a given module
            cannot be drawn anew.

    Paper: Lakshminarayanan, Pritzel & Blundell 2017, arXiv:1612.01474.

    >>> model = Members(lambda: nn.Linear(2, 3), count=4)
    >>> log_p = model(torch.ones(5, 2)).detach()
    >>> log_p.exp().sum(1).round(decimals=3)
    tensor([1., 1., 1., 1., 1.])
    """

    side_by_side: ClassVar[str] = "members"  # for whet.optim.layers

    def __init__(
        self, make: Callable[[], nn.Module] | nn.Module, count: int, *, seed: int = 0,
        kind: str = "categorical", mean: str = "probabilities",
    ) -> None:  # fmt: skip
        super().__init__()
        if count < 2:
            raise InputError(f"Members: count is {count}; an ensemble has at least 2 members.")
        for name, value, known in (("kind", kind, tuple(FAMILIES)), ("mean", mean, MEANS)):
            if value not in known:
                raise InputError(f"Members: {name} is {value!r}; it must be one of {known}.")
        made = [_begun(make, seeding.key(seed, "member", number)) for number in range(count)]
        _check_apart(made)
        self.members, self.joint = nn.ModuleList(made), Joint(kind, mean)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The joint answer; what members give beside their logits is left out."""
        each = [logits(member(*args, **kwargs)) for member in self.members]
        return self.joint(torch.stack(each))


def _begun(make: Callable[[], nn.Module] | nn.Module, seed: int) -> nn.Module:
    with seeding.borrowed(seed):
        return drawn_anew(make) if isinstance(make, nn.Module) else make()


def drawn_anew(model: nn.Module) -> nn.Module:
    """A copy whose parameters are drawn from the generators as they stand.

    Raises:
        InputError: a module has parameters of its own and no way to draw them.
    """
    twin = copy.deepcopy(model)
    for name, module in reversed([*twin.named_modules()]):  # as in a constructor: parts first
        reset = next((getattr(module, way) for way in RESETS if hasattr(module, way)), None)
        if reset is not None:
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise InputError(
                f"Members: {name or 'the model'} ({type(module).__name__}) has parameters and no "
                "reset_parameters() to draw them anew. Give a function that makes a member."
            )
    return twin


def _check_apart(members: list[nn.Module]) -> None:
    first = members[0]
    held = {id(parameter) for parameter in first.parameters()}
    for number, other in enumerate(members[1:], 1):
        if other is first or any(id(parameter) in held for parameter in other.parameters()):
            raise InputError(
                f"Members: member {number} shares parameters with member 0. The function must "
                "make a new model each time it is called."
            )
        mine, theirs = dict(first.named_parameters()), dict(other.named_parameters())
        shapes = [{name: p.shape for name, p in one.items()} for one in (mine, theirs)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"Members: member {number} has other parameters than member 0; members are of one "
                "architecture."
            )
        if mine and all(torch.equal(mine[name], theirs[name]) for name in mine):
            raise InputError(
                f"Members: member {number} begins like member 0, and they would stay alike. The "
                "function must draw its weights, and not set a seed or load a file."
            )


def find(model: nn.Module, who: str) -> tuple[str, Members]:
    """Name and module of a model's members.

    Raises:
        NotApplicable: it has none.
        InputError: it has several sets of them.
    """
    found = [(name, one) for name, one in model.named_modules() if isinstance(one, Members)]
    if not found:
        raise NotApplicable(
            who, "the model has no members that could differ. Train whet.Members(make_model, 3), "
            "which holds copies that begin apart, or a model that ends in one."
        )  # fmt: skip
    if len(found) > 1:
        raise InputError(
            f"{who}: the model holds several Members ({', '.join(name for name, _ in found)}); "
            "which of them is meant nobody says. Keep one."
        )
    return found[0]


@contextmanager
def hearing(model: nn.Module, name: str) -> Iterator[list[Tensor]]:
    """Collect the outputs `(K, N, ...)` of the Members called `name`, call by call."""
    with compiling.entering(model, f"{name}.joint" if name else "joint") as heard:
        yield heard


def prepare(group: Members) -> None:
    """Make `hearing` work on a model that was compiled, and called, before."""
    compiling.make_ready(group.joint)


def outputs(heard: list[Tensor], joint: Tensor, who: str) -> Tensor:
    """What members gave `(K, N, ...)`, of which the model's output is the joint answer.

    Raises:
        InputError: something follows the members in the model.
        NotApplicable: they are called where no graph is kept.
    """
    if not heard or heard[-1].shape[1:] != joint.shape:
        given = tuple(heard[-1].shape[1:]) if heard else "none"
        raise InputError(
            f"{who}: members give outputs of shape {given} and the model {tuple(joint.shape)}. "
            "Members must be the last that the model does: put what follows them into each member."
        )
    if joint.requires_grad and not heard[-1].requires_grad:
        raise NotApplicable(
            who, "the members are called within an activation checkpoint with use_reentrant=True, "
            "which keeps no graph: set use_reentrant=False."
        )  # fmt: skip
    return heard[-1]
