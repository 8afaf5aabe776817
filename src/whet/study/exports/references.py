"""The papers behind a study's methods, as BibTeX with keys that stay."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from whet.study import wording

DATA = "methods.bib"
OURS, VERDICTS = "whet", "verdicts"
ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n.*?^\}\n", re.MULTILINE | re.DOTALL)
KEYWORDS = re.compile(r"^ *keywords = \{([^}]*)\},\n", re.MULTILINE)


@cache
def entries() -> dict[str, tuple[tuple[str, ...], str]]:
    """Each entry by its key: what it is cited for, and its text without that."""
    data = importlib.resources.files("whet.study.exports").joinpath(DATA).read_text("utf-8")
    found = {}
    for entry in ENTRY.finditer(data):
        said = KEYWORDS.search(entry[0])
        about = tuple(re.split(r",\s*", said[1])) if said else ()
        found[entry[1]] = (about, KEYWORDS.sub("", entry[0]))
    return found


def cited(name: str) -> list[str]:
    """The keys of a method's papers; none for one that whet does not know.

    >>> cited("sam")
    ['foret2021sharpness', 'kwon2021asam']
    """
    return [key for key, (about, _) in entries().items() if name in about]


def used(study: Mapping[str, Any]) -> list[str]:
    """The methods of a study's arms, in the order in which they come."""
    named = (
        settings["name"]
        for arm in study["arms"]
        for settings in [*arm["methods"], *(arm.get("after") or ())]
    )
    return list(dict.fromkeys(named))


def text(study: Mapping[str, Any]) -> str:
    """The entries that a study's report cites; of methods without a paper a comment says so."""
    names = used(study)
    keys = [key for name in (OURS, VERDICTS, *names) for key in cited(name)]
    version = re.sub(r"[^\w.+-]", "", wording.plain(study["versions"].get("whet", "")))
    whet = f"  note = {{Version {version}}},\n}}\n" if version else "}\n"
    parts = [entries()[key][1] for key in dict.fromkeys(keys)]
    parts[0] = parts[0].removesuffix("}\n") + whet
    unknown = [wording.plain(name) for name in names if not cited(name)]
    if unknown:
        # BibTeX takes what stands outside an entry for a comment, up to the next @
        parts.append(f"% Without an entry: {', '.join(unknown).replace('@', ' at ')}\n")
    return "\n".join(parts)
