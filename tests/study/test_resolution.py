"""A sweep of sizes: its table, its numbers by hand, and going on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import whet
from tests.methods.traps import trap
from whet.augmenting.sizes import centred, resized
from whet.errors import InputError, UnknownName
from whet.run import Run
from whet.stage import Stage
from whet.study.resolution import Resolutions, resolution_sweep
from whet.task import Task

TRAINED: list[tuple[int, int]] = []


def make(size: int, seed: int) -> Run:
    TRAINED.append((size, seed))
    maker = torch.Generator().manual_seed(seed)
    x = torch.rand(32, 1, 8, 8, generator=maker)
    y = (x.mean((1, 2, 3)) > 0.5).long()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    task = Task(model, (resized(x, size), y), judge=(x, y), metrics=["log_loss", "accuracy"])
    return Run(task, Stage(updates=3, batch_size=8), seed, log=None, device="cpu")


def other(size: int, seed: int) -> Run:
    return make(size, seed + 1)


def sweep(*sizes: Any, **changes: Any) -> Resolutions:
    given: dict[str, Any] = {"seeds": 3, "progress": False} | changes
    return resolution_sweep(make, *(sizes or ([4, 6], [4, 6, 8])), **given)


@pytest.fixture(autouse=True)
def _forget() -> None:
    TRAINED.clear()


def test_a_cell_is_the_model_judged_at_its_size() -> None:
    found = sweep(view=centred)
    assert whet.resolution_sweep is resolution_sweep
    assert sorted(TRAINED) == [(size, seed) for size in (4, 6) for seed in range(3)]
    run = make(6, 1).fit()
    x, y = run.task.judge
    with torch.no_grad():
        loss = nn.functional.cross_entropy(run.module.eval()(centred(x, 4)), y)
    assert found.values(6, 4)[1] == pytest.approx(loss.item(), abs=1e-6)
    assert (found.metric, found.higher_is_better) == ("log_loss", False)


def rows(values: dict[tuple[int, int], list[float]]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"train": a, "test": b, "seed": seed, "value": value}
        for (a, b), each in values.items() for seed, value in enumerate(each)
    )  # fmt: skip


KNOWN = Resolutions(
    "accuracy", True, rows({(24, 24): [0.5, 0.6, 0.7], (24, 32): [0.53, 0.61, 0.73]})
)


def paired(found: Resolutions) -> tuple[float | None, float | None]:
    each = found.gain(24, 32)
    return each.low, each.high


def unpaired(found: Resolutions) -> tuple[float | None, float | None]:
    """Two intervals beside each other: the spread of seeds hides a difference that all have."""
    (a, wide), (b, wider) = found.interval(24, 24), found.interval(24, 32)
    assert wide is not None
    assert wider is not None
    return b - a - wide - wider, b - a + wide + wider


def test_intervals_by_hand() -> None:
    mean, wide = KNOWN.interval(24, 24)
    assert mean == pytest.approx(0.6)
    assert wide == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert Resolutions("a", True, rows({(1, 1): [0.5]})).interval(1, 1) == (0.5, None)


@trap(right=paired, wrong=unpaired)
def test_differences_are_paired_by_seed(of: Any) -> None:
    low, high = of(KNOWN)
    error = 0.011547005 / 3**0.5
    assert (low, high) == pytest.approx(
        (0.07 / 3 - 4.302653 * error, 0.07 / 3 + 4.302653 * error), abs=1e-6
    )


def test_a_lower_loss_is_a_gain() -> None:
    found = Resolutions("log_loss", False, KNOWN.rows).gain(24, 32)
    assert found.gain == pytest.approx(-0.07 / 3)


def test_the_table_and_the_csv() -> None:
    assert str(KNOWN).splitlines() == [
        "accuracy: train / test  24               32",
        "24                      0.6000 ± 0.2484  0.6233 ± 0.2501",
    ]
    assert KNOWN.csv().splitlines()[:2] == ["train,test,seed,value", "24,24,0,0.5"]


def test_the_plot(tmp_path: Path) -> None:
    text = KNOWN.plot(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == text
    assert "trained at 24" in text
    assert text == KNOWN.plot()


def test_what_is_not_there() -> None:
    with pytest.raises(UnknownName, match="24 x 16"):
        KNOWN.values(24, 16)
    with pytest.raises(InputError, match="against itself"):
        KNOWN.gain(24, 24)


class TestFolder:
    def test_goes_on(self, tmp_path: Path) -> None:
        def stopped(size: int, seed: int) -> Run:
            if len(TRAINED) == 4:
                raise KeyboardInterrupt
            return make(size, seed)

        whole = sweep()
        TRAINED.clear()
        with pytest.raises(KeyboardInterrupt):
            resolution_sweep(stopped, [4, 6], [4, 6, 8], seeds=3, folder=tmp_path, progress=False)
        TRAINED.clear()
        again = resolution_sweep(stopped, [4, 6], [4, 6, 8], seeds=3, folder=tmp_path,
                                 progress=False)  # fmt: skip
        assert len(TRAINED) == 2
        assert again.rows == whole.rows
        assert not list(tmp_path.glob(".*"))

    def test_what_is_there_is_not_trained_again(self, tmp_path: Path) -> None:
        first = sweep(folder=tmp_path)
        TRAINED.clear()
        assert sweep(folder=tmp_path) == first
        assert not TRAINED
        sweep([4], [4, 10], seeds=[2], folder=tmp_path)  # a new test size takes a training
        assert TRAINED == [(4, 2)]
        assert (tmp_path / "sweep.csv").read_text().count("\n") == 1 + 18 + 1

    def test_of_another_make(self, tmp_path: Path) -> None:
        sweep(folder=tmp_path)
        with pytest.raises(InputError, match="another `make`"):
            resolution_sweep(other, [4], [4], seeds=1, folder=tmp_path, progress=False)

    def test_of_another_view(self, tmp_path: Path) -> None:
        sweep(folder=tmp_path)
        with pytest.raises(InputError, match="or `view`: the code has changed"):
            sweep(folder=tmp_path, view=centred)

    @pytest.mark.parametrize("text", ["", "[1]", '{"rows": 3}', '{"rows": [{"train": "x"}]}'])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            sweep(folder=tmp_path)
        assert not TRAINED

    def test_is_strict_json(self, tmp_path: Path) -> None:
        sweep([4], [4], seeds=1, folder=tmp_path)
        told = json.loads((tmp_path / "sweep.json").read_text())
        assert set(told) == {"metric", "higher_is_better", "code", "rows"}


@pytest.mark.parametrize("sizes", [[], [0], [4, 4], [4.0], [True]])
def test_odd_sizes(sizes: list[Any]) -> None:
    with pytest.raises(InputError, match="sizes_test is"):
        sweep([4], sizes)
    with pytest.raises(InputError, match="seeds is"):
        sweep([4], [4], seeds=[] if sizes != [4, 4] else [1, 1])
    assert not TRAINED


def test_make_returns_a_run() -> None:
    with pytest.raises(InputError, match=r"make\(4, 0\) gave a Stage; return a Run"):
        resolution_sweep(lambda size, seed: Stage(updates=1), [4], [4], seeds=1)  # type: ignore[arg-type, return-value]


def test_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    sweep([4], [4], seeds=2, progress=True)
    assert capsys.readouterr().err.splitlines()[1] == "2 of 2: trained at 4, seed 1"
