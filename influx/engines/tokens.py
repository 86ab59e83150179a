"""Which tokens texts contain and share, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from influx.errors import IncompatibleError

Tokens = NDArray[Any]  # (n, length) integers
COMMON_BYTES = 64 << 20  # counts of common tokens at a time


def are_tokens(x: NDArray[Any]) -> bool:
    """Whether instances are sequences of token ids."""
    return x.ndim == 2 and bool(np.issubdtype(x.dtype, np.integer))


def check_tokens(x: NDArray[Any], who: str) -> None:
    """Refuse instances that are no token sequences.

    Raises:
        IncompatibleError: naming ``who`` and what to choose instead.
    """
    if not are_tokens(x):
        raise IncompatibleError(
            f"{who} compares words and needs instances that are token ids; choose dataset=text or docstrings, or "
            "an estimator such as tracincp"
        )


def counts(tokens: Tokens, size: int, ignored: Sequence[int] = ()) -> sparse.csr_array:
    """``(n, size)`` how often each instance contains each token below ``size``."""
    rows = np.repeat(np.arange(len(tokens)), tokens.shape[1])
    kept = ~np.isin(tokens.ravel(), ignored)
    ones = np.ones(int(kept.sum()), np.int32)
    found = sparse.csr_array((ones, (rows[kept], tokens.ravel()[kept])), shape=(len(tokens), size))
    found.sum_duplicates()
    return found


def vocabulary_size(*splits: Tokens) -> int:
    """One more than the largest token."""
    return int(max(tokens.max(initial=0) for tokens in splits)) + 1


def without_common(left: Tokens, right: Tokens, ignored: Sequence[int]) -> float:
    """Share of pairs of instances that have no token in common, some tokens aside."""
    size = vocabulary_size(left, right)
    mine, theirs = (counts(tokens, size, ignored) for tokens in (left, right))
    step, common = max(COMMON_BYTES // (12 * len(right)), 1), 0
    for start in range(0, len(left), step):
        common += (mine[start : start + step] @ theirs.T).nnz
    return 1 - common / (len(left) * len(right))


def shared_tokens(left: Tokens, right: Tokens) -> float:
    """Σ over tokens of the pairs of instances that both have it."""
    size = vocabulary_size(left, right)
    having = [np.bincount(counts(tokens, size).indices, minlength=size) for tokens in (left, right)]
    return float(having[0].astype(np.float64) @ having[1])
