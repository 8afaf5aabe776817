"""The report as a browser shows it: nothing is asked for, nothing complained of, nothing too wide.

Without Chromium there is nothing to show it, and these tests say so; WHET_BROWSER=chromium, which
the CI sets, makes that an error.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study import browser, designs, invented

PAGES = {
    "whole": invented.whole, "large": invented.large, "everything": designs.everything,
    "unfinished": designs.unfinished, "screening": designs.screening, "many": designs.many,
}  # fmt: skip
WIDTHS = (320, 390, 1200)
PANEL = "svg:not(.wide):not(.narrow)"
SEEN = "each => each.clientWidth"
CARD = 0.5  # of a window's width that an open page's text must at least take


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Page]:
    path = browser.program()
    if path is None:
        pytest.skip(f"no Chromium to show the report in: {browser.INSTALL}")
    with browser.opened(tmp_path_factory.mktemp("browser"), path) as page:
        yield page


@pytest.fixture(scope="module", params=PAGES)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / f"{request.param}.html"
    file.write_text(PAGES[request.param](), encoding="utf-8")
    return file


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_shown(chromium: browser.Page, report: Path, width: int, dark: bool) -> None:
    chromium.open(report, width, dark)
    opened = chromium.evaluate(
        "[...document.querySelectorAll('details')].map(each => each.open = true).length"
    )
    assert opened > 5
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.scrollingElement.scrollWidth") <= width
    assert chromium.evaluate("document.querySelector('h1').clientWidth") >= CARD * width
    twice = "svg.wide, svg.narrow"
    shown, there, panels, seen = (
        chromium.evaluate(f"[...document.querySelectorAll('{which}')].filter({how}).length")
        for which, how in ((twice, SEEN), (twice, "each => 1"), (PANEL, "each => 1"), (PANEL, SEEN))
    )
    assert 2 * shown == there > 0
    assert seen == panels > 0
    colour = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(22, 25, 29)") is dark
    requests = chromium.named("Network.requestWillBeSent")
    assert [each["request"]["url"] for each in requests] == [report.as_uri()]
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert chromium.named(*complaints) == []


COLUMN = """(column) => [...document.querySelectorAll('table.verdicts tbody')][0].rows.length
    ? [...document.querySelector('table.verdicts').tBodies[0].rows]
        .map(row => row.cells[column].textContent.trim()) : []"""
WAYS = ("ascending", "descending")
FOLD = "document.querySelector('details:not([open]):has(pre)').getBoundingClientRect().height"
SORTED = "document.querySelectorAll('table.verdicts th')[{}].getAttribute('aria-sort')"
BUTTON = "document.querySelectorAll('table.verdicts th [role=button]')[{}].{}()"


def gains(page: browser.Page) -> list[float]:
    return [float(text.replace("\N{MINUS SIGN}", "-")) for text in page.evaluate(f"({COLUMN})(1)")]


def test_a_heading_sorts_its_table(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "many.html"
    file.write_text(designs.many(), encoding="utf-8")
    chromium.open(file, 1200, dark=False)
    first = gains(chromium)
    assert len(first) == 40
    assert first == sorted(first, reverse=True)
    chromium.evaluate(BUTTON.format(1, "click"))
    assert gains(chromium) == sorted(first)
    assert chromium.evaluate(SORTED.format(1)) == "ascending"
    chromium.evaluate(BUTTON.format(0, "click"))
    names = chromium.evaluate(f"({COLUMN})(0)")
    assert names == sorted(names)
    assert gains(chromium) not in (sorted(first), first)
    assert chromium.evaluate(SORTED.format(1)) is None
    assert chromium.evaluate(SORTED.format(0)) == "ascending"


def test_a_heading_sorts_by_keyboard(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "many.html"
    file.write_text(designs.many(), encoding="utf-8")
    chromium.open(file, 390, dark=False)
    first = gains(chromium)
    chromium.evaluate(BUTTON.format(0, "focus"))
    chromium.press("Tab", 9)
    assert chromium.evaluate("document.activeElement.textContent") == "gain"
    assert chromium.evaluate("document.activeElement.getBoundingClientRect().width") > 10
    keys = (("Enter", 13), (" ", 32))
    for key, way, expected in zip(keys, WAYS, (sorted(first), first), strict=True):
        chromium.press(*key)
        assert gains(chromium) == expected
        assert chromium.evaluate(SORTED.format(1)) == way
    assert chromium.named("Runtime.exceptionThrown", "Log.entryAdded") == []


def test_what_has_no_number_is_sorted_last(chromium: browser.Page, tmp_path: Path) -> None:
    cells = ["+0.2", "\u2013", "\u22121,200.5 MB", "< 0.001", "0.01 to 3"]
    rows = "".join(f"<tr><td>{cell}</td></tr>" for cell in cells)
    page = designs.screening()
    head = "<table class='verdicts sortable'><thead><tr><th>x</th></tr></thead>"
    table = f"{head}<tbody>{rows}</tbody></table>"
    file = tmp_path / "small.html"
    file.write_text(page.replace("<main>", f"<main>{table}"), encoding="utf-8")
    chromium.open(file, 1200, dark=False)
    for expected in ([2, 3, 4, 0, 1], [0, 4, 3, 2, 1]):
        chromium.evaluate(BUTTON.format(0, "click"))
        assert chromium.evaluate(f"({COLUMN})(0)") == [cells[at] for at in expected]


def test_a_script_of_anyone_else_does_not_run(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "changed.html"
    page = designs.screening().replace("<main>", "<main><script>document.title = 'x'</script>")
    file.write_text(page, encoding="utf-8")
    chromium.open(file, 1200, dark=False)
    assert chromium.evaluate("document.title") == "What helped: Pets"
    assert chromium.named("Log.entryAdded")


def test_without_scripts_everything_is_there(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "everything.html"
    file.write_text(designs.everything(), encoding="utf-8")
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(file, 1200, dark=False)
        assert chromium.evaluate("document.querySelectorAll('[role=button]').length") == 0
        assert chromium.evaluate("document.querySelectorAll('ul.lines li').length") == 6
        assert len(gains(chromium)) == 6
        assert chromium.evaluate("document.querySelectorAll('.verdicts')[0].offsetHeight") > 100
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_printed(chromium: browser.Page, tmp_path: Path, dark: bool) -> None:
    file = tmp_path / "everything.html"
    file.write_text(designs.everything(), encoding="utf-8")
    chromium.open(file, 1200, dark)
    folded = chromium.evaluate("document.querySelectorAll('details:not([open])').length")
    assert folded > 10
    closed = chromium.evaluate(FOLD)
    assert chromium.printed().startswith(b"%PDF-")
    assert chromium.evaluate("document.querySelectorAll('details:not([open])').length") == folded
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        ink = "getComputedStyle(document.body).{}"
        assert chromium.evaluate(ink.format("backgroundColor")) == "rgb(255, 255, 255)"
        assert chromium.evaluate(ink.format("color")) == "rgb(0, 0, 0)"
        assert chromium.evaluate(FOLD) > closed + 20  # what is folded is printed
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")


def test_a_long_table_has_its_head_on_every_page(chromium: browser.Page, tmp_path: Path) -> None:
    text = shutil.which("pdftotext")
    if text is None:
        pytest.skip("no pdftotext to read the printed report with: apt-get install poppler-utils")
    file, printed = tmp_path / "many.html", tmp_path / "many.pdf"
    file.write_text(designs.many(), encoding="utf-8")
    chromium.open(file, 1200, dark=False)
    printed.write_bytes(chromium.printed())
    said = subprocess.run(
        [text, "-layout", printed, "-"], capture_output=True, text=True, check=True
    )
    pages = [page for page in said.stdout.split("\f") if "p (Holm)" in page]
    assert len(pages) >= 3


def test_what_stays_folded_is_said_to_be(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "large.html"
    file.write_text(invented.large(), encoding="utf-8")
    chromium.open(file, 1200, dark=False)
    chromium.call("Emulation.setEmulatedMedia", media="print")
    try:
        after = (
            "getComputedStyle(document.querySelector('details.many summary'), '::after').content"
        )
        assert "not printed" in chromium.evaluate(after)
    finally:
        chromium.call("Emulation.setEmulatedMedia", media="")


def test_what_a_page_does_wrong_is_noticed(chromium: browser.Page, tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text(
        "<!doctype html><meta charset=utf-8><meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'\"><p style='width: 900px'>wide</p><script>1</script>"
    )
    chromium.open(file, 400, dark=False)
    assert chromium.evaluate("innerWidth") == 400
    said = [each["entry"]["text"] for each in chromium.named("Log.entryAdded")]
    assert any("Content Security Policy" in each for each in said)
    file.write_text(
        "<!doctype html><p style='width: 900px'>wide</p><img src='http://127.0.0.1:9/'>"
    )
    chromium.open(file, 400, dark=False)
    assert chromium.evaluate("document.scrollingElement.scrollWidth") > 400
    assert len(chromium.named("Network.requestWillBeSent")) == 2
