"""Small plots as SVG, drawn where the page is made: no script, no network, colours from the style sheet.

Geometry stands in attributes and looks in classes, as the content policy allows no inline style. Every plot has a title
and its numbers stand in the page as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from markupsafe import Markup, escape

from skillbank.look.growth import Stand
from skillbank.look.training import VERDICTS, Share, Span
from skillbank.records import Kind

WIDTH, HEIGHT = 560, 150
LEFT, BOTTOM = 44, 20
"""Room for the labels of the axes."""


def stacked_bars(
    title: str, names: Sequence[str], parts: Mapping[str, Sequence[float]], *, whole: float | None = None
) -> Markup:
    """One bar a name, of one piece a part, drawn in the class `part-NAME`; up to `whole`, or as high as the highest."""
    totals = [sum(column) for column in zip(*parts.values(), strict=True)] if parts else []
    top = nice(max(totals, default=0)) if whole is None else whole
    step = (WIDTH - LEFT) / max(1, len(names))
    gap = min(2, step / 10)
    drawn = [_grid(0, top)]
    base = [0.0] * len(names)
    for part, values in parts.items():
        for n, value in enumerate(values):
            height = value / top * (HEIGHT - BOTTOM)
            y = HEIGHT - BOTTOM - base[n] / top * (HEIGHT - BOTTOM) - height
            if value:
                drawn.append(
                    Markup('<rect class="part part-{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}">').format(
                        part, LEFT + n * step + gap, y, max(1, step - 2 * gap), max(0.5, height)
                    )
                    + Markup("<title>{}, {}: {}</title></rect>").format(names[n], part, _number(value))
                )
            base[n] += value
    every = max(1, len(names) // 8)
    drawn += [
        Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
            LEFT + (n + 0.5) * step, HEIGHT - 5, name
        )
        for n, name in enumerate(names)
        if n % every == 0
    ]
    return _svg(title, drawn)


def steps(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Lines through points, x growing; each in the class `line-NAME`, with its name at its end."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    low_x, high_x = min(xs, default=0.0), max(xs, default=1.0)
    bottom, top = min(0.0, *ys) if ys else 0.0, nice(max(ys, default=0))
    span = max(high_x - low_x, 1e-9)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - low_x) / span * (WIDTH - LEFT - 4)
        return f"{across:.1f},{(top - y) / (top - bottom) * (HEIGHT - BOTTOM):.1f}"

    drawn = [_grid(bottom, top)]
    for name, points in lines.items():
        drawn.append(
            Markup('<polyline class="line line-{}" points="{}"><title>{}</title></polyline>').format(
                name, " ".join(place(x, y) for x, y in points), name
            )
        )
        if points:
            right, up = place(*points[-1]).split(",")
            drawn.append(
                Markup('<text class="name" x="{}" y="{:.1f}" text-anchor="end">{}s</text>').format(
                    right, max(9.0, float(up) - 4), name
                )
            )
    for x, anchor in ((low_x, "start"), (high_x, "end")):
        across = LEFT if anchor == "start" else WIDTH - 4
        drawn.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="{}">{}</text>').format(
                across, HEIGHT - 5, anchor, _number(x)
            )
        )
    return _svg(title, drawn)


def points(stands: Sequence[Stand], kind: Kind) -> list[tuple[float, float]]:
    """The line of one kind through the stands of a bank, as `steps` draws it."""
    return [(stand.revision, stand.entries[kind]) for stand in stands]


def names(spans: Sequence[Span]) -> list[str]:
    """Each span of steps by its first one."""
    return [f"{span.first:,}" for span in spans]


def percent(spans: Sequence[Span], of: Literal["uses", "placebo"]) -> dict[str, list[float]]:
    """Of each verdict its share of a span's uses, or of its placebos, in per cent."""
    found = [getattr(span, of) for span in spans]
    return {verdict: [100 * one[verdict] / max(1, sum(one.values())) for one in found] for verdict in VERDICTS}


def counts(spans: Sequence[Span]) -> dict[str, list[float]]:
    """Of each verdict how many uses of each span had it."""
    return {verdict: [float(span.uses[verdict]) for span in spans] for verdict in VERDICTS}


def interval(share: Share, other: Share | None, name: str) -> Markup:
    """A share in [0, 1] as a bar with its interval; the dashes under it are the placebo's interval."""
    drawn = Markup(
        '<rect class="whole" width="100" height="14"/><rect class="part part-{}" width="{:.2f}" height="8"/>'
        '<line class="bounds" x1="{:.2f}" x2="{:.2f}" y1="4" y2="4"/>'
    ).format(name, 100 * share.value, 100 * share.low, 100 * share.high)
    said = f"{name}: {share.value:.1%}, {share.low:.1%} to {share.high:.1%}"
    if other is not None:
        drawn += Markup('<line class="beside" x1="{:.2f}" x2="{:.2f}" y1="11.5" y2="11.5"/>').format(
            100 * other.low, 100 * other.high
        )
        said += f"; placebo {other.value:.1%}, {other.low:.1%} to {other.high:.1%}"
    return Markup(
        '<svg class="share interval" viewBox="0 0 100 14" preserveAspectRatio="none" role="img">'
        "<title>{}</title>{}</svg>"
    ).format(said, drawn)


def share(value: float, title: str) -> Markup:
    """A bar of how much of the whole `value` in [0, 1] is."""
    return Markup(
        '<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" role="img"><title>{}</title>'
        '<rect class="whole" width="100" height="8"/><rect class="of" width="{:.1f}" height="8"/></svg>'
    ).format(title, 100 * min(1.0, max(0.0, value)))


def nice(value: float) -> float:
    """The next number upwards that is 1, 2 or 5 times a power of ten; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1 else 10.0 ** -len(f"{1 / value:.0f}")
    return next(power * factor for factor in (1, 2, 5, 10, 20, 50, 100) if power * factor >= value)


def _grid(bottom: float, top: float) -> Markup:
    """Lines with numbers at bottom, middle and top."""
    drawn = Markup()
    for value in (bottom, (bottom + top) / 2, top):
        y = (top - value) / (top - bottom) * (HEIGHT - BOTTOM)
        drawn += Markup('<line class="grid" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>').format(LEFT, WIDTH, y, y)
        drawn += Markup('<text class="tick" x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(
            LEFT - 6, min(max(y + 4, 10), HEIGHT - BOTTOM), _number(value)
        )
    return drawn


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"


def _svg(title: str, drawn: Sequence[Markup]) -> Markup:
    return Markup('<svg class="plot" viewBox="0 0 {} {}" role="img"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, Markup("").join(escape(piece) for piece in drawn)
    )
