"""Which formats there are, and the files of each: written whole, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from whet.errors import InputError, UnknownName
from whet.study import files
from whet.study.exports import latex, markdown, pictures, references, spreadsheet

if TYPE_CHECKING:
    from whet.study.evidence import Evidence

Files = Mapping[str, str | bytes]


def _html(found: Evidence) -> Files:
    return {found.report.name: found.report.read_bytes()}


def _pictures(found: Evidence) -> Files:
    return {name: data for each in pictures.of(found) for name, data in each.files().items()}


# In the order of writing: what a report cites and shows is there before the report is.
MAKES: dict[str, Callable[[Evidence], Files]] = {
    "html": _html,
    "csv": lambda found: {"verdicts.csv": spreadsheet.text(found)},
    "bibtex": lambda found: {"methods.bib": references.text(found.study)},
    "figures": _pictures,
    "markdown": lambda found: {"report.md": markdown.text(found)},
    "latex": lambda found: {"report.tex": latex.text(found)},
}
ALL = "all"
TAKES = {"markdown": ("bibtex", "figures"), "latex": ("bibtex", "figures")}


def wanted(formats: str | Iterable[str]) -> list[str]:
    """The formats to write, in the order of writing, with those that others show or cite.

    Args:
        formats: names, parted by commas where they are one text.

    Raises:
        InputError: an unknown format, or none.

    >>> wanted("latex,html")
    ['html', 'bibtex', 'figures', 'latex']
    """
    several = formats.split(",") if isinstance(formats, str) else formats
    names = {name.strip().lower() for name in several} - {""}
    if not names:
        raise InputError(f"no format was given. There are: {', '.join([*MAKES, ALL])}")
    for name in sorted(names - {*MAKES, ALL}):
        raise UnknownName("format", name, [*MAKES, ALL])
    if ALL in names:
        return list(MAKES)
    names |= {other for name in names for other in TAKES.get(name, ())}
    return [name for name in MAKES if name in names]


def write(found: Evidence, formats: str | Iterable[str], out: Path | None = None) -> list[Path]:
    """Write a study's report; says which files there are now.

    Args:
        found: what the study's files say so far.
        formats: as in `wanted`.
        out: the folder; None for the study's own.

    Raises:
        InputError: an unknown format.
        WhetError: a file cannot be written.
    """
    names, folder = wanted(formats), found.report.parent if out is None else out
    made = {name: data for kind in names for name, data in MAKES[kind](found).items()}
    for name, data in made.items():
        if folder / name != found.report:
            files.write(folder / name, data)
    return [folder / name for name in made]
