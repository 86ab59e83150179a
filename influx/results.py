"""The files of a run: writing an influence matrix with all that belongs to it, and reading it back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influx.influence import Influence
from influx.problem import Data, Split
from influx.store import Folder

LEVEL = 0.95  # of the intervals that must leave out zero for a difference to count as there
FORMULA = ("=", "+", "-", "@", "\t", "\r")
COPY_ROWS = 4096  # rows converted at a time, so that a large matrix is never in memory twice
RANKED_NUMBERS = 1 << 21  # of the matrix that are ordered at a time, in whole columns


def save_matrix(folder: Folder, name: str, values: NDArray[Any], dtype: str) -> None:
    """Write ``(n_train, n_test)`` values as npy, block by block."""

    def write(path: Path) -> None:
        with path.open("wb") as f:
            header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": values.shape}
            np.lib.format.write_array_header_1_0(f, header)
            for start in range(0, len(values), COPY_ROWS):
                f.write(np.ascontiguousarray(values[start : start + COPY_ROWS], dtype=dtype).data)

    folder.write(name, write)


def save_table(folder: Folder, name: str, table: pd.DataFrame) -> None:
    """Write a table as parquet or csv, by the name's ending."""
    if name.endswith(".parquet"):
        folder.write(name, lambda path: table.to_parquet(path, index=False))
    else:
        folder.write(name, lambda path: plain_cells(table).to_csv(path, index=False, lineterminator="\n"))


def as_text(value: Any) -> Any:
    """A cell, with an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def plain_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The table with an apostrophe before text that a spreadsheet would run as a formula."""
    texts = table.select_dtypes(exclude=["number", "bool"]).columns
    return table.assign(**{name: table[name].map(as_text) for name in texts})


def save_influence(folder: Folder, influence: Influence, data: Data, dtype: str) -> list[str]:
    """Write the matrix, its standard error, self-influence, ids and further tables; names of the files."""
    files = ["influence.npy", "ids.parquet", "self_influence.csv", "estimate.json"]
    save_matrix(folder, "influence.npy", influence.values, dtype)
    if influence.stderr is not None:
        save_matrix(folder, "stderr.npy", influence.stderr, dtype)
        files.append("stderr.npy")
    save_table(folder, "ids.parquet", ids_table(data))
    save_table(folder, "self_influence.csv", self_influence_table(influence, data.train))
    for name, table in influence.tables.items():
        save_table(folder, f"{name}.parquet", table)
        files.append(f"{name}.parquet")
    meta = {
        "scale": influence.scale,
        "self_influence": influence.self_influence is not None,
        "self_influence_note": influence.self_influence_note,
        "report": dict(influence.report),
        "tables": sorted(influence.tables),
    }
    folder.write_json("estimate.json", meta)
    return files


def save_metric_tables(folder: Folder, judged: Sequence[Mapping[str, pd.DataFrame]]) -> list[str]:
    """Write further tables of metrics, all estimators in one file ``metric_<name>.parquet``; names of the files."""
    files = []
    for name in dict.fromkeys(name for tables in judged for name in tables):
        parts = [tables[name] for tables in judged if name in tables]
        table = pd.concat(parts, ignore_index=True)
        table.insert(0, "estimator", table.pop("estimator"))
        files.append(f"metric_{name}.parquet")
        save_table(folder, files[-1], table)
    return files


@dataclass(frozen=True)
class SavedTables(Mapping[str, pd.DataFrame]):
    """Tables by name, read from their files when they are asked for: some have a row per instance and step."""

    folder: Folder
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in self.names:
            raise KeyError(name)
        return pd.read_parquet(self.folder / f"{name}.parquet")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def load_influence(folder: Folder) -> Influence:
    """What ``save_influence`` wrote; matrices are memory-mapped."""
    meta = folder.read_json("estimate.json")
    own = pd.read_csv(folder / "self_influence.csv")["influence"].to_numpy(np.float64)
    stderr = folder / "stderr.npy"
    return Influence(
        values=np.load(folder / "influence.npy", mmap_mode="r", allow_pickle=False),
        scale=meta["scale"],
        stderr=np.load(stderr, mmap_mode="r", allow_pickle=False) if stderr.is_file() else None,
        self_influence=own if meta["self_influence"] else None,
        self_influence_note=meta["self_influence_note"],
        tables=SavedTables(folder, tuple(meta["tables"])),
        report=meta["report"],
    )


def labels(data: Data, split: Split) -> list[str]:
    """Labels as text: class names, or the target with six digits."""
    if data.classes:
        return [data.classes[int(label)] for label in split.y]
    return [f"{value:.6g}" for value in split.y]


def ids_table(data: Data) -> pd.DataFrame:
    """Row and column ids: columns axis, position, id, label."""
    parts = [
        pd.DataFrame({"axis": axis, "position": np.arange(len(split)), "id": split.ids, "label": labels(data, split)})
        for axis, split in (("train", data.train), ("test", data.test))
    ]
    return pd.concat(parts, ignore_index=True)


def self_influence_table(influence: Influence, train: Split) -> pd.DataFrame:
    """train_id, influence on itself, rank (1 is the most memorised); empty numbers where there is none."""
    own = influence.self_influence
    values = np.full(len(train), np.nan) if own is None else np.asarray(own, dtype=np.float64)
    rank = pd.Series(-values).rank(method="first", na_option="bottom").astype(int)
    return pd.DataFrame({"train_id": train.ids, "influence": values, "rank": rank})


def ranking_table(influence: Influence, truth: Influence | None, data: Data, top: int) -> pd.DataFrame:
    """Top and bottom ``top`` training instances per test instance; ties go to the earlier row.

    With standard errors, also whether an instance's sign and its place among the top are beyond the error at 95%.
    """
    values, k = influence.values, min(top, len(data.train))
    blocks: list[dict[str, Any]] = []
    beyond = _quantile(influence)
    at_once = min(max(RANKED_NUMBERS // len(values), 1), 256)
    for start in range(0, values.shape[1], at_once):
        columns = np.arange(start, min(start + at_once, values.shape[1]))
        block = np.asarray(values[:, columns], dtype=np.float64)
        for role, ordered in (("proponent", -block), ("opponent", block)):
            order = np.argsort(ordered, axis=0, kind="stable")[: k + 1]  # (k + 1, columns); NaN sorts last
            blocks.append(_ranked(influence, truth, data, columns, order[:k], role))
            if influence.stderr is not None:
                blocks[-1] |= _certain(block, beyond * influence.stderr[:, columns], order, k)
    table = pd.concat([pd.DataFrame(block) for block in blocks], ignore_index=True)
    table = table[table["influence"].notna()]
    role_order = table["role"].map({"proponent": 0, "opponent": 1})
    position = table.pop("position")
    return table.iloc[np.lexsort((table["rank"], role_order, position))].reset_index(drop=True)


def _ranked(
    influence: Influence,
    truth: Influence | None,
    data: Data,
    columns: NDArray[np.int64],
    order: NDArray[np.int64],
    role: str,
) -> dict[str, Any]:
    rows = order.T.ravel()
    repeated = np.repeat(columns, len(order))
    table = {
        "position": repeated,
        "test_id": data.test.ids[repeated],
        "rank": np.tile(np.arange(1, len(order) + 1), len(columns)),
        "role": role,
        "train_id": data.train.ids[rows],
        "influence": np.asarray(influence.values[rows, repeated], dtype=np.float64),
    }
    if influence.stderr is not None:
        table["stderr"] = influence.stderr[rows, repeated]
    if truth is not None:
        table["truth"] = truth.values[rows, repeated]
    return table


def _certain(
    values: NDArray[Any], reach: NDArray[Any], order: NDArray[np.int64], k: int
) -> dict[str, NDArray[np.bool_]]:
    """Whether the sign of each ranked value, and its place among the top k, is beyond the ``reach`` of its error.

    For the place, it is compared with the first that is not among them; errors count as independent.
    """
    error = np.asarray(reach, dtype=np.float64)
    found, its = (np.take_along_axis(a, order, axis=0) for a in (values, error))
    sign = np.abs(found[:k]) > its[:k]
    if len(order) <= k:  # everything is among the top k
        return {"sign_certain": sign.T.ravel(), "place_certain": np.ones(sign.size, dtype=bool)}
    place = np.abs(found[:k] - found[k]) > np.hypot(its[:k], its[k])
    return {"sign_certain": sign.T.ravel(), "place_certain": place.T.ravel()}


def _quantile(influence: Influence) -> float:
    """Standard errors on either side in a 95% interval: normal, or Student's where the error has few degrees."""
    from scipy.stats import norm, t

    degrees = influence.report.get("stderr_degrees")
    found = norm.ppf((1 + LEVEL) / 2) if degrees is None else t.ppf((1 + LEVEL) / 2, degrees)
    return float(found)


def instances_table(data: Data, outcomes: dict[str, Any]) -> pd.DataFrame:
    """One row per instance: split, id, label, loss, prediction and the flags of a corruption."""
    parts = []
    for axis, split in (("train", data.train), ("test", data.test)):
        outcome = outcomes[axis]
        part = pd.DataFrame(
            {
                "split": axis,
                "id": split.ids,
                "label": labels(data, split),
                "loss": outcome.loss,
                "margin": outcome.margin,
                "prediction": outcome.prediction,
            }
        )
        flags = data.flags if axis == "train" else data.test_flags
        for name in dict.fromkeys([*data.flags, *data.test_flags]):
            known = name in flags
            part[name] = pd.Series(flags[name]).astype("Int64") if known else pd.array([pd.NA] * len(split), "Int64")
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
