"""The report in LaTeX: no name changes how it is set, and TeX takes it where there is one."""

import re
import shutil
import subprocess
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.safety.mutations import fuzz
from tests.study import invented
from whet.study import wording
from whet.study.evidence import Evidence
from whet.study.exports import latex
from whet.study.exports.tabulated import Table

# What TeX prints for what may stand in escaped text; anything else of this kind is a mistake.
PRINTS = {
    r"\textbackslash{}": "\\", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#",
    r"\%": "%", r"\_": "_", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^",
    r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"{\char34}": '"',
    r"\textasciigrave{}": "`", "{[}": "[", "{]}": "]", "{*}": "*", "$-$": "\N{MINUS SIGN}",
    r"$\times$": "\N{MULTIPLICATION SIGN}", r"\textendash{}": "\N{EN DASH}",
    r"\textemdash{}": "\N{EM DASH}", r"\dots{}": "…", "{}": "", "~": "\N{NO-BREAK SPACE}",
    r"$\surd$": "√", r"\textmu{}": "μ", r"$\geq$": "≥", r"$\leq$": "≤", r"$\pm$": "±",
    r"$\lambda$": "λ", r"$\beta$": "β", r"$\alpha$": "α", r"$\varepsilon$": "ε",
}  # fmt: skip
PIECE = re.compile(
    "|".join(map(re.escape, sorted(PRINTS, key=len, reverse=True))) + "|.", re.DOTALL
)
ACTIVE = set('\\{}$&#%_~^<>|"`[]*')
NAMES = st.text(
    st.one_of(st.sampled_from("\\{}$&#%_~^<>|\"'`[]*-,; \nab"), st.characters()), max_size=20
)
NASTY = r"a\b{c}$d&e#f%g_h~i^j<k>l|m[n]*o``p''q--r,,s?`t\end{table}\input{/etc/passwd}"
TEX = shutil.which("pdflatex")
needs_tex = pytest.mark.skipif(TEX is None, reason="there is no pdflatex on this machine")


def printed(text: str) -> str:
    """What is set of escaped text; a letter that TeX would act on must be in an escape."""
    made = []
    for piece in PIECE.findall(text):
        assert piece in PRINTS or piece not in ACTIVE, f"{piece} in {text}"
        made.append(PRINTS.get(piece, piece))
    assert not re.search(r"--|''|,,", text), text
    return "".join(made)


def shown(name: str) -> str:
    return unicodedata.normalize("NFC", wording.plain(name)).strip().replace("µ", "μ")


@pytest.fixture
def found(tmp_path: Path) -> Evidence:
    return invented.evidence(tmp_path, NASTY, left_out={"fgm": NASTY}, notes=[NASTY])


@fuzz(400)
@given(NAMES)
@example(NASTY)
def test_a_name_stands_for_itself(name: str) -> None:
    assert printed(latex.escape(wording.plain(name))) == shown(name)


@pytest.mark.parametrize("name", ["r_drop", "50 %", "a & b", "`x`", "--jobs", "[a]", "a*"])
def test_a_name_that_is_not_escaped_is_found_out(name: str) -> None:
    with pytest.raises(AssertionError):
        printed(name)


@fuzz(200)
@given(NAMES)
def test_a_table_has_its_cells_whatever_is_in_them(name: str) -> None:
    about = Table("key", "title", ("arm", "gain", "verdict"), [(name, "+0.1", name)] * 2, (0, 2))
    lines = latex.table(about).split("\n")
    assert (lines[1], lines[3], lines[-2]) == (r"\toprule", r"\midrule", r"\bottomrule")
    for line in lines[4:6]:
        cells = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
        assert [printed(cell.strip()).strip() for cell in cells] == [
            shown(name), "+0.1", shown(name)
        ]  # fmt: skip


def test_what_is_opened_is_closed(found: Evidence) -> None:
    text = re.sub(r"(?m)(?<!\\)%.*$", "", latex.text(found))
    body = text[text.index(r"\section*") :]
    open_now = []
    for kind, name in re.findall(r"(?<!\\)\\(begin|end)\{([^}]*)\}", body):
        if kind == "begin":
            open_now.append(name)
        else:
            assert open_now.pop() == name
    assert open_now == []
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", body):
        depth += 1 if brace == "{" else -1
        assert depth >= 0
    assert depth == 0
    assert r"\end{table}\input" not in body


def test_labels_papers_and_figures_are_there(found: Evidence, tmp_path: Path) -> None:
    found.export("latex")
    text = (tmp_path / "report.tex").read_text("utf-8")
    labels = re.findall(r"\\label\{([^}]*)\}", text)
    assert len(labels) == len(set(labels))
    assert len(labels) == text.count(r"\caption{")
    assert {"tab:whet-gains", "tab:whet-leaving", "tab:whet-family-1-ladder", "tab:whet-equal-time",
            "tab:whet-confirmation", "fig:whet-gains", "fig:whet-costs"} <= {*labels}  # fmt: skip
    keys = re.findall(r"^@\w+\{(.*),", (tmp_path / "methods.bib").read_text("utf-8"), re.MULTILINE)
    cited = {key for group in re.findall(r"\\cite\{([^}]*)\}", text) for key in group.split(",")}
    assert cited == set(keys) >= {"whet", "foret2021sharpness"}
    files = re.findall(r"\\includegraphics\[[^]]*\]\{([^}]*)\}", text)
    assert len(files) == 5
    assert all((tmp_path / name).is_file() for name in files)


def test_what_is_skipped_in_a_paper_ends(found: Evidence) -> None:
    head, body = latex.text(found).split("\\fi\n", 1)
    assert head.count(r"\ifx") == 1
    assert head.count(r"\else") == 1
    assert body.rstrip().endswith(r"\whetend")
    assert r"\documentclass{" not in body
    assert r"\begin{document}" not in body


def tex(folder: Path, name: str) -> str:
    words = [TEX or "", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", name]
    done = subprocess.run(words, cwd=folder, capture_output=True, check=False, timeout=100)
    log = done.stdout.decode(errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert "Missing character" not in log
    return log


@needs_tex
def test_it_compiles_as_it_is(found: Evidence, tmp_path: Path) -> None:
    found.export("latex")
    tex(tmp_path, "report.tex")
    made = subprocess.run(["bibtex", "report"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert (made.returncode, "Warning" in made.stdout) == (0, False), made.stdout
    tex(tmp_path, "report.tex")
    assert "undefined" not in tex(tmp_path, "report.tex")


@needs_tex
def test_a_table_that_is_too_wide_is_made_smaller(tmp_path: Path) -> None:
    invented.evidence(tmp_path, "a method " * 12).export("latex")
    assert r"Overfull \hbox" not in tex(tmp_path, "report.tex")
    text = (tmp_path / "report.tex").read_text("utf-8")
    (tmp_path / "wide.tex").write_text(re.sub(r"(?m)^\\resizebox.*", "{%", text), "utf-8")
    assert r"Overfull \hbox" in tex(tmp_path, "wide.tex")


@needs_tex
def test_a_paper_takes_it_in(found: Evidence, tmp_path: Path) -> None:
    found.export("latex")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs,array,graphicx,textcomp}\begin{document}"
        r"Before. \input{report} Behind, see Table~\ref{tab:whet-gains}.\end{document}", "utf-8"
    )  # fmt: skip
    tex(tmp_path, "paper.tex")
    assert "Reference `tab:whet-gains" not in tex(tmp_path, "paper.tex")
