"""Test texts that restate a training text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from influx.datasets.corruption.choose import choose
from influx.errors import ConfigError, IncompatibleError
from influx.problem import Data, Split
from influx.streams import stream
from influx.vocabulary import ends, spelled


@dataclass(frozen=True, kw_only=True)
class Restated:
    """A ``fraction`` of the test texts is replaced by queries: each restates a training text, with other words in it.

    A query has the label and the words of its source, of which a share of ``kept`` stays; the others are drawn from all
    words of the training split, as often as they occur there. An unknown word is a word like any other. Beginnings,
    ends and padding stay, so that a query is as long as its source. Sources are drawn at random, each once while there
    are enough. Training stays as it is. Flags: ``fact`` (int64), one number for a training text and its equals
    (n_train,) and the queries (n_test,) that restate it, -1 for all others.
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
        fixed = ends(data.vocabulary, data.tokenizer)
        words, rng = x[~np.isin(x, fixed)], stream(seed, "corruption/restated/words")
        texts = x[sources]
        other = ~np.isin(texts, fixed) & (rng.random(texts.shape) >= self.kept)
        texts[other] = words[rng.integers(max(len(words), 1), size=int(other.sum()))]
        test_x, test_y = data.test.x.copy(), data.test.y.copy()
        test_x[rows], test_y[rows] = texts, data.train.y[sources]
        display = dict(data.display)
        if "test" in display:
            shown = spelled(texts, data.vocabulary, data.tokenizer)
            display["test"] = display["test"].astype(np.promote_types(display["test"].dtype, shown.dtype))
            display["test"][rows] = shown
        same = np.unique(x, axis=0, return_inverse=True)[1].ravel()  # equal texts state the same
        stated, number = np.unique(same[sources], return_inverse=True)
        fact, asked = np.full(n, -1, np.int64), np.full(m, -1, np.int64)
        states = np.isin(same, stated)
        fact[states], asked[rows] = np.searchsorted(stated, same[states]), number
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
