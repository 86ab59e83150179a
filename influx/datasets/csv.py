"""A table from a csv file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from influx.datasets.settings import source_file
from influx.datasets.table import TableSettings, refuse_repeated, table_data
from influx.errors import ConfigError, DataError
from influx.problem import Data


@dataclass(frozen=True, kw_only=True)
class Csv:
    """A UTF-8 text file with a header line, one instance per line and a label column.

    ``task``: auto (text, booleans and up to 20 different whole numbers are classes), classification or
    regression. ``categorical``: onehot turns a text column into indicators, refuse stops. ``missing``: refuse
    stops, mean fills numeric columns with the training mean and gives text columns a category of their own.
    ``drop`` lists columns to leave out; a text column of more than ``max_categories`` values is refused.
    Indicators are not standardised; the target of a regression is.
    """

    path: str | None = None
    label: str = "label"
    n_train: int | None = None
    n_test: int | None = None
    test_fraction: float = 0.2
    standardize: bool = True
    task: str = "auto"
    categorical: str = "onehot"
    missing: str = "refuse"
    drop: Sequence[str] | None = None
    max_categories: int = 100
    separator: str = ","

    def __post_init__(self) -> None:
        """Check the settings."""
        TableSettings.of(self)
        if not isinstance(self.separator, str) or len(self.separator) != 1 or self.separator in '"\r\n':
            raise ConfigError(f"dataset.separator must be one character, got {self.separator!r}; correct it")

    def load(self, seed: int) -> Data:
        """The table, split by ``seed``."""
        path = source_file(self.path, "csv")
        header = _check_lines(path, self.separator)
        if len(header) == 1:
            raise DataError(
                f"{path} has one column only, {header[0]!r}; check dataset.separator (now {self.separator!r})"
            )
        try:
            frame = pd.read_csv(
                path,
                sep=self.separator,
                encoding="utf-8-sig",
                index_col=False,
                low_memory=False,  # one type per column, not per chunk
            )
        except (pd.errors.ParserError, ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as csv ({error}); correct the file") from error
        return table_data(frame, path.stem, path.name, TableSettings.of(self), seed)


def _check_lines(path: Path, separator: str) -> list[str]:
    """The header; every line must have as many fields, which pandas would silently pad or shift.

    Raises:
        DataError: the file is empty, is not text, or has a line of another width.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=separator, strict=True)
            header = next(lines, [])
            if not header:
                raise DataError(f"{path} is empty or starts with an empty line; provide a header line and data")
            refuse_repeated(header, path.name)
            for fields in lines:
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"line {lines.line_num} of {path} has {len(fields)} fields, but the header has {len(header)}; "
                        f"correct the line or dataset.separator"
                    )
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8 csv") from error
    except (csv.Error, OSError) as error:
        raise DataError(f"{path} cannot be read as csv ({error}); correct the file") from error
    return header
