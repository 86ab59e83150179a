"""Settings that only the file system can refuse."""

from __future__ import annotations

import pytest

from influx.datasets.csv import Csv
from influx.datasets.download import data_folder
from influx.errors import DataError
from influx.instantiate import build


@pytest.mark.parametrize("path", ["x" * 400, "~nobody_of_that_name/table.csv"])
def test_a_path_that_cannot_be_looked_up_is_refused(path: str) -> None:
    with pytest.raises(DataError, match=r"dataset\.path") as refused:
        Csv(path=path).load(0)
    assert "\n" not in str(refused.value)


def test_lists_of_names_can_be_set() -> None:
    made = build({"_target_": "influx.datasets.csv.Csv", "drop": ["c"]}, "dataset", [])
    assert made.drop == ("c",)
    target = "influx.datasets.corruption.backdoor.Backdoor"
    assert build({"_target_": target, "features": ["alcohol", "hue"]}, "corruption", []).features == ("alcohol", "hue")


def test_a_folder_with_too_long_a_name_is_refused() -> None:
    with pytest.raises(DataError, match=r"set dataset\.path"):
        data_folder("x" * 400)
