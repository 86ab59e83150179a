"""From a data frame with a label column to ``Data``: what csv and parquet files share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.datasets.assemble import table_split
from influx.datasets.encode import Encoded, encode_category, encode_number, is_number
from influx.datasets.labels import TASKS, read_labels
from influx.datasets.settings import check_choice, check_count, check_flag, check_sizes, names
from influx.datasets.split import Rows, split_rows
from influx.errors import DataError, did_you_mean
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class TableSettings:
    """The settings of a table, whatever its file format; see ``Csv`` for their meaning."""

    label: str
    n_train: int | None
    n_test: int | None
    test_fraction: float
    standardize: bool
    task: str
    categorical: str
    missing: str
    drop: Sequence[str] | None
    max_categories: int

    def __post_init__(self) -> None:
        """Check the settings."""
        check_sizes(self.n_train, self.n_test, self.test_fraction)
        check_flag("dataset.standardize", self.standardize)
        check_choice("dataset.task", self.task, TASKS)
        check_choice("dataset.categorical", self.categorical, ("onehot", "refuse"))
        check_choice("dataset.missing", self.missing, ("refuse", "mean"))
        check_count("dataset.max_categories", self.max_categories or 0)
        names("dataset.drop", self.drop)

    @classmethod
    def of(cls, dataset: object) -> TableSettings:
        """The settings among a dataset's fields."""
        return cls(**{field.name: getattr(dataset, field.name) for field in fields(cls)})


def table_data(frame: pd.DataFrame, name: str, file: str, settings: TableSettings, seed: int) -> Data:
    """Encode, split and standardise a table; an instance's id is its row, counted from 0.

    Messages count rows from 1, without the header.

    Raises:
        DataError: anything in the table that cannot be learned from, by column and row.
    """
    frame = frame.set_axis(range(1, len(frame) + 1), axis="index")
    label = _label_column(frame, file, str(settings.label))
    columns = _feature_columns(frame, file, label, settings)
    if settings.missing == "refuse":
        _refuse_missing(frame, columns, file)
    where = f"label column {label!r} of {file}"
    labels = read_labels(_label_values(frame[label], label, where), settings.task, where)
    train, test = split_rows(
        labels.y if labels.task == "classification" else None,
        len(frame),
        name=file,
        classes=labels.classes,
        n_train=settings.n_train,
        n_test=settings.n_test,
        test_fraction=settings.test_fraction,
        seed=seed,
    )
    encoded = [_encode(column, frame[column], train, test, settings) for column in columns]
    return table_split(
        np.concatenate([e.values for e in encoded], axis=1),
        labels,
        (train, test),
        name=name,
        features=tuple(n for e in encoded for n in e.names),
        standardize=settings.standardize,
        keep=np.concatenate([np.full(len(e.names), e.indicator) for e in encoded]),
        notes=tuple(n for e in encoded for n in e.notes),
    )


def refuse_repeated(header: Sequence[str], file: str) -> None:
    """Column names must be there and differ.

    Raises:
        DataError: naming the column.
    """
    for position, column in enumerate(header):
        if not column.strip():
            raise DataError(f"column {position + 1} of {file} has no name; name it, or save the file without its index")
        if column in header[:position]:
            raise DataError(f"column name {column!r} occurs more than once in {file}; rename one of them")


def _label_column(frame: pd.DataFrame, file: str, label: str) -> str:
    present = [str(column) for column in frame.columns]
    if label not in present:
        hint = did_you_mean(label, present)
        shown = ", ".join(present[:10]) + (", ..." if len(present) > 10 else "")
        raise DataError(f"{file} has no column {label!r}{hint}; set dataset.label to one of: {shown}")
    if frame.empty:
        raise DataError(f"{file} has a header but no rows; provide data")
    return label


def _feature_columns(frame: pd.DataFrame, file: str, label: str, settings: TableSettings) -> list[str]:
    present = [str(column) for column in frame.columns]
    dropped = names("dataset.drop", settings.drop)
    for column in dropped:
        if column not in present:
            hint = did_you_mean(column, present)
            raise DataError(f"dataset.drop names {column!r}, which {file} does not have{hint}; correct dataset.drop")
    kept = [column for column in present if column != label and column not in dropped]
    if not kept:
        raise DataError(f"{file} has no columns besides the label {label!r}; provide features")
    return kept


def _refuse_missing(frame: pd.DataFrame, columns: list[str], file: str) -> None:
    gaps = frame[columns].isna()
    found = [column for column in columns if gaps[column].any()]
    if found:
        first = found[0]
        others = f" (also {', '.join(found[1:6])})" if found[1:] else ""
        raise DataError(
            f"column {first!r} of {file} has {int(gaps[first].sum())} missing values, first in row "
            f"{gaps.index[gaps[first]][0]}{others}; set dataset.missing=mean or fill them in"
        )


def _label_values(column: pd.Series[Any], label: str, where: str) -> NDArray[Any]:
    gaps = column.isna().to_numpy(dtype=bool)
    if gaps.any():
        raise DataError(
            f"the {where} is missing in {gaps.sum()} rows, first in row {np.flatnonzero(gaps)[0] + 1}; "
            f"fill it in or remove the rows"
        )
    if not is_number(label, column):
        return column.astype(object).to_numpy().astype(str)
    kinds = {"b": np.bool_, "i": np.int64, "u": np.int64}
    return column.to_numpy(dtype=kinds.get(np.asarray(column.iloc[:1]).dtype.kind, np.float64))


def _encode(name: str, column: pd.Series[Any], train: Rows, test: Rows, settings: TableSettings) -> Encoded:
    if is_number(name, column):
        return encode_number(name, column, train)
    if settings.categorical == "refuse":
        raise DataError(
            f"column {name!r} holds text and dataset.categorical=refuse; set dataset.categorical=onehot or "
            f"dataset.drop=[{name}]"
        )
    return encode_category(name, column, train, test, settings.max_categories)
