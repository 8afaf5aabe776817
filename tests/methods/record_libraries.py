"""Writes what libraries make of a few numbers that stand here, for the tests of the methods.

They ask for torchvision, which does not import beside every build of torch, or for much else, and
so are no dependencies of the tests. What is recorded of them needs torch alone, or little more:

    pip install --no-deps --target FOLDER timm==1.0.31 lightly==1.6.0 cleverhans==4.0.0 \
        torchattacks==3.5.1 fvcore==0.1.5.post20221221 iopath==0.1.10 yacs==0.1.8 portalocker \
        tabulate termcolor mmengine==0.10.7 yapf addict fastai==2.8.12 fasttransform plum-dispatch \
        beartype opencv-python-headless
    pip install --target FOLDER python-fasthtml fastprogress
    pip install --no-deps --target FOLDER pytorch_optimizer==3.9.0
    PYTHONPATH=FOLDER python -m tests.methods.record_libraries

`python -m tests.methods.record_libraries timm fvcore` renews these alone.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import tempfile
import types
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.methods import record_torchattacks

VALUES = Path(__file__).with_name("libraries.json")


def recorded(library: str) -> dict[str, Any]:
    """What the library made, and its version."""
    found: dict[str, Any] = json.loads(VALUES.read_text(encoding="utf-8"))[library]
    return found


def numbers(*shape: int, offset: int = 0) -> Tensor:
    """Float64 in [-1, 1] by a formula: no generator is asked."""
    count = int(np.prod(shape))
    return (torch.arange(count, dtype=torch.float64) * 1.7 + offset).sin().view(shape)


def without_init(package: str) -> None:
    """Let the modules of a package be imported, and not its `__init__`, which imports all."""
    spec = util.find_spec(package)
    made = types.ModuleType(package)
    made.__path__ = list(spec.submodule_search_locations or [])  # type: ignore[union-attr]
    sys.modules[package] = made


# what is recorded ----------------------------------------------------------------------------
CENTRES = [(3, 4), (0, 0), (10, 1), (5, 12)]  # of boxes in images of 11 x 13


class Given:
    """In the place of numpy's generator: one number after the other."""

    def __init__(self, *values: int) -> None:
        self.values = list(values)

    def randint(self, *args: Any, **kwargs: Any) -> int:
        return self.values.pop(0)


def of_timm() -> dict[str, Any]:
    for package in ("timm", "timm.data", "timm.loss", "timm.utils"):
        without_init(package)
    mixup = importlib.import_module("timm.data.mixup")
    average = importlib.import_module("timm.utils.model_ema").ModelEmaV3
    loss = importlib.import_module("timm.loss.cross_entropy")

    found: dict[str, Any] = {}
    for name, more in {"none": {"decay": 0.9}, "power": {"use_warmup": True}}.items():
        model = nn.Linear(3, 2, bias=False).double()
        model.weight.data = numbers(2, 3)
        ema = average(model, **more)
        for step in range(1, 6):  # the first that it is told of would be a copy
            model.weight.data = numbers(2, 3, offset=step)
            ema.update(model, step + 1)
        found[f"ema_{name}"] = ema.module.weight.flatten().tolist()

    x, y = numbers(4, 3, 2, 2), torch.tensor([0, 1, 2, 1])
    mixer = mixup.Mixup(num_classes=3, label_smoothing=0.1)
    mixer._params_per_batch = lambda: (0.3, False)
    inputs, targets = mixer(x, y)
    found["mixup"] = [inputs.flatten().tolist(), targets.flatten().tolist()]

    boxes = []
    for lam in (0.1, 0.5, 0.9):
        for centre in CENTRES:
            mixup.np = types.SimpleNamespace(sqrt=np.sqrt, clip=np.clip, random=Given(*centre))
            box, kept = mixup.cutmix_bbox_and_lam((1, 3, 11, 13), lam)
            boxes.append([lam, *centre, *map(int, box), float(kept)])
    found["cutmix"] = boxes

    z = 3 * numbers(6, 4)
    smoothed = loss.LabelSmoothingCrossEntropy(0.1)(z, torch.tensor([0, 1, 2, 3, 0, 1]))
    soft = loss.SoftTargetCrossEntropy()(z, numbers(6, 4, offset=1).softmax(1))
    return found | {"label_smoothing": smoothed.item(), "soft_targets": soft.item()}


def far_from_zero() -> list[Tensor]:
    """Five batches of 32 rows, mean 1000 and standard deviation 0.1."""
    return [(1000 + 0.1 * 2**0.5 * numbers(32, 8, offset=at)).float() for at in range(5)]


def of_fvcore() -> dict[str, Any]:
    from fvcore.nn import sigmoid_focal_loss, update_bn_stats

    z, t = 3 * numbers(6, 4).float(), (numbers(6, 4, offset=1) > 0).float()
    losses = {
        f"{alpha} {gamma}": sigmoid_focal_loss(z, t, alpha, gamma).flatten().tolist()
        for alpha in (-1, 0.25) for gamma in (0.5, 2.0)
    }  # fmt: skip
    norm = nn.BatchNorm1d(8)
    update_bn_stats(norm, far_from_zero(), num_iters=5)
    lowest = norm.running_var.min().item()
    update_bn_stats(norm, [], num_iters=0)
    return {"focal": losses, "lowest_variance": lowest, "of_no_batches": norm.running_var.tolist()}


def of_torchattacks() -> dict[str, Any]:
    import torchattacks

    x, y = record_torchattacks.images()
    attack = torchattacks.FFGSM(record_torchattacks.Small(), eps=0.1, alpha=0.125)
    torch.manual_seed(0)
    noise = torch.randn_like(x).uniform_(-0.1, 0.1)  # what it begins with
    torch.manual_seed(0)
    moved = attack(x, y)
    return {"noise": noise.flatten().tolist(), "moved": moved.flatten().tolist()}


class OfVectors(nn.Module):
    """Word vectors `(N, 4, 3)` to logits `(N, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)
        for number, p in enumerate(self.parameters()):
            p.data = numbers(*p.shape, offset=number).float()

    def forward(self, vectors: Tensor) -> Tensor:
        logits: Tensor = self.head(vectors.tanh().flatten(1))
        return logits


def of_cleverhans() -> dict[str, Any]:
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method

    vectors, y = numbers(5, 4, 3).float(), torch.tensor([0, 1, 0, 1, 1])
    moved = fast_gradient_method(OfVectors(), vectors, 0.5, 2, y=y)
    return {"moved": moved.flatten().tolist()}


def of_lightly() -> dict[str, Any]:
    """Losses of three batches of 4 against a bank of 6, and the bank after each."""
    for package in ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules",
                    "lightly.utils"):  # fmt: skip
        without_init(package)
    asked_across_processes = "lightly.models.utils"
    sys.modules[asked_across_processes] = types.ModuleType(asked_across_processes)
    loss = importlib.import_module("lightly.loss.ntx_ent_loss").NTXentLoss(0.2, (6, 3))
    loss.memory_bank.bank = nn.functional.normalize(numbers(6, 3, offset=9), dim=1)
    losses, banks = [], []
    for at in range(3):
        queries = numbers(4, 3, offset=at).requires_grad_()
        losses.append(loss(queries, numbers(4, 3, offset=at + 5)).item())
        banks.append(loss.memory_bank.bank.flatten().tolist())
    return {"losses": losses, "banks": banks}


def of_mmengine() -> dict[str, Any]:
    """Updates of its average in 8 micro-batches, of which 4 make a step."""
    from mmengine.hooks import EMAHook
    from mmengine.model import BaseModel
    from mmengine.optim import OptimWrapper
    from mmengine.runner import Runner

    steps = []

    class Seen(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            steps.append(1)
            super().step(closure)

    class Model(BaseModel):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: Tensor, mode: str = "loss") -> dict[str, Tensor]:
            return {"loss": self.layer(x).mean()}

    data, model, hook = torch.utils.data.TensorDataset(torch.ones(8, 1)), Model(), EMAHook()
    with tempfile.TemporaryDirectory() as folder:
        Runner(
            model, folder, torch.utils.data.DataLoader(data, batch_size=1),
            optim_wrapper=OptimWrapper(Seen(model.parameters(), lr=0.1), accumulative_counts=4),
            train_cfg={"by_epoch": True, "max_epochs": 1}, custom_hooks=[hook],
            log_level="ERROR",
        ).train()  # fmt: skip
    return {"steps": len(steps), "updates": int(hook.ema_model.steps)}


def of_fastai() -> dict[str, Any]:
    from fastai.losses import FocalLoss

    loss = FocalLoss(gamma=2.0, weight=torch.tensor([10.0, 1.0]))
    return {"weighted": loss(torch.zeros(1, 2), torch.tensor([0])).item()}


def of_pytorch_optimizer() -> dict[str, Any]:
    """What is said at the first step after a resume."""
    from pytorch_optimizer import Lookahead

    def made() -> tuple[nn.Parameter, Any]:
        weight = nn.Parameter(torch.zeros(1))
        weight.grad = torch.ones(1)
        return weight, Lookahead(torch.optim.SGD([weight], lr=1.0), k=4)

    _, optimizer = made()
    for _ in range(3):
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    _, resumed = made()
    resumed.load_state_dict(torch.load(file, weights_only=False))
    try:
        resumed.step()
    except KeyError as error:
        return {"on_resume": repr(error)}
    return {"on_resume": "goes on"}


LIBRARIES = {
    "timm": of_timm, "fvcore": of_fvcore, "torchattacks": of_torchattacks,
    "cleverhans": of_cleverhans, "lightly": of_lightly, "mmengine": of_mmengine,
    "fastai": of_fastai, "pytorch_optimizer": of_pytorch_optimizer,
}  # fmt: skip


def main() -> None:
    kept = json.loads(VALUES.read_text(encoding="utf-8")) if VALUES.exists() else {}
    for library in sys.argv[1:] or LIBRARIES:
        kept[library] = {"version": metadata.version(library)} | LIBRARIES[library]()
    lines = (f'"{library}": {json.dumps(kept[library])}' for library in sorted(kept))
    VALUES.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
