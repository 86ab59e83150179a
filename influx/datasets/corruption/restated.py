"""Test texts that restate a training text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import choose
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data, Split
from influx.streams import stream
from influx.vocabulary import special_tokens, spelled


@dataclass(frozen=True, kw_only=True)
class Restated:
    """A ``fraction`` of the test texts is replaced by queries: each restates a training text, with other words in it.

    A query has the label and the words of its source, of which a share of ``kept`` stays; the others are drawn from all
    words of the training split, as often as they occur there. Beginnings, ends and padding stay. Sources are drawn at
    random, each once while there are enough. Training stays as it is. Flags: ``fact`` (int64), one number for a
    training text (n_train,) and the queries (n_test,) that restate it, -1 for all others.
    """

    fraction: float = 0.5
    kept: float = 0.3

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("fraction", "kept"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"corruption.{name} must be above 0 and at most 1, got {getattr(self, name)}; 0.5 is possible"
                )

    def apply(self, data: Data, seed: int) -> Data:
        """The data with queries, and the flags that say what they restate."""
        if data.kind != "text":
            raise IncompatibleError(
                f"corruption=restated needs texts, but {data.name} has {data.kind} data; choose dataset=text or "
                "docstrings, or set corruption=none"
            )
        n, m, x = len(data.train), len(data.test), data.train.x
        rows = choose(np.arange(m), self.fraction, seed, "restated/queries", kind="test")
        sources = stream(seed, "corruption/restated/sources").choice(n, len(rows), replace=len(rows) > n)
        special = special_tokens(data.vocabulary)
        words, rng = x[~np.isin(x, special)], stream(seed, "corruption/restated/words")
        texts = x[sources]
        other = ~np.isin(texts, special) & (rng.random(texts.shape) >= self.kept)
        texts[other] = words[rng.integers(len(words), size=int(other.sum()))]
        test_x, test_y = data.test.x.copy(), data.test.y.copy()
        test_x[rows], test_y[rows] = texts, data.train.y[sources]
        display = dict(data.display)
        if "test" in display:
            shown = spelled(texts, data.vocabulary)
            display["test"] = display["test"].astype(np.promote_types(display["test"].dtype, shown.dtype))
            display["test"][rows] = shown
        stated, number = np.unique(sources, return_inverse=True)
        fact, asked = np.full(n, -1, np.int64), np.full(m, -1, np.int64)
        fact[stated], asked[rows] = np.arange(len(stated)), number
        return replace(
            data,
            test=Split(x=test_x, y=test_y, ids=data.test.ids),
            display=display,
            flags={**data.flags, "fact": fact},
            test_flags={**data.test_flags, "fact": asked},
            notes=(
                *data.notes,
                f"Restated: {len(rows)} of {m} test texts are training texts of which {self.kept:.0%} of the words "
                "stayed.",
            ),
        )
