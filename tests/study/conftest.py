"""One study of a toy task with everything that can go wrong in it, shared by the tests."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.study import fakes
from whet.study.conduct import conduct
from whet.study.evidence import Evidence
from whet.study.request import Request

TRAIN = "tests.study.fakes:train"
ARMS = ("good", "bad", "noise", "<script>", "same", "raises", "mistake", "killed", "exits",
        "diverges", "inapplicable")  # fmt: skip


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy task and its methods in place of the real ones, in this process."""
    for name, module in fakes.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    out = tmp_path_factory.mktemp("studies") / "toy"
    request = Request("toy", methods=",".join(ARMS), seeds=5, out=out, jobs=2)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in fakes.modules().items():
            patch.setitem(sys.modules, name, module)
        return conduct(request, Console(file=io.StringIO()), TRAIN)


@pytest.fixture
def folder(toy: Evidence) -> Path:
    return toy.report.parent
