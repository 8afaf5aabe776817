"""Predictors as the hub holds them: a folder that is written, fetched and uploaded."""

from __future__ import annotations

import json
from functools import partialmethod
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import whet
from tests.fit import tiny
from whet import hub
from whet.cli import app
from whet.errors import CheckpointError, InputError
from whet.fit import publish
from whet.objectives.families import family
from whet.predict import MeanPredictor, ModelPredictor

ABOUT: dict[str, Any] = {
    "task": {"name": "rows", "title": "Rows of numbers"},
    "methods": [{"name": "ema", "decay": 0.9}], "metrics": {"judge": {"accuracy": 0.9375}},
}  # fmt: skip


def linear(outputs: int = 3) -> nn.Module:
    return nn.Linear(4, outputs)


def predictor(members: int = 1) -> whet.Predictor:
    kind = family("categorical")
    made = [ModelPredictor(one := linear(), dict(one.state_dict()), kind) for _ in range(members)]
    return made[0] if members == 1 else MeanPredictor(made)


def x() -> whet.Batch:
    return whet.Batch(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("members", [1, 3])
def test_it_comes_back(members: int, tmp_path: Path) -> None:
    made = predictor(members)
    folder = whet.save_pretrained(made, tmp_path / "packed", about=ABOUT)
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors"
    ]  # fmt: skip
    for model in (linear, linear()):
        assert torch.equal(whet.from_pretrained(folder, model)(x()), made(x()))


def test_the_config_and_the_card_are_the_hubs(tmp_path: Path) -> None:
    folder = whet.save_pretrained(predictor(2), tmp_path, about=ABOUT, name="me/rows")
    config = json.loads((folder / "config.json").read_text())
    assert (config["library_name"], config["family"], config["members"]) == (
        "whet", "categorical", 2
    )  # fmt: skip
    card = huggingface_hub.ModelCard.load(folder / "README.md")

    assert card.data.library_name == "whet"
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9375)
    assert (result.dataset_name, result.dataset_split) == ("Rows of numbers", "judge")
    assert "whet.from_pretrained('me/rows', model)" in card.text
    assert "Methods: ema." in card.text
    assert "The mean of 2 members." in card.text


def test_a_card_of_ones_own(tmp_path: Path) -> None:
    whet.save_pretrained(predictor(), tmp_path, card="# Mine")
    assert (tmp_path / "README.md").read_text() == "# Mine"


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="about holds what JSON does not"):
        whet.save_pretrained(predictor(), tmp_path / "a", about={"model": linear()})
    assert not (tmp_path / "a").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"holds no model.safetensors; there is: nothing"):
        whet.from_pretrained(tmp_path / "other", linear)
    whet.save_pretrained(predictor(), tmp_path / "b")
    with pytest.raises(CheckpointError, match="fits another model"):
        whet.from_pretrained(tmp_path / "b", linear(5))
    (tmp_path / "b" / "config.json").unlink()
    with pytest.raises(InputError, match=r"lacks config.json: write it with whet.save_pretrained"):
        whet.push_to_hub(tmp_path / "b", "me/rows")


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    whet.save_pretrained(predictor(), tmp_path, card="# Mine")
    assert whet.from_pretrained(tmp_path, linear) is not None
    with pytest.raises(InputError, match=r"not installed: pip install 'whet\[hub\]'"):
        whet.from_pretrained("owner/name", linear)


class Hub:
    """A hub on this machine: what is uploaded lies in a folder, and is fetched from it."""

    def __init__(self, place: Path) -> None:
        self.place, self.asked = place, list[dict[str, Any]]()

    def create_repo(self, api: Any, repo_id: str, **given: Any) -> None:
        self.asked.append({"repo_id": repo_id, **given})

    def upload_folder(self, api: Any, *, folder_path: Path, **given: Any) -> Any:
        self.asked.append(given)
        self.place.mkdir()
        for name in given["allow_patterns"]:
            (self.place / name).write_bytes((Path(folder_path) / name).read_bytes())
        return type("Commit", (), {"commit_url": "https://hub/me/rows/commit/1"})

    def download(self, name: str, **given: Any) -> str:
        self.asked.append(given)
        if name != "me/rows":
            raise huggingface_hub.errors.HFValidationError("Repo id must be 'owner/name'\nmore")
        return str(self.place)


def called_with_api(api: Any, called: Any, *given: Any, **named: Any) -> Any:
    return called(api, *given, **named)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    for name in ("create_repo", "upload_folder"):
        called = getattr(made, name)
        monkeypatch.setattr(huggingface_hub.HfApi, name, partialmethod(called_with_api, called))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.download)
    return made


def test_push_and_fetch(here: Hub) -> None:
    made = predictor()
    url = whet.push_to_hub(made, "me/rows", about=ABOUT, private=True, revision="main")
    assert url == "https://hub/me/rows/commit/1"
    created, uploaded = here.asked
    assert created == {"repo_id": "me/rows", "private": True, "exist_ok": True}
    assert uploaded["allow_patterns"] == list(hub.FILES)
    assert uploaded["revision"] == "main"
    fetched = whet.from_pretrained("me/rows", linear, revision="v1", local_files_only=True)
    assert torch.equal(fetched(x()), made(x()))
    assert here.asked[-1]["allow_patterns"] == list(hub.FILES)
    assert (here.asked[-1]["revision"], here.asked[-1]["local_files_only"]) == ("v1", True)
    with pytest.raises(InputError, match=r"nowhere is no folder here, .* Repo id must be"):
        whet.from_pretrained("nowhere", linear)


def test_offline_a_name_that_is_not_here_is_an_error() -> None:
    with pytest.raises(InputError, match="no folder here, and no repository that could be fetched"):
        whet.from_pretrained("nobody/nothing", linear, local_files_only=True)


def test_a_fitted_model(here: Hub, tmp_path: Path) -> None:
    file, fitted = tiny.write(tmp_path), tmp_path / "model"
    run = CliRunner().invoke
    done = run(app, ["fit", str(file), "--updates", "4", "--methods", "ema", "--out", str(fitted)])
    assert done.exit_code == 0, done.output
    packed = tmp_path / "packed"
    done = run(app, ["push", str(fitted), "me/rows", "--out", str(packed)])
    assert done.exit_code == 0, done.output
    assert here.asked == []
    assert sorted(path.name for path in packed.iterdir()) == sorted(hub.FILES)
    config = json.loads((packed / "config.json").read_text())
    assert config["methods"][0]["name"] == "ema"
    assert "judge" in config["metrics"]
    assert "command" not in config
    done = run(app, ["push", str(fitted), "me/rows", "--private"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == "https://hub/me/rows/commit/1"
    assert (packed / hub.WEIGHTS).read_bytes() == (here.place / hub.WEIGHTS).read_bytes()
    with pytest.raises(InputError, match="no model"):
        publish.push(tmp_path / "hub", "me/rows")


def test_a_hub_that_does_not_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **named: Any) -> None:
        raise ConnectionError("no way\nthere")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(InputError, match=r"could not be uploaded: no way\. Log in with"):
        whet.push_to_hub(predictor(), "me/rows")
