"""What mkdocs calls: pages are generated, and the navigation follows from what there is."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from website import api, commands, methods
from whet.methods import registry
from whet.study.catalogue import CHINESE

ROOT = Path(__file__).parent.parent
OUTSIDE = {"README.md": "index.md", "README.zh.md": "index.zh.md",
           "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # fmt: skip
FOLDERS = {"docs/methods": "methods/index.md", "docs/zh/methods": "methods/zh.md"}
STYLE = "assets/whet.css"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The address is pyproject.toml's, the navigation that of the pages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    config.site_url = project["urls"]["Documentation"]
    config.extra_css.append(STYLE)
    config["generated"] = generated()
    config.nav = navigation(Path(config.docs_dir), config["generated"])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is generated."""
    for path, content in config["generated"].items():
        if (written := files.get_file_from_path(path)) is not None:
            files.remove(written)  # what is generated begins with it
        files.append(File.generated(config, path, content=content))
    style = Path(__file__).with_name("style.css").read_text("utf-8")
    files.append(File.generated(config, STYLE, content=style))
    return files


def generated() -> dict[str, str]:
    """Every generated page by its path."""
    outside = {page: moved((ROOT / file).read_text("utf-8")) for file, page in OUTSIDE.items()}
    return outside | {"commands.md": commands.page()} | methods.pages() | api.pages()


def moved(text: str) -> str:
    """A page from beside docs/, with its links as they are from within.

    >>> moved("[a](docs/a.md), [b](CONTRIBUTING.md#style)")
    '[a](a.md), [b](contributing.md#style)'
    """
    for file, page in OUTSIDE.items():
        text = text.replace(f"]({file}", f"]({page}")
    for folder, page in FOLDERS.items():
        text = text.replace(f"]({folder})", f"]({page})")
    return text.replace("](docs/", "](")


def navigation(docs: Path, pages: dict[str, str]) -> list[Any]:
    """Start, guides, methods, command line, errors, API."""
    guides = sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md")
                    if path.parent.name != "methods")  # fmt: skip
    layers: dict[str, list[str]] = {}
    for kind in sorted(registry().values(), key=lambda kind: (kind.layer, kind.name)):
        layer = kind.layer.name.capitalize().replace("_", " ")
        layers.setdefault(layer, []).append(f"methods/{kind.name}.md")
    chinese = [methods.path(name, CHINESE) for name in registry()]
    return [
        {"Start": "index.md"},
        {"中文": "index.zh.md"},
        {"Guides": [*(page for page in guides if page != "errors.md"), "contributing.md"]},
        {"Methods": ["methods/index.md", {"中文": ["methods/zh.md", *chinese]},
                     *({layer: paths} for layer, paths in layers.items())]},
        {"Reference": [{"Command line": "commands.md"}, "errors.md",
                       *({title(text): page} for page, text in pages.items()
                         if page.startswith("api/")), "changelog.md"]},
    ]  # fmt: skip


def title(text: str) -> str:
    """A page's first heading."""
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert found, f"a page without a heading: {text[:80]}"
    return found[1]
