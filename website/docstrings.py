"""Docstrings as the site shows them, and the constructors of methods, which `@method` makes."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any

import griffe

from whet.methods import registry

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\n).+)*", re.MULTILINE)
HEADED = re.compile(r"^(Cost|Paper|Resources|Shapes): ", re.MULTILINE)
ARXIV = re.compile(r"\barXiv:(\d{4}\.\d{4,5})")


def shown(text: str) -> str:
    """A docstring with its examples fenced, its one-line sections headed and its papers linked.

    >>> shown("Cost: no pass.")
    '**Cost.** no pass.'
    """
    text = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", text)
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else linked(part) for part in parts)


def linked(text: str) -> str:
    """Prose with headed one-line sections and with links to the papers."""
    return HEADED.sub(r"**\1.** ", papers(text))


def papers(text: str) -> str:
    """Each arXiv number as a link.

    >>> papers("arXiv:1703.01780")
    '[arXiv:1703.01780](https://arxiv.org/abs/1703.01780)'
    """
    return ARXIV.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


class Docstrings(griffe.Extension):
    """What is changed in the sources' description before pages are made of it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = shown(obj.docstring.value)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """The whole package, read."""
        for kind in registry().values():
            described = pkg[kind.__module__.partition(".")[2]][kind.__name__]
            if "__init__" not in described.members:
                described.set_member("__init__", _constructor(described, kind))


def _constructor(described: griffe.Class, kind: type) -> griffe.Function:
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()

    def expression(source: str) -> Any:
        return griffe.get_expression(ast.parse(source, mode="eval").body, described)

    # the default is the value; in the source there stands a call of `number` or `choice`
    given = [
        griffe.Parameter(
            field.name, kind=griffe.ParameterKind.positional_or_keyword,
            annotation=expression(str(field.type)), default=expression(repr(field.default)),
        )
        for field in fields if field.init
    ]  # fmt: skip
    first = griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)
    return griffe.Function("__init__", parameters=griffe.Parameters(first, *given))
