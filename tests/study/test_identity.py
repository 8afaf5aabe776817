"""Code identity: a change reruns the arms that reach it, a comment reruns nothing."""

from pathlib import Path

import pytest

from whet.study import identity
from whet.study.plan import Arm

FILES = {
    "__init__.py": '"""Package."""',
    "study/__init__.py": "",
    "study/node.py": (
        "from whet.core import step\nfrom whet.study import conditions\n"
        "from whet.study.report import build"
    ),
    "study/conditions.py": "rate = 1",
    "study/report.py": "build = 1",
    "core.py": (
        '"""Doc."""\nfrom typing import TYPE_CHECKING\nfrom . import deep\n'
        "if TYPE_CHECKING:\n    from whet.methods.fgm import FGM\nstep = 1"
    ),
    "deep.py": "import torch\n\ndef f():\n    from whet import late\n",
    "late.py": "x = 1",
    "tasks/__init__.py": "",
    "tasks/toy.py": "data = 1",
    "methods/__init__.py": "",
    "methods/ema.py": "from whet import core",
    "methods/fgm.py": "from whet import core",
    "cli/__init__.py": "y = 1",
}
ARMS = [Arm("baseline"), Arm("ema", ({"name": "ema"},)), Arm("fgm", ({"name": "fgm"},))]


def codes(root: Path, monkeypatch: pytest.MonkeyPatch, **changes: str) -> list[str]:
    package = root / f"package{len(list(root.iterdir()))}"
    for name, text in (FILES | changes).items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(identity, "PACKAGE", package)
    return [identity.code_of([m["name"] for m in arm.methods], "toy") for arm in ARMS]


@pytest.mark.parametrize(
    ("file", "text", "touched"),
    [
        ("core.py", FILES["core.py"].replace("step = 1", "step = 2"), [True, True, True]),
        ("late.py", "x = 2", [True, True, True]),
        ("tasks/toy.py", "data = 2", [True, True, True]),
        ("methods/ema.py", "from whet import core\nz = 1", [False, True, False]),
        ("methods/fgm.py", "from whet import core\nz = 1", [False, False, True]),
        ("study/report.py", "build = 2", [False, False, False]),
        ("study/conditions.py", "rate = 2", [True, True, True]),
        ("cli/__init__.py", "y = 2", [False, False, False]),
        ("core.py", FILES["core.py"].replace("Doc", "Text") + "  # why", [False, False, False]),
    ],
)
def test_a_change_touches_the_arms_that_reach_it(
    file: str, text: str, touched: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = codes(tmp_path, monkeypatch)
    after = codes(tmp_path, monkeypatch, **{file: text})
    assert [a != b for a, b in zip(before, after, strict=True)] == touched


def test_another_torch_is_another_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = codes(tmp_path, monkeypatch)
    monkeypatch.setattr(identity, "versions", lambda: {"torch": "0", "python": "3"})
    assert not set(before) & set(codes(tmp_path, monkeypatch))


def test_the_real_package_is_read() -> None:
    assert {"whet", "whet.errors"} <= set(identity.reached(["whet.study.node", "whet.errors"]))
