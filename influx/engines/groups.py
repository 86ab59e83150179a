"""Groups of training instances: the user's own, or found in the data."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from influx.errors import ConfigError
from influx.planning import Prospect

if TYPE_CHECKING:
    from influx.run import Run

FOUND = ("label", "cluster", "random")


@dataclass(frozen=True)
class Groups:
    """Named groups; ``members`` (groups, n_train). An instance may be in several groups or in none."""

    names: tuple[str, ...]
    members: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)


def groups_of(run: Run | Prospect, by: str, count: int, size: int, setting: str = "estimator") -> Groups:
    """The groups that settings name.

    Args:
        run: whose training instances are grouped.
        by: ``label`` (instances of a class, or of a quantile of the target), ``cluster`` (k-means of the inputs),
            ``random`` (drawn without regard to anything), or the path of a csv file with columns train_id and group.
        count: number of groups for cluster, random and quantiles.
        size: instances per random group.
        setting: whose settings these are, for messages.

    Raises:
        ConfigError: the settings do not name groups.
    """
    if by not in FOUND:
        return _from_file(run, Path(by))
    if by == "label":
        return _by_label(run, count)
    n = len(run.train)
    if not 1 <= count <= n:
        raise ConfigError(
            f"{setting}.group_count must be between 1 and {n}, the training instances, got {count}; change it"
        )
    if by == "cluster":
        return _clusters(run, count)
    if not 1 <= size <= n:
        raise ConfigError(
            f"{setting}.group_size must be between 1 and {n}, the training instances, got {size}; change it"
        )
    from influx.engines.subsets import fixed_size

    masks = fixed_size(run.train.ids, size, count, run.drawn("groups"))
    return Groups(tuple(f"random {number}" for number in range(count)), masks.astype(bool))


def _numbered(numbers: NDArray[np.int64], names: list[str]) -> Groups:
    members = numbers[None, :] == np.arange(len(names))[:, None]
    some = members.any(axis=1)  # ties leave quantiles, and copies leave clusters, without instances
    return Groups(tuple(name for name, found in zip(names, some, strict=True) if found), members[some])


def _by_label(run: Run | Prospect, count: int) -> Groups:
    data = run.problem.data
    if data.task == "classification":
        present = sorted(set(run.train.y.tolist()))
        return _numbered(np.searchsorted(present, run.train.y), [data.classes[label] for label in present])
    cuts = np.unique(np.quantile(run.train.y, np.linspace(0, 1, count + 1)[1:-1]))
    edges = ["", *(f"{cut:.4g}" for cut in cuts), ""]
    names = [f"target {low}..{high}" for low, high in pairwise(edges)]
    return _numbered(np.searchsorted(cuts, run.train.y, side="right"), names)


def _clusters(run: Run | Prospect, count: int) -> Groups:
    from sklearn.cluster import KMeans

    x = np.asarray(run.train.x, dtype=np.float64).reshape(len(run.train), -1)
    order = np.argsort(run.train.ids, kind="stable")  # the same groups in whatever order instances come
    seed = int(run.drawn("groups").integers(1 << 31))
    found = np.empty(len(x), dtype=np.int64)
    found[order] = KMeans(count, n_init=4, random_state=seed).fit(x[order]).labels_
    return _numbered(found, [f"cluster {number}" for number in range(count)])


def _from_file(run: Run | Prospect, path: Path) -> Groups:
    import pandas as pd

    asked = f"groups must be {', '.join(FOUND)} or a csv file with columns train_id and group"
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise ConfigError(f"{asked}, got {str(path)!r} ({error}); change it") from error
    if not {"train_id", "group"} <= set(table.columns) or table.empty or table["group"].isna().any():
        raise ConfigError(f"{asked}; {path} has columns {', '.join(map(str, table.columns))}; mend the file")
    unknown = sorted(set(table["train_id"]) - set(run.train.ids.tolist()))
    if unknown:
        raise ConfigError(
            f"{path} names training ids that do not exist (see ids.parquet): {unknown[:5]}; remove them from the file"
        )
    place = {identity: row for row, identity in enumerate(run.train.ids.tolist())}
    names = sorted(set(table["group"].astype(str)))
    members = np.zeros((len(names), len(run.train)), dtype=bool)
    rows = [place[identity] for identity in table["train_id"].tolist()]
    members[np.searchsorted(names, table["group"].astype(str)), rows] = True
    return Groups(tuple(names), members)
