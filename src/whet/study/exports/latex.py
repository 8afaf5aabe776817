r"""The report in LaTeX: to be compiled as it is, or taken into a paper with `\input`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from whet.study import wording
from whet.study.exports import content
from whet.study.exports.setting import Ready, render
from whet.study.exports.tabulated import Table

if TYPE_CHECKING:
    from whet.study.evidence import Evidence

TEMPLATE = "report.tex.jinja"
MARKS = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%",
    "block_end_string": "%>", "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip
LETTERS = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"{\char34}",
    "`": r"\textasciigrave{}",
    # a line of a table ends with \\, which takes these for its own
    "[": "{[}", "]": "{]}", "*": "{*}",
    wording.MINUS: "$-$", wording.TIMES: r"$\times$", wording.NOTHING: r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}", "…": r"\dots{}", "\N{NO-BREAK SPACE}": "~", "√": r"$\surd$",
    "µ": r"\textmu{}", "μ": r"\textmu{}", "≥": r"$\geq$", "≤": r"$\leq$", "±": r"$\pm$",
    "λ": r"$\lambda$", "β": r"$\beta$", "α": r"$\alpha$", "ε": r"$\varepsilon$",
}  # fmt: skip
JOINED = re.compile(r"([-',])(?=\1)")  # two of these are set as another sign
SET = str.maketrans(LETTERS)
WIDE, NARROW = r">{\raggedright\arraybackslash}p{0.27\linewidth}", "l"


def text(found: Evidence) -> str:
    """The report; its figures lie in `figures/`, its papers in `methods.bib`."""
    own: dict[str, Callable[..., Ready]] = {"table": table, "command": command, "cite": cite}
    return re.sub(r"\n{3,}", "\n\n", render(TEMPLATE, escape, content.of(found), own, **MARKS))


def escape(said: str) -> str:
    r"""One line of text that stands for itself anywhere in LaTeX, in a cell and a caption too.

    Letters beyond Latin ones stay as they are: XeLaTeX and LuaLaTeX set them.

    >>> print(escape("100 % of r_drop & {x}"))
    100 \% of r\_drop \& \{x\}
    """
    return JOINED.sub(r"\1{}", unicodedata.normalize("NFC", said).strip().translate(SET))


def table(about: Table) -> Ready:
    """The rows and columns alone, by booktabs; the last column of words may take several lines."""
    columns = [NARROW if at in about.words else "r" for at in range(len(about.head))]
    if columns[-1] == NARROW:
        columns[-1] = WIDE
    head, *lines = (
        " & ".join(escape(wording.plain(cell)) for cell in line) + r" \\"
        for line in (about.head, *about.lines)
    )
    return Ready("\n".join([
        rf"\begin{{tabular}}{{@{{}}{''.join(columns)}@{{}}}}", r"\toprule", head, r"\midrule",
        *lines, r"\bottomrule", r"\end{tabular}",
    ]))  # fmt: skip


def command(said: str) -> Ready:
    """A command in type, which may be broken into lines at its blanks."""
    text = escape(wording.plain(said)).replace("'", r"\textquotesingle{}")
    return Ready(rf"{{\ttfamily\raggedright {text}\par}}")


def cite(keys: list[str]) -> Ready:
    """The keys of papers; whet's own, so that there is nothing to escape."""
    return Ready(rf"~\cite{{{','.join(keys)}}}" if keys else "")
