"""Errors: each kind has its section, and each instance carries the link to it."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
import re
import sys
import tomllib
import traceback
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import whet
from whet import cli, errors
from whet.errors import Clash, InputError, NotApplicable, UnknownName, WhetError

ROOT = Path(__file__).parent.parent
SECTIONS = f"\n{(ROOT / 'docs' / 'errors.md').read_text('utf-8')}".split("\n## ")[1:]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def kinds() -> list[type[WhetError]]:
    """Every kind of error that whet's modules define."""
    for module in pkgutil.walk_packages(whet.__path__, "whet."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)

    def below(kind: type[WhetError]) -> Iterator[type[WhetError]]:
        yield kind
        for each in kind.__subclasses__():
            yield from below(each)

    found = [kind for kind in below(WhetError) if kind.__module__.startswith("whet.")]
    return sorted(set(found), key=lambda kind: kind.__name__)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> str:
    address = "https://docs.example/whet/"
    monkeypatch.setattr(errors, "site", lambda: address)
    return address


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
class TestPage:
    def test_has_a_section_with_an_example(self, kind: type[WhetError]) -> None:
        section = next((text for text in SECTIONS if text.startswith(f"{kind.__name__}\n")), None)
        assert section, f"docs/errors.md has no section {kind.__name__}"
        for part in ("What it means.", "Common causes.", "What to do."):
            assert section.count(f"**{part}**") == 1
        example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
        assert example
        assert f"except {kind.__name__}" in example[1]

    def test_the_link_is_that_section(self, kind: type[WhetError], published: str) -> None:
        page, _, anchor = str(kind.page()).removeprefix(published).partition("#")
        assert (ROOT / "docs" / page).with_suffix(".md").exists()
        assert anchor == kind.__name__.lower()  # as the site's headings are named


def test_no_section_is_left_over() -> None:
    assert sorted(text.partition("\n")[0] for text in SECTIONS) == [k.__name__ for k in kinds()]


def test_the_address_is_the_projects() -> None:
    assert errors.site() == PROJECT["urls"]["Documentation"]


def test_a_users_own_kind_links_to_the_nearest(published: str) -> None:
    class Mine(InputError):
        def __init__(self, where: str) -> None:
            super().__init__(f"not in {where}")

    assert Mine("here").__notes__ == [f"more: {published}errors.html#inputerror"]


def test_the_message_is_unchanged_and_the_traceback_ends_with_the_link(published: str) -> None:
    error = Clash("two of them")
    assert (str(error), error.args) == ("two of them", ("two of them",))
    assert traceback.format_exception_only(error) == [
        "whet.errors.Clash: two of them\n", f"more: {published}errors.html#clash\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "error", [UnknownName("task", "a", ["b"]), NotApplicable("ema", "no"), Clash("no")], ids=repr
)
def test_survives_a_change_of_process(error: WhetError) -> None:
    error.add_note("in worker 3")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(twin) is type(error)
        assert (str(twin), twin.args, vars(twin)) == (str(error), error.args, vars(error))
    assert error.__notes__[-1] == "in worker 3"


class TestWithoutASite:
    @pytest.fixture(autouse=True)
    def fresh(self) -> Iterator[None]:
        errors.site.cache_clear()
        yield
        errors.site.cache_clear()

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(name: str) -> None:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "metadata", absent)
        assert errors.site() is None
        assert not hasattr(Clash("no"), "__notes__")

    def test_the_metadata_is_read_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real, asked = metadata.metadata, []
        monkeypatch.setattr(metadata, "metadata", lambda name: asked.append(name) or real(name))
        for _ in range(3):
            Clash("no")
        assert asked == ["whet"]


def test_the_command_line_prints_the_link(
    published: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["whet", "methods", "emma"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: unknown method 'emma'")
    assert second == f"more: {published}errors.html#unknownname"
