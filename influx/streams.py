"""Named random streams: all randomness of a run comes from one seed and the name of its purpose."""

from __future__ import annotations

import hashlib

import numpy as np


def stream_seed(seed: int, name: str) -> int:
    """A 63-bit seed for the purpose ``name``; the same on every platform."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def stream(seed: int, name: str) -> np.random.Generator:
    """An independent generator for the purpose ``name``."""
    return np.random.Generator(np.random.PCG64(stream_seed(seed, name)))
