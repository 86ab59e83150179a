"""Named random streams: all randomness of a run comes from one seed and the name of its purpose."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the purpose ``name``; the same on every platform."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, name: str) -> np.random.Generator:
    """An independent generator for the purpose ``name``."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, name)))


def normals(seed: int, name: str, ids: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """``(n, count)`` standard normal numbers that belong to instances: a row depends on seed, name and id alone.

    A counter-based generator (SplitMix64's finaliser, Steele et al. 2014) and Box-Muller's transform; the first numbers
    of a row do not depend on ``count``.
    """
    with np.errstate(over="ignore"):
        rows = _mixed(np.uint64(stream_seed(seed, name)) + _mixed(ids.astype(np.uint64) * GOLDEN + GOLDEN))
        words = _mixed(rows[:, None] + np.arange(1, 2 * (-(-count // 2)) + 1, dtype=np.uint64) * GOLDEN)
    uniform = ((words >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53  # never 0 or 1
    radius, angle = np.sqrt(-2.0 * np.log(uniform[:, ::2])), 2.0 * np.pi * uniform[:, 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    return np.ascontiguousarray(pairs.reshape(len(ids), words.shape[1])[:, :count])


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))
