"""The methods under contract: whatever the registry finds, never a list."""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
from itertools import combinations
from pathlib import Path

from tests.contract.case import Case
from whet import nesting
from whet.method import LATE, Method
from whet.methods import make, registry

ALL = 400  # up to so many pairs, all of them are run at every change (about 0.1 s each)
SHARDS = 4


def case(name: str) -> Case:
    """A method's case, from its own test file."""
    try:
        found: Case = importlib.import_module(f"tests.methods.test_{name}").CASE
    except (ModuleNotFoundError, AttributeError) as error:
        raise AssertionError(
            f"method {name} is not under contract: write tests/methods/test_{name}.py with a CASE"
        ) from error
    return found


def by_itself(name: str) -> Method:
    """A method's case, but in the part of training that is its own."""
    given = case(name).method.settings()
    return make({key: value for key, value in given.items() if key != "during"})


def names() -> list[str]:
    return list(registry())


def late() -> list[str]:
    """The methods that begin late where nobody says otherwise."""
    return [name for name, kind in registry().items() if kind.span == LATE]


def refused(a: str, b: str) -> bool:
    """Whether a pair is refused by declaration."""
    return nesting.clash(case(a).method, case(b).method) is not None


def pairs() -> list[tuple[str, str]]:
    return list(combinations(names(), 2))


def selected(
    every: list[tuple[str, str]], changed: set[str], commit: str, limit: int = ALL
) -> list[tuple[str, str]]:
    """Pairs that a change touches, and a shard by the commit's hash; all where there are few."""
    if len(every) <= limit or os.environ.get("WHET_TEST_ALL") or "*" in changed:
        return every

    def shard(pair: tuple[str, str]) -> bool:
        digest = hashlib.sha256(f"{commit}{pair}".encode()).digest()
        return digest[0] % SHARDS == 0

    return [pair for pair in every if changed & set(pair) or shard(pair)]


def changed_methods() -> tuple[set[str], str]:
    """Methods that the last commit and the working tree touch, and the commit's hash.

    A change outside src/whet/methods may touch them all: then the set holds "*".
    """
    root = Path(__file__).parents[2]

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True
        ).stdout  # fmt: skip

    try:
        commit = git("rev-parse", "HEAD").strip()
        files = git("diff", "--name-only", "HEAD~1", "--", "src").split()
    except (OSError, subprocess.CalledProcessError):
        return {"*"}, ""  # no git or no history: run everything
    stems = {Path(file).stem for file in files if "/methods/" in file}
    core = {"*"} if any("/methods/" not in f and "/study/" not in f for f in files) else set()
    return stems | core, commit
