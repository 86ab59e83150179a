"""Test instances that have some of each other's features: every feature is usual, their combination is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influx.datasets.corruption.anomalies import need_numbers, with_anomalies
from influx.datasets.corruption.choose import choose, marked
from influx.datasets.settings import check_share
from influx.errors import ConfigError
from influx.problem import Data
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class AnomalySwaps:
    """A ``test_fraction`` of the test instances, in random pairs, exchange a ``share`` of their features.

    Every pair has features of its own, the same number for all; of images they are pixels, with all their channels.
    Each feature keeps its distribution over the test instances. An odd instance stays as it is. Flags, (n_test,):
    ``anomaly`` (bool), those that exchanged something that differs.
    """

    test_fraction: float = 0.2
    share: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.test_fraction", self.test_fraction)
        check_share("corruption.share", self.share)

    def apply(self, data: Data, seed: int) -> Data:
        """The data with exchanged features, and the flags that say where."""
        need_numbers(data, "anomaly_swaps")
        setting = f"corruption.test_fraction={self.test_fraction}"
        rows = choose(np.arange(len(data.test)), self.test_fraction, seed, "anomaly_swaps", setting, "test")
        rng = stream(seed, "corruption/anomaly_swaps/features")
        pairs = rng.permutation(rows)[: 2 * (len(rows) // 2)].reshape(-1, 2)
        if not len(pairs):
            raise ConfigError(f"{setting} selects one test instance, and a pair is needed; raise it")
        x, display = data.test.x, dict(data.display)
        channels = _channels(data)
        features = x[0].size // channels
        count = round(self.share * features)
        if not 0 < count < features:
            raise ConfigError(
                f"corruption.share={self.share} is {count} of {features} features, and an exchange leaves some and "
                "takes some; change it"
            )
        moved = rng.permuted(np.tile(np.arange(features) < count, (len(pairs), 1)), axis=1)  # (pairs, features)
        swapped = _exchanged(x, pairs, moved, channels)
        if display:
            display["test"] = _exchanged(display["test"], pairs, moved, channels)
        changed = np.flatnonzero((swapped != x).reshape(len(x), -1).any(axis=1))
        if not len(changed):
            raise ConfigError(f"the {len(pairs)} pairs do not differ in what they exchange; raise corruption.share")
        return replace(
            data,
            test=replace(data.test, x=swapped),
            display=display,
            test_flags=with_anomalies(data, marked(len(data.test), changed)),
            notes=(
                *data.notes,
                f"Swapped features: {len(changed)} of {len(data.test)} test instances exchanged {count} of {features} "
                f"{'pixels' if display else 'features'} with another.",
            ),
        )


def _channels(data: Data) -> int:
    """Numbers that make up one feature: channels of images, 1 for tables."""
    if data.display:
        return int(data.display["test"].shape[1])
    return int(data.test.x.shape[1]) if data.test.x.ndim == 4 else 1


def _exchanged(values: NDArray[Any], pairs: NDArray[np.int64], moved: NDArray[np.bool_], channels: int) -> NDArray[Any]:
    """A copy of (n, ...) in which the rows of each pair have exchanged the features ``moved`` (pairs, features)."""
    flat = values.reshape(len(values), channels, -1).copy()
    left, right, chosen = flat[pairs[:, 0]], flat[pairs[:, 1]], moved[:, None, :]
    flat[pairs[:, 0]], flat[pairs[:, 1]] = np.where(chosen, right, left), np.where(chosen, left, right)
    return flat.reshape(values.shape)
