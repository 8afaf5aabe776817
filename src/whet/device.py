"""Where and how precisely a run computes: the device, and Fabric where it is needed."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from whet.errors import InputError
from whet.world import local_rank

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from whet.training import Training

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def pick(name: str) -> torch.device:
    """The device of a name; `auto` takes CUDA where there is one.

    Raises:
        InputError: CUDA is asked for and not there.
    """
    there = torch.cuda.is_available()
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {name!r}; it is one of auto, cpu, cuda.")
    if name == "cuda" and not there:
        raise InputError("device='cuda', but torch finds no CUDA device: use 'auto' or 'cpu'.")
    if name == "cpu" or not there:
        return torch.device("cpu")
    if local_rank():
        torch.cuda.set_device(local_rank())
    return torch.device("cuda", torch.cuda.current_device())


def named(name: str | None, who: str) -> torch.device | None:
    """The device that a method's setting names; None where it names none.

    Raises:
        InputError: torch knows no such device.
    """
    try:
        return None if name is None else torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"{who}: device is {name!r}; it must be one of torch's, such as 'cpu' or 'cuda:1'."
        ) from error


def check(device: torch.device, precision: str) -> None:
    """Refuse a precision that nobody knows, or that the device does not train in.

    Raises:
        InputError: naming the precisions there are.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}.")
    if precision == "fp16" and device.type != "cuda":
        raise InputError("precision='fp16' needs CUDA; on a CPU use 'bf16' or 'fp32'.")


def open_fabric(
    device: torch.device, precision: str, scaler: torch.amp.GradScaler | None
) -> Fabric | None:
    """Fabric for one device; whet's scaler is the one that Fabric scales with.

    One device in fp32 needs nothing of it: the loop then calls module and optimizer directly, and
    the seconds that its import takes are saved.
    """
    if precision == "fp32":
        return None
    from lightning_fabric import Fabric
    from lightning_fabric.plugins import MixedPrecision

    mixed = MixedPrecision(PRECISIONS[precision], device.type, scaler)  # type: ignore[arg-type]
    which = [device.index] if device.type == "cuda" else 1
    return Fabric(accelerator=device.type, devices=which, plugins=[mixed])


def wrap(run: Training, fabric: Fabric | None) -> None:
    """Call the model through Fabric, where there is one."""
    if fabric is not None:
        # it lies on its device already, and of parts a copy would be no part
        run.model = fabric.setup_module(run.module, move_to_device=not run.world.sharded)
        run.autocast = fabric.autocast


def surroundings(device: torch.device, precision: str, seed: int, size: int) -> dict[str, Any]:
    """What "to the bit" depends on, beside recipe and data."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "world_size": size,
        "seed": seed,
    }
