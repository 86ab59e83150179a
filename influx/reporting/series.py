"""Curves with bands, and agreement against cost, as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.reporting import svg
from influx.reporting.markup import Markup, tag, text

Numbers = NDArray[np.float64]
COLOURS = 8  # of the page's style, --c0 to --c7
DASHES = (None, "6 4", "2 3", "9 3 2 3", "1 2", "12 4")
LETTER = 6.6  # pixels that a letter takes


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A named line over ``x`` (k,) with values ``y`` (k,) and the ends of its interval, NaN where there is none."""

    name: str
    x: Numbers
    y: Numbers
    low: Numbers
    high: Numbers
    colour: int
    dash: int


def curves(
    drawn: Sequence[Curve], *, labels: tuple[str, str], title: str, description: str, key: str, zero: str = "y"
) -> Markup:
    """Lines over axes of their own, each with a band for its interval."""
    axes = svg.Axes(
        close_limits(np.concatenate([c.x for c in drawn])),
        close_limits(np.concatenate([part for c in drawn for part in (c.y, c.low, c.high)])),
    )
    bands = [_band(axes, curve) for curve in drawn]
    return svg.picture(
        title,
        description,
        key,
        axes.frame(*labels, zero=zero),
        *bands,
        *(_line(axes, curve) for curve in reversed(drawn)),
    )


def close_limits(values: Numbers) -> tuple[float, float]:
    """An axis around the finite ``values``; zero is on it unless that would flatten them."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() <= 0 <= finite.max() or np.ptp(finite) > 0.5 * np.abs(finite).max():
        return svg.limits(finite)
    margin = 0.06 * float(np.ptp(finite)) or 0.05 * float(np.abs(finite).max())
    return float(finite.min()) - margin, float(finite.max()) + margin


def style_of(colour: int, dash: int) -> str:
    """Inline style of a line: the colour of the page and the dashes."""
    pattern = DASHES[dash % len(DASHES)]
    dashes = f";stroke-dasharray:{pattern}" if pattern else ""
    return f"stroke:var(--c{colour % COLOURS});fill:none;stroke-width:2{dashes}"


def _band(axes: svg.Axes, curve: Curve) -> Markup:
    known = np.isfinite(curve.low) & np.isfinite(curve.high)
    if known.sum() < 2:
        return Markup("")
    x, low, high = axes.x(curve.x[known]), axes.y(curve.low[known]), axes.y(curve.high[known])
    around = [*zip(x, high, strict=True), *zip(x[::-1], low[::-1], strict=True)]
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in around) + "Z"
    return tag("path", d=path, style=f"fill:var(--c{curve.colour % COLOURS});fill-opacity:0.13;stroke:none")


def _line(axes: svg.Axes, curve: Curve) -> Markup:
    known = np.isfinite(curve.y)
    points = list(zip(axes.x(curve.x[known]), axes.y(curve.y[known]), strict=True))
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points) if points else ""
    dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in points)
    pen = f"stroke:var(--c{curve.colour % COLOURS});fill:none;stroke-linecap:round;stroke-width:5"
    lines = (tag("path", d=path, style=style_of(curve.colour, curve.dash)), tag("path", d=dots, style=pen))
    return tag("g", text("title", curve.name), *lines)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of a comparison: ``seconds`` above 0, its ``score`` with an interval, NaN where there is none."""

    name: str
    seconds: float
    score: float
    low: float
    high: float
    kind: str
    front: bool


def front(
    points: Sequence[Point], *, y_label: str, title: str, description: str, key: str, ceiling: float | None = None
) -> Markup:
    """Score against seconds on a logarithmic axis; those on the front are joined, and named where there is room."""
    at = np.log10([point.seconds for point in points])
    x_margin = 0.06 * float(np.ptp(at)) or 0.5
    ends = [v for p in points for v in (p.score, p.low, p.high)] + ([] if ceiling is None else [ceiling])
    axes = svg.Axes(
        (float(at.min()) - x_margin, float(at.max()) + x_margin),
        close_limits(np.asarray(ends, dtype=np.float64)),
        log_x=True,
    )
    px, py = axes.x(at), axes.y(np.asarray([point.score for point in points]))
    order = sorted((i for i, point in enumerate(points) if point.front), key=lambda i: px[i])
    steps = "M" + "L".join(f"{px[i]:.1f} {py[i]:.1f}" for i in order) if len(order) > 1 else ""
    parts = [tag("path", d=steps, class_="front")] if steps else []
    parts += [] if ceiling is None else _ceiling(float(axes.y(ceiling)))
    parts += [_point(axes, point, float(px[i]), float(py[i])) for i, point in enumerate(points)]
    parts += _names(points, px, py)
    return svg.picture(title, description, key, axes.frame("seconds (logarithmic)", y_label, zero="y"), *parts)


def _ceiling(y: float) -> list[Markup]:
    line = tag("line", x1=svg.LEFT, x2=svg.WIDTH - svg.RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="median")
    return [line, text("text", "noise ceiling", x=svg.LEFT + 6, y=f"{y - 5:.1f}", class_="name")]


def _point(axes: svg.Axes, point: Point, x: float, y: float) -> Markup:
    whisker = Markup("")
    if np.isfinite(point.low) and np.isfinite(point.high):
        y1, y2 = f"{axes.y(point.low):.1f}", f"{axes.y(point.high):.1f}"
        whisker = tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y1, y2=y2, class_="whisker")
    told = f"{point.name}: {point.score:.3f} in {point.seconds:.3g} s"
    kind = f"point {point.kind}" + (" best" if point.front else "")
    return tag("g", text("title", told), whisker, tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_=kind))


def _names(points: Sequence[Point], px: Numbers, py: Numbers) -> list[Markup]:
    """Names beside points, front first, none over another; the others show theirs on hovering."""
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in zip(px, py, strict=True)]
    shown = []
    for i in sorted(range(len(points)), key=lambda i: (not points[i].front, points[i].kind != "run", -points[i].score)):
        wide = LETTER * len(points[i].name)
        places = [(px[i] + 8, py[i] + 4), (px[i] - 8 - wide, py[i] + 4), (px[i] - wide / 2, py[i] - 9)]
        places += [(px[i] - wide / 2, py[i] + 19), (px[i] + 7, py[i] - 8), (px[i] + 7, py[i] + 16)]
        for x, y in places:
            box = (x, y - 10, x + wide, y + 3)
            inside = svg.LEFT < box[0] and box[2] < svg.WIDTH - 2 and box[1] > 0 and box[3] < svg.HEIGHT - svg.BOTTOM
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                shown.append(text("text", points[i].name, x=f"{x:.1f}", y=f"{y:.1f}", class_="name"))
                break
    return shown


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
