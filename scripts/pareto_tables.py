"""Tables and pictures of ``study_pareto.py``: scores against seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from influx.metrics.predicted import Predicted
from influx.reporting import series
from influx.reporting.comparison import Difference, pareto_front
from influx.reporting.comparison_table import told
from influx.reporting.style import CSS
from influx.reporting.svg import HEIGHT, WIDTH

Pair = tuple[str, str]
Score = tuple[float, float, float]  # value and interval
COSTS = ["seconds", "without trainings", "Pareto front", "without trainings"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One estimator: scores, over all seeds and under the explained model's, with what they rest on, and costs."""

    lds: Score
    own: Score  # under the seed of the explained model
    predicted: tuple[Predicted, Predicted]  # behind both
    trainings: int  # of the estimator itself
    seconds: float
    without: float  # the seconds of these trainings


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def fronts(rows: Mapping[str, Row]) -> tuple[list[bool], list[bool]]:
    """Rows on the Pareto front, with their own trainings counted and without."""
    scores = [row.lds[0] for row in rows.values()]
    times = [row.seconds for row in rows.values()], [row.without for row in rows.values()]
    return pareto_front(scores, times[0]), pareto_front(scores, times[1])


def table(rows: Mapping[str, Row], found: Sequence[Mapping[Pair, Difference]], by: Mapping[Pair, str]) -> list[str]:
    """Markdown: the estimators, best first, and who is above whom, over all seeds and under the model's own."""
    head = ["estimator", "LDS", "own seed", "trainings", *COSTS]
    lines, yes = [line(head), line(["---"] * len(head))], ("", "yes")
    both = dict(zip(rows, zip(*fronts(rows), strict=True), strict=True))
    for name, row in sorted(rows.items(), key=lambda item: -item[1].lds[0]):
        scores = [f"{value:.3f} [{low:.2f}, {high:.2f}]" for value, low, high in (row.lds, row.own)]
        times = [f"{row.seconds:.3g}", f"{row.without:.3g}"]
        lines.append(line([f"`{name}`", *scores, str(row.trainings), *times, *(yes[on] for on in both[name])]))
    lines += ["", line(["this", "minus this", "LDS", "own seed", "expected by"]), line(["---"] * 5)]
    for (a, b), who in by.items():
        lines.append(line([f"`{a}`", f"`{b}`", *(told(each[a, b]) for each in found), who]))
    return lines


def picture(name: str, rows: Mapping[str, Row], ceiling: float, *, own: bool = False) -> str:
    """The plot of ``influx compare`` as a file of its own, with ``own`` of the scores under the model's own seed."""
    points = []
    scores = [row.own if own else row.lds for row in rows.values()]
    best = pareto_front([score[0] for score in scores], [row.seconds for row in rows.values()])
    for (title, row), (score, low, high), on in zip(rows.items(), scores, best, strict=True):
        point = series.Point(name=title, seconds=row.seconds, score=score, low=low, high=high, kind="run", front=on)
        points.append(point)
    where = ", under the model's own seed" if own else ""
    named = ", ".join(p.name for p in sorted(points, key=lambda p: p.seconds) if p.front)
    drawn = series.front(
        points,
        ceiling=ceiling if np.isfinite(ceiling) and not own else None,
        y_label="linear datamodeling score",
        title=f"{name}: linear datamodeling score against seconds{where}",
        description=f"On the Pareto front, from fast to slow: {named}.",
        key=f"pareto-{name}{'-own' * own}",
    )
    colours = CSS.strip().partition("* {")[0]
    rules = [rule for rule in CSS.splitlines() if rule.startswith(".plot") and "width: 100%" not in rule]
    style = f"<style>{colours}{chr(10).join(rules)}</style>"
    size = f'xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif"'
    head, _, rest = drawn.partition(">")
    return f'{head} {size}>{style}<rect width="100%" height="100%" style="fill:var(--paper)"/>{rest}\n'
