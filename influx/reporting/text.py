"""Numbers and names as text, the same on the terminal and on the page."""

from __future__ import annotations

import math


def clean(text: object) -> str:
    """Text on one line, without control characters: labels and notes come from data files."""
    return "".join(c if c.isprintable() else " " for c in str(text))


def score(value: float) -> str:
    """A correlation or a rate with three digits."""
    return f"{value:.3f}" if math.isfinite(value) else "-"


def interval(low: float, high: float, digits: int = 2) -> str:
    """A confidence interval, empty when there is none."""
    return f"[{low:.{digits}f}, {high:.{digits}f}]" if math.isfinite(low) and math.isfinite(high) else ""


def shortened(text: str, length: int) -> str:
    """Text of at most ``length`` characters, cut with three dots."""
    return text if len(text) <= length else text[: length - 3] + "..."


def signed(value: float) -> str:
    """An influence with its sign and three significant digits; "-" when not computed."""
    return f"{value:+#.3g}".rstrip(".") if math.isfinite(value) else "-"


def seconds(value: object) -> str:
    """Seconds with a sensible number of digits; "-" when unknown."""
    number = _number(value)
    if math.isnan(number):
        return "-"
    if 0 < number < 0.1:
        return f"{number:.3f}"
    return f"{number:.2f}" if number < 10 else f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def count(value: object) -> str:
    """A whole number with thousands separators; "-" when unknown."""
    number = _number(value)
    return "-" if math.isnan(number) else f"{round(number):,}"


def duration(value: float) -> str:
    """A duration for people: "0.4 s", "2 min 5 s", "3 h 12 min"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _number(value: object) -> float:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and isinstance(value, int | float) else math.nan
