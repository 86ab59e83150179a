"""Curves and tables that metrics left behind."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from influx.errors import DataError
from influx.reporting import calibration, html, metric_tables, series
from influx.reporting.record import RunRecord
from tests.reporting.test_html import parsed


def curve_rows(noise: float = 0.0) -> pd.DataFrame:
    rows = []
    for estimator in ("random", "tracincp"):
        for kind in ("top <i>", "control"):
            own = 1.0 if kind == "control" else 2.0 if estimator == "tracincp" else 1.5
            rows += [(estimator, kind, share, own * share + noise, 0.0, 2.0) for share in (0.0, 0.1, 0.2)]
    return pd.DataFrame(rows, columns=["estimator", "series", "share_removed", "loss", "ci_low", "ci_high"])


def with_table(record: RunRecord, table: pd.DataFrame, name: str = "removal") -> RunRecord:
    table.to_parquet(record.folder / f"metric_{name}.parquet", index=False)
    values = json.loads((record.folder / "manifest.json").read_text())
    values["stages"]["evaluate"] = {"files": ["metrics.csv", f"metric_{name}.parquet"]}
    (record.folder / "manifest.json").write_text(json.dumps(values))
    return RunRecord.load(record.folder)


def test_without_such_files_there_is_no_section(record: RunRecord) -> None:
    assert metric_tables.further(record, "run-1") == ""


def test_each_estimator_and_series_is_a_line_with_a_band(record: RunRecord) -> None:
    found = parsed(metric_tables.further(with_table(record, curve_rows()), "run-1"))
    names = [text for text in found.texts if ", " in text and len(text) < 40]
    assert {"tracincp, top <i>", "random, top <i>", "control, for all"} <= {name.strip() for name in names}
    assert len(found.all("g")) == 3 and sum("fill-opacity" in str(a.get("style")) for a in found.all("path")) == 3
    assert "share removed" in found.texts and "loss" in found.texts
    assert len(found.all("tr")) == 1 + len(curve_rows())  # all numbers are there as a table too


def test_lines_hold_the_numbers_of_the_file_own_estimator_first(record: RunRecord) -> None:
    drawn = metric_tables.curves_of(record, curve_rows(noise=0.5))
    assert [curve.name for curve in drawn] == ["tracincp, top <i>", "control, for all", "random, top <i>"]
    assert drawn[0].y.tolist() == [0.5, 0.7, 0.9] and drawn[0].high.tolist() == [2.0] * 3


def test_a_line_of_some_estimators_bears_their_names(record: RunRecord) -> None:
    third = curve_rows()[lambda rows: rows["estimator"] == "random"].assign(estimator="loss")
    third.loc[third["series"] == "control", "loss"] += 1
    names = [curve.name for curve in metric_tables.curves_of(record, pd.concat([curve_rows(), third]))]
    assert names == ["tracincp, top <i>", "tracincp and random, control", "random and loss, top <i>", "loss, control"]


def test_a_slope_of_one_is_promised_in_units_of_loss_alone(record: RunRecord) -> None:
    for scale, promised in (("loss", True), ("rank", False)):
        (record.folder / "estimate.json").write_text(json.dumps({"scale": scale}))
        assert ("slope is 1" in calibration.figure(RunRecord.load(record.folder), "run-1")) == promised


def test_other_tables_are_shown_as_tables(record: RunRecord) -> None:
    table = pd.DataFrame(
        {"estimator": "tracincp", "class": ["cat", "<script>"], "rank": [1, 2], "train_id": [100, 103]}
    )
    found = parsed(metric_tables.further(with_table(record, table, "prototypes"), "run-1"))
    assert not found.all("svg") and "<script>" in found.texts and not found.all("script")


def test_ids_stay_unique_on_the_page(record: RunRecord) -> None:
    found = parsed(html.page([with_table(record, curve_rows())]))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)) and len(found.all("svg")) > 3


def test_a_damaged_table_stops_the_page(record: RunRecord) -> None:
    changed = with_table(record, curve_rows())
    (record.folder / "metric_removal.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"metric_removal\.parquet"):
        metric_tables.further(changed, "run-1")


def test_axes_leave_out_zero_only_where_it_would_flatten_the_line() -> None:
    low, high = series.close_limits(np.array([0.90, 0.95]))
    assert 0.85 < low < 0.90 and 0.95 < high < 1
    assert series.close_limits(np.array([0.1, 0.9]))[0] < 0
    assert series.close_limits(np.array([np.nan, 0.5]))[0] < 0.5 < series.close_limits(np.array([np.nan, 0.5]))[1]


def test_tenths_are_means_of_sorted_groups() -> None:
    estimate, truth = np.arange(20.0)[::-1], 3 * np.arange(20.0)[::-1]
    at, mean, error = calibration.tenths(truth, estimate)
    assert at.tolist() == [0.5 + 2 * i for i in range(10)] and mean.tolist() == [1.5 + 6 * i for i in range(10)]
    assert np.allclose(error, 3 * np.sqrt(0.5) / np.sqrt(2))


def test_the_ceiling_and_the_front_keep_clear_of_names() -> None:
    places = ((1.0, 0.80), (10.0, 0.86), (100.0, 0.90))
    points = [
        series.Point(name=f"e{i}", seconds=s, score=v, low=np.nan, high=np.nan, kind="run", front=True)
        for i, (s, v) in enumerate(places)
    ]
    drawn = series.front(points, y_label="y", title="t", description="d", key="k", ceiling=0.805)
    circles = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    line = series._along(*np.array(circles).T)
    names = re.findall(r'x="([\d.]+)" y="([\d.]+)" class="name">([^<]+)<', drawn)
    assert {name for _, _, name in names} == {"e0", "e1", "e2", "noise ceiling"}
    for x, y, name in names:
        box = series._box(float(x), float(y), name)
        assert not any(series._overlap(box, (a - 4, b - 4, a + 4, b + 4)) for a, b in circles)
        assert not any(series._overlap(box, part) for part in line)


def test_names_on_the_front_do_not_lie_over_each_other() -> None:
    points = [
        series.Point(
            name=f"estimator {i}", seconds=1.0 + i / 1000, score=0.5, low=0.4, high=0.6, kind="run", front=False
        )
        for i in range(30)
    ]
    drawn = series.front(points, y_label="y", title="t", description="d", key="k")
    found = re.findall(r'x="([\d.]+)" y="([\d.]+)" class="name">([^<]+)<', drawn)
    assert drawn.count("<circle") == 30 and 1 <= len(found) < 30
    for i, (x, y, name) in enumerate(found):
        for other_x, other_y, _ in found[:i]:
            apart = abs(float(y) - float(other_y)) > 11
            assert apart or abs(float(x) - float(other_x)) > 0.9 * series.LETTER * len(name)
