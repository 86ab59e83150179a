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
Box = tuple[float, float, float, float]  # left, top, right, bottom
CEILING = "noise ceiling"
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
    """One row of a comparison: ``seconds`` above 0, its ``score`` with an interval, NaN where there is none.

    Those on the front of one ``model`` are joined.
    """

    name: str
    seconds: float
    score: float
    low: float
    high: float
    kind: str
    front: bool
    model: str = ""


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
    best = sorted((i for i, point in enumerate(points) if point.front), key=lambda i: px[i])
    lines = [[i for i in best if points[i].model == model] for model in dict.fromkeys(point.model for point in points)]
    joined = ("M" + "L".join(f"{px[i]:.1f} {py[i]:.1f}" for i in line) for line in lines if len(line) > 1)
    parts = [tag("path", d=steps, class_="front") for steps in joined]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in zip(px, py, strict=True)]
    crossed = [box for line in lines for box in _along(px[line], py[line])]
    ends_of = ((x, axes.y(p.high), axes.y(p.low)) for x, p in zip(px, points, strict=True))
    crossed += [(x - 1, float(high), x + 1, float(low)) for x, high, low in ends_of if np.isfinite(low - high)]
    if ceiling is not None:
        y = float(axes.y(ceiling))
        x, base = _place_of_ceiling(y, [*taken, *crossed])
        taken.append(_box(x, base, CEILING))
        crossed.append((svg.LEFT, y - 1, svg.WIDTH - svg.RIGHT, y + 1))
        parts += _ceiling(y, x, base)
    parts += [_point(axes, point, float(px[i]), float(py[i])) for i, point in enumerate(points)]
    parts += _names(points, px, py, taken, crossed)
    return svg.picture(title, description, key, axes.frame("seconds (logarithmic)", y_label, zero="y"), *parts)


def _ceiling(y: float, x: float, base: float) -> list[Markup]:
    line = tag("line", x1=svg.LEFT, x2=svg.WIDTH - svg.RIGHT, y1=f"{y:.1f}", y2=f"{y:.1f}", class_="median")
    return [line, text("text", CEILING, x=f"{x:.1f}", y=f"{base:.1f}", class_="name")]


def _place_of_ceiling(y: float, taken: Sequence[Box]) -> tuple[float, float]:
    """Where its name stands: above or below the line at ``y``, as far left as nothing is in the way."""
    right = int(svg.WIDTH - svg.RIGHT - LETTER * len(CEILING))
    places = [(float(x), base) for base in (y - 5, y + 14) for x in range(svg.LEFT + 6, right, 10)]
    free = (place for place in places if not any(_overlap(_box(*place, CEILING), other) for other in taken))
    return next(free, places[0])


def _along(px: Numbers, py: Numbers) -> list[Box]:
    """Small boxes on the line through points, for names to keep off."""
    found: list[Box] = []
    for i in range(len(px) - 1):
        count = 2 + int(np.hypot(px[i + 1] - px[i], py[i + 1] - py[i]) / 3)
        ways = (np.linspace(ends[i], ends[i + 1], count) for ends in (px, py))
        found += [(x - 1, y - 1, x + 1, y + 1) for x, y in zip(*ways, strict=True)]
    return found


def _point(axes: svg.Axes, point: Point, x: float, y: float) -> Markup:
    whisker = Markup("")
    if np.isfinite(point.low) and np.isfinite(point.high):
        y1, y2 = f"{axes.y(point.low):.1f}", f"{axes.y(point.high):.1f}"
        whisker = tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=y1, y2=y2, class_="whisker")
    told = f"{point.name}: {point.score:.3f} in {point.seconds:.3g} s"
    kind = f"point {point.kind}" + (" best" if point.front else "")
    return tag("g", text("title", told), whisker, tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5, class_=kind))


def _names(
    points: Sequence[Point], px: Numbers, py: Numbers, taken: Sequence[Box], crossed: Sequence[Box]
) -> list[Markup]:
    """Names beside points, front first, none over another or what is ``taken``; the others show theirs on hovering.

    A name stands on what is ``crossed`` only where there is no other place for it.
    """
    taken, shown = list(taken), []
    for i in sorted(range(len(points)), key=lambda i: (not points[i].front, points[i].kind != "run", -points[i].score)):
        wide = LETTER * len(points[i].name)
        places = [(px[i] + 8, py[i] + 4), (px[i] - 8 - wide, py[i] + 4), (px[i] - wide / 2, py[i] - 9)]
        places += [(px[i] - wide / 2, py[i] + 19), (px[i] + 7, py[i] - 8), (px[i] + 7, py[i] + 16)]
        places += [(px[i] - 7 - wide, py[i] - 8), (px[i] - 7 - wide, py[i] + 16)]
        boxes = [_box(x, y, points[i].name) for x, y in places]
        free = [n for n, box in enumerate(boxes) if _inside(box) and not any(_overlap(box, o) for o in taken)]
        if free:
            n = min(free, key=lambda n: any(_overlap(boxes[n], other) for other in crossed))
            (x, y), name = places[n], points[i].name
            taken.append(boxes[n])
            shown.append(text("text", name, x=f"{x:.1f}", y=f"{y:.1f}", class_="name"))
    return shown


def _box(x: float, y: float, name: str) -> Box:
    """What a name that begins at ``x`` on the base line ``y`` covers."""
    return x, y - 10, x + LETTER * len(name), y + 3


def _inside(box: Box) -> bool:
    return svg.LEFT < box[0] and box[2] < svg.WIDTH - 2 and box[1] > 0 and box[3] < svg.HEIGHT - svg.BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return bool(a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3])
