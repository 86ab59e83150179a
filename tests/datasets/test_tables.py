"""csv, parquet and npz files that can be learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.datasets.csv import Csv
from influx.datasets.npz import Npz
from influx.datasets.parquet import Parquet


def frame(n: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    colours = np.array(["red", "green", "blue"])[np.arange(n) % 3]
    kinds = np.array(["yes", "no"])[np.arange(n) % 2]
    return pd.DataFrame({"size": rng.normal(5, 2, n), "colour": colours, "old": np.arange(n) % 2 == 0, "kind": kinds})


def saved_csv(table: pd.DataFrame, folder: Path) -> str:
    path = folder / "things.csv"
    table.to_csv(path, index=False)
    return str(path)


def test_a_csv_table_is_encoded_by_its_columns(tmp_path: Path) -> None:
    table = frame()
    data = Csv(path=saved_csv(table, tmp_path), label="kind").load(0)
    assert data.features == ("size", "colour=blue", "colour=green", "colour=red", "old") and data.name == "things"
    assert data.classes == ("no", "yes") and data.train.x.dtype == np.float32
    size = table["size"].to_numpy()[data.train.ids]
    np.testing.assert_allclose(data.train.x[:, 0], (size - size.mean()) / size.std(), rtol=1e-5)
    expected = table["colour"].to_numpy()[data.test.ids][:, None] == ["blue", "green", "red"]
    np.testing.assert_array_equal(data.test.x[:, 1:4], expected)
    np.testing.assert_array_equal(np.array(data.classes)[data.test.y], table["kind"].to_numpy()[data.test.ids])


def test_parquet_and_csv_give_the_same_data(tmp_path: Path) -> None:
    frame().to_parquet(tmp_path / "things.parquet")
    a = Csv(path=saved_csv(frame(), tmp_path), label="kind").load(0)
    b = Parquet(path=str(tmp_path / "things.parquet"), label="kind").load(0)
    assert a.fingerprint() == b.fingerprint() and a.features == b.features


def test_a_saved_row_index_is_not_a_feature(tmp_path: Path) -> None:
    frame().set_index(np.arange(40)[::-1]).to_parquet(tmp_path / "t.parquet", index=True)
    data = Parquet(path=str(tmp_path / "t.parquet"), label="kind").load(0)
    assert data.features[0] == "size" and len(data.features) == 5


def test_missing_numbers_become_the_training_mean(tmp_path: Path) -> None:
    table = frame()
    table.loc[::7, "size"] = np.nan
    data = Csv(path=saved_csv(table, tmp_path), label="kind", missing="mean", standardize=False).load(0)
    raw = table["size"].to_numpy()
    mean = np.nanmean(raw[data.train.ids])
    for split in (data.train, data.test):
        np.testing.assert_allclose(split.x[:, 0], np.where(np.isnan(raw[split.ids]), mean, raw[split.ids]), rtol=1e-6)
    assert any("6 missing values replaced by the training mean" in note for note in data.notes)


def test_missing_text_is_a_category(tmp_path: Path) -> None:
    table = frame()
    table.loc[::5, "colour"] = None
    data = Csv(path=saved_csv(table, tmp_path), label="kind", missing="mean").load(0)
    column = data.features.index("colour=(missing)")
    np.testing.assert_array_equal(data.train.x[:, column], data.train.ids % 5 == 0)


def test_dropped_columns_are_not_read(tmp_path: Path) -> None:
    table = frame().assign(note=[f"text {i}" for i in range(40)])
    path = saved_csv(table, tmp_path)
    assert Csv(path=path, label="kind", drop=["note", "colour"]).load(0).features == ("size", "old")


def test_another_separator_and_quoted_fields_are_understood(tmp_path: Path) -> None:
    rows = "\n".join(f'"a;{i % 2}";{i};{i % 2}' for i in range(20))
    (tmp_path / "t.csv").write_text("\ufefftext;number;label\n" + rows + "\n", encoding="utf-8")
    data = Csv(path=str(tmp_path / "t.csv"), separator=";").load(0)
    assert data.features == ("text=a;0", "text=a;1", "number")


def test_names_of_digits_may_arrive_as_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2024").write_text("0,1\n" + "1,x\n2,y\n" * 5)
    assert Csv(path=2024, label=1).load(0).classes == ("x", "y")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "task", "expected"),
    [
        (np.arange(40) % 3, "auto", "classification"),
        ((np.arange(40) % 3).astype(float), "auto", "classification"),
        (np.arange(40) / 7, "auto", "regression"),
        (np.arange(40), "auto", "regression"),
        (np.arange(40) % 3, "regression", "regression"),
        (np.arange(40) % 2 == 0, "auto", "classification"),
    ],
)
def test_the_task_follows_from_the_label(label: np.ndarray, task: str, expected: str, tmp_path: Path) -> None:
    data = Csv(path=saved_csv(frame().assign(kind=label), tmp_path), label="kind", task=task).load(0)
    assert data.task == expected
    if expected == "classification":
        np.testing.assert_array_equal(data.train.y, np.unique(label, return_inverse=True)[1][data.train.ids])
        assert data.classes in (("0", "1", "2"), ("False", "True"))
    else:
        y = label[data.train.ids]
        np.testing.assert_allclose(data.train.y, (y - y.mean()) / y.std(), rtol=1e-5, atol=1e-6)


def test_npz_with_given_parts_keeps_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, x_test = rng.normal(3, 2, (30, 4)), rng.normal(3, 2, (12, 4))
    y, y_test = np.arange(30) % 3, np.arange(12) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    data = Npz(path=str(tmp_path / "a.npz"), n_test=6).load(0)
    np.testing.assert_allclose(data.train.x, (x - x.mean(0)) / x.std(0), atol=1e-5)
    np.testing.assert_allclose(data.test.x, ((x_test - x.mean(0)) / x.std(0))[data.test.ids - 30], atol=1e-5)
    assert data.train.ids.tolist() == list(range(30)) and len(data.test) == 6
    np.testing.assert_array_equal(data.test.y, y_test[data.test.ids - 30])


def test_npz_with_one_part_is_split(tmp_path: Path) -> None:
    y = np.repeat(["b", "a"], 25)
    np.savez(tmp_path / "a.npz", x=np.arange(100.0).reshape(50, 2), y=y)
    data = Npz(path=str(tmp_path / "a.npz"), test_fraction=0.4, standardize=False).load(0)
    assert np.bincount(data.test.y).tolist() == [10, 10] and data.classes == ("a", "b")
    np.testing.assert_array_equal(data.train.x[:, 0], 2 * data.train.ids)
    np.testing.assert_array_equal(np.array(data.classes)[data.train.y], y[data.train.ids])


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_npz_images_are_standardised_per_channel_and_shown(dtype: type, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 4, 5))
    x = pixels.astype(np.uint8) if dtype is np.uint8 else pixels / 255
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 2)
    data = Npz(path=str(tmp_path / "a.npz")).load(0)
    kept = x[data.train.ids].astype(np.float64)
    expected = (kept - kept.mean((0, 2, 3), keepdims=True)) / kept.std((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(data.train.x, expected, atol=1e-5)
    np.testing.assert_allclose(data.display["train"], x[data.train.ids], rtol=1e-6)
