"""The report as a browser shows it: nothing is asked for, nothing complained of, nothing too wide.

Without Chromium there is nothing to show it, and these tests say so; WHET_BROWSER=chromium, which
the CI sets, makes that an error.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.study import browser, invented

PAGES = {"whole": invented.whole, "large": invented.large}
WIDTHS = (320, 400, 1200)
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
    assert opened > 10
    assert chromium.evaluate("innerWidth") == width
    assert chromium.evaluate("document.scrollingElement.scrollWidth") <= width
    assert chromium.evaluate("document.querySelector('h1').clientWidth") >= CARD * width
    shown = chromium.evaluate(
        "[...document.querySelectorAll('svg')].filter(each => each.clientWidth).length"
    )
    assert 2 * shown == chromium.evaluate("document.querySelectorAll('svg').length")
    colour = chromium.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(22, 25, 29)") is dark
    requests = chromium.named("Network.requestWillBeSent")
    assert [each["request"]["url"] for each in requests] == [report.as_uri()]
    complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert chromium.named(*complaints) == []


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
