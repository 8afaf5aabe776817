"""Data folders with anything in them: an error with its reason, never code or gigabytes."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.safety.mutations import changed_bytes, changed_json, fuzz, modest, only_whet_errors
from whet import parsing
from whet.data import Loaded, load, read_table
from whet.errors import InputError

X, Y = np.arange(80.0).reshape(5, 4, 4), np.array([0, 1, 2, 0, 1])
PLAIN = {"x": X, "y": Y, "class_names": np.array(["a", "b", "c"])}
WAVES = {"wave": np.arange(9), "offset": np.array([0, 3, 5, 9]), "y": np.array([0, 1, 0])}
GRAPH = {
    "edges": np.array([[0, 1], [1, 2]]), "x_indptr": np.array([0, 1, 2, 3]),
    "x_indices": np.array([0, 1, 0]), "x_shape": np.array([3, 2]), "y": np.array([0, 1, -1]),
    "train_idx": np.array([0, 1]),
}  # fmt: skip
GROUPS = {"edges": np.array([[0, 1], [1, 2]]), "labels": np.array([[0, 0], [1, 1]]),
          "n_nodes": np.array(3), "n_labels": np.array(2)}  # fmt: skip
APART = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
ODD: list[Any] = [
    np.array(3), np.array(-1), np.array(2**62), np.array(2**64 - 1, np.uint64), np.zeros(0),
    np.zeros((0, 2), int), np.array([[0, 10**15]]), np.array([5, 0, 2**63], np.uint64),
    np.array([float("nan")] * 5), np.array([1e300, -1e300, 0, 0, 0]), np.zeros((5, 1, 1, 1, 1)),
    np.array(["a"] * 5), np.array(b"a"), np.zeros(5, complex), np.zeros(5, bool),
    np.zeros(5, "M8[s]"), np.zeros(3, [("a", int)]), np.zeros(5, "V3"), np.zeros(5, np.float16),
    np.arange(3, dtype=">i8"), np.zeros((3, 2)), np.array([0, -5, 9]), np.zeros(5, np.longdouble),
]  # fmt: skip
ROWS = [{"text": f"row {n}", "label": n % 2, "label_name": "ny"[n % 2], "id": n} for n in range(4)]
CSV = 'age;plan;"bought"\n30;a;no\n41;"b;\nc";yes\n;a;no\n'
README = "Licence: MIT\n- age: num\n- bought: target regression\n- classes (2): 0=no, 1=yes\n"


def npz(arrays: dict[str, Any], **how: Any) -> bytes:
    kept = io.BytesIO()
    (np.savez_compressed if how else np.savez)(kept, **arrays)
    return kept.getvalue()


def picture(form: str = "PNG", size: tuple[int, int] = (4, 6)) -> bytes:
    kept = io.BytesIO()
    Image.new("RGB", size, (9, 8, 7)).save(kept, form)
    return kept.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    kept = io.BytesIO()
    with zipfile.ZipFile(kept, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return kept.getvalue()


FORMS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF")
PICTURES = zipped(
    {f"train/{'ab'[at % 2]}/{at}.png": picture(form) for at, form in enumerate(FORMS)}
)
GRAPHS = b"# from to\n1 2\n2 10\n10 1\n"
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
WHOLE = {
    "plain.npz": npz(PLAIN), "waves.npz": npz(WAVES, packed=True), "graph.npz": npz(GRAPH),
    "groups.npz": npz(GROUPS), "apart.npz": npz(APART), "train.zip": PICTURES,
    "train.edgelist": GRAPHS, "train.jsonl": LINES, "train.jsonl.gz": gzip.compress(LINES),
    "train.csv": CSV.encode(), "train.csv.gz": gzip.compress(CSV.encode()),
    "train.txt": "one\ntwo\n".encode("utf-8-sig"), "train.txt.gz": gzip.compress(b"one\ntwo\n"),
}  # fmt: skip


def read(name: str, data: bytes, readme: bytes = b"", **how: Any) -> None:
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / name).write_bytes(data)
        (Path(home) / "README.md").write_bytes(readme)
        with only_whet_errors():
            found = load(home, **how)
            assert isinstance(found, Loaded)
            assert len(found.train.take(range(min(len(found.train), 2)))) <= 2


def test_as_they_are_all_are_read(tmp_path: Path) -> None:
    for name, data in WHOLE.items():
        home = tmp_path / name
        home.mkdir()
        (home / name).write_bytes(data)
        assert len(load(home, target="bought" if ".csv" in name else None).train) in (2, 3, 4, 5, 6)


@fuzz(150)
@given(st.data())
def test_changed_bytes(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(WHOLE)))
    target = "bought" if ".csv" in name else None
    read(name, data.draw(changed_bytes(WHOLE[name])), target=target)


@fuzz(60)
@given(st.data())
def test_changed_texts_packed_again(data: st.DataObject) -> None:
    name, text = data.draw(st.sampled_from((("csv", CSV.encode()), ("jsonl", LINES))))
    changed = data.draw(changed_bytes(text))
    read(f"train.{name}.gz", gzip.compress(changed), target=data.draw(st.sampled_from((None, "b"))))


@fuzz(150)
@given(st.data())
def test_changed_arrays(data: st.DataObject) -> None:
    arrays = dict(data.draw(st.sampled_from((PLAIN, WAVES, GRAPH, GROUPS, APART))))
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.sampled_from([*arrays, "n_nodes", "x_train", "a_names"]))
        action = data.draw(st.sampled_from(("odd", "odd", "gone", "other", "cut", "cast")))
        if action == "odd" or key not in arrays:
            arrays[key] = data.draw(st.sampled_from(ODD))
        elif action == "gone":
            del arrays[key]
        elif action == "other":
            arrays[key] = arrays[data.draw(st.sampled_from(sorted(arrays)))]
        elif action == "cut":
            arrays[key] = arrays[key][: data.draw(st.integers(0, 3))] if arrays[key].ndim else X
        elif arrays[key].dtype.kind in "iuf":
            kind = data.draw(st.sampled_from((np.uint8, np.uint64, np.float32, bool, np.str_)))
            arrays[key] = np.abs(arrays[key]).astype(kind)
        if not arrays:
            return
    read("train.npz", npz(arrays))


@fuzz(80)
@given(st.data())
def test_changed_headers_of_arrays(data: st.DataObject) -> None:
    kept = io.BytesIO()
    np.save(kept, X)
    member = bytearray(kept.getvalue())
    header = data.draw(st.sampled_from((
        "{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9)}",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-5, -16)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (80,)}",
        "{'descr': '|S0', 'fortran_order': False, 'shape': (9999999999999,)}",
        "{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': (40,)}",
        "{'descr': " + "[" * 60 + "]" * 60 + ", 'fortran_order': False, 'shape': (40,)}",
        "{'descr': (1,), 'fortran_order': False, 'shape': (4,)}", "(" * 5000, "__import__('os')",
    )))  # fmt: skip
    if data.draw(st.booleans()):
        header = data.draw(changed_bytes(header.encode())).decode("latin1")
    text = header.encode("latin1").ljust(117) + b"\n"
    member[8 : 10 + 118] = len(text).to_bytes(2, "little") + text
    read("train.npz", zipped({"x.npy": bytes(member)}))


@fuzz(80)
@given(st.data())
def test_changed_rows_of_json(data: st.DataObject) -> None:
    rows = [data.draw(changed_json(row)) for row in ROWS[: data.draw(st.integers(1, 3))]]
    read("train.jsonl", b"\n".join([*rows, json.dumps(ROWS[-1]).encode()]))


@fuzz(40)
@given(changed_bytes(README.encode()), st.sampled_from(("train.csv", "train.jsonl", "plain.npz")))
def test_changed_facts(readme: bytes, name: str) -> None:
    read(name, WHOLE[name], readme)


@fuzz(60)
@given(st.data())
def test_changed_pictures(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(FORMS))
    names = st.sampled_from(("a/1.png", "../a/1.png", "/a/1.png", "1.png", "a//1.png", "a/./1.jpg"))
    members = {data.draw(names): data.draw(changed_bytes(picture(form))), "b/2.png": picture()}
    read("train.zip", zipped(members), size=data.draw(st.sampled_from((None, (2, 2)))))


class TestBombs:
    """What would take gigabytes is refused before they are taken."""

    def refused(self, path: Path, said: str, **how: Any) -> None:
        with modest(), pytest.raises(InputError, match=said):
            load(path, **how)

    @pytest.mark.parametrize("name", ["train.csv.gz", "train.jsonl.gz", "train.txt.gz"])
    def test_gzip(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parsing, "ALWAYS", 1 << 20)
        (tmp_path / name).write_bytes(gzip.compress(bytes(1 << 23)))
        self.refused(tmp_path, r"cannot be read \(its \d+ bytes unpack to \d+ or more")
        monkeypatch.setattr(parsing, "ALWAYS", 1 << 24)
        (tmp_path / name).write_bytes(gzip.compress(b'{"text": "a"}\n' * (1 << 17)))
        assert len(read_table(tmp_path / name) if "csv" in name else load(tmp_path).train)

    def test_what_an_npz_says_of_itself(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "train.npz"
        path.write_bytes(npz({"x": np.zeros(1 << 21)}, packed=True))
        assert len(load(path).train) == 1 << 21
        monkeypatch.setattr(parsing, "ALWAYS", 1 << 20)
        self.refused(path, r"unpack to \d+ or more; if that is meant, store it unpacked")

    def test_what_an_array_says_of_itself(self, tmp_path: Path) -> None:
        kept = io.BytesIO()
        np.save(kept, X)
        grown = kept.getvalue().replace(b"(5, 4, 4)", b"(5999, 4)")
        (tmp_path / "train.npz").write_bytes(zipped({"x.npy": grown}))
        self.refused(tmp_path, r"x\.npy is float64 \(5999, 4\) in \d+ bytes")

    def test_pictures(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        large = picture(size=(1000, 1000))
        members = {f"{'ab'[at % 2]}/{at}.png": large for at in range(9)}
        (tmp_path / "train.zip").write_bytes(zipped(members))
        assert load(tmp_path).train.inputs.shape == (9, 1000, 1000, 3)
        monkeypatch.setattr(parsing, "ALWAYS", 1 << 23)
        self.refused(tmp_path, r"unpack to \d+ or more.*or give a smaller size=")
        assert load(tmp_path, size=(8, 8)).train.inputs.shape == (9, 8, 8, 3)

    def test_nodes_that_no_edge_has(self, tmp_path: Path) -> None:
        path = tmp_path / "train.npz"
        for far in ({"edges": np.array([[0, 10**12]])}, GROUPS | {"n_nodes": np.array(10**12)}):
            path.write_bytes(npz(far))
            self.refused(path, r"\d+ nodes for \d edges; number them without gaps")

    def test_groups_that_no_node_has(self, tmp_path: Path) -> None:
        path = tmp_path / "train.npz"
        path.write_bytes(npz(GROUPS | {"n_labels": np.array(10**12)}))
        self.refused(path, "groups of 3 nodes do not fit one dense table")

    def test_names_of_classes_that_are_counted_only(self, tmp_path: Path) -> None:
        (tmp_path / "README.md").write_text("- classes (99999999999): 0=a, 1=b, 2=c\n")
        (tmp_path / "plain.npz").write_bytes(npz({"x": X, "y": Y}))
        assert load(tmp_path).classes == ("0", "1", "2")

    def test_numbers_of_classes(self, tmp_path: Path) -> None:
        path = tmp_path / "train.jsonl"
        rows = [{"text": "a", "label": label, "label_name": "x"} for label in (0, 2**40)]
        path.write_text("\n".join(map(json.dumps, rows)))
        self.refused(path, "target 1099511627776 would be the last of as many classes")
        path.write_text(json.dumps({"text": "a", "label": 2**80}))
        self.refused(path, "row 1: label is 1208925819614629174706176")


def test_no_picture_is_handed_to_a_program(tmp_path: Path) -> None:
    """PIL gives PostScript to Ghostscript, whatever its name ends in."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n"
    assert Image.open(io.BytesIO(script)).format == "EPS"
    (tmp_path / "train.zip").write_bytes(zipped({"a/1.png": script, "b/2.png": picture()}))
    with pytest.raises(InputError, match=r"1\.png cannot be read \(cannot identify image file"):
        load(tmp_path)


def test_waves_are_cut_where_offsets_fall(tmp_path: Path) -> None:
    """Differences of unsigned numbers wrap and look as if they rose."""
    path = tmp_path / "train.npz"
    path.write_bytes(npz(WAVES | {"offset": np.array([0, 5, 3, 9], np.uint64)}))
    with pytest.raises(InputError, match="offset must rise"):
        load(path)
