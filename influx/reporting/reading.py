"""Readers for the files of a run: each ends in data of the expected shape or in one sentence."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influx.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

TEXT_COLUMNS = ("estimator", "metric", "status", "protocol", "note")
DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
    *(NotImplementedError, OverflowError),  # of pyarrow, for types and sizes that damage made up
    RecursionError,  # of JSON
)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what can go wrong with one file into a ``DataError`` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"the run {path.parent} should hold {path.name}, it does not; run its command again to finish it"
        ) from None
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(
            f"{path} should be a readable {path.suffix.lstrip('.')} file, it is damaged ({reason}); "
            f"delete it and run the command of the run again"
        ) from error


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    with reading(path):
        return path.read_text(encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; only plain data, never objects."""
    import yaml

    text = read_text(path)
    with reading(path):
        try:
            return _mapping(yaml.safe_load(text))
        except yaml.YAMLError as error:
            raise ValueError(str(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON mapping."""
    text = read_text(path)
    with reading(path):
        return _mapping(json.loads(text))


def _mapping(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a mapping, found {type(value).__name__}")
    return {str(k): v for k, v in value.items()}


def read_matrix(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    """A floating-point ``.npy`` matrix of the given shape, memory-mapped."""
    with reading(path):
        # A mapped array keeps the file on disk: n_train * n_test may exceed the memory.
        matrix: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        if matrix.shape != shape or matrix.dtype.kind != "f":
            raise ValueError(f"expected floats of shape {shape} as in ids.parquet, found {matrix.dtype} {matrix.shape}")
        return matrix


def read_parquet(
    path: Path, columns: Sequence[str], filters: list[tuple[str, str, list[Any]]] | None = None
) -> pd.DataFrame:
    """A parquet table that has at least ``columns``, or its rows that pass all ``filters``."""
    import pandas as pd

    with reading(path):
        return _with_columns(pd.read_parquet(path, filters=filters), columns)


@dataclass(frozen=True)
class Ends:
    """The first and last rows of a table, or all of a short one, and how many it has."""

    frame: pd.DataFrame
    rows: int

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return len(self.frame) == self.rows


def read_ends(path: Path, rows: int) -> Ends:
    """``rows`` at each end of a parquet table; of what lies between no more than two row groups are read."""
    import pandas as pd
    from pyarrow.parquet import ParquetFile

    with reading(path), ParquetFile(path) as file:
        count, last = file.metadata.num_rows, file.num_row_groups - 1
        if count <= 2 * rows:
            return Ends(file.read().to_pandas(), count)
        sizes = [file.metadata.row_group(group).num_rows for group in (0, last)]
        if last == 0 or min(sizes) < rows:
            frame = file.read().to_pandas()
            return Ends(pd.concat([frame.head(rows), frame.tail(rows)]), count)
        first = file.read_row_group(0).slice(0, rows).to_pandas()
        return Ends(pd.concat([first, file.read_row_group(last).slice(sizes[1] - rows).to_pandas()]), count)


def read_csv(path: Path, columns: Sequence[str], numbers: Sequence[str]) -> pd.DataFrame:
    """A CSV table that has at least ``columns``; ``numbers`` are parsed, an empty cell being NaN."""
    import pandas as pd

    with reading(path):
        # Everything is read as text first, so that a note "NA" or a label "null" stays what it is.
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if table.empty and set(table.columns) <= set(columns):  # nothing was measured
            table = table.reindex(columns=list(columns))
        table = _with_columns(table, columns)
        return table.assign(**{name: pd.to_numeric(table[name]) for name in numbers})


def read_self_influence(path: Path, train: pd.DataFrame) -> pd.DataFrame | None:
    """Columns train_id, influence, rank, of instances that ``train`` holds; None where nothing was computed."""
    import pandas as pd

    if not path.is_file():
        return None
    table = read_csv(path, ("train_id", "rank"), ("train_id", "rank"))
    names = [name for name in table.columns if name not in ("train_id", "rank")]
    with reading(path):
        if not names:
            raise ValueError("expected a column with the influence on itself")
        if not table["train_id"].isin(train["id"]).all():
            raise ValueError("it names ids that ids.parquet does not hold")
        values = pd.to_numeric(table[names[0]])
    found = pd.DataFrame({"train_id": table["train_id"], "influence": values, "rank": table["rank"]})
    return found if values.notna().any() else None


def _with_columns(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise ValueError(f"expected the columns {', '.join(columns)}, {', '.join(missing)} missing")
    return table


def read_images(path: Path, rows: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Images ``(n, c, h, w)`` by split, uint8 or floats in [0, 1]; empty when the file does not exist."""
    if not path.is_file():
        return {}
    # The file is opened here because numpy leaves it open when it is no archive.
    with reading(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        images = {split: archive[split] for split in rows}
    with reading(path):
        for split, count in rows.items():
            found = images[split]
            if found.ndim != 4 or len(found) != count or found.dtype.kind not in "uf" or not found.size:
                raise ValueError(f"expected {count} {split} images (n, c, h, w), found {found.dtype} {found.shape}")
    return images
