"""One column of a table to numbers: numeric columns as they are, text columns as indicators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.datasets.split import Rows
from influx.errors import DataError

MISSING = "(missing)"  # the category of missing text where dataset.missing=mean


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """``values`` (n, k) float64 with one name per column; ``indicator`` columns are 0 or 1."""

    values: NDArray[np.float64]
    names: tuple[str, ...]
    indicator: bool
    notes: tuple[str, ...] = ()


def encode_number(name: str, column: pd.Series[Any], train: Rows) -> Encoded:
    """A numeric or boolean column; missing values become the mean of the training rows.

    Raises:
        DataError: a value is infinite, or all training values are missing.
    """
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise DataError(f"row {infinite[0] + 1} of column {name!r} is {values[infinite[0]]}; correct or remove the row")
    gaps = np.isnan(values)
    if not gaps.any():
        return Encoded(values=values[:, None], names=(name,), indicator=False)
    known = values[train][~gaps[train]]
    if not len(known):
        raise DataError(f"all training values of column {name!r} are missing; leave it out with dataset.drop=[{name}]")
    filled = np.where(gaps, known.mean(), values)
    note = f"Column {name!r}: {gaps.sum()} missing values replaced by the training mean {known.mean():.6g}."
    return Encoded(values=filled[:, None], names=(name,), indicator=False, notes=(note,))


def encode_category(name: str, column: pd.Series[Any], train: Rows, test: Rows, most: int) -> Encoded:
    """A text column as one indicator per value that occurs in the training rows, in sorted order.

    Missing values are a category of their own, present whenever a value is missing anywhere.

    Raises:
        DataError: a test row has a value that no training row has, or there are more than ``most`` values.
    """
    gaps = column.isna().to_numpy(dtype=bool)
    text = np.where(gaps, MISSING, column.astype(object).to_numpy()).astype(str)
    categories = np.unique(np.append(text[train], [MISSING] if gaps.any() else []))
    if len(categories) > most:
        raise DataError(
            f"column {name!r} has {len(categories)} different texts, more than dataset.max_categories={most}; leave it "
            f"out with dataset.drop=[{name}] or raise the limit"
        )
    unknown = np.flatnonzero(~np.isin(text[test], categories))
    if len(unknown):
        row = test[unknown[0]]
        raise DataError(
            f"column {name!r} is {text[row]!r} in test row {row + 1} but in no training row; raise dataset.n_train, "
            f"change the seed, or leave the column out with dataset.drop=[{name}]"
        )
    values = (text[:, None] == categories).astype(np.float64)
    notes = [f"Column {name!r} became {len(categories)} indicators."]
    if gaps.any():
        notes.append(f"Column {name!r}: {gaps.sum()} missing values are the category {MISSING}.")
    return Encoded(values=values, names=tuple(f"{name}={c}" for c in categories), indicator=True, notes=tuple(notes))


def is_number(name: str, column: pd.Series[Any]) -> bool:
    """True for a numeric or boolean column, False for a text column.

    Raises:
        DataError: it holds dates, complex numbers or other objects, or numbers with some text among them.
    """
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return False
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_numeric_dtype(dtype):
        if pd.api.types.is_complex_dtype(dtype):
            raise DataError(f"column {name!r} holds complex numbers; split it into real columns")
        return True
    known = column[column.notna().to_numpy(dtype=bool)]
    for row, value in known.items():
        if not isinstance(value, str):
            kind = type(value).__name__
            raise DataError(
                f"column {name!r} holds {kind} objects (row {row}); convert them to numbers or text, or leave the "
                f"column out with dataset.drop=[{name}]"
            )
    parsed = pd.to_numeric(known, errors="coerce").isna()
    if len(known) and 0 < parsed.sum() <= len(known) / 2:
        row = parsed[parsed].index[0]
        raise DataError(
            f"column {name!r} is mostly numbers, but {known[row]!r} in row {row} is text; correct that row or leave "
            f"the column out with dataset.drop=[{name}]"
        )
    return False
