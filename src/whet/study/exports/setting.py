"""Templates in which everything that is put in is redacted and escaped, whatever it is."""

from __future__ import annotations

import importlib.resources
from collections.abc import Callable, Mapping
from typing import Any

from whet.study import wording


class Ready(str):
    """Text that is in the format's own words already."""

    __slots__ = ()


def render(
    template: str, escape: Callable[[str], str], given: Mapping[str, Any],
    own: Mapping[str, Callable[..., Ready]], **marks: Any,
) -> str:  # fmt: skip
    """A page from its template.

    Args:
        template: the file beside this one.
        escape: what any text goes through, after it was redacted and made one line.
        given: what the template sets.
        own: functions that it may call, whose results are escaped already.
        marks: where its expressions and blocks begin and end, if not as jinja has it.
    """
    from jinja2 import Environment, StrictUndefined

    def told(value: object) -> object:
        if isinstance(value, Ready):
            return value
        return escape(wording.plain(str(value)))

    text = importlib.resources.files("whet.study.exports").joinpath(template).read_text("utf-8")
    # no HTML: each format has its own escapes, in `finalize`, which no expression can go around
    page = Environment(undefined=StrictUndefined, finalize=told, trim_blocks=True,  # noqa: S701
                       lstrip_blocks=True, keep_trailing_newline=True, **marks)  # fmt: skip
    return page.from_string(text).render(**given, **own, wording=wording)
