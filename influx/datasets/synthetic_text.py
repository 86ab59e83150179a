"""Sequences of tokens of any size, drawn by the seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx.datasets.settings import check_count
from influx.errors import ConfigError
from influx.problem import Data, Split
from influx.streams import stream

DESCRIBED_NUMBERS = 1 << 26  # a plan makes no more numbers than these


@dataclass(frozen=True, kw_only=True)
class SyntheticText:
    """Token ids (n, length) from 1 to vocabulary - 1 that can be learnt, as a language or by class; no padding.

    The first token is uniform. With probability ``signal`` the next one follows from the one before it by its class's
    own permutation of the tokens, otherwise it is uniform. So the mean risk per token of a model that knows the
    permutations is about (1 - signal) log(vocabulary) plus an entropy of at most log 2, that of a uniform one
    log(vocabulary). Memory: 8 bytes a token.
    Source: none; for measuring and for plans of problems that are elsewhere.
    """

    n_train: int = 1000
    n_test: int = 200
    length: int = 32
    vocabulary: int = 64
    classes: int = 2
    signal: float = 0.8

    def __post_init__(self) -> None:
        """Check the settings."""
        for name, least in (("n_train", 1), ("n_test", 1), ("length", 2), ("vocabulary", 3), ("classes", 2)):
            value = getattr(self, name)
            if value is None:
                raise ConfigError(f"dataset.{name} must be a whole number of at least {least}, got null; set it")
            check_count(f"dataset.{name}", value)
            if value < least:
                raise ConfigError(f"dataset.{name} must be at least {least}, got {value}; raise it")
        if self.classes > self.n_train:
            raise ConfigError(
                f"dataset.classes must be at most dataset.n_train={self.n_train}, got {self.classes}; lower it"
            )
        if not 0 <= self.signal <= 1:
            raise ConfigError(f"dataset.signal must be from 0 to 1, got {self.signal}; use 0 for no signal")

    def load(self, seed: int) -> Data:
        """The dataset; ``seed`` draws everything."""
        tables = stream(seed, "dataset/synthetic_text/next")
        follows = np.stack([1 + tables.permutation(self.vocabulary - 1) for _ in range(self.classes)])
        return self._data(
            self._split(self.n_train, 0, follows, seed, "train"),
            self._split(self.n_test, self.n_train, follows, seed, "test"),
        )

    def describe(self) -> Data | None:
        """Sizes alone, of what is too large to make for a plan."""
        if (self.n_train + self.n_test) * self.length <= DESCRIBED_NUMBERS:
            return None

        def split(n: int, first: int) -> Split:
            x: NDArray[np.int64] = np.broadcast_to(np.int64(1), (n, self.length))
            return Split(x=x, y=np.arange(n) % self.classes, ids=np.arange(first, first + n))

        return self._data(split(self.n_train, 0), split(self.n_test, self.n_train), described=True)

    def _data(self, train: Split, test: Split, described: bool = False) -> Data:
        return Data(
            name="synthetic_text",
            task="classification",
            kind="text",
            train=train,
            test=test,
            classes=tuple(str(c) for c in range(self.classes)),
            vocabulary=("[PAD]", *(f"t{i}" for i in range(1, self.vocabulary))),
            described=described,
            notes=("Planned from the sizes of synthetic_text alone; its contents were not read.",) if described else (),
        )

    def _split(self, n: int, first: int, follows: NDArray[np.int64], seed: int, part: str) -> Split:
        draws = stream(seed, f"dataset/synthetic_text/{part}")
        y = draws.integers(0, self.classes, n)
        if part == "train":
            y[: self.classes] = np.arange(self.classes)  # every class occurs
        x = draws.integers(1, self.vocabulary, (n, self.length))
        known = draws.random((n, self.length)) < self.signal
        for place in range(1, self.length):
            x[:, place] = np.where(known[:, place], follows[y, x[:, place - 1] - 1], x[:, place])
        return Split(x=x, y=y, ids=np.arange(first, first + n))
