"""The project's own promises: version, pins, extras, commands, sizes and names of files."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import whet

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAY_BE_LONG: set[str] = set()  # paths under src of files that are one thing and over 300 lines
TRAPS = ROOT / "docs" / "traps.md"
TRAP = re.compile(r"^ *@trap\(|= trap\(", re.MULTILINE)  # a test with its wrong variant
SAYS_NOTHING = re.compile(r"(utils?|commons?|base|managers?|helpers?)")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements() -> list[Requirement]:
    texts = [*PROJECT["dependencies"], *(text for extra in EXTRAS.values() for text in extra)]
    return [need for need in map(Requirement, texts) if need.name != PROJECT["name"]]


def test_version_has_one_source() -> None:
    assert whet.__version__ == PROJECT["version"]


def test_torch_is_pinned_without_a_build() -> None:
    assert pins()["torch"] == "2.13.0"


@pytest.mark.parametrize("need", requirements(), ids=str)
def test_pin_exists_and_is_in_the_range(need: Requirement) -> None:
    assert need.specifier, "a floor is missing"
    assert need.specifier.contains(pins()[canonicalize_name(need.name)])


def test_extras() -> None:
    names = {
        "text",
        "vision",
        "metric",
        "graph",
        "ray",
        "slurm",
        "onnx",
        "stacking",
        "optim",
        "hub",
        "hosts",
        "track",
        "docs",
        "dev",
        "notebook",
    }
    assert set(EXTRAS) == names


def test_readme_and_ci_run_the_same_command() -> None:
    assert "make test" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT / "src")): len(path.read_text(encoding="utf-8").splitlines())
        for path in SOURCES
    }
    assert {name for name, length in lengths.items() if length > 300} == MAY_BE_LONG


def test_names_say_what_is_inside() -> None:
    names = [part for path in SOURCES for part in path.relative_to(ROOT / "src").parts]
    assert [name for name in names if SAYS_NOTHING.fullmatch(name.removesuffix(".py"))] == []


def test_the_wheel_holds_all_that_the_package_reads(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*words, str(ROOT)], check=True, capture_output=True, text=True)
    (wheel,) = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("whet/")}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src/whet"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert held == {line.removeprefix("src/") for line in tracked.stdout.split()}
    kinds = {"csv.gz", "jsonl.gz", "css", "jinja", "txt", "md", "typed"}
    assert all(any(name.endswith(f".{kind}") for name in held) for kind in kinds)


def files_named(text: str) -> set[str]:
    return set(re.findall(r"tests/[\w/]*test_\w+\.py", text))


def test_every_trap_is_told() -> None:
    holding = {
        str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")
        if TRAP.search(path.read_text(encoding="utf-8"))
    }  # fmt: skip
    assert holding - files_named(TRAPS.read_text(encoding="utf-8")) == set()


def test_what_is_told_of_a_trap_is_tested() -> None:
    """By a test with a wrong variant in the file that is named, or by the code beside it."""
    stories = re.split(r"\n(?=\*\*|\| |## )", TRAPS.read_text(encoding="utf-8"))
    for story in stories:
        for name in files_named(story):
            test = ROOT / name
            assert test.exists(), f"docs/traps.md names {name}, which is not there"
            holds = TRAP.search(test.read_text(encoding="utf-8"))
            assert holds or "```python" in story, f"docs/traps.md: nothing in {name} tests: {story}"
