"""`whet ensemble`: members side by side, each as `whet fit` makes it, and their mean as a model."""

from __future__ import annotations

import io
import json
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from rich.console import Console

from tests.fit import tiny
from tests.fit.test_commands import call
from tests.fit.tiny import Watch, asked, same, weights
from whet import ensembles, evaluation, sources
from whet.errors import InputError, UnknownName, WhetError
from whet.fit import saved, together
from whet.fit.conduct import fit
from whet.fit.ensemble import Ensemble
from whet.fit.request import Request
from whet.study.executors.choice import Choice

SPLIT = tiny.TASK.replace(
    "x = torch.randn(60, 4)",
    "x = torch.randn(60, 4, generator=torch.Generator().manual_seed(seed))",
)
assert SPLIT != tiny.TASK
LOCAL = 'kind = "local"\ntimeout_min = 5\nconcurrency = 2\n'


def wanted(place: Path, **changes: Any) -> Ensemble:
    own = {"out": place / "ensemble", "methods": None} | {
        name: changes.pop(name) for name in ("seed", "fresh", "out") if name in changes
    }
    return Ensemble(asked(place, **own), **({"methods": ("ema",), "members": 2} | changes))


def made(one: Ensemble, here: bool = True) -> tuple[dict[str, Any], str]:
    """What came of it, and what was printed; trained in this process, where workers do not matter.

    What workers make is compared with what `whet fit` makes in this one.
    """
    said = io.StringIO()
    where: AbstractContextManager[Any] = nullcontext()
    if here:
        where = patch.object(together, "choose", lambda *_, **__: Choice(alone=True))
    with where:
        return together.fit(one, Console(file=said, width=200)), said.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task whose rows are drawn by its seed alone, and an ensemble of two."""
    folder = tmp_path_factory.mktemp("ensemble")
    tiny.write(folder, SPLIT)
    together.fit(wanted(folder), Console(file=io.StringIO()))
    return folder


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    tiny.write(tmp_path, SPLIT)
    return tmp_path


def loaded(folder: Path, place: Path) -> saved.Saved:
    return saved.load(folder, "rows", place / "rows.py", device="cpu")


class TestStarts:
    def test_another_start_has_the_split_and_other_weights(self, fresh: Path) -> None:
        source = sources.load("rows", fresh / "rows.py")
        own, other, again = source.task(3), source.task(3, start=2), source.task(3, start=2)
        assert sources.fingerprint(own) == sources.fingerprint(other)
        pairs = zip(own.model.parameters(), other.model.parameters(), strict=True)
        assert not any(torch.equal(a, b) for a, b in pairs)
        assert torch.equal(other.model.first.weight, again.model.first.weight)
        assert torch.equal(own.model.first.weight, source.task(3, start=0).model.first.weight)

    @pytest.mark.parametrize("name", ["digits", "churn"])
    def test_built_in_tasks_have_starts(self, name: str) -> None:
        source = sources.load(name)
        own, other = source.task(0), source.task(0, start=1)
        sources.check_start(source, 0, other)
        shapes = [p for p in own.model.parameters() if p.ndim > 1]
        others = [p for p in other.model.parameters() if p.ndim > 1]
        assert not any(torch.equal(a, b) for a, b in zip(shapes, others, strict=True))

    def test_rows_that_vary_with_the_start_are_refused(self, tmp_path: Path) -> None:
        """A member would be judged on rows that another one was trained on."""
        tiny.write(tmp_path)
        with pytest.raises(InputError, match=r"draws its rows from the global generators.*split"):
            fit(asked(tmp_path, start=1))
        with pytest.raises(InputError, match="draws its rows from the global generators"):
            made(wanted(tmp_path))
        assert not (tmp_path / "model").exists()
        assert not (tmp_path / "ensemble").exists()

    def test_that_is_a_leak(self, tmp_path: Path) -> None:
        """What the refusal keeps away: rows of one start's judge part in another's train part."""
        tiny.write(tmp_path)
        source = sources.load("rows", tmp_path / "rows.py")
        own, other = source.task(0), source.task(0, start=1)
        assert not torch.equal(own.judge[0], other.judge[0])
        tiny.write(tmp_path, SPLIT, "right.py")
        right = sources.load("right", tmp_path / "right.py")
        assert torch.equal(right.task(0).judge[0], right.task(0, start=1).judge[0])

    def test_a_folder_of_another_start_is_refused(self, fresh: Path) -> None:
        fit(asked(fresh, start=1))
        with pytest.raises(InputError, match="began from the weights of start 1, and this is st"):
            fit(asked(fresh))
        assert "--start 1" in json.loads((fresh / "model" / "fit.json").read_text())["command"]

    def test_where_weights_are_seeded_by_the_task_that_is_told(self, fresh: Path) -> None:
        seeded = SPLIT.replace("def task(seed):", "def task(seed):\n    torch.manual_seed(seed)")
        tiny.write(fresh, seeded)
        told, _ = made(wanted(fresh))
        assert [note[:47] for note in told["notes"]] == [together.ALIKE[:47]]


class TestWhatIsTrained:
    def test_members_are_what_fit_makes_of_their_starts(self, place: Path, fresh: Path) -> None:
        for start, name in enumerate(("00-ema", "01-ema")):
            out = fresh / name
            fit(asked(fresh, start=start, out=out))
            assert same(weights(place / "ensemble" / "members" / name), weights(out))

    def test_the_model_is_their_mean(self, place: Path) -> None:
        whole = loaded(place / "ensemble", place)
        members = [loaded(path, place) for path in sorted((place / "ensemble/members").iterdir())]
        batch = next(whole.batches("judge"))
        mean = sum(one.predictor(batch) for one in members) / 2
        assert torch.allclose(whole.predictor(batch), mean)
        assert not torch.allclose(members[0].predictor(batch), mean)

    def test_what_is_told(self, place: Path) -> None:
        told = json.loads((place / "ensemble" / "fit.json").read_text())
        whole = loaded(place / "ensemble", place)
        assert told["status"] == "done"
        assert told["metrics"] == {
            part: evaluation.evaluate(whole.predictor, whole.batches(part), whole.task.metrics)
            for part in ("select", "judge")
        }
        assert [each["name"] for each in told["members"]] == ["00-ema", "01-ema"]
        assert [each["start"] for each in told["members"]] == [0, 1]
        assert told["members"][0]["methods"] == [{"name": "ema", "decay": 0.9}]
        assert told["diversity"]["names"] == ["00-ema", "01-ema"]
        assert told["diversity"]["ensemble"] == told["metrics"]["select"]["accuracy"]

    def test_it_is_judged_predicts_and_is_packed_as_any_model(
        self, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(place)
        assert call(monkeypatch, "evaluate ensemble rows.py --device cpu") == 0
        capsys.readouterr()
        assert call(monkeypatch, "predict ensemble --task rows.py --out - --device cpu") == 0
        lines = capsys.readouterr().out.splitlines()
        assert (lines[0], len(lines)) == ("row,p_no,p_yes,label", 11)
        assert call(monkeypatch, "push ensemble me/it --out packed") == 0
        assert json.loads(Path("packed/config.json").read_text())["members"] == 2

    def test_more_members_train_only_the_new(self, fresh: Path) -> None:
        made(wanted(fresh))
        kept = fresh / "ensemble" / "members" / "00-ema" / "model.safetensors"
        before = kept.stat().st_mtime_ns
        told, said = made(wanted(fresh, members=3, jobs=1))
        assert "2 of 3 members done" in said
        assert kept.stat().st_mtime_ns == before
        assert len(told["members"]) == 3

    def test_a_member_that_was_stopped_goes_on(
        self, fresh: Path, place: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*given: Any, **more: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(together, "schedule", stopped)
            with pytest.raises(KeyboardInterrupt):
                made(wanted(fresh))
        member = asked(fresh, start=1, out=fresh / "ensemble" / "members" / "01-ema")
        with pytest.raises(KeyboardInterrupt):
            fit(member, [Watch(at=5)])
        assert not (member.folder / "model.safetensors").exists()
        made(wanted(fresh))
        theirs = place / "ensemble" / "members" / "01-ema"
        assert same(weights(member.folder), weights(theirs))

    def test_one_that_was_lost_is_trained_again(self, fresh: Path, place: Path) -> None:
        made(wanted(fresh))
        lost = fresh / "ensemble" / "members" / "00-ema"
        (lost / "model.safetensors").unlink()
        _, said = made(wanted(fresh))
        assert "1 of 2 members done" in said
        assert same(weights(lost), weights(place / "ensemble" / "members" / "00-ema"))

    def test_variants_by_recipes_and_weights_by_the_select_part(self, fresh: Path) -> None:
        line = "import whet\nrecipe = whet.Stage(updates={}, batch_size=8)\n"
        files = [tiny.write(fresh, line.format(n), f"of{n}.py") for n in (6, 12)]
        told, _ = made(wanted(fresh, methods=(), recipes=files, members=None, combine="weighted"))
        assert [(each["name"], each["updates"]) for each in told["members"]] == [
            ("00-of6", 6), ("01-of12", 12),
        ]  # fmt: skip
        inside = fresh / "ensemble" / "members"
        members = [loaded(inside / each["name"], fresh) for each in told["members"]]
        shares = ensembles.fit_weights(
            [one.predictor for one in members], list(members[0].batches("select"))
        )
        assert [each["weight"] for each in told["members"]] == pytest.approx(shares)

    def test_by_batch_jobs_the_same(self, fresh: Path, place: Path) -> None:
        jobs = tiny.write(fresh, LOCAL, "jobs.toml")
        made(wanted(fresh, executor=jobs), here=False)
        for name in ("00-ema", "01-ema"):
            theirs = weights(place / "ensemble" / "members" / name)
            assert same(weights(fresh / "ensemble" / "members" / name), theirs)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("changes", "error", "match"),
        [
            ({"members": 1}, InputError, "two members at least"),
            ({"combine": "median"}, UnknownName, "way to combine members 'median'"),
            ({"methods": ("ema", "ema")}, InputError, "ema stands twice"),
            ({"recipes": (Path("a.py"),)}, InputError, "both say what to train with"),
            ({"methods": ("fgm",)}, WhetError, "fgm does not apply"),
            ({"methods": ("nosuch",)}, UnknownName, "nosuch"),
            ({"methods": (), "recipes": (Path("none.py"),)}, InputError, "no file none.py"),
        ],
    )
    def test_before_anything_is_trained(
        self, fresh: Path, changes: dict[str, Any], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            made(wanted(fresh, **changes))
        assert not (fresh / "ensemble").exists()

    def test_a_model_where_an_ensemble_is_and_the_other_way(self, place: Path, fresh: Path) -> None:
        with pytest.raises(InputError, match="of several trainings, and this is one of one"):
            fit(asked(place, out=place / "ensemble"))
        fit(asked(fresh))
        with pytest.raises(InputError, match="of one training, and this is one of several"):
            made(wanted(fresh, out=fresh / "model"))

    def test_several_processes(self, fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(InputError, match="an ensemble starts its own processes"):
            made(wanted(fresh))

    def test_other_files_are_left_alone(self, fresh: Path) -> None:
        (fresh / "ensemble").mkdir()
        (fresh / "ensemble" / "thesis.txt").write_text("mine")
        with pytest.raises(InputError, match=r"other files \(thesis.txt\)"):
            made(wanted(fresh, fresh=True))
        assert (fresh / "ensemble" / "thesis.txt").read_text() == "mine"

    def test_a_member_that_fails_is_named_and_no_model_written(self, fresh: Path) -> None:
        line = """import multiprocessing
import whet
def recipe(task):
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("not on this machine")
    return whet.Stage(updates=2)
"""
        file = tiny.write(fresh, line, "fails.py")
        with pytest.raises(WhetError, match=r"2 members of 2 could not .*(?s:.*)not on this mach"):
            made(wanted(fresh, methods=(), recipes=[file], jobs=1), here=False)
        assert json.loads((fresh / "ensemble/fit.json").read_text())["status"] == "training"
        assert not (fresh / "ensemble" / "model.safetensors").exists()
        with pytest.raises(InputError, match=r"the training in .* has not ended: give its command"):
            loaded(fresh / "ensemble", fresh)


def test_the_command_says_all_again(tmp_path: Path) -> None:
    one = Ensemble(
        Request("digits", seed=3, updates=9), ("ema", "mixup"), members=2, combine="weighted",
        jobs=2, executor=Path("jobs.toml"),
    )  # fmt: skip
    assert one.command == (
        "whet ensemble digits --seed 3 --out whet-models/digits-ensemble --updates 9 "
        "--methods ema --methods mixup --members 2 --combine weighted --jobs 2 "
        "--executor jobs.toml"
    )
    assert [*one.requests()] == ["00-ema", "01-mixup", "02-ema", "03-mixup"]


def test_the_command_prints_members_and_model(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(fresh)
    line = "ensemble rows.py --members 2 --jobs 1 --updates 3 --device cpu --out model"
    assert call(monkeypatch, line) == 0
    said = capsys.readouterr().out
    assert "0 of 2 members done, in model" in said
    assert "gain over the best" in said
    assert said.endswith("model: model/model.safetensors\n")
