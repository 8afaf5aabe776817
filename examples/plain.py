"""Methods in a loop of your own: handwritten digits, two batches an update, three methods.

python examples/plain.py            a few seconds
python examples/plain.py --short    one epoch, to see that it runs
"""

import sys

import torch
from torch.utils.data import DataLoader, TensorDataset

import whet
from whet.methods import EMA, LabelSmoothing, PreciseBN
from whet.tasks import digits

EPOCHS = 1 if "--short" in sys.argv else 20

task = digits.task(seed=0)
loader = DataLoader(TensorDataset(*task.train), batch_size=32, shuffle=True)
stack = whet.Stack(
    task.model, "categorical", [EMA(0.98), PreciseBN(), LabelSmoothing(0.1)],
    optimizer=torch.optim.AdamW(task.model.parameters(), lr=3e-3),
    data=task.train, batch_size=32,  # for PreciseBN, which reads the data once more
)  # fmt: skip
print(stack.explain())

task.model.train()
for _ in range(EPOCHS):
    window = []
    for images, labels in loader:
        window.append(whet.Batch(images, labels))
        if len(window) == 2:
            stack.step(window)
            window = []
    stack.end_epoch()

images, labels = task.judge
with stack.evaluating(), torch.no_grad():  # the average, with batch statistics of its own
    accuracy = (task.model(images).argmax(1) == labels).float().mean().item()
print(f"{stack.run.updates} updates, accuracy {accuracy:.3f}")
