"""Encoders side by side under one head."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from whet import seeding, settings
from whet.batch import Batch
from whet.errors import InputError
from whet.modes import evaluation_mode
from whet.objectives import call, logits

Several = Mapping[str, Any] | Sequence[Any]


class Concatenation(nn.Module):
    r"""One linear head on the features of several encoders.

    $$z = W \, [\mathrm{LN}_1(f_1(x)); \ldots; \mathrm{LN}_K(f_K(x))] + b
    = \sum_k W_k \, \mathrm{LN}_k(f_k(x)) + b$$

    It is a model like any other: trained, judged, saved and exported. The layer norms of the
    branches put encoders whose features are of different scale on an equal footing; without them
    the largest drowns the others.

    The encoders are copied. Their parts in the model are `encoders.NAME`, `norms.NAME` and `head`:
    train the head first, with `encoders` frozen, and then all of it
    (`recipes.unfreezing(stage, ["encoders", "head"])`).

    Args:
        encoders: by name, or in order and then called 0, 1 and so on; modules that return features.
            What objectives take for logits is taken for features here.
        classes: outputs of the head.
        example: a batch, or inputs (those by position as a batch), of which two rows are used: to
            see the features' widths.
        norm: a layer norm for each branch.
        seed: decides how the head begins, beside the encoders' names.

    Shapes: features are `(N, F_k)`, or `(N, T, F_k)` for an output for each token; outputs
    `(N, C)`, or `(N, T, C)`. Each encoder is given what the model is given; but where inputs are a
    mapping with a key for every encoder's name, each is given its own: a mapping, a tuple, or a
    tensor.

    Cost: the encoders' passes, and a copy of their weights.

    Raises:
        InputError: encoders share parameters, or give no such features, or none that could be
            learned through.

    >>> small, large = nn.Linear(4, 8), nn.Linear(4, 32)
    >>> model = Concatenation({"small": small, "large": large}, classes=3, example=torch.ones(2, 4))
    >>> model(torch.ones(5, 4)).shape, model.head.in_features
    (torch.Size([5, 3]), 40)
    """

    side_by_side: ClassVar[str] = "encoders"  # for whet.optim.layers

    def __init__(
        self, encoders: Mapping[str, nn.Module] | Sequence[nn.Module], classes: int, example: Any,
        *, norm: bool = True, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        settings.at_least_one(classes=classes)
        given = named(encoders)
        check_apart(given)
        self.encoders = nn.ModuleDict({name: copy.deepcopy(one) for name, one in given.items()})
        found = self._probed(two_rows(example))
        self.norms = nn.ModuleDict({
            name: nn.LayerNorm(one.shape[-1], device=one.device, dtype=one.dtype)
            if norm else nn.Identity() for name, one in found.items()
        })  # fmt: skip
        every = torch.cat([*found.values()], -1)
        with seeding.borrowed(seeding.key(seed, "concatenation", *given)):
            self.head = nn.Linear(every.shape[-1], classes, device=every.device, dtype=every.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The logits."""
        answer: Tensor = self.head(self.features(*args, **kwargs))
        return answer

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the head is given: the encoders' features side by side, normalised one by one."""
        found = self._encoded(*args, **kwargs)
        return torch.cat([self.norms[name](one) for name, one in found.items()], -1)

    def _encoded(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        own = own_inputs(self.encoders, kwargs)
        return {
            name: logits(one(*args, **kwargs) if own is None else call(one, own[name]))
            for name, one in self.encoders.items()
        }

    def _probed(self, example: Batch) -> dict[str, Tensor]:
        """The features of an example, which are checked."""
        device = next((one.device for one in self.parameters()), torch.device("cpu"))
        batch = example.to(device)
        with evaluation_mode(self), seeding.borrowed(), torch.enable_grad():
            found: dict[str, Tensor] = call(self._encoded, batch.inputs)
        for name, one in found.items():
            _check_features(name, one, batch.size)
            _check_learnable(name, self.encoders[name], one)
        leading = {name: tuple(one.shape[:-1]) for name, one in found.items()}
        if len({*leading.values()}) > 1:
            raise InputError(
                f"the encoders' features are not of the same items ({leading}); only their last "
                "dimension may differ."
            )
        return {name: one.detach() for name, one in found.items()}


# what is given -----------------------------------------------------------------------------------
def named(several: Several) -> dict[str, Any]:
    """Encoders or classifiers by names that modules may have."""
    pairs = several.items() if isinstance(several, Mapping) else enumerate(several)
    found = {str(name): one for name, one in pairs}
    if not found:
        raise InputError("a concatenation needs at least one encoder.")
    for name in found:
        if not name or "." in name or hasattr(nn.ModuleDict(), name):
            raise InputError(
                f"an encoder cannot be called {name!r}: that is empty, has a dot, or is a word of "
                "torch's own. Give it another name."
            )
    return found


def two_rows(example: Any) -> Batch:
    """Inputs enough to see what a model gives."""
    return Batch.of(example).take(slice(0, 2)).replace(targets=None, mask=None)


def own_inputs(names: Any, inputs: Any) -> Mapping[str, Any] | None:
    """Each encoder's own inputs, where there are such."""
    return inputs if isinstance(inputs, Mapping) and set(names) <= set(inputs) else None


def check_apart(given: Mapping[str, Any]) -> None:
    """No two are one: of copies, what was one would be two, and what is one would be trained twice.

    Predictors have weights of their own, also where they are of one model.
    """
    owner: dict[int, str] = {}
    for name, one in given.items():
        parts = [one, *(one.parameters() if isinstance(one, nn.Module) else ())]
        for part in parts:
            if owner.setdefault(id(part), name) != name:
                what = "are one" if part is one else "share parameters"
                raise InputError(
                    f"{owner[id(part)]!r} and {name!r} {what}; side by side they are trained as "
                    "two. Give copy.deepcopy of one of them where that is meant."
                )


def _check_features(name: str, found: Tensor, rows: int) -> None:
    shape = tuple(found.shape)
    if not found.is_floating_point() or found.ndim not in (2, 3) or shape[0] != rows:
        raise InputError(
            f"encoder {name!r} gives {found.dtype} of shape {shape} for {rows} rows; features are "
            "reals (N, F), or (N, T, F). Pool and flatten them in the encoder."
        )


def _check_learnable(name: str, encoder: nn.Module, found: Tensor) -> None:
    """That it could be trained: a stage that means to would otherwise do nothing, in silence."""
    parameters = [*encoder.parameters()]
    if parameters and not any(one.requires_grad for one in parameters):
        raise InputError(
            f"encoder {name!r} has requires_grad=False in every parameter, and would stand still "
            "in all stages. Call its requires_grad_(), and freeze it where that is meant: "
            f"Stage(freeze=['encoders.{name}'])."
        )
    if parameters and not found.requires_grad:
        raise InputError(
            f"encoder {name!r} gives features without a graph, as under torch.no_grad or detach, "
            "and would never be trained. Take that out of its forward, and freeze it where that is "
            f"meant: Stage(freeze=['encoders.{name}'])."
        )
