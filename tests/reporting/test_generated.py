"""Generated samples in the report."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from influx.errors import DataError
from influx.reporting import generated, metric_tables
from influx.reporting.png import data_uri
from influx.reporting.record import RunRecord
from tests.reporting.test_html import parsed

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 1, 6, 6), dtype=np.uint8)


def rows(samples: int = 20) -> pd.DataFrame:
    found = []
    for estimator in ("random", "tracincp"):
        for sample in range(samples):
            for role, sign in (("proponent", 1), ("opponent", -1)):
                for rank in (1, 2):
                    train_id = 100 + sample + rank
                    found.append(
                        (estimator, sample, "<b>7", 100 + sample, 1.25, role, rank, train_id, sign * 0.5 / rank)
                    )
    return pd.DataFrame(found, columns=generated.COLUMNS)


def images(samples: int = 20) -> pd.DataFrame:
    each = [
        (estimator, sample, 1, 6, 6, PIXELS[sample].tobytes())
        for estimator in ("random", "tracincp")
        for sample in range(samples)
    ]
    return pd.DataFrame(each, columns=generated.PICTURE)


def with_tables(record: RunRecord, table: pd.DataFrame, pictures: pd.DataFrame | None) -> RunRecord:
    files = {"metric_generated.parquet": table, "metric_generated_images.parquet": pictures}
    for name, frame in files.items():
        if frame is not None:
            frame.to_parquet(record.folder / name, index=False)
    values = json.loads((record.folder / "manifest.json").read_text())
    values["stages"]["evaluate"] = {"files": ["metrics.csv", *(n for n, f in files.items() if f is not None)]}
    (record.folder / "manifest.json").write_text(json.dumps(values))
    return RunRecord.load(record.folder)


def test_samples_stand_beside_their_proponents_and_the_nearest_instance(record: RunRecord) -> None:
    loaded = with_tables(record, rows(), images())
    found = parsed(metric_tables.further(loaded, "run-1"))
    shown = [str(image["src"]) for image in found.all("img")]
    assert len(shown) == generated.SHOWN * (1 + 1 + 2 * 2)
    train = loaded.images["train"]
    expected = [PIXELS[0], train[0], train[1], train[2], train[1], train[2]]
    assert shown[:6] == [data_uri(image) for image in expected]
    assert "Sample 0, label <b>7" in found.texts and "12 of 20 samples" in " ".join(found.texts)
    assert "+0.50" in found.texts or any(text.startswith("+0.5") for text in found.texts)
    assert not any("generated images" in text for text in found.texts)  # pixels are no table to read


def test_only_the_runs_own_estimator_is_shown(record: RunRecord) -> None:
    table = rows()
    table.loc[table["estimator"] == "random", "train_id"] = 139
    found = metric_tables.further(with_tables(record, table, images()), "run-1")
    assert "training instance 139" not in found and "training instance 101" in found


def test_without_images_it_is_a_table(record: RunRecord) -> None:
    found = metric_tables.further(with_tables(record, rows(), None), "run-1")
    assert "<img" not in found and "metric_generated.parquet" in found


@pytest.mark.parametrize("damage", ["ids", "pixels"])
def test_damage_ends_in_a_sentence(damage: str, record: RunRecord) -> None:
    table, pictures = rows(), images()
    if damage == "ids":
        table["train_id"] = 9999
    else:
        pictures["pixels"] = b"short"
    with pytest.raises(DataError, match="metric_generated"):
        metric_tables.further(with_tables(record, table, pictures), "run-1")
