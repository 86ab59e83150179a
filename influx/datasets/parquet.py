"""A table from a parquet file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from influx.datasets.settings import source_file
from influx.datasets.table import TableSettings, refuse_repeated, table_data
from influx.errors import DataError
from influx.problem import Data

SAVED_INDEX = re.compile(r"__index_level_\d+__")  # pandas' name for an unnamed row index


@dataclass(frozen=True, kw_only=True)
class Parquet:
    """A parquet file with a label column; settings as in ``influx.datasets.csv.Csv``.

    A row index that pandas stored along is left out.
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

    def __post_init__(self) -> None:
        """Check the settings."""
        TableSettings.of(self)

    def load(self, seed: int) -> Data:
        """The table, split by ``seed``."""
        path = source_file(self.path, "parquet")
        return table_data(_read(path), path.stem, path.name, TableSettings.of(self), seed)


def _read(path: Path) -> pd.DataFrame:
    try:
        with pq.ParquetFile(path) as file:
            header = [str(column) for column in file.schema_arrow.names]
            refuse_repeated(header, path.name)
            kept = [column for column in header if not SAVED_INDEX.fullmatch(column)]
            table = file.read(columns=kept)
            table.validate(full=True)  # a damaged text would otherwise surface wherever it is first looked at
            # ignore_metadata: the columns as they are stored, whatever index pandas remembers.
            frame: pd.DataFrame = table.to_pandas(ignore_metadata=True)
            return frame
    except (pa.ArrowException, ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as parquet ({reason}); it is damaged, write it again") from error
