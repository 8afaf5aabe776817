"""Sharded models (FSDP2): of every parameter each process holds a part, and gathers it to use it.

A forward gathers a block's weights, a backward sums its gradients over the processes and leaves
each its part; between them nothing stays gathered, so that what is written into a part is what the
next forward uses. Gradients of several backward passes add up in the parts. Since every pass waits
for all processes, all of them must make the same passes; see `Batch.spare`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from whet.errors import InputError, UnknownName
from whet.modes import RESHARDING, is_part
from whet.world import World

STRATEGIES = ("ddp", "fsdp")
ALONE = (
    "strategy='fsdp' with one process: the model is not sharded. Start the script by torchrun with "
    "several to share it out."
)


def check(strategy: str, precision: str) -> None:
    """Refuse a strategy that nobody knows, or a precision that does not go with it.

    Raises:
        InputError: naming those that do.
    """
    if strategy not in STRATEGIES:
        raise UnknownName("strategy", strategy, STRATEGIES)
    if strategy == "fsdp" and precision == "fp16":
        raise InputError(
            "precision='fp16' scales the loss, and whether a scaler finds an overflow in parts of "
            "gradients alike in every process is not proven: with strategy='fsdp' use 'bf16' or "
            "'fp32', or strategy='ddp'."
        )


def blocks(model: nn.Module) -> list[nn.Module]:
    """What is gathered and let go by itself: children of ModuleLists and Sequentials, inner first.

    Those that hold parameters, and none that stands outside of them too (tied weights): all other
    parameters are gathered for the whole forward, with the root.
    """
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), set()).add(id(module))

    def alone(block: nn.Module) -> bool:
        inside = {id(module) for module in block.modules()}
        held = [owners[id(p)] for p in block.parameters()]
        return bool(held) and all(owner <= inside for owner in held)

    found = {
        id(child): child
        for parent in model.modules() if isinstance(parent, nn.ModuleList | nn.Sequential)
        for child in parent.children()
        if child is not model and not isinstance(child, nn.ModuleList | nn.ModuleDict)
    }  # fmt: skip
    return [child for child in reversed(found.values()) if alone(child)]


def shard(model: nn.Module, world: World) -> nn.Module:
    """Give each process its part of a model that all hold alike, and give back its outline.

    The outline is the model without weights: with those of all processes it predicts alone.

    Raises:
        InputError: it has parameters that cannot be parted, or this torch cannot.
    """
    _check_parameters(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not hasattr(FSDPModule, "set_force_sum_reduction_for_comms"):
        raise InputError(
            f"strategy='fsdp' sums gradients, for which torch {torch.__version__} has no setting: "
            "install torch 2.9 or newer, or use strategy='ddp'."
        )
    outline = _outline(model)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in (*blocks(model), model):
        # not kept after the forward, the root neither: a gathered copy does not notice new weights
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # a sum: rows are weighed by the totals of all processes
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    RESHARDING.add(model)
    world.sharded = True
    return outline


def _check_parameters(model: nn.Module) -> None:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if scalars := [name for name, p in model.named_parameters() if p.ndim == 0]:
        raise InputError(
            f"strategy='fsdp' cannot part a parameter without dimensions ({scalars[0]}): give it "
            "the shape (1,), or use strategy='ddp'."
        )
    kinds = {str(p.dtype): name for name, p in named}
    if len(kinds) > 1:
        told = ", ".join(f"{name} {kind}" for kind, name in kinds.items())
        raise InputError(
            f"strategy='fsdp' gathers parameters of one dtype, and the model has {told}: keep all "
            "in float32 and train with precision='bf16', or use strategy='ddp'."
        )


def _outline(model: nn.Module) -> nn.Module:
    """A copy whose parameters are of shape alone, which takes no memory."""
    known: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for p in model.parameters()
    }
    known |= {id(buffer): buffer.detach().cpu().clone() for buffer in model.buffers()}
    return copy.deepcopy(model, known)


# between parts and the whole -----------------------------------------------------------------
def whole(nest: Any, world: World) -> Any:
    """The nest with what is parted gathered, in the first process's host memory, one at a time.

    All processes call it; the others get tensors of the same shape that take no memory. In a world
    that is not sharded it is the nest itself.
    """
    return _mapped(nest, world.leads, {}) if world.sharded else nest


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of a model's state in every process's host memory, whole."""
    found: dict[str, Tensor] = _mapped(dict(state), True, {})
    return {k: v.cpu() if is_part(state[k]) else v.detach().cpu().clone() for k, v in found.items()}


def _mapped(nest: Any, keep: bool, known: dict[int, Tensor]) -> Any:
    if is_part(nest):
        if id(nest) not in known:  # tied weights are gathered once, and stay one in a file
            known[id(nest)] = _full(nest, keep)
        return known[id(nest)]
    if isinstance(nest, dict):
        twin = copy.copy(nest)  # a module's state has its versions beside the items
        twin.update({key: _mapped(value, keep, known) for key, value in nest.items()})
        return twin
    if isinstance(nest, list | tuple):
        return type(nest)(_mapped(value, keep, known) for value in nest)
    return nest


def _full(part: Any, keep: bool) -> Tensor:
    full: Tensor = part.detach().full_tensor()
    return full.cpu() if keep else torch.zeros((), dtype=full.dtype).expand(full.shape)


T = TypeVar("T", bound=Tensor)


def apart(tensors: list[T]) -> tuple[list[T], list[T]]:
    """Whole tensors and parts, which no one operation takes together."""
    parts = [tensor for tensor in tensors if is_part(tensor)]
    if not parts:
        return tensors, []
    return [tensor for tensor in tensors if not is_part(tensor)], parts


def total_norm(whole: Sequence[Tensor], parts: Sequence[Tensor]) -> Tensor:
    """The norm of all of them together, over all processes where they hold parts; no waiting."""
    norm = nn.utils.get_total_norm(whole)
    if not parts:
        return norm
    of_parts: Any = nn.utils.get_total_norm(parts)
    found: Tensor = of_parts.full_tensor()
    return torch.hypot(norm.to(found.device), found)


def part(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of the first one's whole value, laid out as `like`, if that is a part."""
    if not is_part(like) or is_part(value):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    here = value.detach().to(like.device, like.dtype)
    return distribute_tensor(here, like.device_mesh, like.placements)


def parted(state: Mapping[str, Tensor], model: nn.Module) -> Any:
    """A model's whole state, in parts where the model's are."""
    likes = {name: tensor for name, tensor in model.state_dict().items() if is_part(tensor)}
    twin: Any = copy.copy(state)  # with the versions that it has beside the items
    twin.update({name: part(v, likes[name]) for name, v in state.items() if name in likes})
    return twin


def parted_optimizer(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's whole state, in parts where its parameters are; by their shape."""
    likes = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_part, likes)):
        return state

    def of(at: int, name: str, value: Any) -> Any:
        fits = isinstance(value, Tensor) and at < len(likes) and value.shape == likes[at].shape
        return part(value, likes[at]) if fits else value

    states = {
        at: {name: of(at, name, value) for name, value in kept.items()}
        for at, kept in state["state"].items()
    }
    return {**state, "state": states}
