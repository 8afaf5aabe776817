"""Weights of convolutions in the order in which accelerators compute them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet import modes, seeding
from whet.batch import map_leaves
from whet.errors import InputError, NotApplicable
from whet.objectives.objective import call, logits

WHO = "channels_last"
KINDS = (nn.Conv2d, nn.ConvTranspose2d)


def channels_last(
    model: nn.Module, inputs: Any = None, *, rtol: float = 1e-4, atol: float = 1e-5
) -> list[str]:
    """Keep the weights of 2-d convolutions with their channels innermost (NHWC in memory).

    Values, shapes and names stay, so that checkpoints go both ways; a convolution whose weights or
    input are so computes and returns so. What it is worth is the machine's affair: on recent GPUs
    in half precision it often saves time, on a CPU it may save nothing or cost some. Measure it.
    Call it before the optimizer is made, and give the model its images in the same order where
    you can: `images.to(memory_format=torch.channels_last)`.

    Args:
        model: the module, changed in place.
        inputs: what the model is called with (a tensor, or a mapping of its arguments), to check
            on, in evaluation mode, that it says what it said before.
        rtol: how far outputs may differ, relatively: sums in another order round otherwise.
        atol: the same, absolutely.

    Returns:
        The names of the convolutions that can profit: of a kernel of one pixel over one channel,
        both orders are the same.

    Raises:
        NotApplicable: the model has no 2-d convolution, or fails on the inputs in that order
            (`view` on what is no longer contiguous); it is as before then.
        InputError: the outputs differ; it is as before then.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2))
    >>> channels_last(model, torch.randn(2, 3, 8, 8))
    ['0']
    >>> model[0].weight.is_contiguous(memory_format=torch.channels_last)
    True
    """
    modes.check_whole(model, WHO)
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, KINDS)}
    if not convolutions:
        raise NotApplicable(WHO, "the model has no 2-d convolution, which alone profit.")
    before = None if inputs is None else _said(model, inputs)
    kept = [(parameter, parameter.data) for parameter in model.parameters() if parameter.ndim == 4]
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        if before is not None:
            _check(model, inputs, before, rtol, atol)
    except BaseException:
        for parameter, data in kept:
            parameter.data = data
        raise
    return [name for name, m in convolutions.items() if not m.weight.is_contiguous()]


def _check(model: nn.Module, inputs: Any, before: Tensor, rtol: float, atol: float) -> None:
    try:
        after = _said(model, _in_order(inputs))
    except RuntimeError as error:
        told = str(error).split("\n")[0]
        raise NotApplicable(
            WHO, f"the model fails on images in that order: {told}. Where it has `x.view(...)`, "
            "write `x.flatten(1)` or `x.reshape(...)`."
        ) from error  # fmt: skip
    if before.shape != after.shape or not torch.allclose(before, after, rtol, atol):
        apart = float((before - after).abs().max()) if before.shape == after.shape else "shapes"
        raise InputError(
            f"{WHO}: the model's outputs differ ({apart}, atol={atol}): it reads its numbers in "
            "the order in which they lie (as_strided, storage). Leave it as it is, or mend that."
        )


def _said(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad(), modes.evaluation_mode(model), seeding.borrowed():
        return logits(call(model, inputs))


def _in_order(inputs: Any) -> Any:
    def ordered(leaf: Tensor) -> Tensor:
        return leaf.contiguous(memory_format=torch.channels_last) if leaf.ndim == 4 else leaf

    return map_leaves(ordered, inputs)
