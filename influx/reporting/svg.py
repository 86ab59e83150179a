"""Small plots as inline SVG: a scatter, a histogram and curves. Colours come from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from influx.reporting.markup import Markup, join, tag, text

WIDTH, HEIGHT = 520, 380
LEFT, RIGHT, TOP, BOTTOM = 72, 16, 14, 52
LAYERS = 12  # points of one path do not add up their opacity; several paths show density


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers inside ``[low, high]``, about ``count`` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """An axis that holds all values and zero, with a small margin; never empty."""
    low, high = min(0.0, float(values.min(initial=0.0))), max(0.0, float(values.max(initial=0.0)))
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


class Axes:
    """Data coordinates to pixels, and the frame around them.

    A logarithmic x-axis takes logarithms to base 10 and labels whole powers.
    """

    def __init__(self, x: tuple[float, float], y: tuple[float, float], *, log_x: bool = False) -> None:
        self.x_range, self.y_range, self.log_x = x, y, log_x

    def x(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels from the left."""
        low, high = self.x_range
        return LEFT + (np.asarray(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Pixels from the top."""
        low, high = self.y_range
        return HEIGHT - BOTTOM - (np.asarray(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def _x_ticks(self) -> list[tuple[float, str]]:
        if not self.log_x:
            return [(value, f"{value:.6g}") for value in nice_ticks(*self.x_range)]
        low, high = self.x_range
        wanted = [math.log10(m) + e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 3)]
        inside = [value for value in wanted if low <= value <= high]
        whole = [value for value in inside if abs(value - round(value)) < 1e-9]
        return [(value, f"{10**value:.3g}") for value in (whole if len(whole) > 2 else inside)]

    def frame(self, x_label: str, y_label: str, *, zero: str) -> Markup:
        """Grid, tick labels, axis labels; ``zero`` names the axes ("x", "xy") whose zero gets its own line."""
        parts = []
        for value, shown in self._x_ticks():
            px = f"{self.x(value):.1f}"
            strong = "zero" if "x" in zero and abs(value) < 1e-12 else "grid"
            parts.append(tag("line", x1=px, x2=px, y1=TOP, y2=HEIGHT - BOTTOM, class_=strong))
            parts.append(text("text", shown, x=px, y=HEIGHT - BOTTOM + 18, class_="tick middle"))
        for value in nice_ticks(*self.y_range):
            py = f"{self.y(value):.1f}"
            strong = "zero" if "y" in zero and abs(value) < 1e-12 else "grid"
            parts.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=py, y2=py, class_=strong))
            parts.append(text("text", f"{value:.6g}", x=LEFT - 8, y=py, dy="0.32em", class_="tick end"))
        middle_x, middle_y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
        parts.append(text("text", x_label, x=middle_x, y=HEIGHT - 10, class_="label middle"))
        turned = f"rotate(-90 16 {middle_y:g})"
        parts.append(text("text", y_label, x=16, y=middle_y, transform=turned, class_="label middle"))
        return join(*parts)


def picture(title: str, description: str, key: str, *content: Markup) -> Markup:
    """The SVG element with a name and a description for screen readers."""
    head = (text("title", title, id=f"{key}-title"), text("desc", description, id=f"{key}-desc"))
    labelled = {"aria-labelledby": f"{key}-title {key}-desc"}
    return tag("svg", *head, *content, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="plot", **labelled)


def scatter(
    x: NDArray[np.float64], y: NDArray[np.float64], *, labels: tuple[str, str], title: str, description: str, key: str
) -> Markup:
    """Points ``x, y`` (n,) with labelled axes and lines at zero; ``key`` makes the ids of the page unique."""
    axes = Axes(limits(x), limits(y))
    px, py = axes.x(x), axes.y(y)
    layers = []
    for layer in range(min(LAYERS, len(x))):
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in zip(px[layer::LAYERS], py[layer::LAYERS], strict=True))
        layers.append(tag("path", d=dots, class_="dots"))
    return picture(title, description, key, axes.frame(*labels, zero="xy"), *layers)


def histogram(values: NDArray[np.float64], *, label: str, title: str, description: str, key: str) -> Markup:
    """Counts of ``values`` (n,) between -1 and 1 in 20 bins, with the median marked."""
    counts, edges = np.histogram(values, bins=20, range=(-1.0, 1.0))
    axes = Axes((-1.0, 1.0), (0.0, max(1.0, float(counts.max()) * 1.08)))
    bars = [_bar(axes, edges[i], edges[i + 1], int(count)) for i, count in enumerate(counts) if count]
    marks: Sequence[Markup] = ()
    if len(values):
        px = f"{axes.x(float(np.median(values))):.1f}"
        marks = (tag("line", x1=px, x2=px, y1=TOP, y2=HEIGHT - BOTTOM, class_="median"),)
    return picture(title, description, key, axes.frame(label, "test instances", zero="x"), *bars, *marks)


def lines(
    x: NDArray[np.float64],
    curves: Sequence[tuple[str, str, NDArray[np.float64]]],
    *,
    labels: tuple[str, str],
    title: str,
    description: str,
    key: str,
) -> Markup:
    """Curves over common points ``x`` (k,): each a name, shown on hovering, a colour of the page, and values (k,)."""
    axes = Axes(limits(x), limits(np.concatenate([values for _, _, values in curves])))
    drawn = []
    for name, colour, values in curves:
        points = list(zip(axes.x(x), axes.y(values), strict=True))
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in points)
        pen = f"stroke:var(--{colour});fill:none;stroke-linecap:round;stroke-width:"
        parts = (tag("path", d=path, style=f"{pen}1.5"), tag("path", d=dots, style=f"{pen}4"))
        drawn.append(tag("g", text("title", name), *parts))
    return picture(title, description, key, axes.frame(*labels, zero="y"), *drawn)


def _bar(axes: Axes, low: float, high: float, count: int) -> Markup:
    left, right, top = float(axes.x(low)), float(axes.x(high)), float(axes.y(count))
    height = HEIGHT - BOTTOM - top
    return tag(
        "rect",
        x=f"{left + 1:.1f}",
        y=f"{top:.1f}",
        width=f"{right - left - 2:.1f}",
        height=f"{height:.1f}",
        class_="bar",
    )
