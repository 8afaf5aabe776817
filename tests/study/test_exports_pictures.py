"""Figures as files: print colours, fonts within, dots to an inch, the user's settings aside."""

import io
import re
import zlib
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from tests.study import invented
from whet.study.drawing import CONCRETE
from whet.study.exports import pictures

STAND_INS = {tuple(bytes.fromhex(colour[1:])) for colour in CONCRETE}
NAME = "label_smoothing@start"  # so long that a line leads to it in the figure of costs
NUMBERS = re.compile(r"([\d.]+) ([\d.]+) ([\d.]+) (?:rg|RG)\b")
GREYS = re.compile(r"([\d.]+) (?:g|G)\b")


def colours_of_pdf(data: bytes) -> set[tuple[int, ...]]:
    """Every colour that something is filled or drawn with."""
    streams = re.findall(rb"FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL)
    text = "".join(zlib.decompress(stream).decode("latin-1") for stream in streams)
    parts = [*NUMBERS.findall(text), *((grey,) * 3 for grey in GREYS.findall(text))]
    return {tuple(round(255 * float(part)) for part in each) for each in parts}


def colours_of_png(data: bytes) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return {colour for _, colour in image.getcolors(image.width * image.height) or ()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = invented.evidence(tmp_path_factory.mktemp("study"), NAME)
    return {name: data for each in pictures.of(found) for name, data in each.files().items()}


def test_there_is_a_figure_for_every_question(made: dict[str, bytes]) -> None:
    names = {Path(name).stem for name in made}
    assert names == {"gains", "costs", "curves", "leaving", "family-1-ladder"}
    assert len(made) == 2 * len(names)


def test_what_has_nothing_to_show_is_no_figure(tmp_path: Path) -> None:
    found = invented.evidence(tmp_path)
    for several in (found.comparisons, found.leaving, found.rows, found.further):
        several.clear()
    assert pictures.of(found) == []


def test_colours_are_those_of_print(made: dict[str, bytes]) -> None:
    ink, quiet = (tuple(bytes.fromhex(CONCRETE[each][1:])) for each in ("#010101", "#020202"))
    for name, data in made.items():
        seen = colours_of_pdf(data) if name.endswith(".pdf") else colours_of_png(data)
        assert not seen & STAND_INS, name
        assert {ink, quiet} <= seen, name


def test_bands_of_curves_are_of_their_lines_colours(tmp_path: Path) -> None:
    [made] = [each for each in pictures.of(invented.evidence(tmp_path)) if each.name == "curves"]
    figure = made.draw()
    before = [to_hex(band.get_facecolor()[0]) for axes in figure.axes for band in axes.collections]
    pictures.coloured(figure)
    after = [to_hex(band.get_facecolor()[0]) for axes in figure.axes for band in axes.collections]
    assert before
    assert after == [CONCRETE[colour] for colour in before]
    alphas = [band.get_facecolor()[0][3] for axes in figure.axes for band in axes.collections]
    assert max(alphas) < 0.5


def test_stand_ins_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "coloured", lambda figure: None)
    first = pictures.of(invented.evidence(tmp_path))[0].files()
    assert colours_of_pdf(first["figures/gains.pdf"]) & STAND_INS
    assert colours_of_png(first["figures/gains.png"]) & STAND_INS


def test_fonts_are_within_and_no_outlines_of_type_3(made: dict[str, bytes]) -> None:
    for name, data in made.items():
        if name.endswith(".pdf"):
            assert b"/FontFile2" in data, name
            assert b"/Type3" not in data, name


def test_bitmaps_have_300_dots_to_an_inch_on_white(made: dict[str, bytes]) -> None:
    for name, data in made.items():
        if name.endswith(".png"):
            image = Image.open(io.BytesIO(data))
            assert [round(each) for each in image.info["dpi"]] == [300, 300]
            assert image.convert("RGBA").getpixel((0, 0)) == (255, 255, 255, 255)
            assert image.width > 6 * 300


def test_nothing_is_cut_off_at_the_edges(made: dict[str, bytes]) -> None:
    for name, data in made.items():
        if name.endswith(".png"):
            pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L"))
            for edge in (pixels[:20], pixels[-20:], pixels[:, :20], pixels[:, -20:]):
                assert edge.min() == 255, name


def test_the_users_settings_change_nothing(tmp_path: Path, made: dict[str, bytes]) -> None:
    found = invented.evidence(tmp_path, NAME)
    with mpl.rc_context({"font.size": 30, "pdf.fonttype": 3, "lines.linewidth": 9}):
        assert pictures.of(found)[0].files() == {
            name: data for name, data in made.items() if "gains" in name
        }


def test_a_name_is_drawn_as_it_is(tmp_path: Path) -> None:
    """No mathematics, and no failure, in whatever a method is called."""
    for name in ("$a_{b}$", "$\\frac{", "方法\N{GRINNING FACE}", "a\nb"):
        assert pictures.of(invented.evidence(tmp_path, name))[0].files()
