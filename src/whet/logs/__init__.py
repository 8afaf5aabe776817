"""What a run writes down and shows: metrics.csv, a bar, TensorBoard, Weights & Biases, MLflow.

Each is a callback. `Run` makes a CSV where it has a folder, and a Bar; `Run(log=...)` takes more.
"""

from whet.logs.bar import Bar
from whet.logs.choice import chosen
from whet.logs.log import Log
from whet.logs.table import CSV
from whet.logs.trackers import FabricLogger, MLflow, TensorBoard, Tracker, WandB

__all__ = [
    "CSV",
    "Bar",
    "FabricLogger",
    "Log",
    "MLflow",
    "TensorBoard",
    "Tracker",
    "WandB",
    "chosen",
]
