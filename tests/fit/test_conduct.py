"""`whet fit`: what is written, what goes on where it was, and what is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fit import tiny
from tests.fit.tiny import Watch, asked
from whet.errors import CheckpointError, Clash, InputError, UnknownName, WhetError
from whet.fit.conduct import fit
from whet.fit.folder import Folder
from whet.predict import Predictor
from whet.run import Run
from whet.stage import Stage
from whet.stopping import Terminated
from whet.study import node
from whet.study.files import InUse, locked
from whet.study.plan import Node


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny.write(tmp_path)
    return tmp_path


def stage(**changes: Any) -> Stage:
    given = {"updates": 12, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 0.05}}
    return Stage(**(given | {"schedule": "cosine"} | changes))


class TestWhatIsWritten:
    def test_the_model_that_was_judged(self, place: Path) -> None:
        """A Run of the same recipe, written by hand, has the same weights and metrics."""
        fitted = fit(asked(place, methods="r_drop,ema"))
        methods = ["r_drop", {"name": "ema", "decay": 0.9}]  # the task's own decay
        run = Run(tiny.made(place), stage(methods=methods), 0, device="cpu", log=None).fit()
        run.predictor().save(place / "by_hand" / "model.safetensors")
        assert tiny.same(tiny.weights(place / "model"), tiny.weights(place / "by_hand"))
        told = json.loads((place / "model" / "fit.json").read_text())
        assert told["metrics"] == {part: run.evaluate(part) for part in ("select", "judge")}
        assert told["metrics"] == fitted.about["metrics"]
        raw = run.module.state_dict()["head.weight"]
        assert not torch.equal(tiny.weights(place / "model")["0/head.weight"], raw), "averaged"

    def test_a_studys_run_of_the_seed_is_the_same_training(self, place: Path) -> None:
        settings = {"name": "ema", "decay": 0.9}
        job = Node("rows", "ema", (settings,), 3, file=str(place / "rows.py"))
        row = node.train(job, place / "node")
        told = fit(asked(place, seed=3)).about
        assert (row["status"], row["metrics"]) == ("done", told["metrics"])

    def test_what_is_told_of_it(self, place: Path) -> None:
        fit(asked(place, updates=5))
        told = json.loads((place / "model" / "fit.json").read_text())
        assert (told["status"], told["seed"], told["updates"]) == ("done", 0, 5)
        assert (told["task"]["name"], told["task"]["title"]) == ("rows", "Tiny rows")
        assert told["methods"] == [{"name": "ema", "decay": 0.9}]
        assert told["recipe"]["stages"][0]["optimizer"] == {"name": "adamw", "lr": 0.05}
        assert {"torch", "whet"} <= told["versions"].keys()
        names = {path.name for path in (place / "model").iterdir()}
        assert names == {"checkpoints", "fit.json", "fit.lock", "metrics.csv", "model.safetensors",
                         "run.json"}  # fmt: skip

    def test_no_places_and_no_secrets(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(place)
        fit(asked(place, updates=2))
        text = (place / "model" / "fit.json").read_text()
        assert str(place) not in text
        command = "whet fit rows.py --methods ema --device cpu --out model --updates 2"
        told = json.loads(text)["command"].split()
        assert sorted(told) == sorted(command.split())
        Folder(place).write({"command": "whet fit /home/ann/t.py", "api_key": "abc"})
        told = json.loads((place / "fit.json").read_text())
        assert (told["command"], told["api_key"]) == ("whet fit ~/t.py", "***")

    def test_companions_join_where_they_apply(self, place: Path) -> None:
        assert [m["name"] for m in fit(asked(place, methods="swa")).about["methods"]] == ["swa"]
        tiny.write(place, tiny.TASK.replace("Linear(4, 8)", "Sequential(torch.nn.Linear(4, 8), "
                                            "torch.nn.BatchNorm1d(8))"))  # fmt: skip
        told = fit(asked(place, methods="swa", out=place / "bn")).about
        assert [m["name"] for m in told["methods"]] == ["swa", "precise_bn"]

    def test_the_select_part_is_looked_at_on_the_way(self, place: Path) -> None:
        fit(asked(place, updates=40))
        lines = (place / "model" / "metrics.csv").read_text().splitlines()
        assert [line.split(",")[0] for line in lines[1:]] == [str(4 * n) for n in range(1, 11)]

    def test_epochs(self, place: Path) -> None:
        assert fit(asked(place, epochs=2)).about["updates"] == 10

    def test_parts_that_a_task_lacks(self, place: Path) -> None:
        text = tiny.TASK.replace("(x[40:50], y[40:50]), (x[50:], y[50:]),", "")
        tiny.write(place, text)
        assert fit(asked(place)).about["metrics"] == {}
        tiny.write(place, tiny.TASK.replace("(x[50:], y[50:]),", ""))
        assert fit(asked(place, out=place / "other")).about["metrics"].keys() == {"select"}

    def test_embeddings_have_no_metrics(self, place: Path) -> None:
        view = "lambda x, g: x + torch.randn(x.shape, generator=g)"
        given = f"objective='contrastive', resources={{'view': {view}}}, metrics="
        text = tiny.TASK.replace("metrics=", given)
        tiny.write(place, text)
        told = fit(asked(place, methods="moco:queue=16", updates=2)).about
        assert (told["metrics"], told["objective"]) == ({}, "embedding")


class TestGoingOn:
    @pytest.fixture
    def through(self, place: Path) -> dict[str, torch.Tensor]:
        fit(asked(place, out=place / "through"))
        return tiny.weights(place / "through")

    def test_ctrl_c_leaves_a_checkpoint_and_the_same_request_goes_on(
        self, place: Path, through: dict[str, torch.Tensor]
    ) -> None:
        with pytest.raises(KeyboardInterrupt, match="Stopped after update 5"):
            fit(asked(place, log=[Watch(5)]))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert json.loads((place / "model" / "fit.json").read_text())["status"] == "training"
        watch = Watch()
        told = fit(asked(place, log=[watch])).about
        assert watch.seen == list(range(6, 13))
        assert (told["updates"], told["metrics"].keys()) == (12, {"select", "judge"})
        assert tiny.same(tiny.weights(place / "model"), through)

    def test_a_second_ctrl_c_ends_at_once(
        self, place: Path, through: dict[str, torch.Tensor]
    ) -> None:
        with pytest.raises(KeyboardInterrupt):
            fit(asked(place, log=[Watch(5, times=2)]))
        assert not (place / "model" / "checkpoints").exists()
        fit(asked(place))
        assert tiny.same(tiny.weights(place / "model"), through)

    def test_sigterm(self, place: Path, through: dict[str, torch.Tensor]) -> None:
        with pytest.raises(Terminated) as ended:
            fit(asked(place, log=[Watch(7, signal.SIGTERM)]))
        assert ended.value.code == 143
        fit(asked(place))
        assert tiny.same(tiny.weights(place / "model"), through)

    def test_what_has_ended_is_not_trained_again(self, place: Path) -> None:
        before, watch = fit(asked(place)).about, Watch()
        after = fit(asked(place, log=[watch])).about
        assert (watch.seen, after["metrics"]) == ([], before["metrics"])

    def test_fresh_begins_anew(self, place: Path) -> None:
        fit(asked(place))
        watch = Watch()
        fit(asked(place, log=[watch], seed=1, fresh=True))
        assert watch.seen == list(range(1, 13))

    def test_fresh_removes_nothing_for_a_request_with_a_mistake(self, place: Path) -> None:
        fit(asked(place))
        before = tiny.weights(place / "model")
        with pytest.raises(Clash):
            fit(asked(place, methods="ema,swa", fresh=True))
        assert tiny.same(tiny.weights(place / "model"), before)
        assert (place / "model" / "checkpoints").exists()


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"seed": 1}, "holds a model of seed 0, and this is seed 1. --fresh begins anew"),
            ({"precision": "bf16"}, "holds a model trained in fp32, and this is bf16"),
        ],
    )
    def test_another_training_in_the_folder(
        self, changes: dict[str, Any], said: str, place: Path
    ) -> None:
        fit(asked(place, updates=2))
        with pytest.raises(InputError, match=said):
            fit(asked(place, updates=2, **changes))

    def test_another_recipe(self, place: Path) -> None:
        fit(asked(place, updates=2))
        with pytest.raises(CheckpointError, match="updates 2 -> 3") as refused:
            fit(asked(place, updates=3))
        assert "--fresh begins anew there" in refused.value.__notes__[-1]

    def test_another_task(self, place: Path) -> None:
        fit(asked(place, updates=2))
        with pytest.raises(InputError, match="holds a model of 'rows', not of 'others'"):
            fit(asked(place, updates=2).__class__("others", tiny.write(place, name="others.py"),
                                                  out=place / "model"))  # fmt: skip

    def test_edited_code_and_edited_data(self, place: Path) -> None:
        fit(asked(place, updates=2))
        tiny.write(place, "# a comment is no other code\n" + tiny.TASK)
        fit(asked(place, updates=2))
        tiny.write(place, tiny.TASK.replace("x[:, 0] > x[:, 1]", "x[:, 0] > x[:, 2]"))
        with pytest.raises(InputError, match="whose task, or whet itself, had other code"):
            fit(asked(place, updates=2))
        tiny.write(place)
        (place / "shift.txt").write_text("0.5")
        with pytest.raises(InputError, match="trained on other data"):
            fit(asked(place, updates=2))
        fit(asked(place, updates=2, fresh=True))

    def test_a_folder_of_something_else(self, place: Path) -> None:
        (place / "model" / "checkpoints").mkdir(parents=True)
        for fresh in (False, True):
            with pytest.raises(InputError, match=r"holds other files \(checkpoints\)"):
                fit(asked(place, fresh=fresh))
        assert (place / "model" / "checkpoints").exists()

    def test_a_folder_that_another_process_holds(self, place: Path) -> None:
        with locked(place / "model" / "fit.lock", "it"), pytest.raises(InUse, match="The model in"):
            fit(asked(place))

    @pytest.mark.parametrize(
        ("changes", "kind", "said"),
        [
            ({"methods": "emma"}, UnknownName, "did you mean 'ema'"),
            ({"methods": "ema:decay=2"}, InputError, "decay is 2"),
            ({"methods": "fgm"}, WhetError, "fgm does not apply"),
            ({"precision": "fp8"}, InputError, "precision is 'fp8'"),
            ({"device": "tpu"}, InputError, "device is 'tpu'"),
            ({"log": ["tensorbord"]}, UnknownName, "did you mean 'tensorboard'"),
            ({"updates": 1, "epochs": 2.0}, InputError, "--updates and --epochs"),
            ({"recipe": Path("r.py")}, InputError, "--recipe and --methods"),
            ({"recipe": Path("r.py"), "methods": None, "epochs": 1.0}, InputError,
             "leave --epochs out"),
            ({"recipe": Path("r.py"), "methods": None, "updates": 1}, InputError,
             "leave --updates out"),
            ({"epochs": float("nan")}, InputError, "--epochs is nan; it must be above 0"),
            ({"epochs": 0.0}, InputError, "--epochs is 0.0"),
            ({"seed": 1 << 53}, InputError, "--seed is 9007199254740992; it must lie in"),
            ({"overfit": 1, "fresh": True}, InputError, "leave --fresh out"),
        ],
    )  # fmt: skip
    def test_a_mistake_leaves_nothing_behind(
        self, changes: dict[str, Any], kind: type[WhetError], said: str, place: Path
    ) -> None:
        with pytest.raises(kind, match=said):
            fit(asked(place, **changes))
        assert not (place / "model").exists()

    @pytest.mark.parametrize(
        ("written", "said"), [("{", "it: "), ('{"format": 1}', "status: "), ("[1]", "it: ")]
    )
    def test_a_damaged_file(self, written: str, said: str, place: Path) -> None:
        fit(asked(place, updates=2))
        (place / "model" / "fit.json").write_text(written)
        with pytest.raises(InputError, match=rf"fit.json is damaged, or of .* \({said}"):
            fit(asked(place, updates=2))


def test_what_is_judged_can_be_loaded_without_the_command(place: Path) -> None:
    fit(asked(place))
    task = tiny.made(place)
    predictor = Predictor.load(place / "model" / "model.safetensors", task.model)
    assert len(predictor.members()) == 1
