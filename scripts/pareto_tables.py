"""Tables and pictures of ``study_pareto.py``: scores against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from influx.reporting import series
from influx.reporting.comparison import Difference, pareto_front
from influx.reporting.comparison_table import told
from influx.reporting.style import CSS
from influx.reporting.svg import HEIGHT, WIDTH

Pair = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimator: its influence (n, m), score with interval, trainings of its own, seconds with and without them."""

    influence: NDArray[np.float64]
    lds: tuple[float, float, float]
    trainings: int
    seconds: float
    without: float


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def fronts(rows: Mapping[str, Row]) -> tuple[list[bool], list[bool]]:
    """Rows on the Pareto front, with their own trainings counted and without."""
    scores = [row.lds[0] for row in rows.values()]
    times = [row.seconds for row in rows.values()], [row.without for row in rows.values()]
    return pareto_front(scores, times[0]), pareto_front(scores, times[1])


def table(rows: Mapping[str, Row], found: Mapping[Pair, Difference], by: Mapping[Pair, str]) -> list[str]:
    """Markdown: the estimators, best first, and who is above whom."""
    head = ["estimator", "LDS", "trainings", "seconds", "without trainings", "Pareto front", "without trainings"]
    lines, yes = [line(head), line(["---"] * len(head))], ("", "yes")
    both = dict(zip(rows, zip(*fronts(rows), strict=True), strict=True))
    for name, row in sorted(rows.items(), key=lambda item: -item[1].lds[0]):
        score = f"{row.lds[0]:.3f} [{row.lds[1]:.2f}, {row.lds[2]:.2f}]"
        times = [f"{row.seconds:.3g}", f"{row.without:.3g}"]
        lines.append(line([f"`{name}`", score, str(row.trainings), *times, *(yes[on] for on in both[name])]))
    lines += ["", line(["this", "minus this", "LDS", "said to be above by"]), line(["---"] * 4)]
    lines += [line([f"`{a}`", f"`{b}`", told(found[a, b]), who]) for (a, b), who in by.items()]
    return lines


def picture(name: str, rows: Mapping[str, Row], ceiling: float) -> str:
    """The plot of ``influx compare`` as a file of its own; grey points, in brackets, leave out own trainings."""
    points = []
    for (title, row), front in zip(rows.items(), fronts(rows)[0], strict=True):
        score, low, high = row.lds
        point = series.Point(
            name=title, seconds=row.seconds, score=score, low=low, high=high, kind="run", front=front
        )  # fmt: skip
        points.append(point)
        if row.trainings:
            points.append(replace(point, name=f"({title})", seconds=row.without, kind="baseline", front=False))
    best = ", ".join(p.name for p in sorted(points, key=lambda p: p.seconds) if p.front)
    drawn = series.front(
        points,
        ceiling=ceiling if np.isfinite(ceiling) else None,
        y_label="linear datamodeling score",
        title=f"{name}: linear datamodeling score against seconds",
        description=f"On the Pareto front, from fast to slow: {best}. Grey, in brackets: without own trainings.",
        key=f"pareto-{name}",
    )
    colours = CSS.strip().partition("* {")[0]
    rules = [rule for rule in CSS.splitlines() if rule.startswith(".plot") and "width: 100%" not in rule]
    style = f"<style>{colours}{chr(10).join(rules)}</style>"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif"'
    head, _, rest = drawn.partition(">")
    return f'{head} {size}>{style}<rect width="100%" height="100%" style="fill:var(--paper)"/>{rest}\n'
