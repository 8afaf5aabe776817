"""Parts as one, what the caller can use, names for classes without one, images as tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from whet.data import Loaded, Part, load, pixels, split
from whet.errors import InputError, UnknownName

IMAGES = np.arange(3 * 2 * 4 * 3, dtype=np.uint8).reshape(3, 2, 4, 3)


class TestJoined:
    def test_arrays_in_the_order_of_the_parts(self) -> None:
        train, valid, test = (
            Part(np.full((n, 2), n), np.full(n, 10 * n), {"who": np.full(n, n)}) for n in (3, 1, 2)
        )
        every, rows = Loaded("some", "arrays", train, valid, test).joined()
        assert every.inputs[:, 0].tolist() == [3, 3, 3, 1, 2, 2]
        assert every.targets is not None
        assert every.targets.tolist() == [30, 30, 30, 10, 20, 20]
        assert every.extra["who"].tolist() == [3, 3, 3, 1, 2, 2]
        assert rows is not None
        assert rows.tolist() == [4, 5]

    def test_the_test_part_is_kept_or_split_anew(self) -> None:
        data = Loaded("some", "texts", *(Part(list("abcdefgh"), np.arange(8) % 2),) * 3)
        every, rows = data.joined()
        assert split(every.targets, 0, judge=rows).judge.tolist() == list(range(16, 24))
        assert split(every.targets, 0).judge.tolist() != split(every.targets, 1).judge.tolist()

    def test_tables_lists_and_a_column_that_a_part_lacks(self) -> None:
        train = Part({"age": ["1", "2"]}, np.array([0, 1]), {"id": ["p", "q"], "by": ["x", "y"]})
        valid = Part({"age": ["3"]}, np.array([1]), {"id": ["r"]})
        every, rows = Loaded("some", "table", train, valid).joined()
        assert (every.inputs, every.extra) == ({"age": ["1", "2", "3"]}, {"id": ["p", "q", "r"]})
        assert rows is None

    def test_one_part_and_no_targets(self) -> None:
        every, rows = Loaded("some", "sentences", Part(["a", "b"])).joined()
        assert (every.inputs, every.targets, rows) == (["a", "b"], None, None)

    @pytest.mark.parametrize(
        ("test", "says"),
        [
            (Part(np.zeros((1, 2))), "some: test has no targets"),
            (Part(np.zeros((1, 3)), np.zeros(1, int)), "some: the parts cannot be joined"),
        ],
    )
    def test_what_does_not_fit(self, test: Part, says: str) -> None:
        train = Part(np.zeros((2, 2)), np.zeros(2, int))
        with pytest.raises(InputError, match=says):
            Loaded("some", "arrays", train, test=test).joined()

    def test_tables_with_other_columns(self) -> None:
        with pytest.raises(InputError, match="cannot be joined: 'age'"):
            Loaded("some", "table", Part({"age": ["1"]}), test=Part({"size": ["1"]})).joined()


def test_a_column_by_its_name() -> None:
    part = Part({"age": ["1"]}, extra={"who": ["ann"]})
    assert (part.column("age"), part.column("who")) == (["1"], ["ann"])
    with pytest.raises(UnknownName, match=r"column of the data 'whom'; did you mean 'who'\?"):
        part.column("whom")


class TestWhatTheCallerCanUse:
    @pytest.fixture
    def texts(self, tmp_path: Path) -> Path:
        rows: list[dict[str, Any]] = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    def test_one_or_several(self, texts: Path) -> None:
        assert load(texts, kind="texts", objective="categorical").kind == "texts"
        assert load(texts, kind=("table", "texts"), objective=["real", "categorical"]).kind

    def test_another_kind_is_told_before_the_file_is_read(self, texts: Path) -> None:
        (texts / "train.jsonl").write_text("no JSON at all")
        with pytest.raises(InputError, match=r"train\.jsonl holds texts; .* is images or audio\."):
            load(texts, kind=("images", "audio"))

    def test_another_kind_in_a_form_with_several(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=np.zeros((3, 2)), y=np.array([0, 1, 0]))
        with pytest.raises(InputError, match=r"train\.npz holds arrays; .* is images\. .*file="):
            load(tmp_path, kind="images")

    @pytest.mark.parametrize(
        ("rows", "says"),
        [("a,1.5\nb,2.5\n", "real targets; .* is categorical targets or multi-label targets"),
         ("a,x\nb,y\n", None)],
    )  # fmt: skip
    def test_other_targets(self, tmp_path: Path, rows: str, says: str | None) -> None:
        (tmp_path / "train.csv").write_text("name,y\n" + rows)
        use = ("categorical", "multi-label")
        if says is None:
            assert load(tmp_path, target="y", objective=use).objective == "categorical"
        else:
            with pytest.raises(InputError, match=rf"train\.csv holds table with {says}"):
                load(tmp_path, target="y", objective=use)

    def test_no_targets(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("one\n")
        with pytest.raises(InputError, match=r"train\.txt holds sentences with no targets"):
            load(tmp_path, objective="categorical")

    def test_what_there_is_not(self, texts: Path) -> None:
        with pytest.raises(UnknownName, match="kind of data 'text'; did you mean 'texts'"):
            load(texts, kind="text")
        with pytest.raises(UnknownName, match="objective of data 'class'"):
            load(texts, objective=("real", "class"))


class TestClassesAlwaysHaveNames:
    def test_arrays(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=np.zeros((2, 2)), y=np.array([0, 1]))
        np.savez(tmp_path / "test.npz", x=np.zeros((1, 2)), y=np.array([3]))
        assert load(tmp_path).classes == ("0", "1", "2", "3")

    def test_texts(self, tmp_path: Path) -> None:
        rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        assert load(tmp_path).classes == ("0", "1")

    def test_nodes_of_a_graph(self, tmp_path: Path) -> None:
        held = {"edges": np.array([[0, 1], [1, 2]]), "y": np.array([1, 0, 1])}
        np.savez(tmp_path / "graph.npz", **held)
        assert load(tmp_path).classes == ("0", "1")
        (tmp_path / "README.md").write_text("- classes (2): 0=hub, 1=leaf\n")
        assert load(tmp_path).classes == ("hub", "leaf")

    def test_other_targets_have_none(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "train.npz", x=np.zeros((2, 2)), y=np.array([[0, 1], [1, 1]]))
        data = load(tmp_path)
        assert (data.objective, data.classes) == ("multi-label", None)


class TestASingleClass:
    def test_of_a_table(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("a,left\n1,no\n2,no\n")
        with pytest.raises(InputError, match=r"column 'left' of .*train\.csv has 1 class: no;"):
            load(tmp_path, target="left")

    def test_of_texts(self, tmp_path: Path) -> None:
        (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "x"}\n')
        with pytest.raises(InputError, match=r"'label' in .*train\.jsonl has 1 class: x;"):
            load(tmp_path)

    def test_a_class_of_the_test_part_alone(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("a,left\n1,no\n2,yes\n")
        (tmp_path / "test.csv").write_text("a,left\n1,no\n2,perhaps\n")
        with pytest.raises(InputError, match=r"'left' of .*test\.csv: row 1 has class 'perhaps'"):
            load(tmp_path, target="left")


class TestPixels:
    def test_colours_come_first(self) -> None:
        found = pixels(IMAGES)
        assert (found.shape, found.dtype) == ((3, 3, 2, 4), torch.float32)
        assert found[1, 2, 0, 3].item() == pytest.approx(IMAGES[1, 0, 3, 2] / 255)
        assert found.is_contiguous()  # and not a view with channels last

    def test_grey_images(self) -> None:
        found = pixels(np.array([[[0, 255]]], np.uint8))
        assert found.tolist() == [[[[0.0, 1.0]]]]
        assert torch.equal(pixels(IMAGES[..., :1]), pixels(IMAGES[..., 0]))

    def test_the_users_own_stay(self) -> None:
        images = IMAGES.copy()
        images.flags.writeable = False  # as a file mapped into memory is
        pixels(images).zero_()
        assert np.array_equal(images, IMAGES)

    @pytest.mark.parametrize(
        "images",
        [IMAGES.astype(np.float32), IMAGES[0, 0], IMAGES.transpose(0, 3, 1, 2)[..., :2]],
    )
    def test_what_is_no_images(self, images: np.ndarray) -> None:
        with pytest.raises(InputError, match=r"these images are (float32|uint8) \(.*give uint8"):
            pixels(images)
