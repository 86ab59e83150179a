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
    found = number(value)
    if math.isnan(found):
        return "-"
    if 0 < found < 0.1:
        return f"{found:.3f}"
    return f"{found:.2f}" if found < 10 else f"{found:.1f}" if found < 100 else f"{found:,.0f}"


def count(value: object) -> str:
    """A whole number with thousands separators; "-" when unknown."""
    found = number(value)
    return "-" if math.isnan(found) else f"{round(found):,}"


def duration(value: float) -> str:
    """A duration for people: "0.4 s", "2 min 5 s", "3 h 12 min"."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: object) -> float:
    """A finite number from a file; NaN for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # JSON allows whole numbers of any size
        return math.nan
