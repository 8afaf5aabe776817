"""Under torchrun: one model of several processes, which the first one writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fit import tiny
from tests.fit.tiny import asked
from whet.fit.conduct import fit

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_write_the_model_of_one(tmp_path: Path) -> None:
    tiny.write(tmp_path, tiny.TASK.replace("Dropout(0.2)", "Dropout(0.0)"))
    one = fit(asked(tmp_path, out=tmp_path / "one", updates=6)).about
    fit(asked(tmp_path, updates=2))  # what --fresh forgets
    words = ["rows.py", "--methods", "ema", "--out", "model", "--updates", "6", "--fresh"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "--no-python", sys.executable, "-c", "from whet.cli import main; main()", "fit", *words],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("model: model/model.safetensors") == 1
    told = json.loads((tmp_path / "model" / "fit.json").read_text())
    assert (told["status"], told["environment"]["world_size"]) == ("done", 2)
    assert abs(told["metrics"]["judge"]["log_loss"] - one["metrics"]["judge"]["log_loss"]) < 1e-5
    several, alone = tiny.weights(tmp_path / "model"), tiny.weights(tmp_path / "one")
    assert all((several[name] - alone[name]).abs().max() < 1e-5 for name in alone)
