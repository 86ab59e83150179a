"""What a dot product of two gradients costs, by factors or written out, in multiply-adds at full speed.

``scripts/bench_costs.py`` times both ways and checks the choice.
"""

from __future__ import annotations

from typing import Literal

Way = Literal["factors", "written"]
MANY = 1 << 30  # instances on a side: what is done once per instance costs nothing
PASSES = 120.0  # the time to make, multiply and sum one product of positions; 1.2 ns on a processor with 190 Gflop/s
STORING = 100.0  # the time to write one number of a gradient to new memory


def by_factors(positions: int, inner: float) -> float:
    """Of a pair: ``positions``² products of inputs and of output gradients, together of length ``inner``."""
    return positions**2 * (inner + PASSES)


def cheaper(positions: int, d_in: int, d_out: int, left: int, right: int, *, inner: int | None = None) -> Way:
    """The faster way to all products of ``left`` with ``right`` instances of a ``(d_out, d_in)`` weight.

    Written out, an instance costs (positions + STORING) d_in d_out once, and a pair d_in d_out. ``inner`` is d_in +
    d_out unless one side is one-hot.
    """
    once = (positions + STORING) * d_in * d_out * (1 / left + 1 / right)  # per pair
    written = d_in * d_out + once
    return "factors" if by_factors(positions, inner or d_in + d_out) < written else "written"
