"""The documentation site: builds without a warning, its links hold, and it fetches nothing."""

from __future__ import annotations

import doctest
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

import whet
from tests.test_errors import kinds
from website import api, commands, hooks, mathml, methods
from website.docstrings import shown
from whet import cli
from whet.methods import catalogue, registry
from whet.study.catalogue import LANGUAGES

ROOT = Path(__file__).parent.parent
ELSEWHERE = re.compile(r"(https?:)?//")
FETCHING = {"stylesheet", "preconnect", "preload", "icon", "modulepreload", "manifest"}


@dataclass
class Page(HTMLParser):
    """What a page links to, fetches and can be linked at."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.text = self.path.read_text("utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if "src" in given or (tag == "link" and FETCHING & set(given.get("rel", "").split())):
            self.fetched.append(given.get("src") or given["href"])


def pages(site: Path) -> dict[Path, Page]:
    # the page for what is not found is served at any address, so its links are from the root
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path.resolve(): Page(path.resolve()) for path in files}


def broken(every: dict[Path, Page]) -> Iterator[str]:
    """Links and files within the site that are not there."""
    for path, page in every.items():
        for link in (*page.links, *page.fetched):
            if re.match(r"[a-z]+:|//", link):
                continue
            target, anchor = urldefrag(link)
            there = (path.parent / unquote(target)).resolve() if target else path
            known = every.get(there)
            if not there.is_file() or (known and anchor and unquote(anchor) not in known.anchors):
                yield f"{path.name} links to {link}"


def from_elsewhere(site: Path, every: dict[Path, Page]) -> Iterator[str]:
    """What a browser would fetch from another host."""
    for path, page in every.items():
        yield from (f"{path.name}: {one}" for one in page.fetched if ELSEWHERE.match(one))
    for style in site.rglob("*.css"):
        found = re.findall(r"(?:url\(|@import\s)\s*[\"']?([^\"')\s]+)", style.read_text("utf-8"))
        yield from (f"{style.name}: {one}" for one in found if ELSEWHERE.match(one))


def unrendered(every: dict[Path, Page]) -> Iterator[str]:
    """Formulas, examples and headed sections that came through as they were typed."""
    for path, page in every.items():
        prose = re.sub(r"<(code|script|annotation)\b.*?</\1>", "", page.text, flags=re.DOTALL)
        for sign in ("$$", "&gt;&gt;&gt;", "\\frac", "```", ":::"):
            if sign in prose:
                yield f"{path.name} shows {sign}"


def missing(site: Path, every: dict[Path, Page]) -> Iterator[str]:
    """What should be on a page and is not."""
    wanted = [("errors", kind.__name__.lower()) for kind in kinds()]
    wanted += [("commands", f"whet-{each.name or each.callback.__name__}")
               for each in cli.app.registered_commands]  # fmt: skip
    wanted += [("api/whet", name) for name in api.names(whet)]
    wanted += [(f"methods/{name}", f"{kind.__module__}.{kind.__name__}")
               for name, kind in registry().items()]  # fmt: skip
    for page, anchor in wanted:
        if anchor not in every[(site / f"{page}.html").resolve()].anchors:
            yield f"{page} lacks {anchor}"


def test_the_site(tmp_path: Path) -> None:
    """One test and one build: several workers would each make their own."""
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    every = pages(site)
    problems = [*broken(every), *from_elsewhere(site, every), *unrendered(every),
                *missing(site, every)]  # fmt: skip
    assert problems == []
    assert sum(page.text.count("<math ") for page in every.values()) > len(registry())


class TestTheChecks:
    """What the checks above would find."""

    @pytest.mark.parametrize("link", ["b.html", "#there", "a.html#there", "x/a.html"])
    def test_broken(self, link: str, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text(f'<a href="{link}">a</a><p id="here">')
        assert list(broken(pages(tmp_path))) == [f"a.html links to {link}"]

    @pytest.mark.parametrize("link", ["#here", "a.html#here", "a.html", "https://elsewhere"])
    def test_whole(self, link: str, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text(f'<a href="{link}">a</a><p id="here">')
        assert list(broken(pages(tmp_path))) == []

    @pytest.mark.parametrize(
        "text",
        [
            '<script src="https://cdn/x.js">', '<link rel="stylesheet" href="//cdn/x.css">',
            '<img src="http://x/a.png">', '<iframe src="https://x">',
        ],
    )  # fmt: skip
    def test_from_elsewhere(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text(text)
        assert len(list(from_elsewhere(tmp_path, pages(tmp_path)))) == 1

    @pytest.mark.parametrize("style", ["@import 'https://x/y';", "p { src: url(//x/y) }"])
    def test_styles_from_elsewhere(self, style: str, tmp_path: Path) -> None:
        (tmp_path / "a.css").write_text(style + "\nq { src: url(near.woff) }")
        assert len(list(from_elsewhere(tmp_path, {}))) == 1

    def test_unrendered(self, tmp_path: Path) -> None:
        (tmp_path / "a.html").write_text("<p>$$a$$ &gt;&gt;&gt; 1</p><code>$$</code>")
        assert list(unrendered(pages(tmp_path))) == ["a.html shows $$", "a.html shows &gt;&gt;&gt;"]


@pytest.mark.parametrize(
    "name", ["api", "commands", "docstrings", "hooks", "markdown", "mathml", "methods", "results"]
)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"website.{name}")
    assert doctest.testmod(module).failed == 0


def test_no_example_that_is_not_executed() -> None:
    """Docstrings, READMEs and written pages are executed by test_docs; nothing else brings code."""
    for path, text in hooks.generated().items():
        if path not in ("index.md", "index.zh.md") and not (ROOT / "docs" / path).exists():
            assert "```py" not in text, path


def test_a_methods_page() -> None:
    card = next(card for card in catalogue() if card["name"] == "fgm")
    english, chinese = (methods.page(card, language) for language in LANGUAGES)
    for said in ("# FGM: adversarial training on embeddings\n", "[arXiv:1605.07725](",
                 "| avoid when |", "| `epsilon` | `1.0` |", "::: whet.methods.fgm.FGM\n",
                 "- `test_attacks_with_the_micro_batchs_own_gradient`",
                 "- [`freelb`](freelb.md): both claim the second gradient",
                 "| intents | accuracy | <code>fgm</code> |"):  # fmt: skip
        assert said in english
    for said in ("| 不宜使用 |", "- [`freelb`](freelb.md)：两者都要占用第二次求梯度", "未能证明 |"):
        assert said in chinese


def test_the_command_lines_page() -> None:
    text = commands.page()
    assert "whet methods --lang zh" in text
    assert max(map(len, text.splitlines())) <= int(commands.WIDTH)
    assert "\x1b" not in text


def test_a_formula_that_cannot_be_rendered_stops_the_build() -> None:
    with pytest.raises(ValueError, match=r"\\unheard cannot be rendered.*\\unheard x"):
        mathml.rendered(r"a + \unheard x", "inline")


def test_dollars_that_are_no_formulas_stay() -> None:
    import markdown

    for text in ("costs $5 or $6", "`$a$`", "in $OUT and $HOME", "a $ b $ c"):
        assert "<math" not in markdown.markdown(text, extensions=["website.mathml"])
    assert markdown.markdown("$a_b$, $c_d$", extensions=["website.mathml"]).count("<math") == 2


def test_docstrings() -> None:
    text = "Line.\n\nCost: 1 pass; arXiv:1234.56789.\n\n>>> f(1)\n... # arXiv:1234.56789\n2\n\nEnd."
    assert shown(text) == (
        "Line.\n\n**Cost.** 1 pass; [arXiv:1234.56789](https://arxiv.org/abs/1234.56789).\n\n"
        "```pycon\n>>> f(1)\n... # arXiv:1234.56789\n2\n```\n\nEnd."
    )
