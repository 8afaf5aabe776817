"""`whet predict --like`: predictions in the rows and columns of somebody's sample."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.fit import tiny
from tests.fit.test_commands import call, here  # noqa: F401 - a fixture
from tests.fit.tiny import asked
from whet.errors import InputError, UnknownName
from whet.fit import saved, submission
from whet.fit.conduct import fit
from whet.tasks import intents

READS = f"""{tiny.TASK[: tiny.TASK.index("def inputs")]}def inputs(path, seed):
    rows = whet.data.read_table(path)
    columns = [[float(field) for field in rows[name]] for name in "abcd"]
    return torch.tensor(columns).T
"""
ROWS = "id,a,b,c,d\nx7,1,0,0,0\nx8,0,1,0,0\nx9,2,0,1,0\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("submission")
    tiny.write(folder, READS)
    fit(asked(folder))
    (folder / "new.csv").write_text(ROWS)
    return folder


def made(place: Path, sample: str, value: str = "label", data: str = "new.csv") -> list[list[str]]:
    found = saved.load(place / "model", "rows", place / "rows.py", device="cpu")
    path = place / "sample.csv"
    path.write_text(sample)
    rows = place / data
    text = submission.filled(path, found, found.rows_of(rows), rows, value)
    return list(csv.reader(io.StringIO(text)))


def straight(place: Path) -> list[dict[str, str]]:
    found = saved.load(place / "model", "rows", place / "rows.py", device="cpu")
    return list(csv.DictReader(io.StringIO(saved.table(found, found.rows_of(place / "new.csv")))))


def test_rows_are_found_by_their_names(place: Path) -> None:
    expected = {f"x{7 + n}": row for n, row in enumerate(straight(place))}
    header, *lines = made(place, "id,label\nx9,no\nx7,no\n")
    assert header == ["id", "label"]
    assert lines == [[key, expected[key]["label"]] for key in ("x9", "x7")]


def test_by_position_that_would_be_wrong(place: Path) -> None:
    """What the names keep away: the sample's order is not the file's."""
    rows = straight(place)
    (_, first), *_ = made(place, "id,yes\nx9,0\nx8,0\nx7,0\n")[1:]
    assert first == rows[2]["p_yes"] != rows[0]["p_yes"]


def test_columns_are_the_classes_in_any_order(place: Path) -> None:
    rows = straight(place)
    header, *lines = made(place, "id,p_yes,no\nx7,0.5,0.5\nx8,0,0\nx9,0,0\n")
    assert header == ["id", "p_yes", "no"]
    assert lines == [[f"x{7 + n}", row["p_yes"], row["p_no"]] for n, row in enumerate(rows)]


def test_one_column_with_the_probability_of_a_class(place: Path) -> None:
    rows = straight(place)
    lines = made(place, "id,target\nx7,0\nx8,0\nx9,0\n", value="yes")[1:]
    assert [line[1] for line in lines] == [row["p_yes"] for row in rows]


def test_where_the_file_has_no_names_the_order_is_one(place: Path) -> None:
    rows = straight(place)
    lines = made(place, "number,target\n1,0\n2,0\n3,0\n")[1:]
    assert lines == [[str(n + 1), row["label"]] for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("sample", "value", "error", "match"),
    [
        ("id\nx7\n", "label", InputError, "no column beside 'id'"),
        ("id,label\nx7,0\nx1,0\n", "label", InputError, "'x1' of .*sample.csv is not there"),
        ("number,label\n1,0\n", "label", InputError, "1 rows and there are 3 predictions"),
        ("id,label\nx7,0\n", "maybe", UnknownName, "class to give the probability of 'maybe'"),
        ("id,cat,dog\nx7,0,0\n", "label", InputError, "columns cat, dog, and the model predicts n"),
    ],
)
def test_what_does_not_fit_is_named(
    place: Path, sample: str, value: str, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        made(place, sample, value)


def test_names_that_stand_twice_in_the_file(place: Path) -> None:
    (place / "twice.csv").write_text(ROWS.replace("x8", "x7"))
    with pytest.raises(InputError, match=r"apart by 'id': one stands twice"):
        made(place, "id,label\nx7,0\nx9,0\n", data="twice.csv")


def test_of_reals_the_value(tmp_path: Path) -> None:
    text = READS.replace("(x[:, 0] > x[:, 1]).long()", "x[:, :1] - x[:, 1:2]")
    text = text.replace('metrics=["accuracy", "log_loss"]', 'objective="real"')
    tiny.write(tmp_path, text.replace("Linear(8, 2)", "Linear(8, 1)"))
    fit(asked(tmp_path))
    (tmp_path / "new.csv").write_text(ROWS)
    rows = straight(tmp_path)
    lines = made(tmp_path, "id,price\nx7,0\nx8,0\nx9,0\n")[1:]
    assert [line[1] for line in lines] == [row["value"] for row in rows]


def test_on_the_command_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (place / "sample.csv").write_text("id,label\nx9,no\nx8,no\n")
    line = "predict model new.csv --task rows.py --like sample.csv --out submission.csv"
    assert call(monkeypatch, line) == 0
    lines = Path("submission.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines] == ["id", "x9", "x8"]
    capsys.readouterr()
    assert call(monkeypatch, "predict model new.csv") == 2
    assert "the task of a file (rows.py)" in capsys.readouterr().err
    assert call(monkeypatch, "predict model rows.py") == 2
    assert "give it as --task rows.py" in capsys.readouterr().err


def test_a_folder_does_not_say_which_code_is_run(place: Path, tmp_path: Path) -> None:
    """A model's folder may be anybody's: a file that lies beside it is not run."""
    fit(asked(place, out=tmp_path / "model"))
    tiny.write(tmp_path, "raise SystemExit('run')")
    with pytest.raises(InputError, match="give --task FILE"):
        saved.task_of(tmp_path / "model", None, None)


def test_a_built_in_task_is_found(tmp_path: Path) -> None:
    from whet.fit.request import Request

    fit(Request("churn", out=tmp_path / "model", device="cpu", updates=2))
    assert saved.task_of(tmp_path / "model", None, None) == "churn"


@pytest.mark.usefixtures("here")
def test_the_readmes_way_from_a_study_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commands as they stand there, on few methods, rows of a file and little training."""
    text = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    block = next(b for b in text.split("```") if "--recipe study/recipe.py" in b)
    lines = [line.partition("#")[0].strip() for line in block.strip().splitlines()]
    assert [line.split()[1] for line in lines] == ["study", "fit", "evaluate", "predict"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("whet.tasks.intents.ABOUT", intents.ABOUT.__class__(
        **{**vars(intents.ABOUT), "updates": 4, "seeds": 1, "methods": ("ema",)}))  # fmt: skip
    Path("requests.txt").write_text("where is my card\ni lost my phone\n")
    for line in lines:
        more = " --methods ema --seeds 1 --jobs 1" if line.startswith("whet study") else ""
        assert call(monkeypatch, line.removeprefix("whet ") + more) == 0, capsys.readouterr()
    assert len(Path("predictions.csv").read_text().splitlines()) == 3
