"""Tables and images of any size, drawn by the seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from influx.datasets.described import described
from influx.datasets.settings import check_choice, check_count
from influx.errors import ConfigError
from influx.problem import Data, Split, TaskName
from influx.streams import stream

BLOCK_NUMBERS = 1 << 20  # numbers of x that get their pattern at a time
DESCRIBED_NUMBERS = 1 << 26  # a plan makes no more numbers than these
CELLS = 4  # a class's pattern in an image has that many by that many cells per channel


@dataclass(frozen=True, kw_only=True)
class Synthetic:
    """Gaussian instances with labels that can be learnt; ``shape`` is [d] for tables, [channels, height, width].

    Classification: x = pattern of the class + N(0, 1) in every number. Patterns are random directions of length
    ``signal`` (in images, constant on 4 by 4 cells of each channel), so that two classes are told apart with an error
    of at least Φ(−signal/√2): 0.08 for 2. Regression: y = (signal · ⟨x, w⟩ + N(0, 1)) / √(1 + signal²) with |w| = 1.
    More instances leave the first ones as they are. Memory: 4 bytes a number and 16 bytes an instance.
    Source: none; for measuring and for plans of problems that are elsewhere.
    """

    n_train: int = 1000
    n_test: int = 200
    shape: list[int] = field(default_factory=lambda: [20])
    classes: int = 2
    task: TaskName = "classification"
    signal: float = 2.0

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("n_train", "n_test", "classes"):
            if getattr(self, name) is None:
                raise ConfigError(f"dataset.{name} must be a whole number of at least 1, got null; set it")
            check_count(f"dataset.{name}", getattr(self, name))
        check_choice("dataset.task", self.task, ("classification", "regression"))
        if len(self.shape) not in (1, 3) or min(self.shape) < 1:
            raise ConfigError(
                f"dataset.shape must be [features] or [channels,height,width], got {list(self.shape)}; correct it"
            )
        if self.task == "classification" and not 2 <= self.classes <= self.n_train:
            raise ConfigError(
                f"dataset.classes must be from 2 to dataset.n_train={self.n_train}, got {self.classes}; change it"
            )
        if not self.signal >= 0:
            raise ConfigError(f"dataset.signal must not be negative, got {self.signal}; use 0 for no signal")

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` draws everything."""
        data = self._sizes()
        pattern = self._patterns(seed)
        return Data(
            name=data.name,
            task=data.task,
            kind=data.kind,
            train=self._split(data.train, pattern, seed, "train"),
            test=self._split(data.test, pattern, seed, "test"),
            classes=data.classes,
            features=tuple(f"x{i}" for i in range(self.shape[0])) if data.kind == "tabular" else (),
        )

    def describe(self) -> Data | None:
        """Sizes alone, of what is too large to make for a plan."""
        data = self._sizes()
        return data if data.train.x.size + data.test.x.size > DESCRIBED_NUMBERS else None

    def _sizes(self) -> Data:
        classes = tuple(str(c) for c in range(self.classes)) if self.task == "classification" else ()
        return described("synthetic", self.shape, self.n_train, self.n_test, classes, self.task)

    def _patterns(self, seed: int) -> NDArray[np.float32]:
        """``(classes, *shape)`` of length ``signal`` each, or ``(1, *shape)`` of length 1 for regression."""
        count = self.classes if self.task == "classification" else 1
        rng = stream(seed, "dataset/synthetic/patterns")
        if len(self.shape) == 1:
            drawn = rng.standard_normal((count, *self.shape))
        else:
            channels, *sides = self.shape
            cells = rng.standard_normal((count, channels, CELLS, CELLS))
            rows, columns = (np.arange(side) * CELLS // side for side in sides)
            drawn = cells[:, :, rows[:, None], columns]
        lengths = np.sqrt((drawn**2).reshape(count, -1).sum(1)).reshape(count, *[1] * len(self.shape))
        wanted = self.signal if self.task == "classification" else 1.0
        return np.asarray(wanted * drawn / lengths, np.float32)

    def _split(self, sizes: Split, pattern: NDArray[np.float32], seed: int, part: str) -> Split:
        n, wide = len(sizes), int(np.prod(self.shape))
        x = np.empty((n, *self.shape), np.float32)
        stream(seed, f"dataset/synthetic/{part}/x").standard_normal(dtype=np.float32, out=x)
        labels, size = stream(seed, f"dataset/synthetic/{part}/y"), max(BLOCK_NUMBERS // wide, 1)
        if self.task == "classification":
            y = labels.integers(0, self.classes, n)
            if part == "train":
                y[: self.classes] = np.arange(self.classes)  # every class occurs
            for start in range(0, n, size):
                x[start : start + size] += pattern[y[start : start + size]]
            return Split(x=x, y=y, ids=sizes.ids)
        target = labels.standard_normal(n)
        for start in range(0, n, size):  # summed by numpy: the same bits whatever the threads of a library
            block = x[start : start + size].reshape(-1, wide)
            target[start : start + size] += self.signal * (block * pattern.ravel()).sum(1, dtype=np.float64)
        return Split(x=x, y=np.asarray(target / np.sqrt(1 + self.signal**2), np.float32), ids=sizes.ids)
