r"""Formulas between dollar signs, rendered at build time to MathML, which browsers read unaided.

A Markdown extension: `$a$` stands in the line, `$$a$$` by itself.

>>> import markdown
>>> "<mi>&#x003B1;</mi>" in markdown.markdown(r"an $\alpha$", extensions=["website.mathml"])
True
"""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

BLOCK = r"\$\$(.+?)\$\$"
INLINE = r"(?<![\\$\w])\$(?![\s$])([^$]*?[^\s$\\])\$(?![\w$])"
UNKNOWN = re.compile(r">\s*(\\[A-Za-z]+)")  # a command that became text
SPELLED = {r"\arg\max": r"\mathrm{arg\,max}", r"\arg\min": r"\mathrm{arg\,min}"}


class Formula(InlineProcessor):
    """One kind of formula; what cannot be rendered stops the build."""

    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m: re.Match[str], data: str) -> tuple[str, int, int]:  # noqa: N802
        """The place where the rendered formula will be put."""
        assert self.md is not None
        return self.md.htmlStash.store(rendered(m[1], self.display)), m.start(0), m.end(0)


def rendered(latex: str, display: str) -> str:
    """A formula as MathML."""
    for command, other in SPELLED.items():
        latex = latex.replace(command, other)
    mathml = str(convert(" ".join(latex.split()), display=display))
    unknown = UNKNOWN.findall(mathml)
    if unknown:
        raise ValueError(f"{' '.join(unknown)} cannot be rendered; write this otherwise: {latex}")
    return mathml


class Formulas(Extension):
    """Both kinds; below code in priority and above escapes, which backslashes would be."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        """Take part in a conversion."""
        md.inlinePatterns.register(Formula(BLOCK, md, "block"), "formula-block", 187)
        md.inlinePatterns.register(Formula(INLINE, md, "inline"), "formula", 186)


def makeExtension(**settings: Any) -> Formulas:  # noqa: N802
    """What Markdown looks for in a module."""
    return Formulas(**settings)
