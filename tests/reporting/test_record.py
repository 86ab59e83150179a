import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from influx.errors import ConfigError, DataError
from influx.reporting.reading import reading
from influx.reporting.record import RunRecord, label_text

FILES = ("config.yaml", "manifest.json", "influence.npy", "ids.parquet", "ranking.parquet", "metrics.csv")


@pytest.mark.parametrize("name", FILES)
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"should hold {name}"):
        RunRecord.load(folder)


@pytest.mark.parametrize("name", [*FILES, "truth.npy", "self_influence.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00 {[ damaged", b"- 1\n- 2\n"], ids=["empty", "garbage", "other"])
def test_damaged_files_are_named(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} should be a readable") as caught:
        RunRecord.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [NotImplementedError, OverflowError, RecursionError])
def test_errors_that_only_damage_makes_are_named(tmp_path: Path, error: type[Exception]) -> None:
    with (
        pytest.raises(DataError, match=r"a\.parquet should be a readable parquet file"),
        reading(tmp_path / "a.parquet"),
    ):
        raise error("made up")


def test_truncated_matrix_is_named(folder: Path) -> None:
    path = folder / "influence.npy"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"influence\.npy"):
        RunRecord.load(folder)


def test_pickled_matrix_is_refused(folder: Path) -> None:
    np.save(folder / "influence.npy", np.array([{"code": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"influence\.npy"):
        RunRecord.load(folder)


def test_matrix_of_another_shape_is_refused(folder: Path) -> None:
    np.save(folder / "truth.npy", np.zeros((3, 3), dtype=np.float32))
    with pytest.raises(DataError, match=r"expected floats of shape \(40, 12\)"):
        RunRecord.load(folder)


def test_ranking_of_unknown_ids_is_refused(folder: Path) -> None:
    ranking = pd.read_parquet(folder / "ranking.parquet").assign(train_id=7)
    ranking.to_parquet(folder / "ranking.parquet")
    with pytest.raises(DataError, match=r"names ids that ids\.parquet does not hold"):
        RunRecord.load(folder)


def test_self_influence_of_unknown_ids_is_refused(folder: Path) -> None:
    (folder / "self_influence.csv").write_text("train_id,influence,rank\n7,1.0,1\n")
    with pytest.raises(DataError, match=r"self_influence\.csv .* names ids"):
        RunRecord.load(folder)


@pytest.mark.parametrize("tables", [["../../x"], ["a\\b"], 5])
def test_tables_stay_in_the_folder(folder: Path, tables: object) -> None:
    (folder / "estimate.json").write_text(json.dumps({"tables": tables}))
    with pytest.raises(DataError, match=r"estimate\.json .* same folder"):
        _ = RunRecord.load(folder).tables


def test_damaged_images_are_named(folder: Path) -> None:
    (folder / "../../problems/abc123/display.npz").resolve().write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(DataError, match=r"display\.npz"):
        _ = RunRecord.load(folder).images


def test_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected the folder of a run"):
        RunRecord.load(tmp_path / "nowhere")


def test_self_influence_and_truth_are_optional(folder: Path) -> None:
    (folder / "self_influence.csv").unlink()
    (folder / "truth.npy").unlink()
    record = RunRecord.load(folder)
    assert record.self_influence is None and record.truth is None and not len(record.truth_rows)


def test_empty_self_influence_counts_as_none(folder: Path) -> None:
    (folder / "self_influence.csv").write_text("train_id,influence,rank\n100,,1\n101,,2\n")
    (folder / "estimate.json").write_text('{"self_influence_note": "constant by construction"}')
    record = RunRecord.load(folder)
    assert record.self_influence is None and record.self_influence_note == "constant by construction"


def test_run_without_metrics_has_an_empty_table(folder: Path) -> None:
    (folder / "metrics.csv").write_text("estimator\n")
    assert RunRecord.load(folder).metrics.shape == (0, 9)


def test_neighbours_are_the_extremes_of_the_column(record: RunRecord) -> None:
    column = np.asarray(record.influence[:, 3])
    found = record.neighbours(503, "proponent", 4)
    assert [n.train_id - 100 for n in found] == list(np.argsort(-column)[:4])
    assert [n.influence for n in found] == [float(v) for v in np.sort(column)[::-1][:4]]


def test_more_neighbours_than_the_ranking_holds_come_from_the_matrix(record: RunRecord) -> None:
    few, many = record.neighbours(503, "opponent", 4), record.neighbours(503, "opponent", 999)
    assert len(many) == 40 and many[:4] == few
    assert [n.influence for n in many] == sorted(n.influence for n in many)


def test_unknown_test_instance_is_explained(record: RunRecord) -> None:
    with pytest.raises(ConfigError, match=r"got 7; ids are 500, 501"):
        record.neighbours(7, "proponent", 1)


def test_truth_rows_are_those_computed(record: RunRecord) -> None:
    assert list(record.truth_rows) == list(range(35))


def test_command_is_quoted_for_the_shell(record: RunRecord) -> None:
    assert record.command == "influx run estimator=tracincp 'dataset.path=my data.csv'"


def test_images_are_found_beside_the_problem(record: RunRecord) -> None:
    assert record.images["train"].shape == (40, 1, 6, 6) and record.images["test"].shape == (12, 1, 6, 6)


def test_problem_folder_may_be_absolute(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["problem"]["folder"] = str((folder / manifest["problem"]["folder"]).resolve())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "test" in RunRecord.load(folder).images


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (np.int64(7), "7"), (152.34567, "152.3"), ("a", "a"), (None, "")]
)
def test_labels_read_well(value: object, text: str) -> None:
    assert label_text(value) == text
