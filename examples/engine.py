"""The same in whet's engine: evaluation, checkpoints, resuming, an exported predictor.

python examples/engine.py            a few seconds; again, it finds itself finished
python examples/engine.py --short    one epoch, to see that it runs
"""

import sys
import tempfile
from pathlib import Path

import whet
from whet.methods import EMA, LabelSmoothing, PreciseBN
from whet.tasks import digits

EPOCHS = 1 if "--short" in sys.argv else 20

folder = Path(tempfile.mkdtemp())  # your own, to continue from another day
stage = whet.Stage(
    epochs=EPOCHS, batch_size=32, accumulate=2, optimizer={"name": "adamw", "lr": 3e-3},
    schedule="cosine", methods=[EMA(0.98), PreciseBN(), LabelSmoothing(0.1)],
)  # fmt: skip
run = whet.Run(digits.task(seed=0), stage, seed=0, folder=folder, evaluate_every=50)
run.fit(until=5)  # stopped, as by a full queue ...
run = whet.Run(digits.task(seed=0), stage, seed=0, folder=folder, evaluate_every=50).fit()

found = run.evaluate("judge")
run.predictor().save(folder / "digits.safetensors")
print(f"{run.updates} updates, " + ", ".join(f"{k} {v:.3f}" for k, v in found.items()))
