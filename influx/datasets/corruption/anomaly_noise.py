"""Noise on test instances, which makes them anomalies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.anomalies import need_numbers, with_anomalies
from influx.datasets.corruption.choose import choose, marked
from influx.datasets.corruption.pixels import brightness_to_input, white
from influx.datasets.scale import as_float32
from influx.datasets.settings import check_share
from influx.errors import ConfigError
from influx.problem import Data
from influx.streams import stream


@dataclass(frozen=True, kw_only=True)
class AnomalyNoise:
    """Normal noise is added to a ``test_fraction`` of the test instances; training and labels stay.

    On tables its deviation is ``scale`` times that of each column in training. On images it is ``scale`` times the
    range from black to white, and the sum is cut to that range and then scaled as the image was. Flags, (n_test,):
    ``anomaly`` (bool).
    """

    test_fraction: float = 0.2
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_share("corruption.test_fraction", self.test_fraction)
        if isinstance(self.scale, bool) or not isinstance(self.scale, int | float) or not 0 < self.scale < np.inf:
            raise ConfigError(f"corruption.scale must be a number above 0, got {self.scale!r}; correct it")

    def apply(self, data: Data, seed: int) -> Data:
        """The data with noise, and the flags that say where."""
        need_numbers(data, "anomaly_noise")
        setting = f"corruption.test_fraction={self.test_fraction}"
        rows = choose(np.arange(len(data.test)), self.test_fraction, seed, "anomaly_noise", setting, "test")
        drawn = stream(seed, "corruption/anomaly_noise/values").normal(size=(len(rows), *data.test.x.shape[1:]))
        x, display = data.test.x.copy(), dict(data.display)
        if display:
            shown = display["test"].copy()
            brightest = white(shown)
            with np.errstate(over="ignore"):  # what is beyond the range is cut
                added = self.scale * brightest * drawn.reshape(shown[rows].shape)
            noisy = np.clip(shown[rows] + added, 0, brightest)
            shown[rows] = np.round(noisy) if np.issubdtype(shown.dtype, np.integer) else noisy
            slope, offset = brightness_to_input(data)
            x[rows] = (offset + slope * shown[rows]).reshape(x[rows].shape)
            display["test"] = shown
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                noisy = x[rows] + self.scale * data.train.x.std(axis=0, dtype=np.float64) * drawn
            x[rows] = as_float32(noisy)
            if not np.isfinite(x[rows]).all():
                raise ConfigError(f"corruption.scale={self.scale:g} makes numbers beyond float32; lower it")
        return replace(
            data,
            test=replace(data.test, x=x),
            display=display,
            test_flags=with_anomalies(data, marked(len(data.test), rows)),
            notes=(
                *data.notes,
                f"Noise: {len(rows)} of {len(data.test)} test instances have normal noise of {self.scale:g} "
                f"{'times the range of brightness' if display else 'deviations of each column'}.",
            ),
        )
