"""Paired differences of linear datamodeling scores, from the predictions that runs keep."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

from influx import api
from influx.commands import comparable, paired
from influx.commands.plan import foresee
from influx.errors import DataError
from influx.metrics.predicted import FILE_BYTES, TABLE, TOO_MANY, Predicted
from influx.reporting import reading
from influx.reporting.record import RunRecord
from influx.streams import stream
from tests.cli.conftest import Influx
from tests.reporting.conftest import metric_row, write_run

K, M = 9, 12  # subsets, and the test instances of ``write_run``
SMALL = (
    *("dataset=iris", "dataset.n_train=40", "dataset.n_test=10", "training.epochs=3", "training.checkpoints=2"),
    *("truth=none", "metric=[lds]", "metric.lds.subsets=20", "metric.lds.n_boot=100", "baselines=[random]"),
)
Maker = Callable[..., Path]


def correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``(m,)`` Spearman correlations, NaN where one is constant."""
    a, b = (rankdata(values, axis=0) for values in (one, other))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray((a * b).sum(axis=0) / np.sqrt((a * a).sum(axis=0) * (b * b).sum(axis=0)))


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """A finished run of an estimator that predicts through ``noise`` what the models of a bank do."""

    def made(estimator: str, noise: float, *, bank: int = 0, kept: bool = True, flat: int = 0, note: str = "") -> Path:
        folder = write_run(tmp_path / "outputs", f"r_{estimator}", images=False, truth=False)
        observed = np.random.default_rng(bank).normal(size=(K, M))
        predicted = observed + noise * np.random.default_rng(7).normal(size=(K, M))
        predicted[:, :flat] = 0.1
        value = float(np.nanmean(correlations(predicted, observed)))
        pd.DataFrame([metric_row(estimator, "lds", value, note=note)]).to_csv(folder / "metrics.csv", index=False)
        found = Predicted(predicted=predicted, observed=observed, test_ids=np.arange(500, 500 + M))
        tables = [found.tables()[TABLE].assign(estimator=name) for name in (estimator, "random")]
        manifest = json.loads((folder / "manifest.json").read_text()) | {"estimator": estimator}
        if kept:
            pd.concat(tables).to_parquet(folder / f"metric_{TABLE}.parquet", index=False)
            manifest["stages"]["evaluate"] = {"files": ["metrics.csv", f"metric_{TABLE}.parquet"]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return made


def compared(influx: Influx, *places: Path) -> dict[str, Any]:
    done = influx("compare", *places, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def kept_by(folder: Path, estimator: str) -> Predicted:
    table = pd.read_parquet(folder / f"metric_{TABLE}.parquet")
    return Predicted.read(table[table["estimator"] == estimator])


def test_a_difference_is_that_of_the_scores_and_its_interval_a_bootstrap_by_hand(
    make: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paired, "N_BOOT", 200)
    places = [make("good", 0.3), make("poor", 2.0, flat=2)]
    found = paired.pairs_of([RunRecord.load(place) for place in places], "lds", 10).differences[0, 1]
    rng = [stream(0, f"compare/{what}") for what in ("subsets", "test instances")]
    drawn = [r.integers(size, size=(paired.N_BOOT, size)) for r, size in zip(rng, (K, M), strict=True)]
    means = []
    for place in places:
        own = kept_by(place, place.name.removeprefix("r_"))
        value = correlations(own.predicted, own.observed)[2:].mean()  # of those that both have
        samples = []
        for rows, columns in zip(*drawn, strict=True):
            values = correlations(own.predicted[rows], own.observed[rows])
            samples.append(values[columns[columns > 1]].mean())
        means.append((value, np.array(samples) + value - np.mean(samples)))
    (left, left_samples), (right, right_samples) = means
    expected = (left - right, *np.quantile(left_samples - right_samples, [0.025, 0.975]), M - 2)
    assert (found.value, found.low, found.high, found.n) == pytest.approx(expected, abs=1e-12)


def test_predictions_are_read_once_while_there_is_room(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = reading.read_parquet

    def noted(path: Path, *more: Any) -> pd.DataFrame:
        read.extend([path] * (TABLE in path.name))
        return original(path, *more)

    monkeypatch.setattr(reading, "read_parquet", noted)
    records = [RunRecord.load(make(name, noise)) for name, noise in (("a", 0.3), ("b", 1.0), ("c", 2.0))]
    held = paired.pairs_of(records, "lds", 10)
    assert len(read) == len(set(read)) == 3
    paired.pairs_of(records, "lds", 10)
    assert len(read) == 6  # nothing outlives a comparison
    monkeypatch.setattr(comparable, "HELD", 2 * K * M)
    assert paired.pairs_of(records, "lds", 10).differences == held.differences
    assert len(read) > 6 + 3


def test_letters_tell_scores_apart_and_what_was_resampled(influx: Influx, make: Maker) -> None:
    found = compared(influx, make("good", 0.1), make("same", 0.1), make("poor", 20.0))
    letters = {row["name"]: row["letters"] for row in found["rows"]}
    assert letters["good"] == letters["same"] and not set(letters["good"]) & set(letters["poor"])
    assert len(found["pairs"]) == 3 and found["metric"] == "lds"
    assert any("over the same subsets and test instances x1000" in note for note in found["notes"])


def test_scores_by_another_bank_are_not_paired(influx: Influx, make: Maker) -> None:
    found = compared(influx, make("a", 0.1), make("b", 0.2), make("other", 3.0, bank=1))
    assert [(pair["row"], pair["minus"]) for pair in found["pairs"]] == [("a", "b")]
    assert any(note.startswith("other is not paired") and "another bank" in note for note in found["notes"])


def test_runs_that_kept_no_predictions_say_why(influx: Influx, make: Maker) -> None:
    old = [make("x", 0.1, kept=False), make("y", 0.2, kept=False), make("many", 0.3, kept=False, note=TOO_MANY)]
    found = compared(influx, *old)
    assert found["pairs"] == []
    assert any(n.startswith("x, y are not paired: ") and "overwrite=true" in n for n in found["notes"])
    assert f"many is not paired: {TOO_MANY}" in found["notes"]
    found = compared(influx, *old, make("a", 0.1), make("b", 0.2))
    assert len(found["pairs"]) == 1 and any(n.startswith("x, y are not paired") for n in found["notes"])


def test_a_damaged_table_is_named(make: Maker) -> None:
    places = [make("a", 0.1), make("b", 0.2)]
    path = places[1] / f"metric_{TABLE}.parquet"
    for table in (pd.read_parquet(path)[1:], pd.read_parquet(path).drop(columns="observed")):
        table.to_parquet(path)
        with pytest.raises(DataError, match=rf"r_b/metric_{TABLE}.*is damaged"):
            paired.pairs_of([RunRecord.load(place) for place in places], "lds", 10)


@pytest.mark.slow
def test_real_runs_are_paired_and_keep_what_their_scores_follow_from(influx: Influx, tmp_path: Path) -> None:
    settings = [*SMALL, "quiet=true"]
    places = []
    for name in ("gas", "tracincp"):
        folder = api.run([*settings, f"estimator={name}", f"paths.outputs={tmp_path / 'outputs'}"]).folder
        places.append(folder)
        rows = RunRecord.load(folder).metrics.set_index(["estimator", "metric"])["value"]
        for estimator in (name, "random"):
            own = kept_by(folder, estimator)
            value = np.nanmean(correlations(own.predicted, own.observed))
            assert rows[estimator, "lds"] == pytest.approx(value, abs=1e-9)
    found = compared(influx, *places)
    values = [row["scores"]["lds"]["value"] for row in found["rows"][:2]]
    assert abs(found["pairs"][0]["value"]) == pytest.approx(abs(values[0] - values[1]), abs=1e-9)


@pytest.mark.slow
def test_plans_count_what_is_kept_of_every_estimator(tmp_path: Path) -> None:
    asked = [*SMALL, f"paths.outputs={tmp_path}"]
    disk = []
    for baselines in ("[random]", "[random,loss]"):
        stages = {row["stage"]: row for row in foresee([*asked, f"baselines={baselines}"])["stages"]}
        disk.append(stages["evaluate"]["disk_mb"])
    assert disk[1] - disk[0] == pytest.approx(FILE_BYTES * 20 * 10 / 1e6, rel=1e-6)
