"""Fine-tuning the way timm does it: layer-wise rates, warm-up, MixUp and CutMix, EMA.

The model keeps timm's manners (`forward_features`, `forward_head`, `group_matcher`) without timm:
put `timm.create_model(...)` in its place.

    python examples/timm_style.py            less than a minute
    python examples/timm_style.py --short    two updates, to see that it runs
"""

import sys

import torch
from torch import nn

import whet
from whet.methods import EMA, ClipGradNorm, CutMix, LabelSmoothing, MixUp, PreciseBN
from whet.tasks import digits

UPDATES = 4 if "--short" in sys.argv else 400


class Small(nn.Module):
    """A stem, stages of blocks, a head."""

    def __init__(self, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.stages = nn.Sequential(self._stage(width, width), self._stage(width, 2 * width))
        self.norm = nn.BatchNorm2d(2 * width)
        self.head = nn.Linear(2 * width, classes)

    @staticmethod
    def _stage(before: int, after: int) -> nn.Module:
        conv = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU())

    def forward_features(self, x):
        return self.norm(self.stages(self.stem(x)))

    def forward_head(self, x):
        return self.head(x.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))

    def group_matcher(self):
        return {"stem": r"^stem", "stages": r"^stages\.(\d+)", "rest": r"^norm|^head"}


def layered(model: Small, lr: float, decay: float):
    """Parameter groups whose rate falls with the distance to the head."""
    parts = [model.stem, *model.stages, nn.ModuleList([model.norm, model.head])]
    deepest = len(parts) - 1
    return [
        {"params": list(part.parameters()), "lr": lr * decay ** (deepest - at)}
        for at, part in enumerate(parts)
    ]


torch.manual_seed(0)
model, data = Small(), digits.task(seed=0)
task = whet.Task(model, data.train, select=data.select, judge=data.judge, metrics=["accuracy"])
half = UPDATES // 2
shared = {
    "batch_size": 32, "schedule": {"name": "cosine", "warmup": 0.1, "floor": 0.01},
    "optimizer": lambda parameters: torch.optim.AdamW(layered(model, 5e-3, 0.75)),
}  # fmt: skip
soft = [MixUp(0.2).during(0, 0.5), CutMix(1.0).during(0.5, 1), LabelSmoothing(0.1)]
recipe = whet.Recipe([
    whet.Stage(updates=half, methods=[*soft, ClipGradNorm(1.0)], **shared),
    whet.Stage(updates=UPDATES - half, methods=[ClipGradNorm(1.0)], freeze=["stem"], **shared),
], methods=[EMA(0.98), PreciseBN()])  # fmt: skip
run = whet.Run(task, recipe, seed=0, device="cpu").fit()
print(run.stack.explain())
print(f"{run.updates} updates, {run.evaluate('judge')}")
