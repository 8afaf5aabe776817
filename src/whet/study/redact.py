"""Take out of a study's words what they should not tell others: secrets, people, machines.

Reasons, tracebacks, settings and commands hold whatever the user's code and file system put there.
A token becomes `***`, a home folder `~`, this machine's name `(host)`. What cannot be known for
a secret by its look or by the name in front of it (`password=`, `--token`) is left as it is.
"""

from __future__ import annotations

import functools
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN, HOME, HOST = "***", "~", "(host)"

FLAGS = re.ASCII | re.IGNORECASE  # a letter of another alphabet may stand right before a key
# Keys that can be known by their look: the prefixes that their issuers give them.
LOOKS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,} | gh[opusr]_[A-Za-z0-9]{16,} | github_pat_\w{20,}
      | glpat-[\w-]{16,} | xox[a-z]-[\w-]{10,} | npm_[A-Za-z0-9]{30,} | pypi-[\w-]{30,}
      | [sr]k-(?=[\w-]{0,99}\d)[\w-]{16,} | [srp]k_(?:live|test)_[A-Za-z0-9]{10,}
      | (?:AKIA|ASIA)[A-Z0-9]{16} | AIza[\w-]{30,} | ya29\.[\w-]{20,} | nvapi-[\w-]{20,}
      | gsk_[A-Za-z0-9]{20,} | r8_[A-Za-z0-9]{30,} | dapi[0-9a-f]{32}
      | SG\.[\w-]{16,}\.[\w-]{16,} | eyJ[\w-]{8,999}\.[\w-]{8,999}\.[\w-]*
    )""",
    re.ASCII | re.VERBOSE,
)
BLOCK = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:[A-Za-z0-9+/=\s\\]*-----END [A-Z ]*-----"
    r"|[A-Za-z0-9+/=\s\\]*)"
)
# A tokenizer's own tokens are named like secrets and are none.
NAMED = (
    r"(?<!mask_)(?<!pad_)(?<!unk_)(?<!bos_)(?<!eos_)(?<!sep_)(?<!cls_)(?<!special_)"
    r"(?:token(?!:[ \t]+[A-Za-z]{1,15}(?:[\s,.]|$))"  # "one class per token: targets are ..."
    r"|passw(?:or)?d|passphrase|pwd|secret|signature|credentials?|cookie"
    r"|(?:api|access|account|auth|encryption|private|secret|signing)[ _-]?key)"
)
VALUE = r"""(?!(?:None|null|True|true|False|false)\b)
    (?:(?P<quote>\\?["'])(?:(?!(?P=quote))(?:\\.|[^\n\\]))*(?P=quote)?|[^\s"'\\,;&(){}<>\[\]\x00-\x1f]+)"""
SEPARATOR = r"""\\?["']?[ \t]*(?:=>?|:)[ \t]*"""
PAIR = re.compile(rf"(?P<name>{NAMED}{SEPARATOR}){VALUE}", FLAGS | re.VERBOSE)
FLAG = re.compile(
    rf"(?P<name>(?<![\w-])--?[\w-]{{0,40}}?{NAMED}[ \t]+)(?!-){VALUE}", FLAGS | re.VERBOSE
)
HEADER = re.compile(
    rf"(?P<name>\bauthorization{SEPARATOR})(?P<quote>\\?[\"'])?"
    r"(?:(?:Basic|Bearer|Digest|Negotiate|Token)[ \t]+)?[^\s\"'\\,;(){}<>]+(?P=quote)?"
    rf"|(?P<plain>\bauthorization{SEPARATOR})"
    r"(?:(?:Basic|Bearer|Digest|Negotiate|Token)[ \t]+)?[^\s\"'\\,;(){}<>]+",
    FLAGS,
)
BEARER = re.compile(r"(?P<name>\bBearer[ \t]+)[\w.~+/-]{12,}=*", FLAGS)
USERINFO = re.compile(r"(?P<name>\b[A-Za-z][A-Za-z0-9+.-]{0,20}://)[^\s/?#@\"'<>]+@", re.ASCII)
ENDS_AS_SECRET = re.compile(rf"{NAMED}$|^authorization$", FLAGS)

NAME = r"[^\s/\\:*?\"'<>|,;()\[\]{}]+"
WINDOWS = re.compile(
    rf"(?:\b[A-Za-z]:|(?<!\\)\\\\+[\w.-]{{1,99}})[\\/]+Users[\\/]+(?:[^\\/:*?\"'<>|\n]+(?=[\\/])|{NAME})",
    FLAGS,
)
FOLDERS = re.compile(
    rf"(?:(?<=file://)|(?<![\w./~-]))(?:/[\w.-]+){{0,2}}/(?:home|Users)/{NAME}", re.ASCII
)
ROOT = re.compile(r"(?:(?<=file://)|(?<![\w./~-]))/root(?![\w-]|\.\w)", re.ASCII)
# Names that many machines bear and that stand for other things in what a study says.
TELLS_NOTHING = {
    "accuracy", "baseline", "digits", "docker", "error", "home", "host", "localhost", "main",
    "model", "none", "python", "root", "runner", "seed", "server", "study", "test", "torch",
    "train", "whet", "worker",
}  # fmt: skip


def text(said: str) -> str:
    """What may be told of a text.

    >>> text("login(token='hf_abcdefghijklmnopqrst') in /home/ann/task.py")
    'login(token=***) in ~/task.py'
    """
    said = BLOCK.sub(HIDDEN, said)
    said = LOOKS.sub(HIDDEN, said)
    said = USERINFO.sub(rf"\g<name>{HIDDEN}@", said)
    said = HEADER.sub(lambda found: (found["name"] or found["plain"]) + HIDDEN, said)
    for pattern in (BEARER, PAIR, FLAG):
        said = pattern.sub(rf"\g<name>{HIDDEN}", said)
    said = WINDOWS.sub(HOME, said)
    home, machine = _here()
    said = home.sub(HOME, said) if home else said
    said = ROOT.sub(HOME, FOLDERS.sub(HOME, said))
    return machine.sub(HOST, said) if machine else said


def values(given: Any) -> Any:
    """A copy of nested plain values with every text in it redacted.

    A text or number under a key that names a secret goes as a whole.
    """
    if isinstance(given, str):
        return text(given)
    if isinstance(given, Mapping):
        return {values(key): _named(key, each) for key, each in given.items()}
    if isinstance(given, list | tuple):
        return [values(each) for each in given]
    return given


def _named(key: object, given: Any) -> Any:
    secret = isinstance(key, str) and ENDS_AS_SECRET.search(key)
    if secret and isinstance(given, str | int | float) and not isinstance(given, bool):
        return HIDDEN
    return values(given)


@functools.cache
def _here() -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    """This user's home and this machine's name, as far as they tell anything."""
    try:
        folder = str(Path.home())
    except RuntimeError:
        folder = ""
    return _home(folder), _machine(platform.node())


def _home(folder: str) -> re.Pattern[str] | None:
    folder = folder.rstrip("/\\")
    return re.compile(rf"(?<![\w.~-]){re.escape(folder)}(?![\w-])", re.ASCII) if folder else None


def _machine(name: str) -> re.Pattern[str] | None:
    """The name alone and with any domain behind it; asking for the domain could take seconds."""
    first = name.partition(".")[0]
    if len(first) < 3 or first.lower() in TELLS_NOTHING:
        return None
    whole = rf"(?<![\w.-]){re.escape(first)}(?:\.[A-Za-z0-9-]+)*(?![\w-])"
    return re.compile(whole, FLAGS)
