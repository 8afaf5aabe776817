"""Methods in Lightning, in two ways: a module trained by a Stack, and a callback that looks on.

python examples/lightning_module.py            less than a minute
python examples/lightning_module.py --short    one epoch, to see that it runs
"""

import sys

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from whet.hosts.lightning import Observers, WhetModule
from whet.methods import EMA, SAM, LabelSmoothing, PreciseBN
from whet.tasks import digits

EPOCHS = 1 if "--short" in sys.argv else 15
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False,
         "enable_model_summary": False, "enable_checkpointing": False}  # fmt: skip


def loaders():
    task = digits.task(seed=0)
    train, select, judge = (TensorDataset(*part) for part in (task.train, task.select, task.judge))
    return (
        DataLoader(train, batch_size=32, shuffle=True),
        DataLoader(select, batch_size=256),
        DataLoader(judge, batch_size=256),
    )


class Ordinary(pl.LightningModule):
    """A module as it may be there already."""

    def __init__(self):
        super().__init__()
        self.net = digits.task(seed=0).model

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return torch.nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    test_step = validation_step

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


pl.seed_everything(0)
train, select, judge = loaders()

# every method: the module takes the step, Lightning does the rest
module = WhetModule(
    digits.task(seed=0).model, "categorical",
    [EMA(0.98), PreciseBN(), SAM(), LabelSmoothing(0.1)],
    optimizer={"name": "adamw", "lr": 3e-3}, schedule="cosine", accumulate=2,
    metrics=["accuracy", "log_loss"],
)  # fmt: skip
trainer = pl.Trainer(max_epochs=EPOCHS, **QUIET)
trainer.fit(module, train, select)
trainer.test(module, judge)

# EMA and batch statistics alone: the module stays as it is
trainer = pl.Trainer(max_epochs=EPOCHS, callbacks=[Observers(EMA(0.98), PreciseBN())], **QUIET)
ordinary = Ordinary()
trainer.fit(ordinary, train, select)
trainer.test(ordinary, judge)
