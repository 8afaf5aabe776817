"""`whet fit --overfit`, `--profile` and `--anomaly`: what they find, and that they keep nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fit import tiny
from tests.fit.tiny import asked
from whet.errors import InputError
from whet.fit.conduct import fit
from whet.fit.diagnose import Diagnosis, diagnose

FORWARD = ("torch.relu(self.first(x))", "self.dropout(torch.relu(self.first(x)) - 1).sqrt()")
# the root of zero is fine, and its derivative infinite: times zero it is a NaN
BACKWARD = ("torch.relu(self.first(x))", "(self.first(x) * 0).sqrt()")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def find(place: Path, **changes: Any) -> Diagnosis:
    before = {path.name for path in place.iterdir()}
    told = diagnose(asked(place, methods=None, **changes))
    assert {path.name for path in place.iterdir()} - before <= {"model", "__pycache__"}
    return told


class TestOverfit:
    def test_batches_that_are_learned(
        self, place: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        told = find(place, overfit=1, updates=150)
        assert (told.found, told.said) == (False, [])  # the bar has said it
        assert "they are learned" in capsys.readouterr().err
        assert not (place / "model").exists()

    def test_batches_that_are_not(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert find(place, overfit=2, updates=2).found
        assert "and should come near 0" in capsys.readouterr().err


class TestProfile:
    def test_the_dearest_operations(self, place: Path) -> None:
        told = find(place, profile=3)
        names = [name for name, _, _ in told.operations]
        own = [seconds for _, _, seconds in told.operations]
        assert any(name.startswith("aten::") for name in names)
        assert not any(name.startswith("ProfilerStep") for name in names)
        assert own == sorted(own, reverse=True)
        assert 0 < sum(own) < 60
        assert {path.name for path in (place / "model").iterdir()} == {"trace.json", "profile.txt"}
        events = json.loads((place / "model" / "trace.json").read_text())["traceEvents"]
        steps = {e["name"] for e in events if str(e.get("name", "")).startswith("ProfilerStep")}
        assert len(steps) == 3
        assert not told.found

    def test_a_training_that_is_over_with_the_warm_up(self, place: Path) -> None:
        told = find(place, profile=3, updates=1)
        assert told.found
        assert "nothing was traced" in told.said[0]

    def test_a_fit_begins_in_the_folder(self, place: Path) -> None:
        find(place, profile=2)
        seen = tiny.Watch()
        fit(asked(place, log=[seen]))
        assert seen.seen[0] == 1
        assert (place / "model" / "trace.json").exists()


class TestAnomaly:
    def test_a_nan_of_the_forward_pass(self, place: Path) -> None:
        """Autograd alone would name the backward of the loss's last operation."""
        tiny.write(place, tiny.TASK.replace(*FORWARD))
        told = find(place, anomaly=True)
        assert told.found
        assert told.said == [
            "anomaly: update 1 has its first NaN in the forward pass of the model (Net)."
        ]

    def test_a_nan_of_the_backward_pass(self, place: Path) -> None:
        tiny.write(place, tiny.TASK.replace(*BACKWARD))
        told = find(place, anomaly=True)
        assert told.found
        (said,) = told.said
        assert "the first NaN of a backward pass is SqrtBackward0's, in update 1, which" in said
        assert "(self.first(x) * 0).sqrt()" in said
        assert "site-packages" not in said

    def test_none(self, place: Path) -> None:
        told = find(place, anomaly=True)
        assert (told.found, told.said) == (
            False, ["anomaly: no NaN in 12 updates, forward or backward."]
        )  # fmt: skip

    def test_an_error_of_another_kind_is_no_finding(self, place: Path) -> None:
        tiny.write(place, tiny.TASK.replace("Linear(4, 8)", "Linear(5, 8)"))
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            find(place, anomaly=True)


def test_mistakes(place: Path) -> None:
    with pytest.raises(InputError, match="leave --log out"):
        find(place, overfit=1, log=["tensorboard"])
