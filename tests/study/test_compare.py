"""`whet compare`: anyone's own numbers, and what is said where a file is wrong."""

import json
import re
import sys
from pathlib import Path

import pytest

from tests.study.test_cli import call
from whet import study
from whet.errors import InputError
from whet.study import tables
from whet.study.evidence import Evidence

GOOD = {"baseline": [0.80, 0.82, 0.81, 0.79], "sgd": [0.84, 0.86, 0.86, 0.83],
        "sam": [0.80, 0.83, 0.80, 0.80]}  # fmt: skip


def text(arms: dict[str, list[float]] = GOOD, delimiter: str = ",") -> str:
    lines = [("arm", "seed", "value")]
    lines += [(a, str(s), str(v)) for a, values in arms.items() for s, v in enumerate(values)]
    return "\n".join(map(delimiter.join, lines)) + "\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.csv"
    path.write_text(text(), encoding="utf-8")
    return path


class TestFile:
    def test_is_what_python_says(self, file: Path) -> None:
        rows = [(a, s, v) for a, values in GOOD.items() for s, v in enumerate(values)]
        assert tables.compared(file, margin=0.02).comparisons == study.compare(rows, margin=0.02)

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("begin", ["", "\ufeff"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_as_programs_write_it(
        self, file: Path, delimiter: str, begin: str, end: str
    ) -> None:  # fmt: skip
        whole = begin + text(delimiter=delimiter).replace("\n", end) + end
        file.write_bytes(whole.encode())
        assert len(tables.read(file).rows) == 12

    def test_columns_in_any_order_and_more_of_them(self, file: Path) -> None:
        file.write_text("Seed,note,VALUE,Arm\n0,x,0.5,a\n0,,0.4,baseline\n")
        (found,) = tables.compared(file).comparisons
        assert found.gains == ((0, pytest.approx(0.1)),)

    def test_placement_by_column_or_name(self, file: Path) -> None:
        file.write_text("arm,seed,value,placement\na,0,1,late\nb@end,0,1,\nc,0,1,\n")
        assert tables.read(file).placements == {"a": "late", "b@end": "end", "c": "whole"}

    def test_an_empty_value_leaves_the_seed_out(self, file: Path) -> None:
        file.write_text("arm,seed,value\nbaseline,0,1\na,0,\nbaseline,1,1\na,1,nan\n")
        (found,) = tables.compared(file).comparisons
        assert [seed for seed, _ in found.left_out] == [0, 1]

    def test_a_studys_own_results(self, toy: Evidence, folder: Path) -> None:
        found = tables.compared(folder / "results.csv", metric="accuracy")
        ours = {each.arm: each for each in toy.comparisons}
        assert set(ours) == {each.arm for each in found.comparisons}
        for each in found.comparisons:
            mine = ours[each.arm]
            assert (each.verdict, each.gains) == (mine.verdict, mine.gains)
            assert (each.p_holm, each.slowdown) == (mine.p_holm, mine.slowdown)
            assert dict(each.left_out).keys() == dict(mine.left_out).keys()

    def test_names_that_a_spreadsheet_would_run(self, file: Path) -> None:
        file.write_text("arm,seed,value\n'=x,0,1\n'quoted',0,1\n")
        assert [row["arm"] for row in tables.read(file).rows] == ["=x", "'quoted'"]

    @pytest.mark.parametrize(
        ("lines", "said"),
        [
            ("arm,seed\na,0", "line 1: there is no column 'value'; the columns are arm, seed"),
            ("arm,seed,value\na,0,1\nb,0,1\na,0,2",
             "line 4: arm 'a' with seed 0 stands in line 2 already"),
            ("arm,seed,value\na,0,1\n\na,1,high", "line 4: the value 'high' is not a number"),
            ("arm,seed,value\na,0,1\na,1,\"0,5\"", "line 3: the value '0,5' is not a number"),
            ("arm,seed,value\na,x,1", "line 2: the seed 'x' is no whole number"),
            ("arm,seed,value\na,0.5,1", "line 2: the seed '0.5' is no whole number"),
            ("arm,seed,value\n,0,1", "line 2: the arm has no name"),
            ("arm,seed,value\na,0,1,2", "line 2: 4 cells where the header has 3"),
            ("arm,seed,value,value\na,0,1,2", "line 1: two columns have one name"),
            ("arm,seed,value\n", "has a header and no rows"),
            ("", "has a header and no rows"),
            ('arm,seed,value\na,0,"1', "line 2: unexpected end of data"),
            ("arm,seed,value,placement\na,0,1,end\na,1,1,start", "line 3: 'a' was placed at 'end'"),
            ("arm,seed,part,metric,value\na,0,judge,acc,1\na,0,judge,f1,1",
             "holds 2 metrics: say which with --metric. There are: acc, f1"),
            ("arm,seed,part,metric,value\na,0,run,status,failed", "holds 0 metrics"),
            ("arm,seed,value\nbaseline,0,1", "holds 'baseline' alone"),
            ("arm,seed,value\na,0,1", "unknown baseline 'baseline'"),
        ],
    )  # fmt: skip
    def test_mistakes_name_the_line(self, file: Path, lines: str, said: str) -> None:
        file.write_text(lines)
        with pytest.raises(InputError, match=re.escape(said)):
            tables.compared(file)

    def test_no_such_metric(self, file: Path) -> None:
        file.write_text("arm,seed,part,metric,value\na,0,judge,acc,1\n")
        with pytest.raises(InputError, match="unknown metric 'ac'; did you mean 'acc'"):
            tables.compared(file, metric="ac")

    @pytest.mark.parametrize("held", [None, b"arm,seed,value\n\xff\xfe,0,1\n"])
    def test_no_text(self, file: Path, held: bytes | None) -> None:
        file.unlink()
        if held is not None:
            file.write_bytes(held)
        with pytest.raises(InputError, match=r"cannot be read|no text in UTF-8"):
            tables.compared(file)


class TestCommand:
    def ran(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
            *words: str, width: int = 80) -> str:  # fmt: skip
        from whet import cli

        monkeypatch.setattr(sys, "argv", ["whet", "compare", *words])
        monkeypatch.setenv("COLUMNS", str(width))
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert not left.value.code
        return capsys.readouterr().out

    def test_table_of_eighty_columns(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = self.ran(monkeypatch, capsys, str(file), "--margin", "0.02")
        lines = out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].strip() == (
            "Gain in value over baseline, paired by seed (higher is better)"
        )
        assert re.search(r"^sgd +\+0.04\d.*helps", out, re.MULTILINE)
        assert "Margin: 0.02" in out
        assert "A verdict is about what your seeds vary" in out

    def test_direction_and_baseline(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = self.ran(monkeypatch, capsys, str(file), "--baseline", "sgd", "--lower-is-better")
        assert "over sgd, paired by seed (lower is better)" in out
        assert re.search(r"^baseline +\+0.04\d.*helps", out, re.MULTILINE)

    def test_json(
        self, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = json.loads(self.ran(monkeypatch, capsys, str(file), "--json"))
        assert (found["baseline"], found["margin"], found["confidence"]) == ("baseline", None, 0.95)
        assert [each["verdict"] for each in found["comparisons"]] == ["helps", "not shown"]
        assert "A verdict is about what your seeds vary" in found["rule"]

    @pytest.mark.parametrize(
        ("words", "said"),
        [(["--margin", "-1"], "margin is -1.0"), (["--baseline", "sgb"], "did you mean 'sgd'?")],
    )
    def test_a_mistake_is_one_message(
        self, words: list[str], said: str, file: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        assert call(monkeypatch, "compare", str(file), *words) == 2
        out, error = capsys.readouterr()
        assert said in error
        assert out == ""
