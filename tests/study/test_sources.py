"""A user's file: what it may hold, and what is said of one that does not work."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from whet import About, Task, WhetError, places, sources
from whet.errors import InputError, UnknownName

FILE = '''"""A title.

More about it."""
import torch
from beside import LABELS
from whet import Task

def task(seed):
    x = torch.randn(12, 2)
    return Task(torch.nn.Linear(2, 2), (x, LABELS), (x[:6], LABELS[:6]), (x[6:], LABELS[6:]))
'''
BESIDE = "import torch\nLABELS = torch.arange(12) % 2\n"


def write(folder: Path, text: str = FILE, name: str = "mine.py") -> Path:
    # a folder of its own for each test: what a file imports stays in sys.modules by its name
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "beside.py").write_text(BESIDE)
    monkeypatch.delitem(__import__("sys").modules, "beside", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_file_with_its_neighbours(beside: Path) -> None:
    source = sources.load("mine", write(beside))
    assert (source.name, source.about.title, source.about.updates) == ("mine", "A title", None)
    assert isinstance(source.task(0), Task)


def test_what_seeds_nothing_is_seeded(beside: Path) -> None:
    text = FILE.replace("x = torch.randn(12, 2)", (
        "import random, numpy\n    x = torch.randn(12, 2) + random.random() + "
        "float(numpy.random.random())"
    ))  # fmt: skip
    source = sources.load("mine", write(beside, text))
    before = np.random.get_state()[2]  # noqa: NPY002
    one, same, other = source.task(1), source.task(1), source.task(2)
    assert torch.equal(one.train[0], same.train[0])
    assert torch.equal(one.model.weight, same.model.weight)  # type: ignore[arg-type]
    assert not torch.equal(one.train[0], other.train[0])
    assert np.random.get_state()[2] == before  # noqa: NPY002 - the user's own goes on


def test_about_may_be_a_mapping(beside: Path) -> None:
    source = sources.load("mine", write(beside, FILE + "ABOUT = {'updates': 7}\n"))
    assert source.about == About(title="A title", updates=7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef mytask(seed): pass\n", r"defines no function `task\(seed\)`; .* mytask"),
        ("import nosuchthing\n", r"(?s)mine.py: importing it raised.*line 1.*nosuchthing"),
        ("def task(seed):\n    return 1 / 0\n", r"(?s)task\(0\) raised.*line 2.*ZeroDivisionError"),
        ("def task(seed):\n    pass\n", r"gave NoneType, not a whet.Task. End it with"),
        ("def task():\n    pass\n", r"(?s)raised.*TypeError: task\(\) takes 0 positional"),
        ("def task(seed): pass\nABOUT = {'update': 3}\n", "did you mean 'updates'"),
        ("def task(seed): pass\nABOUT = 3\n", "ABOUT of .* is 3; make it whet.About"),
        ("def task(seed)\n", r"(?s)importing it raised.*SyntaxError"),
        (
            "import torch, whet\ndef task(seed):\n    return whet.Task(torch.nn.Linear(1, 1), 1)\n",
            r"has no select part. A study needs all three",
        ),
    ],
)
def test_mistakes_say_where_they_are(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(WhetError, match=said):
        sources.load("mine", write(tmp_path, text)).task(0)


def test_only_the_users_own_lines_are_told(tmp_path: Path) -> None:
    text = (
        "def task(seed):\n    return deeper()\n\ndef deeper():\n    raise ValueError('no data')\n"
    )
    with pytest.raises(InputError) as caught:
        sources.load("mine", write(tmp_path, text)).task(0)
    assert "deeper()" in str(caught.value)
    assert "sources.py" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"there is no file .*other.py. `whet new .*built-in"):
        sources.load("other", tmp_path / "other.py")
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        sources.load("digit")
    monkeypatch.chdir(tmp_path)
    write(tmp_path, FILE, "digit.py")
    with pytest.raises(InputError, match=r"Did you mean the file digit.py\?"):
        sources.load("digit")


@pytest.mark.parametrize("name", ["torch.py", "random.py", "whet.py"])
def test_a_file_that_would_be_imported_for_another(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, "raise AssertionError('it was run')\n", name)
    with pytest.raises(InputError, match=rf"wherever '{name[:-3]}' is meant, .* my_{name}, for"):
        sources.load("mine", path)
    assert str(tmp_path) not in sys.path


def test_a_file_that_is_no_python_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mine\.ipynb is no Python file: let it end in \.py"):
        sources.load("mine", write(tmp_path, "{}", "mine.ipynb"))


def test_an_edited_file_is_read_anew(tmp_path: Path) -> None:
    text = "def task(seed): pass\nABOUT = {'updates': 1}\n"
    assert sources.load("mine", write(tmp_path, text)).about.updates == 1
    edited = write(tmp_path, text.replace("1}", "2}"))
    assert sources.load("mine", edited).about.updates == 2


@pytest.mark.parametrize(
    ("path", "name"),
    [("x/mine.py", "mine"), ("churn 2/task.py", "churn-2"), ("a/.hidden.py", "hidden")],
)
def test_names(path: str, name: str) -> None:
    assert places.name_of(Path(path)) == name


def test_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def digits(seed: int) -> Task:
        """Doc. of it."""
        raise AssertionError

    name = sources.give(digits)
    assert name == "digits-function"  # the built-in one keeps its name
    assert sources.load(name).about.title == "Doc. of it"
    with pytest.raises(InputError, match="a Study is of a task's name"):
        sources.give(3)  # type: ignore[arg-type]


def test_the_fingerprint_is_of_the_data() -> None:
    def made(value: float, dtype: torch.dtype = torch.float32) -> Task:
        x, y = torch.full((4, 2), value, dtype=dtype), torch.tensor([0, 1, 0, 1])
        return Task(torch.nn.Linear(2, 2), (x, y), (x, y), (x, y))

    assert sources.fingerprint(made(1.0)) == sources.fingerprint(made(1.0))
    assert sources.fingerprint(made(1.0)) != sources.fingerprint(made(1.5))
    assert sources.fingerprint(made(1.0, torch.bfloat16)) != sources.fingerprint(made(1.0))


def test_the_fingerprint_of_a_dataset_is_its_length() -> None:
    rows = [(torch.zeros(2), 0)] * 5
    task = Task(torch.nn.Linear(2, 2), rows, rows, rows)
    longer = Task(torch.nn.Linear(2, 2), rows * 2, rows, rows)
    assert sources.fingerprint(task) != sources.fingerprint(longer)


def mark(data: Any) -> str:
    rows = (torch.zeros(2, 2), torch.zeros(2))
    return sources.fingerprint(Task(torch.nn.Linear(2, 2), data, rows, rows))


X, Y = torch.arange(10.0).view(5, 2), torch.arange(5)


def test_the_fingerprint_of_a_tensor_dataset_is_of_its_tensors() -> None:
    assert mark(TensorDataset(X, Y)) == mark(TensorDataset(X.clone(), Y.clone()))
    others = [TensorDataset(X + 1, Y), TensorDataset(X, Y + 1), TensorDataset(X), (X, Y)]
    assert len({mark(data) for data in (TensorDataset(X, Y), *others)}) == 5


def test_the_fingerprint_of_a_subset_is_of_its_rows() -> None:
    whole = TensorDataset(X, Y)
    kinds = [[0, 2], np.array([0, 2]), torch.tensor([0, 2])]
    assert len({mark(Subset(whole, rows)) for rows in kinds}) == 1  # type: ignore[arg-type]
    others = [Subset(whole, [0, 3]), Subset(TensorDataset(X + 1, Y), [0, 2]), whole]
    assert len({mark(data) for data in (Subset(whole, [0, 2]), *others)}) == 4
    assert mark(Subset(Subset(whole, [0, 2]), [1])) != mark(Subset(Subset(whole, [0, 3]), [1]))


def test_the_fingerprint_of_a_loader_is_of_its_dataset() -> None:
    assert mark(DataLoader(TensorDataset(X, Y), 2)) == mark(DataLoader(TensorDataset(X, Y), 2))
    assert mark(DataLoader(TensorDataset(X, Y), 2)) != mark(DataLoader(TensorDataset(X + 1, Y), 2))
    assert mark(DataLoader([(X[0], 0)] * 4)) != mark(DataLoader([(X[0], 0)] * 5))  # type: ignore[arg-type]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("its samples were read")


class Files(Dataset[Any]):
    def __init__(self, where: str) -> None:
        self.where = where

    def __len__(self) -> int:
        return 3

    def __getitem__(self, row: int) -> Any:
        raise AssertionError("its samples were read")


def test_other_datasets_are_known_by_type_and_length() -> None:
    assert mark(Files("a")) == mark(Files("b"))  # the docstring says so
    assert len({mark(Files("a")), mark(Stream()), mark(DataLoader(Stream()))}) == 3
    assert mark(DataLoader(Files("a"))) != mark(DataLoader(Stream()))


def test_the_fingerprint_of_sparse_tensors_is_their_shape() -> None:
    sparse = TensorDataset(X.to_sparse(), Y)
    assert mark(sparse) == mark(TensorDataset((X + 1).to_sparse(), Y)) != mark(TensorDataset(X, Y))


def test_sizes_are_those_of_the_rows_where_they_are_known() -> None:
    x, y = torch.zeros(10, 2), torch.zeros(10, dtype=torch.long)
    model = torch.nn.Linear(2, 2)
    loaded = DataLoader(TensorDataset(x, y), 4)
    assert sources.sizes(Task(model, loaded, judge=(x[:3], y[:3]))) == {"train": 10, "judge": 3}
    assert sources.sizes(Task(model, Stream(), judge=DataLoader(Stream()))) == {}
