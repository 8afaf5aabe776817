"""`whet new`: files to begin with, which run as they are written and on a folder of one's own."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import whet.data
from whet import Task, scaffold, sources
from whet.errors import InputError, UnknownName
from whet.loading import open_loader
from whet.sources import Source

ROOT = Path(__file__).parents[2]
KINDS = ("huggingface", "images", "table", "text", "torch")
PARTS = ("train", "select", "judge")
WORDS = {"bank": "pay my card now", "post": "send the parcel home"}


def run(folder: Path, *words: str, expect: int = 0) -> str:
    environment = os.environ | {"COLUMNS": "100", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", "from whet.cli import main; main()", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def begun(folder: Path, kind: str, **settings: Any) -> Source:
    """A template in a folder, with some settings edited as a user would."""
    path = scaffold.write(folder / "mine.py", kind, force=True)
    lines = path.read_text("utf-8").splitlines()
    for name, value in settings.items():
        (at,) = (n for n, line in enumerate(lines) if line.startswith(f"{name} = "))
        lines[at] = f"{name} = {value!r}"
    path.write_text("\n".join(lines), "utf-8")
    return sources.load("mine", path)


def tensors(task: Task, part: str) -> list[torch.Tensor]:
    """All of a part in the order it is read in, batch by batch."""
    batches = open_loader(task.part(part), 16, shuffle=False, collate=task.collate).epoch(0)
    found: list[torch.Tensor] = []
    for batch in batches:
        batch.map(lambda tensor: found.append(tensor) or tensor)
    return found


def size(task: Task, part: str) -> int:
    batches = open_loader(task.part(part), 16, shuffle=False, collate=task.collate).epoch(0)
    return sum(batch.size for batch in batches)


def equal(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_runs_as_it_is_written(kind: str, tmp_path: Path) -> None:
    source = begun(tmp_path, kind)
    assert source.about.title == scaffold.kinds()[kind]
    one, again, other = source.task(0), source.task(0), source.task(1)
    assert len(one.classes or ()) > 1
    for part in PARTS:
        assert equal(tensors(one, part), tensors(again, part))
    weights = [list(task.model.parameters()) for task in (one, again, other)]
    assert equal(weights[0], weights[1])
    assert not torch.equal(weights[0][-2], weights[2][-2])  # the head
    assert size(one, "train") > size(one, "select") > 4


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_disjoint_and_vary_with_the_seed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = begun(tmp_path, kind)
    own, splits = source.make.__globals__, []
    owner, name = (own, "three") if kind == "torch" else (vars(whet.data), "split")
    true = owner[name]

    def recorded(*given: Any, **named: Any) -> Any:
        found = true(*given, **named)
        parts = found if kind == "torch" else (found.train, found.select, found.judge)
        splits.append([part.tolist() for part in parts])
        return found

    monkeypatch.setitem(owner, name, recorded)
    for seed in (0, 0, 1):
        source.task(seed)
    rows = own["recordings" if kind == "torch" else "rows"]()
    count = len(rows[1] if kind == "images" else rows[0])
    for parts in splits:
        assert sorted(row for part in parts for row in part) == list(range(count))
    assert splits[0] == splits[1]
    assert all(a != b for a, b in zip(splits[0], splits[2], strict=True))
    if kind in ("table", "torch"):
        groups = list(rows[0].column("customer" if kind == "table" else "speaker"))
        met = [{groups[row] for row in part} for part in splits[0]]
        assert sum(map(len, met)) == len(set(groups))


@pytest.mark.parametrize("kind", ["images", "table", "text"])
def test_rows_of_a_file_become_the_inputs_that_they_are_in_the_task(
    kind: str, tmp_path: Path
) -> None:
    source = begun(tmp_path, kind)
    own, path = source.make.__globals__, tmp_path / "new"
    whole, parts = own["rows"]()[0], own["prepared"](1)[0]
    if kind == "images":
        path = path.with_suffix(".npz")
        np.savez(path, x=(whole * 255).round().to(torch.uint8).numpy()[:, 0])
    elif kind == "text":
        path.write_text("\n".join(whole.inputs), "utf-8")
    else:
        columns = whole.inputs
        fields = zip(*columns.values(), strict=True)
        lines = [",".join("" if one != one else str(one) for one in row) for row in fields]
        path.write_text("\n".join([",".join(columns), *lines]), "utf-8")
    assert source.read is not None
    found, judged = source.read(path, 1), source.task(1).judge[0]
    for name in judged if kind == "table" else [...]:
        assert torch.equal(found[name][parts.judge], judged[name])


class TestAFolderOfOnesOwn:
    """Sixty rows to train on and twelve to test on, beside the file; one small folder per kind."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Path:
        (tmp_path / "data").mkdir()
        return tmp_path

    def arrays(self, place: Path, count: int, part: str, **arrays: np.ndarray) -> None:
        np.savez(place / "data" / f"{part}.npz", y=np.arange(count) % 2, **arrays)

    @pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
    def test_images(self, place: Path, shape: tuple[int, ...]) -> None:
        for part, count in (("train", 60), ("test", 12)):
            whole = np.arange(count * np.prod(shape)).reshape(count, *shape)
            self.arrays(place, count, part, x=(whole % 251).astype(np.uint8))
        task = begun(place, "images", FOLDER="data").task(0)
        assert [size(task, part) for part in PARTS] == [49, 11, 12]
        inputs, _ = task.train
        assert inputs.shape == (49, 3 if len(shape) == 3 else 1, 6, 5)
        assert inputs.mean().abs() < 1e-4
        assert task.classes == ("0", "1")
        assert task.model(inputs[:4]).shape == (4, 2)
        again = begun(place, "images", FOLDER="data", KEEP_TEST=False).task(0)
        assert [size(again, part) for part in PARTS] == [50, 11, 11]

    def test_images_in_a_zip(self, place: Path) -> None:
        from PIL import Image

        with zipfile.ZipFile(place / "data" / "mine.zip", "w") as archive:
            for n in range(40):
                file = io.BytesIO()
                Image.new("RGB", (4 + n % 3, 5), (n, 2 * n, 0)).save(file, "png")
                archive.writestr(f"train/{('cat', 'dog')[n % 2]}/{n}.png", file.getvalue())
        task = begun(place, "images", FOLDER="data", SIZE=(8, 8)).task(0)
        assert task.classes == ("cat", "dog")
        assert task.train[0].shape == (28, 3, 8, 8)

    def texts(self, place: Path) -> None:
        for part, count in (("train", 60), ("test", 12)):
            rows = [
                {"text": f"{WORDS[label]} {n}", "label": label, "author": f"{part}{n // 6}"}
                for n in range(count) for label in [("bank", "post")[n % 2]]
            ]  # fmt: skip
            with gzip.open(place / "data" / f"{part}.jsonl.gz", "wt") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def test_text(self, place: Path) -> None:
        self.texts(place)
        task = begun(place, "text", FOLDER="data", GROUP="author").task(0)
        assert task.classes == ("bank", "post")
        assert size(task, "judge") == 12
        assert {size(task, part) % 6 for part in PARTS} == {0}  # whole authors
        tokens, _ = task.judge
        assert (tokens[:, 4] == 1).all()  # a number that the training texts do not have twice
        assert task.model(tokens).shape == (12, 2)

    def test_huggingface_with_a_checkpoint(self, place: Path) -> None:
        import transformers

        self.texts(place)
        first = begun(place, "huggingface", FOLDER="data")
        first.task(0).model.save_pretrained(place / "mine")
        first.make.__globals__["pretrained"](list(WORDS.values())).save_pretrained(place / "mine")
        second = begun(place, "huggingface", FOLDER="data", CHECKPOINT="mine")
        task = second.task(3)
        assert isinstance(task.model, transformers.BertForSequenceClassification)
        assert size(task, "judge") == 12
        assert "labels" in task.train
        assert (task.train["input_ids"] == task.train["input_ids"][0, 0]).sum() >= 49  # [CLS]
        vectors = "bert.embeddings.word_embeddings.weight"
        assert torch.equal(task.model.state_dict()[vectors],
                           second.task(4).model.state_dict()[vectors])  # fmt: skip

    def test_a_checkpoints_own_code_is_not_run(self, place: Path) -> None:
        self.texts(place)
        (place / "mine").mkdir()
        code = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
        config = {"model_type": "evil", "auto_map": code, "architectures": ["Model"]}
        (place / "mine" / "config.json").write_text(json.dumps(config))
        (place / "mine" / "evil.py").write_text("open('ran', 'w')\n")
        with pytest.raises(InputError, match="trust_remote_code"):
            begun(place, "huggingface", FOLDER="data", CHECKPOINT="mine").task(0)
        assert not list(place.rglob("ran"))

    def table(self, place: Path, target: Any) -> None:
        for part, count in (("train", 60), ("test", 12)):
            lines = ["id,plan,age,bought"]
            lines += [
                f"{part}{n // 3},{'abc'[n % 3] if n % 5 else ''},{n + 0.5},{target(n)}"
                for n in range(count)
            ]
            (place / "data" / f"{part}.csv").write_text("\n".join(lines) + "\n")

    def test_table(self, place: Path) -> None:
        self.table(place, lambda n: ("yes", "no", "perhaps")[n % 3])
        task = begun(place, "table", FOLDER="data", TARGET="bought", GROUP="id").task(0)
        assert task.classes == ("no", "perhaps", "yes")
        assert size(task, "judge") == 12
        inputs, _ = task.train
        assert {name: tensor.shape[1] for name, tensor in inputs.items()} == {
            "categories": 1, "numbers": 1,
        }  # fmt: skip
        assert task.model(**inputs).shape == (len(inputs["numbers"]), 3)

    def test_table_with_a_number_to_predict(self, place: Path) -> None:
        self.table(place, lambda n: 1000.5 + n)
        settings = {"TARGET": "bought", "GROUP": None, "TYPES": {"id": "drop"}}
        task = begun(place, "table", FOLDER="data", **settings).task(0)
        assert (task.objective, task.metrics) == ("real", ("mae", "r2"))
        assert abs(float(task.train[1].mean())) < 1e-6
        assert task.model(**task.train[0]).shape == (size(task, "train"), 1)

    def test_torch(self, place: Path) -> None:
        for part, count in (("train", 60), ("test", 12)):
            ends = np.cumsum([0, *(100 + n for n in range(count))])
            self.arrays(place, count, part, wave=np.ones(ends[-1], np.int16), offset=ends,
                        speaker=np.arange(count) // 6)  # fmt: skip
        task = begun(place, "torch", FOLDER="data").task(0)
        assert sum(size(task, part) for part in PARTS) == 72
        alone = begun(place, "torch", FOLDER="data", GROUP=None).task(0)
        assert [size(alone, part) for part in PARTS] == [40, 14, 18]
        (batch, *_) = open_loader(task.judge, 16, shuffle=False).epoch(0)
        assert batch.inputs["true"].sum(1).max() == batch.inputs["waves"].shape[1]
        assert task.model(**batch.inputs).shape == (batch.size, 2)

    @pytest.mark.parametrize("kind", KINDS)
    def test_data_of_another_kind(self, kind: str, place: Path) -> None:
        if kind == "table":
            self.texts(place)
            wanted = r"train\.jsonl\.gz holds texts; .* is table\."
        else:  # that no target is named is not what is wrong with it
            self.table(place, lambda n: "no" if n % 2 else "yes")
            wanted = r"train\.csv holds table; .* is (images|texts|audio)\."
        with pytest.raises(InputError, match=wanted):
            begun(place, kind, FOLDER="data").task(0)

    def test_a_group_that_is_not_there(self, place: Path) -> None:
        self.texts(place)
        with pytest.raises(UnknownName, match="column of the data 'autor'; did you mean 'author'"):
            begun(place, "text", FOLDER="data", GROUP="autor").task(0)


def test_the_cost_of_a_mistake_in_the_tables_own_metric(tmp_path: Path) -> None:
    task = begun(tmp_path, "table").task(0)
    cost = (task.metrics or ())[2]
    assert callable(cost)
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.8], [0.2, 0.8]])
    assert cost(probabilities, np.array([0, 1, 0, 1])) == (5 + 1) / 4
    assert cost.higher_is_better is False  # type: ignore[attr-defined]


def test_padding_changes_no_logits(tmp_path: Path) -> None:
    made = begun(tmp_path, "torch")
    task, own = made.task(0), made.make.__globals__
    whole, _ = own["recordings"]()
    samples = [own["Signals"](whole, noise=False)[row] for row in range(6)]
    task.model.eval()
    alone = [task.model(*[own["collate"]([one])[key] for key in ("waves", "true")])
             for one in samples]  # fmt: skip
    batch = own["collate"](samples)
    together = task.model(batch["waves"], batch["true"])
    torch.testing.assert_close(torch.cat(alone), together)


class TestTheCommand:
    def test_it_says_what_comes_next(self, tmp_path: Path) -> None:
        said = run(tmp_path, "new", "my work/mine.py", "--kind", "table")
        assert "my work/mine.py: A table in classes" in said
        assert "\n  whet study 'my work/mine.py' --fast\n  whet study 'my work/mine.py'\n" in said
        template = ROOT / "src/whet/templates/table.py"
        assert (tmp_path / "my work/mine.py").read_bytes() == template.read_bytes()
        assert [path.name for path in (tmp_path / "my work").iterdir()] == ["mine.py"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["mine.py", "--kind", "tables"], "unknown kind of task file 'tables'; did you mean"),
            (["mine"], "mine is no Python file: let it end in .py, as mine.py"),
            (["mine.ipynb"], "mine.ipynb is no Python file"),
            (["torch.py"], "torch.py would be imported wherever 'torch' is meant"),
            (["sub/random.py"], "call it my_random.py, for example"),
            (["whet.py"], "whet.py would be imported wherever"),
            (["there.py"], "there.py is there already: name another file, or replace it by"),
            (["folder.py", "--force"], "folder.py is a folder: name a file in it"),
            (["there.py/mine.py"], "mine.py cannot be written"),
        ],
    )
    def test_mistakes_leave_everything_as_it_is(
        self, words: list[str], said: str, tmp_path: Path
    ) -> None:
        (tmp_path / "there.py").write_text("mine")
        (tmp_path / "folder.py").mkdir()
        assert said in run(tmp_path, "new", *words, expect=2)
        assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.py", "there.py"]
        assert (tmp_path / "there.py").read_text() == "mine"

    def test_force_replaces(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("mine")
        scaffold.write(tmp_path / "mine.py", "text", force=True)
        assert (tmp_path / "mine.py").read_text("utf-8").startswith('"""Short texts in classes')

    def test_it_is_light(self) -> None:
        code = "import sys, whet.scaffold; print('torch' in sys.modules, 'numpy' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "False False\n"

    def test_the_help_names_every_kind(self, tmp_path: Path) -> None:
        said = run(tmp_path, "new", "--help")
        assert [kind for kind in KINDS if kind not in said] == []


def test_kinds() -> None:
    assert tuple(scaffold.kinds()) == KINDS
    with pytest.raises(UnknownName, match="did you mean 'images'"):
        scaffold.write("mine.py", "image")


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_says_why(kind: str) -> None:
    text = (scaffold.TEMPLATES / f"{kind}.py").read_text("utf-8")
    said = ("whet study FILE --fast", "It is code", "settings to edit", "\nFOLDER = None\n",
            "is trained on, select is what", "groups=", "judge=", "vary with the seed")  # fmt: skip
    assert [one for one in said if one not in text] == []
    assert len(text.splitlines()) <= 145


def test_the_wheel_holds_the_templates() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wheel = tomllib.loads(text)["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel == {"packages": ["src/whet"]}  # whole, without exclusions
    assert scaffold.TEMPLATES == ROOT / "src/whet/templates"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_a_strangers_first_try(kind: str, tmp_path: Path) -> None:
    run(tmp_path, "new", "mine.py", "--kind", kind)
    said = run(tmp_path, "study", "mine.py", "--fast", "--methods", "ema,label_smoothing")
    assert said.count("fine") >= 6
    assert "failed" not in said
