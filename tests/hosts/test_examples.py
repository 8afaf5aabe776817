"""The examples run as they are, shortened, offline."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
SAYS = {
    "engine": "accuracy", "huggingface": "judge_accuracy", "lightning_module": "test_accuracy",
    "plain": "accuracy", "timm_style": "accuracy",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")  # few, on purpose
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [str(path), "--short"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runpy.run_path(str(path), run_name="__main__")
    assert SAYS[path.stem] in capsys.readouterr().out


def test_every_host_has_an_example() -> None:
    assert {path.stem for path in EXAMPLES} == set(SAYS)
