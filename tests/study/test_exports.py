"""A report's other formats: which files there are, what is told in them, and what must not be."""

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.study import invented
from whet import whole
from whet.cli import application
from whet.errors import InputError, UnknownName, WhetError
from whet.study.evidence import Evidence
from whet.study.exports import formats, spreadsheet
from whet.study.plan import BASELINE, Node

TEXTS = ("report.md", "report.tex", "verdicts.csv", "methods.bib")
TOKEN = "hf_" + "abcdefghij" * 3
NODES = [Node("pets", "ema", (), 0), Node("pets", "ema", (), 1)]


def texts(found: Evidence) -> dict[str, str]:
    """Every format that is text, without the figures, which take most of the time."""
    made = {name: data for kind in ("csv", "bibtex", "markdown", "latex")
            for name, data in formats.MAKES[kind](found).items()}  # fmt: skip
    assert set(made) == set(TEXTS)
    return {name: str(data) for name, data in made.items()}


@pytest.fixture
def found(tmp_path: Path) -> Evidence:
    return invented.evidence(tmp_path)


def lines(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text), strict=True))


def test_unknown_formats_are_refused_with_those_there_are(found: Evidence) -> None:
    with pytest.raises(UnknownName, match=r"'markdwon'; did you mean 'markdown'\?.*latex"):
        found.export("html,markdwon")
    with pytest.raises(InputError, match=r"no format was given.*bibtex"):
        found.export(" , ")
    assert {path.name for path in found.report.parent.iterdir()} == {"report.html"}


def test_names_may_be_in_any_order_and_case() -> None:
    assert formats.wanted(" CSV , html,csv") == ["html", "csv"]
    assert formats.wanted(["csv"]) == ["csv"]
    assert formats.wanted("csv,all") == list(formats.MAKES)


def test_what_a_report_shows_and_cites_is_written_before_it() -> None:
    for name in ("markdown", "latex"):
        assert formats.wanted(name) == ["bibtex", "figures", name]


def test_everything_that_is_said_to_be_written_is_there(found: Evidence, tmp_path: Path) -> None:
    out = tmp_path / "paper" / "study"
    before = found.report.read_bytes()
    made = found.export("all", str(out))
    assert sorted(made) == sorted(path for path in out.rglob("*") if path.is_file())
    assert {path.name for path in made} >= {*TEXTS, "report.html", "gains.pdf", "gains.png",
                                            "costs.pdf", "curves.png", "leaving.pdf"}  # fmt: skip
    assert (out / "report.html").read_bytes() == before
    # the study's own folder stays as it was
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "paper"}
    assert found.export("csv") == [tmp_path / "verdicts.csv"]


def test_the_same_study_gives_the_same_files(found: Evidence, tmp_path: Path) -> None:
    once, again = (
        {path.name: path.read_bytes() for path in found.export("all", tmp_path / name)}
        for name in ("once", "again")
    )
    assert once == again
    for name, data in once.items():
        assert b"CreationDate" not in data, name
        assert b"ModDate" not in data, name


def test_a_full_disk_leaves_the_old_file(found: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    [path] = found.export("csv")
    before = path.read_bytes()

    def full(file: Path, data: bytes) -> None:
        file.write_bytes(data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole, "write_synced", full)
    found.comparisons.reverse()
    with pytest.raises(WhetError, match=r"verdicts\.csv cannot be written"):
        found.export("csv")
    assert path.read_bytes() == before
    assert {each.name for each in path.parent.iterdir()} == {"report.html", "verdicts.csv"}


@pytest.mark.parametrize("done", [False, True], ids=["unfinished", "finished"])
def test_an_unfinished_study_says_so_in_every_format(tmp_path: Path, done: bool) -> None:
    nodes = [] if done else [node.to_json() for node in NODES]
    made = texts(invented.evidence(tmp_path, nodes=nodes))
    said = "Not complete:** 2 of 2 runs have no result yet"
    assert (said in made["report.md"]) is not done
    tex = made["report.tex"]
    assert ("% NOT COMPLETE: 2 of 2 runs" in tex) is not done
    assert (r"\textbf{Not complete:} 2 of 2 runs" in tex) is not done
    missing = {line["runs_missing"] for line in lines(made["verdicts.csv"])}
    assert missing == {"0" if done else "2"}


def test_secrets_are_in_no_format(tmp_path: Path) -> None:
    found = invented.evidence(
        tmp_path, f"arm {TOKEN}", notes=[f"noted {TOKEN}"], command=f"whet study {TOKEN}",
        left_out={"fixmatch": f"left {TOKEN}"}, versions={"torch": "2", "api_key": "unlikely"},
    )  # fmt: skip
    found.study["task"]["title"] = f"Task {TOKEN}"
    for name, text in texts(found).items():
        assert TOKEN not in text.replace("\\", ""), name
        assert "unlikely" not in text, name
        assert "***" in text.replace("\\", "").replace("{*}", "*"), name


def test_csv_has_every_arm_of_every_family_with_its_numbers(found: Evidence) -> None:
    table = lines(spreadsheet.text(found))
    assert tuple(table[0]) == spreadsheet.COLUMNS
    there = {(line["family"], line["arm"]): line for line in table}
    assert len(there) == len(table)
    wanted = {(BASELINE, each.arm): each for each in found.comparisons}
    wanted |= {("leaving one out", each.arm): each for each in found.leaving}
    wanted |= {("ladder", each.arm): each for each in found.further[0].comparisons}
    for key, each in wanted.items():
        line = there.pop(key)
        for name in ("gain", "low", "high", "p", "p_holm", "detectable"):
            value = getattr(each, name)
            assert line[name] == ("" if value is None else repr(value))
        assert (line["n"], line["verdict"]) == (str(each.n), each.verdict)
        assert each.cost is not None
        assert each.cost.step is not None
        step = each.cost.step
        assert [line[f"time_{name}"] for name in ("ratio", "low", "high")] == [
            repr(value) for value in (step.value, step.low, step.high)
        ]
    assert set(there) == {("equal time (baseline@x2)", "ema"), ("confirmation", "ema")}


def test_a_name_is_no_formula_in_a_spreadsheet(tmp_path: Path) -> None:
    found = invented.evidence(tmp_path, '=HYPERLINK("x"),\n"')
    names = {line["arm"] for line in lines(spreadsheet.text(found))}
    assert '\'=HYPERLINK("x"),\n"' in names
    assert not any(name.startswith("=") for name in names)


def test_command_line(folder: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    out = tmp_path / "out"
    refused = run(application.app, ["report", str(folder), "--format", "pdf", "--out", str(out)])
    assert isinstance(refused.exception, UnknownName)
    assert not out.exists()
    made = run(application.app, ["report", str(folder), "--format", "csv,bibtex", "--out",
                                 str(out)])  # fmt: skip
    assert made.exit_code == 0, made.output
    assert {path.name for path in out.iterdir()} == {"verdicts.csv", "methods.bib"}
    assert str(out / "verdicts.csv") in made.output.replace("\n", "")
    usual = run(application.app, ["report", str(folder)])
    assert usual.stdout.replace("\n", "") == f"report: {folder / 'report.html'}"


def test_a_fresh_study_takes_its_exports_along() -> None:
    from whet.study.store import OURS

    assert {*TEXTS, "figures"} <= {*OURS}
