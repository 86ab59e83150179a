"""A finished run, as its folder tells it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError, DataError
from influx.manifest import refuse_schema
from influx.reporting import passages, reading

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["proponent", "opponent"]
END_ROWS = 10  # shown of each end of a table
AXES = ("train", "test")
RANKING = ("test_id", "rank", "role", "train_id", "influence")
METRICS = ("estimator", "metric", "value", "ci_low", "ci_high", "n", "status", "protocol", "note")
METRIC_NUMBERS = ("value", "ci_low", "ci_high", "n")


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One training instance beside one test instance; ``truth`` is NaN where it was not computed."""

    rank: int
    train_id: int
    position: int
    label: str
    influence: float
    truth: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What one run left behind.

    Attributes:
        folder: the run's folder; its name is the run's name.
        config: the resolved config; ``config_text`` is the file as written.
        manifest: versions, costs, status, protocol, warnings.
        influence: ``(n_train, n_test)`` memory-mapped; ``truth`` likewise, NaN where not computed, or None.
        train: columns position, id, label in the order of the rows of ``influence``; ``test`` for its columns.
        ranking: top and bottom training instances per test instance.
        self_influence: columns train_id, influence, rank; None when the estimator has none.
        self_influence_note: why it is missing or must not be used to rank instances.
        metrics: one row per estimator (baselines too) and metric.
    """

    folder: Path
    config: Mapping[str, Any]
    config_text: str
    manifest: Mapping[str, Any]
    influence: NDArray[Any]
    truth: NDArray[Any] | None
    train: pd.DataFrame
    test: pd.DataFrame
    ranking: pd.DataFrame
    self_influence: pd.DataFrame | None
    self_influence_note: str
    metrics: pd.DataFrame

    @classmethod
    def load(cls, folder: Path) -> RunRecord:
        """Read a run's folder.

        Raises:
            DataError: the folder or one of its files is missing or damaged.
        """
        if not folder.is_dir():
            raise DataError(f"expected the folder of a run, {folder} is none; give a folder below outputs/runs")
        train, test = _read_ids(folder / "ids.parquet")
        shape = (len(train), len(test))
        truth = folder / "truth.npy"
        return cls(
            folder=folder,
            config=reading.read_yaml(folder / "config.yaml"),
            config_text=reading.read_text(folder / "config.yaml"),
            manifest=_manifest(folder),
            influence=reading.read_matrix(folder / "influence.npy", shape),
            truth=reading.read_matrix(truth, shape) if truth.is_file() else None,
            train=train,
            test=test,
            ranking=_read_ranking(folder / "ranking.parquet", train, test),
            self_influence=reading.read_self_influence(folder / "self_influence.csv", train),
            self_influence_note=_read_note(folder / "estimate.json"),
            metrics=reading.read_csv(folder / "metrics.csv", METRICS, METRIC_NUMBERS),
        )

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name or self.folder.resolve().name

    @property
    def estimator(self) -> str:
        """The estimator's name."""
        return str(self.manifest.get("estimator", "estimator"))

    @property
    def truth_name(self) -> str:
        """What the estimates are compared with, for headings."""
        found = self.manifest.get("truth")
        name = str(found.get("name", "")) if isinstance(found, Mapping) else str(found or "")
        return {"loo": "LOO", "pbrf": "PBRF", "": "ground truth", "none": "ground truth"}.get(name, name)

    @property
    def command(self) -> str:
        """The command that makes this run again."""
        found = self.manifest.get("command", "")
        return shlex.join(map(str, found)) if isinstance(found, list) else str(found)

    @property
    def protocol(self) -> str:
        """How the ground truth was made, in one line."""
        found = self.manifest.get("protocol", "")
        return "; ".join(f"{k}: {v}" for k, v in found.items()) if isinstance(found, Mapping) else str(found)

    def sentences(self, key: str) -> list[str]:
        """The sentences under ``warnings`` or ``notes`` of the manifest."""
        found = self.manifest.get(key) or []
        return [str(item) for item in found] if isinstance(found, list) else [str(found)]

    def section(self, key: str) -> dict[str, Any]:
        """A mapping of the manifest, empty when it is missing."""
        found = self.manifest.get(key)
        return dict(found) if isinstance(found, Mapping) else {}

    def choice(self, group: str) -> str:
        """What the config chose for ``dataset``, ``model`` or another group; empty when it is not recorded."""
        named = self.section("choices").get(group)
        settings = self.config.get(group)
        if named is None and isinstance(settings, Mapping):
            named = settings.get("name") or str(settings.get("_target_", "")).rpartition(".")[2]
        elif named is None:
            named = settings
        return "" if named is None else str(named)

    @cached_property
    def metric_rows(self) -> list[dict[str, Any]]:
        """The rows of ``metrics`` as mappings."""
        return [{str(k): v for k, v in row.items()} for row in self.metrics.to_dict("records")]

    @cached_property
    def positions(self) -> dict[str, pd.Series]:
        """Per split, id → row (train) or column (test) of the matrices."""
        return {axis: _positions(table) for axis, table in (("train", self.train), ("test", self.test))}

    @cached_property
    def tables(self) -> dict[str, reading.Ends]:
        """Ends of further tables of the estimator by name; ``perspective``, what was asked for, comes first."""
        listed = self._estimate.get("tables", [])
        with reading.reading(self.folder / "estimate.json"):
            if not isinstance(listed, list) or any(set("/\\") & set(str(name)) for name in listed):
                raise ValueError("expected the names of tables in the same folder")
        names = sorted(map(str, listed), key=lambda name: (name != "perspective", name))
        return {name: reading.read_ends(self.folder / f"{name}.parquet", END_ROWS) for name in names}

    @cached_property
    def perspective_note(self) -> str:
        """What the table ``perspective`` shows."""
        report = self._estimate.get("report", {})
        return str(report.get("perspective", "")) if isinstance(report, Mapping) else ""

    @cached_property
    def scale(self) -> str:
        """``"loss"`` where the estimates are in units of loss, ``"rank"`` where only their order counts, "" unknown."""
        return str(self._estimate.get("scale", ""))

    @cached_property
    def _estimate(self) -> dict[str, Any]:
        path = self.folder / "estimate.json"
        return reading.read_json(path) if path.is_file() else {}

    @cached_property
    def truth_rows(self) -> NDArray[np.int64]:
        """Training rows with at least one ground-truth value, read in blocks."""
        if self.truth is None:
            return np.empty(0, dtype=np.int64)
        block = max(1, (1 << 24) // max(1, self.truth.shape[1]))
        parts = [~np.isnan(self.truth[i : i + block]).all(axis=1) for i in range(0, len(self.truth), block)]
        return np.flatnonzero(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)

    @cached_property
    def images(self) -> dict[str, NDArray[Any]]:
        """Images as they were before standardisation, by split; empty when the data are no images."""
        return {} if self._display is None or self.passages else reading.read_images(self._display, self._rows)

    @cached_property
    def passages(self) -> passages.Passages | None:
        """The instances' texts; None when the data are no texts."""
        return None if self._display is None else passages.read(self._display, self._rows)

    @property
    def _rows(self) -> dict[str, int]:
        return {"train": len(self.train), "test": len(self.test)}

    @cached_property
    def _display(self) -> Path | None:
        """The file with what people look at, in the problem's folder."""
        folder = str(self.section("problem").get("folder", ""))
        # The folder is written relative to the run, to the outputs folder or to where the command ran.
        found = (base / folder / "display.npz" for base in (self.folder, self.folder.parent.parent, Path()))
        return next((path for path in found if path.is_file()), None) if folder else None

    def label(self, axis: Literal["train", "test"], instance: int) -> str:
        """The label of an instance as text."""
        table = self.train if axis == "train" else self.test
        return label_text(table["label"].iloc[self.positions[axis][instance]])

    def column(self, test_id: int) -> int:
        """The column of a test instance.

        Raises:
            ConfigError: the run has no such test instance.
        """
        if test_id not in self.positions["test"]:
            ids = self.test["id"].tolist()
            few = ", ".join(map(str, ids[:5])) + (", ..." if len(ids) > 5 else "")
            raise ConfigError(f"--test expects the id of a test instance of {self.name}, got {test_id}; ids are {few}")
        return int(self.positions["test"][test_id])

    def neighbours(self, test_id: int, role: Role, top: int) -> list[Neighbour]:
        """The ``top`` proponents (most helpful first) or opponents (most harmful first) of a test instance."""
        column, wanted = self.column(test_id), min(top, len(self.train))
        rows = self.ranking[(self.ranking["test_id"] == test_id) & (self.ranking["role"] == role)]
        ids = rows.sort_values("rank")["train_id"].to_numpy()[:wanted]
        if len(ids) < wanted:  # more than the ranking holds: order the whole column
            values = np.asarray(self.influence[:, column], dtype=np.float64)
            order = np.argsort(-values if role == "proponent" else values, kind="stable")
            ids = self.train["id"].to_numpy()[order[~np.isnan(values[order])][:wanted]]
        return [self._neighbour(rank, int(train_id), column) for rank, train_id in enumerate(ids, start=1)]

    def _neighbour(self, rank: int, train_id: int, column: int) -> Neighbour:
        row = int(self.positions["train"][train_id])
        return Neighbour(
            rank=rank,
            train_id=train_id,
            position=row,
            label=self.label("train", train_id),
            influence=float(self.influence[row, column]),
            truth=float("nan") if self.truth is None else float(self.truth[row, column]),
        )

    def spread(self, count: int) -> list[int]:
        """``count`` test ids, evenly spaced over the test set."""
        picks = np.unique(np.linspace(0, len(self.test) - 1, min(count, len(self.test))).round().astype(int))
        return [int(i) for i in self.test["id"].to_numpy()[picks]]


def _manifest(folder: Path) -> dict[str, Any]:
    found = reading.read_json(folder / "manifest.json")
    refuse_schema(found, f"the run {folder}")
    return found


def _positions(table: pd.DataFrame) -> pd.Series:
    import pandas as pd

    return pd.Series(np.arange(len(table)), index=pd.Index(table["id"]))


def _read_ids(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    ids = reading.read_parquet(path, ("axis", "position", "id", "label"))
    with reading.reading(path):
        parts = []
        for axis in AXES:
            part = ids[ids["axis"] == axis].sort_values("position").reset_index(drop=True)
            if not np.array_equal(part["position"].to_numpy(), np.arange(len(part))) or part["id"].duplicated().any():
                raise ValueError(f"expected {axis} positions 0, 1, 2, ... with ids that occur once")
            parts.append(part)
    return parts[0], parts[1]


def _read_ranking(path: Path, train: pd.DataFrame, test: pd.DataFrame) -> pd.DataFrame:
    ranking = reading.read_parquet(path, RANKING)
    with reading.reading(path):
        if not (ranking["train_id"].isin(train["id"]).all() and ranking["test_id"].isin(test["id"]).all()):
            raise ValueError("it names ids that ids.parquet does not hold")
    return ranking


def _read_note(path: Path) -> str:
    return str(reading.read_json(path).get("self_influence_note") or "") if path.is_file() else ""


def label_text(value: object) -> str:
    """A label for people: class names and indices as they are, targets with four digits."""
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
