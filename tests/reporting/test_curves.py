"""Curves of a run on its page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.errors import DataError
from influx.reporting import curves, html, svg
from influx.reporting.record import RunRecord


def table(test_ids: list[int | None]) -> pd.DataFrame:
    rows = [(step, i, j, sign) for step in (0, 10) for i, sign in ((100, 0.5), (101, -0.25)) for j in test_ids]
    made = pd.DataFrame(rows, columns=["step", "train_id", "test_id", "influence"])
    return made.astype({"test_id": "Int64"})


def with_curves(record: RunRecord, made: pd.DataFrame) -> RunRecord:
    made.to_parquet(record.folder / "curves.parquet", index=False)
    return record


def test_a_run_without_curves_has_no_section(record: RunRecord) -> None:
    assert curves.influential(record, "run-1") == ""


def test_means_over_test_instances_alone_make_no_plot(record: RunRecord) -> None:
    assert curves.influential(with_curves(record, table([None])), "run-1") == ""


def test_each_test_instance_has_a_plot_of_sums_over_the_training(record: RunRecord) -> None:
    page = curves.influential(with_curves(record, table([None, 500, 502])), "run-1")
    assert page.count("<svg") == 2 and page.count("<figcaption") == 2
    assert page.count("stroke:var(--help)") == page.count("stroke:var(--harm)") == 4  # a line and its dots
    assert "training instance 100, label cat" in page and "Test instance 502" in page


def test_ids_on_the_page_stay_unique(record: RunRecord) -> None:
    page = html.page([with_curves(record, table([500, 501]))])
    found = [part.split('"')[0] for part in page.split(' id="')[1:]]
    assert len(found) == len(set(found)) and "When they were influential" in page


def test_damaged_curves_stop_the_page(folder: Path) -> None:
    (folder / "curves.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"curves\.parquet"):
        html.page([RunRecord.load(folder)])


def test_lines_pass_through_their_points() -> None:
    x = np.array([0.0, 5.0, 10.0])
    drawn = svg.lines(
        x,
        [("a", "help", np.array([0.0, 1.0, 2.0])), ("b <", "harm", -x)],
        labels=("x", "y"),
        title="t",
        description="d",
        key="k",
    )
    assert drawn.count("L") == 4 and drawn.count("h0") == 6 and "b &lt;" in drawn


def test_one_checkpoint_is_a_point() -> None:
    one = np.array([3.0])
    drawn = svg.lines(one, [("a", "help", one)], labels=("x", "y"), title="t", description="d", key="k")
    assert drawn.count("h0") == 1 and "nan" not in drawn
