"""Further tables of metrics on the page: a plot with a table where they hold curves, a table where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from influx.reporting import generated, reading, sections, series
from influx.reporting import text as words
from influx.reporting.markup import Markup, escaped, join, tag, text
from influx.reporting.record import END_ROWS, RunRecord

if TYPE_CHECKING:
    import pandas as pd

PREFIX, SUFFIX = "metric_", ".parquet"
LINES = 24  # of one plot; all are in the table
ROWS = 400  # of one table on the page
ENDS = ("ci_low", "ci_high")
EVERYONE = "for all"  # lines that do not depend on the estimator


def further(record: RunRecord, key: str) -> Markup:
    """All tables that the metrics of a run left behind, or nothing."""
    known = names(record)
    made = generated.section(record, known)  # their pixels are no table to read
    parts = [_one(record, name, key) for name in known if name != generated.IMAGES]
    parts = parts if made is None else [made, *parts]
    return tag("section", text("h2", "Measured curves and tables"), *parts) if parts else Markup("")


def names(record: RunRecord) -> list[str]:
    """Names of the tables, as the manifest lists their files."""
    stage = record.section("stages").get("evaluate")
    files = stage.get("files", []) if isinstance(stage, dict) else []
    listed = [str(file) for file in files if str(file).startswith(PREFIX) and str(file).endswith(SUFFIX)]
    return [file.removeprefix(PREFIX).removesuffix(SUFFIX) for file in listed if "/" not in file]


def path(record: RunRecord, name: str) -> Path:
    """Where a table is."""
    return record.folder / f"{PREFIX}{name}{SUFFIX}"


def _one(record: RunRecord, name: str, key: str) -> Markup:
    file = path(record, name)
    if _is_curve(reading.read_ends(file, 1).frame):
        return _plotted(record, name, reading.read_parquet(file, ("estimator", "series")), key)
    heading = text("h3", name.replace("_", " "))
    return tag("div", heading, sections.frame(f"{PREFIX}{name}", reading.read_ends(file, END_ROWS)), class_="instance")


def _is_curve(table: pd.DataFrame) -> bool:
    columns = [str(column) for column in table.columns]
    if len(columns) < 4 or columns[:2] != ["estimator", "series"] or not len(table):
        return False
    return all(table[column].dtype.kind in "fiu" for column in table.columns[2:4])


def _plotted(record: RunRecord, name: str, table: pd.DataFrame, key: str) -> Markup:
    x, y = (str(column) for column in table.columns[2:4])
    drawn = curves_of(record, table)
    shown = drawn[:LINES]
    title = name.replace("_", " ")
    labels = (x.replace("_", " "), y.replace("_", " "))
    left_out = f" {len(drawn) - len(shown)} more lines are in the table alone." if len(drawn) > len(shown) else ""
    band = " Bands are 95% confidence intervals." if set(ENDS) <= set(table.columns) else ""
    plot = series.curves(
        shown,
        labels=labels,
        title=title,
        description=f"{labels[1]} against {labels[0]}: {', '.join(curve.name for curve in shown)}.",
        key=f"{key}-metric-{name}",
    )
    told = text("figcaption", f"{labels[1].capitalize()} against {labels[0]}.{band}{left_out}")
    figure = tag("figure", plot, _legend(shown), told, class_="wide")
    return tag("div", text("h3", title), figure, _table(name, table), class_="instance")


def curves_of(record: RunRecord, table: pd.DataFrame) -> list[series.Curve]:
    """The lines of a table, the run's own estimator first; what is the same for all estimators is drawn once."""
    x, y = table.columns[2:4]
    own = record.estimator
    estimators = sorted(table["estimator"].unique(), key=lambda name: name != own)
    kinds = {name: i for i, name in enumerate(table["series"].unique())}
    found: dict[tuple[str, bytes], tuple[series.Curve, list[str]]] = {}
    for colour, estimator in enumerate(estimators):
        for kind, dash in kinds.items():
            part = table[(table["estimator"] == estimator) & (table["series"] == kind)].sort_values(x, kind="stable")
            if part.empty:
                continue
            at, values = (part[column].to_numpy(np.float64) for column in (x, y))
            low, high = (part[end].to_numpy(np.float64) if end in part else np.full(len(at), np.nan) for end in ENDS)
            curve = series.Curve(name=str(kind), x=at, y=values, low=low, high=high, colour=colour, dash=dash)
            found.setdefault((str(kind), at.tobytes() + values.tobytes()), (curve, []))[1].append(str(estimator))
    return [_named(curve, who, len(estimators)) for curve, who in found.values()]


def _named(curve: series.Curve, who: list[str], estimators: int) -> series.Curve:
    """A line of the series ``curve.name`` under the names of those whose line it is."""
    if len(who) == estimators > 1:
        name = f"{curve.name}, {EVERYONE}" if curve.name else EVERYONE
        return replace(curve, name=words.clean(name), colour=estimators)
    return replace(curve, name=words.clean(", ".join(filter(None, [" and ".join(who), curve.name]))))


def _legend(shown: list[series.Curve]) -> Markup:
    items = []
    for curve in shown:
        line = tag("line", x1=0, x2=30, y1=6, y2=6, style=series.style_of(curve.colour, curve.dash))
        swatch = tag("svg", line, viewBox="0 0 30 12", width=30, height=12, class_="swatch", aria_hidden="true")
        items.append(tag("li", swatch, escaped(f" {curve.name}")))
    return tag("ul", *items, class_="legend")


def _table(name: str, table: pd.DataFrame) -> Markup:
    ends = reading.Ends(table, len(table))
    if len(table) > ROWS:
        import pandas as pd

        ends = reading.Ends(pd.concat([table.head(END_ROWS), table.tail(END_ROWS)]), len(table))
    return sections.details(f"The same as a table ({len(table):,} rows)", join(sections.frame(f"{PREFIX}{name}", ends)))
