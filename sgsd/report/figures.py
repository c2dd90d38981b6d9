"""A curve as static SVG, drawn by matplotlib and made fit for a page: in its colours, under its content policy.

Matplotlib writes colours and widths into `style` attributes, which the policy refuses, and knows one theme. So figures
are drawn in stand-in colours; here each becomes a class of the style sheet, and all else of a style an attribute. Runs
differ in dashes as well as in colour. Texts stay texts, in the page's own font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from markupsafe import Markup

from sgsd.errors import ConfigError
from sgsd.report.curves import Curve, Line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RUNS = 8
"""Runs that can be told apart on one page."""
INK, GRID = "#010101", "#020202"
DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (8, 2, 2, 2)),
    (0, (1, 1)),
    (0, (10, 3)),
    (0, (4, 4)),
    "-.",
)
MARKERS = "os^Dv*Px"
SMOOTHED_FROM = 40
"""Points from which the mean of those around is drawn over a thin line of all."""
SIZE_INCHES, SAMPLE_INCHES = (5.4, 2.6), (0.6, 0.18)

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_CLASSES = {INK: "ink", GRID: "grid"} | {f"#0000{10 + run}": f"run-{run}" for run in range(RUNS)}
_UNIT = {"share": "share", "nats": "nats", "tokens": "tokens", "number": ""}


def figure(curve: Curve) -> Markup:
    """The plot of a curve. Raises ConfigError when matplotlib is not installed."""

    def draw(axes: Axes) -> None:
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        for line in curve.lines:
            _draw(axes, line)
        axes.set_xlabel(curve.over)
        axes.set_ylabel(_UNIT[curve.unit])
        axes.locator_params(axis="x", integer=True)
        if curve.unit == "share":
            axes.set_ylim(-0.03, 1.03)

    return _fitted(_drawn(curve.key, SIZE_INCHES, draw), curve.key, "plot", f"{curve.title} over {curve.over}")


def sample(run: int) -> Markup:
    """A piece of a run's line, for the legend. Raises ConfigError as `figure` does."""

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.plot([0, 1, 2], [0, 0, 0], color=_colour(run), linestyle=DASHES[run], marker=MARKERS[run], markevery=[1])

    return _fitted(_drawn(f"sample-{run}", SAMPLE_INCHES, draw), f"sample-{run}", "sample-line")


def _drawn(key: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> str:
    """An SVG file of one pair of axes; the same key, and the same is drawn, the same file."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError('plots are drawn by matplotlib: pip install "sgsd[report]"') from error
    settings: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": key,
        "text.parse_math": False,
        "font.size": 10,
        **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    file = io.StringIO()
    with rc_context(settings):
        canvas = Figure(figsize=size, layout="constrained")
        draw(canvas.subplots())
        canvas.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _colour(run: int) -> str:
    return f"#0000{10 + run}"


def _draw(axes: Axes, line: Line) -> None:
    look: dict[str, Any] = {"color": _colour(line.run), "linestyle": DASHES[line.run]}
    if line.low:
        axes.fill_between(line.x, line.low, line.high, color=_colour(line.run), alpha=0.15, linewidth=0)
    few = len(line.x) <= SMOOTHED_FROM
    if few:
        axes.plot(line.x, line.y, linewidth=1.6, marker=MARKERS[line.run], markersize=3.5, **look)
        return
    axes.plot(line.x, line.y, linewidth=0.6, alpha=0.45, color=_colour(line.run))
    axes.plot(line.x, smoothed(line.y), linewidth=1.8, **look)


def smoothed(values: tuple[float, ...]) -> list[float]:
    """Each value's mean with as many on either side as there are, up to a fortieth of all."""
    means = []
    for n in range(len(values)):
        half = min(max(1, len(values) // 40), n, len(values) - 1 - n)
        means.append(fmean(values[n - half : n + half + 1]))
    return means


def _fitted(svg: str, prefix: str, look: str, label: str = "") -> Markup:
    """Matplotlib's file as an element of a page. Ids get the prefix, for a page has many figures."""
    root = ET.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element)
        for name, value in list(element.attrib.items()):
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == f"{{{_LINK}}}href":
                del element.attrib[name]
                element.set("href", f"#{prefix}-{value[1:]}")
            elif "url(#" in value:
                element.set(name, value.replace("url(#", f"url(#{prefix}-"))
    for size in ("width", "height"):
        del root.attrib[size]
    root.set("class", look)
    if label:
        root.set("role", "img")
        title = ET.Element(f"{{{_SVG}}}title")
        title.text = label
        root.insert(0, title)
    else:
        root.set("aria-hidden", "true")
    ET.register_namespace("", _SVG)
    return Markup(ET.tostring(root, encoding="unicode"))


def _restyle(element: ET.Element) -> None:
    """A `style` as attributes, its stand-in colours as classes."""
    style = element.attrib.pop("style", "")
    classes = []
    for name, value in re.findall(r"([\w-]+)\s*:\s*([^;]+)", style):
        if name in ("fill", "stroke") and value in _CLASSES:
            classes.append(f"{name}-{_CLASSES[value]}")
        elif name == "font-family":
            continue
        elif name in ("fill", "stroke") and value != "none":
            classes.append(f"{name}-ink")
        else:
            element.set(name, value)
    if element.tag == f"{{{_SVG}}}text":
        classes.append("fill-ink")
    if classes:
        element.set("class", " ".join(dict.fromkeys(classes)))
