"""Matplotlib's figures as SVG: inline in the page's own colours, or as a file of its own."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from whet.study import wording

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Matplotlib knows no CSS variables: each colour is drawn as a stand-in and renamed in the SVG.
INK, QUIET, GRID = "#010101", "#020202", "#030303"
BETTER, WORSE, UNCLEAR = "#040404", "#050505", "#060606"
VARIABLES = {INK: "ink", QUIET: "quiet", GRID: "line", BETTER: "better", WORSE: "worse",
             UNCLEAR: "unclear"}  # fmt: skip
CONCRETE = {INK: "#1f2328", QUIET: "#646b74", GRID: "#dcdfe3", BETTER: "#0067a5", WORSE: "#c2500a",
            UNCLEAR: "#7b828b"}  # fmt: skip
MARGIN = 12.0
Made = TypeVar("Made")


def drawn(plot: Callable[..., Made]) -> Callable[..., Made]:
    """Draw under the figures' own settings, whatever the user's matplotlib is set to."""

    @functools.wraps(plot)
    def draw(*arguments: Any) -> Made:
        import matplotlib

        own: Any = {"svg.fonttype": "none", "svg.hashsalt": plot.__name__, "font.size": 9.5,
                    "pdf.fonttype": 42, "text.parse_math": False}  # fmt: skip
        with matplotlib.rc_context(), warnings.catch_warnings():
            # text stays text: what matplotlib's own font lacks, the reader's has
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(own)
            return plot(*arguments)

    return draw


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), facecolor="none")


def frame(axes: Axes) -> None:
    """Axes with a quiet foot and nothing else."""
    axes.set_facecolor("none")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=QUIET, labelsize=8.5, length=3)


def inline(figure: Figure, name: str, said: str) -> str:
    """The figure as an element to stand in a page, free of names that another one may have."""
    svg = _cleaned(figure)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = _lean(svg, name)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    head = f'<svg class="{name.rpartition("-")[2]}" role="img" aria-label="{_attribute(said)}"'
    return re.sub(r'<svg width="[^"]*" height="[^"]*"', lambda _: head, svg, count=1)


def _lean(svg: str, name: str) -> str:
    """The same in fewer bytes: no blanks, two decimals of a point, names and groups that are used.

    The style that matplotlib gives to every element stands in the page's own sheet.
    """
    svg = re.sub(r">\s+<", "><", svg.strip())
    svg = re.sub(r"<defs><style.*?</style></defs>|<g/>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", lambda tag: _brief(tag[0]), svg)
    svg = re.sub(r'<path d="[^"]*" style="fill:none"/>', "", svg)
    known = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    names = {old: f"{name}-{number}" for number, old in enumerate(known)}
    svg = re.sub(
        r' id="([^"]*)"', lambda own: f' id="{names[own[1]]}"' if own[1] in names else "", svg
    )
    svg = re.sub(r'(href="|url\()#([^")]+)', lambda link: f"{link[1]}#{names[link[2]]}", svg)
    return _ungrouped(svg)


def _brief(tag: str) -> str:
    """A tag with numbers and styles in few letters, in the page's own font."""
    tag = re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}".rstrip("0").rstrip("."), tag)
    tag = re.sub(r"\s+", " ", tag).replace("; ", ";").replace(": ", ":").replace(' "', '"')
    return re.sub(r"font-family:[^;\"]*;?| transform=\"rotate\(-0 [^\"]*\"", "", tag)


def _ungrouped(svg: str) -> str:
    """Without the groups that say nothing of what is in them."""
    kept: list[bool] = []

    def group(found: re.Match[str]) -> str:
        if found[0] != "</g>":
            kept.append(bool(found[1]))
        return found[0] if (kept[-1] if found[0] != "</g>" else kept.pop()) else ""

    return re.sub(r"<g( [^>]*)?>|</g>", group, svg)


def standalone(figure: Figure, said: str) -> str:
    """The figure as a file: its own colours on white, with a margin, for any document."""
    svg = _cleaned(figure)
    for colour, concrete in CONCRETE.items():
        svg = svg.replace(colour, concrete)
    width, height = (inches * 72 for inches in figure.get_size_inches())
    box = (-MARGIN, -MARGIN, width + 2 * MARGIN, height + 2 * MARGIN)
    x, y, across, down = (f"{value:g}" for value in box)
    svg = re.sub(r'width="[^"]*" height="[^"]*" viewBox="[^"]*"',
                 f'width="{across}" height="{down}" viewBox="{x} {y} {across} {down}" role="img"',
                 svg, count=1)  # fmt: skip
    sheet = f'<rect x="{x}" y="{y}" width="{across}" height="{down}" fill="#ffffff"/>'
    title = f"<title>{escape(wording.plain(said))}</title>"
    begin = svg.index(">") + 1
    return f"{svg[:begin]}\n {title}\n {sheet}{svg[begin:]}"


def _cleaned(figure: Figure) -> str:
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = re.sub(r"<!--.*?-->\n?\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)


def _attribute(said: str) -> str:
    return escape(wording.plain(said), quote=True)
