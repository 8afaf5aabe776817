"""Importing whet is light: what a user may never need is imported where it is used."""

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = {"transformers", "lightning", "ray", "matplotlib", "sklearn", "pandas"}

BEYOND_TORCH = """
import time
import torch
start = time.process_time()  # of a processor: whatever else runs beside takes none of it
{statement}
print(time.process_time() - start)
"""


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(statement: str) -> set[str]:
    """The top-level modules that a new interpreter holds after the statement."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([*sys.modules]))"
    return {name.partition(".")[0] for name in json.loads(fresh(code))}


# `import whet` alone may be lazy and so prove nothing; the star asks for every public name.
@pytest.mark.parametrize("statement", ["import whet", "from whet import *"])
class TestImportIsLight:
    def test_no_heavy_package(self, statement: str) -> None:
        assert imported(statement) & HEAVY == set()

    def test_under_a_second_beyond_torch(self, statement: str) -> None:
        code = BEYOND_TORCH.format(statement=statement)
        assert statistics.median(float(fresh(code)) for _ in range(3)) < 1.0


@pytest.mark.parametrize("module", ["statistics", "report", "store"])
def test_evidence_needs_no_torch(module: str) -> None:
    assert "torch" not in imported(f"import whet.study.{module}")
