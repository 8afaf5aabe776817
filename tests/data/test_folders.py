"""Folders of data: one small folder for each form, and files that are damaged."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from whet import tasks
from whet.data import Loaded, load, read_table
from whet.data.folders import form_of
from whet.errors import InputError

README = """# A set

Kind: anything. Licence as stated by the source: MIT (somebody/something)

- classes (3): 0=cat, 1=dog, small, 2=eel
"""


def packed(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    return packed(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (4, 6)) -> bytes:
    kept = io.BytesIO()
    Image.new("RGB", size, colour).save(kept, "PNG")
    return kept.getvalue()


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


class TestArrays:
    x, y = (
        np.arange(5 * 4 * 4, dtype=np.uint8).reshape(5, 4, 4),
        np.array([0, 1, 2, 0, 1], np.uint8),
    )

    def test_images_by_part(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=self.x, y=self.y)
        np.savez(tmp_path / "test.npz", x=self.x[:2], y=self.y[:2])
        (tmp_path / "README.md").write_text(README)
        data = load(tmp_path)
        assert (data.kind, data.objective, data.name) == ("images", "categorical", tmp_path.name)
        assert data.classes == ("cat", "dog, small", "eel")
        assert data.licence == "MIT (somebody/something)"
        assert {name: len(part) for name, part in data.parts.items()} == {"train": 5, "test": 2}
        assert np.array_equal(data.train.inputs, self.x)
        assert data.train.targets is not None
        assert data.train.targets.dtype == np.int64

    def test_all_parts_in_one_file(self, tmp_path: Path) -> None:
        arrays = {"x_train": self.x, "y_train": self.y, "x_test": self.x[:1], "y_test": self.y[:1]}
        np.savez(tmp_path / "small.npz", **arrays)
        data = load(tmp_path)
        assert {name: len(part) for name, part in data.parts.items()} == {"train": 5, "test": 1}
        assert data.classes == ("0", "1", "2")

    def test_names_and_further_arrays(self, tmp_path: Path) -> None:
        names = {"class_names": np.array(["a", "b", "c"]), "drawer_names": np.array(["d", "e"])}
        np.savez(tmp_path / "one.npz", x=self.x, y=self.y, drawer=self.y % 2, **names)
        data = load(tmp_path)
        assert data.classes == ("a", "b", "c")
        assert data.names == {"drawer": ("d", "e")}
        assert data.train.take([4, 1]).extra["drawer"].tolist() == [1, 1]
        assert data.test is None

    def test_numbers_and_real_targets(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=np.zeros((3, 2)), y=np.array([0.5, 1.5, 2.5]))
        data = load(tmp_path)
        assert (data.kind, data.objective, data.classes) == ("arrays", "real", None)

    def test_waves_are_cut_at_their_offsets(self, tmp_path: Path) -> None:
        held = {"wave": np.arange(10, dtype=np.int16), "offset": np.array([0, 4, 10])}
        names = {"speaker": np.array([0, 1]), "speaker_names": np.array(["ann", "bob"])}
        np.savez(tmp_path / "train.npz", y=np.array([1, 0]), **held, **names)
        data = load(tmp_path)
        assert data.kind == "audio"
        assert [wave.tolist() for wave in data.train.inputs] == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
        assert data.names == {"speaker": ("ann", "bob")}
        assert len(data.train.take([1]).inputs[0]) == 6

    @pytest.mark.parametrize(
        ("arrays", "says"),
        [
            ({"z": np.zeros(2)}, "has no array 'x'; it has z"),
            ({"x": np.zeros((3, 2)), "y": np.zeros(2, int)}, r"y has shape \(2,\) for 3 rows"),
            ({"x": np.zeros((3, 2)), "k": np.zeros(2)}, "k has shape"),
            ({"x": np.zeros((2, 2)), "y": np.array([-1, 0])}, "a target is negative"),
            ({"x": np.zeros((2, 2)), "y": np.array(["a", "b"])}, "save numbers of classes"),
            (
                {"x": np.zeros((2, 2)), "y": np.array([0, 2]), "class_names": np.array(["a", "b"])},
                "target 2, but there are 2 class names",
            ),
            ({"wave": np.zeros(4, np.int16), "offset": np.array([0, 9])}, "offset must rise"),
            ({"wave": np.zeros(4, np.int16), "offset": np.array([0, 3, 2])}, "offset must rise"),
            ({"x_train": np.zeros((2, 2)), "w": np.zeros(2)}, "'w' belongs to none of train"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, arrays: dict[str, Any], says: str) -> None:
        np.savez(tmp_path / "train.npz", **arrays)
        with pytest.raises(InputError, match=f"train.npz.*{says}"):
            load(tmp_path)

    def test_nothing_is_unpickled(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=np.array([Trap()], object), y=np.array([0]))
        with pytest.raises(InputError, match=r"train\.npz cannot be read.*nothing is unpickled"):
            load(tmp_path)
        (tmp_path / "train.npz").write_bytes(pickle.dumps(Trap()))
        with pytest.raises(InputError, match=r"train\.npz cannot be read"):
            load(tmp_path)
        assert Trap.sprung == 0

    def test_a_single_array_is_no_archive(self, tmp_path: Path) -> None:
        with (tmp_path / "train.npz").open("wb") as file:
            np.save(file, np.zeros(3))
        with pytest.raises(InputError, match="no npz archive"):
            load(tmp_path)

    @pytest.mark.parametrize("kept", [0, 10, 200])
    def test_a_damaged_file_is_named(self, tmp_path: Path, kept: int) -> None:
        np.savez_compressed(tmp_path / "train.npz", x=self.x, y=self.y)
        whole = (tmp_path / "train.npz").read_bytes()
        (tmp_path / "train.npz").write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"train\.npz cannot be read"):
            load(tmp_path)

    def test_a_flipped_byte_is_noticed(self, tmp_path: Path) -> None:
        np.savez_compressed(tmp_path / "train.npz", x=self.x, y=self.y)
        whole = bytearray((tmp_path / "train.npz").read_bytes())
        whole[100] ^= 0xFF
        (tmp_path / "train.npz").write_bytes(whole)
        with pytest.raises(InputError, match=r"train\.npz cannot be read"):
            load(tmp_path)


class Trap:
    """Counts how often it was unpickled."""

    sprung = 0

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return spring, ()


def spring() -> None:
    Trap.sprung += 1


class TestImages:
    red, blue = (255, 0, 0), (0, 0, 255)

    def test_parts_and_classes_are_folders(self, tmp_path: Path) -> None:
        members = {
            "train/sea/1.png": picture(self.blue), "train/land/1.PNG": picture(self.red),
            "val/sea/2.png": picture(self.blue), "test/land/3.png": picture(self.red),
            "train/sea/notes.txt": b"no image", "__MACOSX/train/sea/._1.png": b"no image",
        }  # fmt: skip
        archive(tmp_path / "pictures.zip", members)
        data = load(tmp_path)
        assert (data.kind, data.classes) == ("images", ("land", "sea"))
        assert {name: len(part) for name, part in data.parts.items()} == {
            "train": 2, "valid": 1, "test": 1,
        }  # fmt: skip
        assert data.train.inputs.shape == (2, 6, 4, 3)
        assert data.train.inputs.dtype == np.uint8
        assert data.train.targets is not None
        for target, image in zip(data.train.targets, data.train.inputs, strict=True):
            assert image[0, 0].tolist() == list([self.red, self.blue][target])

    def test_the_readme_orders_the_classes(self, tmp_path: Path) -> None:
        archive(tmp_path / "a.zip", {"b/1.png": picture(self.red), "a/1.png": picture(self.red)})
        (tmp_path / "README.md").write_text("- classes (2): 0=b, 1=a\n")
        assert load(tmp_path).classes == ("b", "a")

    def test_sizes_that_differ(self, tmp_path: Path) -> None:
        small = picture(self.red, (2, 3))
        archive(tmp_path / "a.zip", {"b/1.png": picture(self.red), "a/1.png": small})
        with pytest.raises(InputError, match=r"size=\(height, width\)"):
            load(tmp_path)
        assert load(tmp_path, size=(8, 5)).train.inputs.shape == (2, 8, 5, 3)

    def test_nothing_is_written_outside_nor_inside(self, tmp_path: Path) -> None:
        home = tmp_path / "set"
        home.mkdir()
        archive(home / "a.zip", {
            "../../evil/1.png": picture(self.red), "/far/2.png": picture(self.blue),
        })  # fmt: skip
        before = sorted(tmp_path.rglob("*"))
        assert load(home).classes == ("evil", "far")
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize(
        ("members", "says"),
        [
            ({"a/1.png": b"not an image"}, "a/1.png cannot be read"),
            ({"a/1.png": picture((9, 9, 9))[:40]}, "a/1.png cannot be read"),
            ({"1.png": picture((9, 9, 9))}, "1.png lies in no folder"),
            ({"notes.txt": b""}, "holds no image"),
            ({"test/a/1.png": picture((9, 9, 9))}, "no images under train"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, members: dict[str, bytes], says: str) -> None:
        archive(tmp_path / "a.zip", members)
        with pytest.raises(InputError, match=f"a.zip.*{says}"):
            load(tmp_path)

    def test_a_damaged_archive_is_named(self, tmp_path: Path) -> None:
        archive(tmp_path / "a.zip", {"a/1.png": picture(self.red)})
        (tmp_path / "a.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:50])
        with pytest.raises(InputError, match=r"a\.zip cannot be read"):
            load(tmp_path)

    def test_it_goes_before_arrays_unless_they_are_named(self, tmp_path: Path) -> None:
        archive(tmp_path / "a.zip", {"b/1.png": picture(self.red), "a/1.png": picture(self.red)})
        np.savez(tmp_path / "small.npz", x=np.zeros((3, 2, 2), np.uint8), y=np.array([0, 1, 2]))
        assert len(load(tmp_path).train) == 2
        assert len(load(tmp_path, file="small.npz").train) == 3


class TestTexts:
    rows = ({"text": "Good", "label": 1, "label_name": "pos", "id": "p"},
            {"text": "Bad 坏", "label": 0, "label_name": "neg", "id": "q"})  # fmt: skip

    def test_parts_classes_and_further_keys(self, tmp_path: Path) -> None:
        for name in ("train.jsonl.gz", "dev.jsonl.gz", "test.jsonl", "questions.jsonl.gz"):
            lines(tmp_path / name, list(self.rows))
        data = load(tmp_path)
        assert (data.kind, data.objective, data.classes) == ("texts", "categorical", ("neg", "pos"))
        assert list(data.parts) == ["train", "valid", "test"]
        assert data.train.inputs == ["Good", "Bad 坏"]
        assert data.train.targets is not None
        assert data.train.targets.tolist() == [1, 0]
        assert data.train.extra == {"id": ["p", "q"]}

    def test_labels_that_are_names(self, tmp_path: Path) -> None:
        rows = [{"text": "a", "label": "yes"}, {"text": "b", "label": "no"}]
        data = load(lines(tmp_path / "train.jsonl", rows))
        assert data.classes == ("no", "yes")
        assert data.train.targets is not None
        assert data.train.targets.tolist() == [1, 0]

    def test_texts_alone(self, tmp_path: Path) -> None:
        data = load(lines(tmp_path / "train.jsonl", [{"text": "a"}, {"text": "b"}]))
        assert (data.train.targets, data.objective, data.classes) == (None, None, None)

    @pytest.mark.parametrize(
        ("rows", "says"),
        [
            ([{"sentence": "a"}], "line 1 has no text under 'text'; it has: sentence"),
            ([{"text": "a", "label": 0}, {"text": "b"}], "row 2: label is None"),
            ([{"text": "a", "label": 0}, {"text": "b", "label": "x"}], "row 2: label is 'x'"),
            ([{"text": "a", "label": -1}], "row 1: label is -1"),
            (
                [{"text": "a", "label": 0, "label_name": n} for n in "xy"],
                "class 0 is 'x' and 'y'",
            ),
            ([], "holds no row"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, rows: list[dict[str, Any]], says: str) -> None:
        lines(tmp_path / "train.jsonl.gz", rows)
        with pytest.raises(InputError, match=f"train.jsonl.gz.*{says}"):
            load(tmp_path)

    def test_no_json(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.jsonl", '{"text": "a"}\n{"text": \n')
        with pytest.raises(InputError, match=r"train\.jsonl, line 2 is no JSON"):
            load(tmp_path)

    def test_a_file_cut_short_is_named(self, tmp_path: Path) -> None:
        path = lines(tmp_path / "train.jsonl.gz", list(self.rows) * 50)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(InputError, match=r"train\.jsonl\.gz cannot be read"):
            load(tmp_path)

    def test_another_encoding_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_bytes("größer".encode("latin-1"))
        with pytest.raises(InputError, match=r"train\.txt cannot be read"):
            load(tmp_path)

    def test_plain_sentences(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.txt.gz", "One sentence .\n\nAnother one .\n")
        packed(tmp_path / "valid.txt.gz", "A third .\n")
        (tmp_path / "SOURCE_LICENSE.a.txt").write_text("do as you like")
        data = load(tmp_path)
        assert data.kind == "sentences"
        assert data.train.inputs == ["One sentence .", "Another one ."]
        assert data.valid is not None
        assert data.train.targets is None


class TestTables:
    text = "id,age,paid,left\n7,30,,no\n8,41,2.5,yes\n9,50,3,no\n"

    def test_the_readme_names_target_and_types(self, tmp_path: Path) -> None:
        for name in ("train.csv.gz", "test.csv.gz"):
            packed(tmp_path / name, self.text)
        (tmp_path / "README.md").write_text(
            "- id: id (not a feature)\n- age: num\n- paid: num\n- left: target (yes/no)\n"
        )
        data = load(tmp_path)
        assert (data.kind, data.target, data.classes) == ("table", "left", ("no", "yes"))
        assert data.types == {"id": "drop", "age": "number", "paid": "number"}
        assert data.train.inputs == {
            "id": ["7", "8", "9"], "age": ["30", "41", "50"], "paid": ["", "2.5", "3"],
        }  # fmt: skip
        assert data.train.targets is not None
        assert data.train.targets.tolist() == [0, 1, 0]

    def test_the_caller_names_the_target(self, tmp_path: Path) -> None:
        packed(tmp_path / "customers.csv", self.text)
        assert load(tmp_path, target="left").classes == ("no", "yes")
        assert load(tmp_path / "customers.csv", target="age").classes == ("30", "41", "50")

    def test_nobody_names_the_target(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.csv", self.text)
        with pytest.raises(InputError, match=r"which column of .*train\.csv.*id, age, paid, left"):
            load(tmp_path)
        with pytest.raises(InputError, match=r"unknown column of .*'lef'; did you mean 'left'"):
            load(tmp_path, target="lef")

    def test_a_real_target(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.csv", "x,y\n1,0.5\n2,1.5\n")
        data = load(tmp_path, target="y")
        assert (data.objective, data.classes) == ("real", None)
        assert data.train.targets is not None
        assert data.train.targets.tolist() == [0.5, 1.5]
        assert load(tmp_path, target="y", regression=False).classes == ("0.5", "1.5")
        (tmp_path / "README.md").write_text("- x: target (regression)\n")
        assert load(tmp_path).objective == "real"

    def test_a_target_that_is_no_number(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.csv", self.text)
        with pytest.raises(InputError, match="row 1: target 'no' is no finite number"):
            load(tmp_path, target="left", regression=True)

    def test_other_partings_marks_and_quotes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes('\ufeffname;"a, b"\r\n"x;y"; 1 \r\n'.encode())
        assert read_table(path) == {"name": ["x;y"], "a, b": ["1"]}
        assert read_table(packed(tmp_path / "b.tsv", "a\tb\n1\t2\n")) == {"a": ["1"], "b": ["2"]}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a,b\n1,2\n3\n", "line 3: 1 fields; the header has 2"),
            ("a,a\n1,2\n", "names a column twice"),
            ("", "no header"),
            ("a,b\n", "a header and no row"),
            ("a,b\n1,\n", "row 1 has no b, which is the target"),
            ("a,b\n1,x\n2,x\n", "takes two"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, text: str, says: str) -> None:
        packed(tmp_path / "train.csv", text)
        with pytest.raises(InputError, match=says):
            load(tmp_path, target="b")

    def test_parts_with_other_columns(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.csv", "a,b\n1,x\n2,y\n")
        packed(tmp_path / "test.csv", "a,c\n1,x\n")
        with pytest.raises(InputError, match=r"test\.csv has other columns.*'b', 'c'"):
            load(tmp_path, target="b")

    def test_a_class_that_training_lacks(self, tmp_path: Path) -> None:
        packed(tmp_path / "train.csv", "a,b\n1,x\n2,y\n")
        packed(tmp_path / "test.csv", "a,b\n1,z\n")
        with pytest.raises(InputError, match="row 0 has class 'z'"):
            load(tmp_path, target="b")


class TestGraphs:
    edges = np.array([[0, 1], [1, 2]], np.int32)

    def test_features_classes_and_parts(self, tmp_path: Path) -> None:
        np.savez(
            tmp_path / "graph.npz", edges=self.edges, y=np.array([1, 0, -1, 1], np.int16),
            x_indptr=np.array([0, 1, 1, 2, 4]), x_indices=np.array([2, 0, 0, 1]),
            x_shape=np.array([4, 3]), train_idx=np.array([0]), val_idx=np.array([1]),
            test_idx=np.array([3]),
        )  # fmt: skip
        data = load(tmp_path)
        assert (data.kind, data.objective) == ("graph", "categorical")
        assert data.graph is not None
        assert data.graph.nodes == 4
        assert data.graph.features().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]]
        assert data.test is not None
        assert data.test.inputs.tolist() == [3]
        assert data.test.targets is not None
        assert data.test.targets.tolist() == [1]

    def test_several_labels_per_node(self, tmp_path: Path) -> None:
        pairs = np.array([[0, 1], [0, 0], [2, 1]])
        np.savez(tmp_path / "graph.npz", edges=self.edges, labels=pairs, n_nodes=3, n_labels=2)
        data = load(tmp_path)
        assert data.objective == "multi-label"
        assert data.train.targets is not None
        assert data.train.targets.tolist() == [[1, 1], [0, 0], [0, 1]]

    def test_a_list_of_edges(self, tmp_path: Path) -> None:
        packed(tmp_path / "club.edgelist", "# members\n1 32\n1 5\n")
        data = load(tmp_path)
        assert data.graph is not None
        assert data.graph.names == ("1", "5", "32")
        assert data.graph.edges.tolist() == [[0, 2], [0, 1]]
        assert len(data.train) == 3

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"edges": np.array([[0, 9]])}, r"outside 0\.\.3"),
            ({"edges": np.array([0, 1])}, r"give integers \(M, 2\)"),
            ({"y": np.zeros(3, int)}, r"y has shape \(3,\) for 4 nodes"),
            ({"x_indices": np.array([7, 0, 0, 1])}, "no rows of shape"),
            ({"x_indptr": np.array([0, 3, 1, 2, 4])}, "no rows of shape"),
            ({"train_idx": np.array([4])}, "a part names a node outside"),
            ({"train_idx": np.array([2])}, "a node without a class"),
        ],
    )
    def test_what_does_not_fit(self, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
        arrays = {
            "edges": self.edges, "y": np.array([1, 0, -1, 1]), "train_idx": np.array([0]),
            "x_indptr": np.array([0, 1, 1, 2, 4]), "x_indices": np.array([2, 0, 0, 1]),
            "x_shape": np.array([4, 3]),
        }  # fmt: skip
        np.savez(tmp_path / "graph.npz", **(arrays | changes))
        with pytest.raises(InputError, match=f"graph.npz.*{says}"):
            load(tmp_path)

    @pytest.mark.parametrize(("text", "says"), [("", "no edge"), ("1 2 0.5\n", "3 fields")])
    def test_no_list_of_edges(self, tmp_path: Path, text: str, says: str) -> None:
        packed(tmp_path / "a.edgelist", text)
        with pytest.raises(InputError, match=says):
            load(tmp_path)


class TestFinding:
    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="missing is not there"):
            load(tmp_path / "missing")
        (tmp_path / "README.md").write_text(README)
        with pytest.raises(InputError, match=r"holds no data.*only: README\.md"):
            load(tmp_path)
        with pytest.raises(InputError, match="in no form that can be read"):
            load(tmp_path, file="README.md")

    def test_no_train_among_several(self, tmp_path: Path) -> None:
        for name in ("a.csv", "b.csv"):
            packed(tmp_path / name, "x,y\n1,p\n2,q\n")
        with pytest.raises(InputError, match=r"a\.csv, b\.csv and no train file.*file="):
            load(tmp_path, target="y")
        assert load(tmp_path, target="y", file="b.csv").kind == "table"

    def test_two_files_for_one_part(self, tmp_path: Path) -> None:
        for name in ("train.csv", "train.csv.gz"):
            packed(tmp_path / name, "x,y\n1,p\n2,q\n")
        with pytest.raises(InputError, match="are both train"):
            load(tmp_path, target="y")

    @pytest.mark.parametrize("name", ["LICENSE.txt", "SOURCE_LICENSE.a.txt", "a.npz.gz", "a.pkl"])
    def test_no_data(self, name: str) -> None:
        assert form_of(Path(name)) is None


KINDS = {
    "abalone": "table", "adult": "table", "ag_news": "texts", "banking77": "texts",
    "biomed_sentences": "sentences", "blogcatalog": "graph", "chemprot": "texts",
    "cifar10": "images", "citeseer": "graph", "cora": "graph", "covertype_20k": "table",
    "credit_default": "table", "fashion_mnist": "images", "fsdd": "audio", "imdb_cad": "texts",
    "karate": "graph", "mammography": "table", "omniglot": "images",
    "pubmedqa_sections": "texts", "sst2": "texts", "telco_churn": "table", "thucnews": "texts",
    "titanic": "table", "trashnet": "images",
}  # fmt: skip
SHIPPED = Path(tasks.__file__).parent / "data"
# The other folders are tens of megabytes, which the project does not ship.
REAL = [p for p in sorted(Path(os.environ.get("WHET_DATA", SHIPPED)).iterdir()) if p.is_dir()]


@pytest.mark.parametrize("folder", REAL, ids=lambda folder: folder.name)
def test_real_folders(folder: Path) -> None:
    data: Loaded = load(folder)
    assert data.kind == KINDS[folder.name]
    assert data.licence
    assert all(len(part) for part in data.parts.values())
    if data.classes is not None:
        for part in data.parts.values():
            assert part.targets is not None
            assert 0 <= part.targets.min() <= part.targets.max() < len(data.classes)
