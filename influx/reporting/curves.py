"""When training instances were influential: curves over the training, as HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from influx.reporting import reading, svg
from influx.reporting import text as words
from influx.reporting.markup import Markup, tag, text
from influx.reporting.record import RunRecord

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("step", "train_id", "test_id", "influence")
TESTS = 4  # plots at most


def influential(record: RunRecord, key: str) -> Markup:
    """One plot per test instance with curves, or nothing where the estimator has none."""
    path = record.folder / "curves.parquet"
    if not path.is_file():
        return Markup("")
    table = reading.read_parquet(path, COLUMNS, [("test_id", "in", record.test["id"].tolist())])  # few of its rows
    table = table[table["train_id"].isin(record.train["id"])]
    shown = table["test_id"].unique()[:TESTS]
    if not len(shown):
        return Markup("")
    lead = (
        "Influence of the strongest proponents (ending above) and opponents (ending below), summed over the training "
        "up to each checkpoint. A curve is steep where its instance was influential, and ends at its influence."
    )
    figures = [_figure(record, int(test_id), table[table["test_id"] == test_id], key) for test_id in shown]
    return tag(
        "section",
        text("h2", "When they were influential"),
        text("p", lead, class_="lead"),
        tag("div", *figures, class_="plots"),
    )


def _figure(record: RunRecord, test_id: int, table: pd.DataFrame, key: str) -> Markup:
    sums = table.pivot_table(index="step", columns="train_id", values="influence", aggfunc="sum").cumsum()
    label = words.clean(record.label("test", test_id))
    ending = sums.iloc[-1]
    curves = [
        (_name(record, int(i)), "help" if ending[i] > 0 else "harm", sums[i].to_numpy(np.float64)) for i in sums.columns
    ]
    told = f"Test instance {test_id}, label {label}: {len(curves)} training instances"
    plot = svg.lines(
        sums.index.to_numpy(np.float64),
        curves,
        labels=("training step", "influence so far"),
        title=f"When training instances influenced test instance {test_id}",
        description=f"Curves of {len(curves)} training instances over {len(sums)} checkpoints.",
        key=f"{key}-curves-{test_id}",
    )
    return tag("figure", plot, text("figcaption", f"{told}."))


def _name(record: RunRecord, train_id: int) -> str:
    return f"training instance {train_id}, label {words.clean(record.label('train', train_id))}"
