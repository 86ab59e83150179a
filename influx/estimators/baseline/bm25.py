"""BM25."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from influx.engines.tokens import check_tokens, counts, vocabulary_size
from influx.errors import ConfigError
from influx.influence import Influence, Scale
from influx.needs import Need
from influx.planning import Prospect, Work
from influx.run import Card, Run
from influx.vocabulary import special_tokens

ROWS = 4096  # training instances compared at a time
NOTE = "BM25 says how well a text matches a query, not how much an instance mattered to itself"


@dataclass(frozen=True, kw_only=True)
class BM25:
    """Words that a training text shares with the test text as a query, the rarer the better.

    Estimates: nothing; Σ_w q_w idf(w) f_w (k1 + 1) / (f_w + k1 (1 - b + b l_i / l̄)), q_w and f_w how often the test and
        the training text have word w, l_i the latter's length, idf(w) = ln(1 + (n - n_w + 1/2) / (n_w + 1/2)) where n_w
        of n training texts have w. Never negative: it names no opponents. Special tokens are no words.
    Needs: texts as tokens; no model.
    Cost: a multiply-add for every shared word of every pair.
    Source: Robertson and Zaragoza 2009, doi:10.1561/1500000019, with idf kept positive; the baseline of Akyürek et
        al. 2022, arXiv:2205.11482.

    Attributes:
        k1: how far repetitions of a word count; 0 counts it once.
        b: how far long texts are held back, from 0 (not) to 1.
    """

    requires: ClassVar[frozenset[Need]] = frozenset()
    refuses: ClassVar[Mapping[str, str]] = {"memorization": NOTE}
    scale: ClassVar[Scale] = "rank"
    card: ClassVar[Card] = Card(
        family="baseline",
        full="n m s",
        incremental="m s",
        storage="n s",
        assumptions="texts",
        groups="additive",
        paper="Robertson & Zaragoza 2009",
    )

    k1: float = 1.2
    b: float = 0.75

    def __post_init__(self) -> None:
        """Check ranges."""
        if not 0 <= self.k1 < np.inf:
            raise ConfigError(f"estimator.k1 must be finite and not negative, got {self.k1}; 1.2 is usual")
        if not 0 <= self.b <= 1:
            raise ConfigError(f"estimator.b must be from 0 to 1, got {self.b}; 0.75 is usual")

    def plan(self, prospect: Prospect) -> Work:
        """One sparse product."""
        check_tokens(prospect.train.x, prospect.who)
        n, m = len(prospect.train), len(prospect.test)
        return Work(numbers=float(2 * n * m), bytes=8.0 * n * m, formula=f"{n} x {m} scores")

    def estimate(self, run: Run) -> Influence:
        """Scores of all pairs."""
        train, test = run.train.x, run.test.x
        check_tokens(train, run.who)
        data, size = run.problem.data, vocabulary_size(train, test)
        special = special_tokens(data.vocabulary, data.tokenizer)
        documents = self._weighted(counts(train, size, special))
        queries = counts(test, size, special).astype(np.float64).T.tocsr()
        values = run.zeros()
        for start in range(0, len(values), ROWS):
            values[start : start + ROWS] = (documents[start : start + ROWS] @ queries).toarray()
        return run.influence(values, scale="rank", self_influence_note=NOTE)

    def _weighted(self, found: sparse.csr_array) -> sparse.csr_array:
        """What each training text scores for each of its words."""
        n, size = found.shape
        lengths = np.asarray(found.sum(1), np.float64).ravel()
        held_back = 1 - self.b + self.b * lengths / max(float(lengths.mean()), 1.0)
        having = np.bincount(found.indices, minlength=size)
        idf = np.log1p((n - having + 0.5) / (having + 0.5))
        rows = np.repeat(np.arange(n), np.diff(found.indptr))
        f = found.data.astype(np.float64)
        scored = idf[found.indices] * f * (self.k1 + 1) / (f + self.k1 * held_back[rows])
        return sparse.csr_array((scored, found.indices, found.indptr), shape=found.shape)
