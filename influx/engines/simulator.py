"""A simulator of training: the risk of a test instance follows a recursion that the instances of a batch set.

    L_t = a_t L_{t-1} + b_t,   a_t = 1 + Σ_{i in batch t} w_t α_i,   b_t = Σ_{i in batch t} w_t β_i

with w_t the step's learning rate over the largest, times the largest batch size over the step's own. α and β are found
by ridge regression on recorded trainings, for each test instance by itself, towards a batch that changes nothing. In
the terms of Guu et al., where a_t is a sum of A over the b instances of a batch, A is 1/b + α at the largest rate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from influx.errors import NumericalError

Array = NDArray[np.float64]
ITERATIONS = 200  # of conjugate gradients at most; influence then correlates at 0.99999 with what 500 give on digits
TOLERANCE = 1e-12  # of their residual, in the norm of the preconditioner


@dataclass(frozen=True)
class Curriculum:
    """Which instances step t saw: ``steps`` (T, n), sparse, w_t times how often each is in the batch."""

    steps: sparse.csr_array

    @classmethod
    def of(cls, rows: NDArray[np.int64], offsets: NDArray[np.int64], rates: Array, n: int) -> Curriculum:
        """Step t saw ``rows[offsets[t]:offsets[t + 1]]``; negative rows are of no instance."""
        sizes = np.diff(offsets)
        weights = np.repeat(rates / rates.max() * sizes.max() / np.maximum(sizes, 1), sizes)
        step = np.repeat(np.arange(len(sizes)), sizes)
        known = rows >= 0
        return cls(sparse.csr_array((weights[known], (step[known], rows[known])), shape=(len(sizes), n)))


@dataclass(frozen=True)
class Simulator:
    """``alpha`` and ``beta`` (n, m), and the largest relative residual of their equations.

    ``clip`` keeps every a_t within [-1, 1], so that losses cannot grow by more than the b_t.
    """

    alpha: Array
    beta: Array
    residual: float = 0.0
    clip: bool = False

    @classmethod
    def fitted(
        cls,
        runs: list[tuple[Curriculum, Array]],
        weights: Array,
        ridge: float,
        *,
        towards: float = 0.0,
        clip: bool = False,
    ) -> Simulator:
        """Least squares over all steps of all runs, each a curriculum and its losses (T + 1, m).

        Minimises Σ w_r (L_t - a_t L_{t-1} - b_t)² + ridge (Σ (α - towards)² + Σ β²), by conjugate gradients for all
        test instances at once, preconditioned by the two unknowns of each instance.
        """
        steps = sparse.vstack([run.steps * np.sqrt(w) for (run, _), w in zip(runs, weights, strict=True)], "csr")
        before = np.concatenate([losses[:-1] for _, losses in runs])  # (R T, m)
        change = np.concatenate(
            [np.diff(losses, axis=0) * np.sqrt(w) for (_, losses), w in zip(runs, weights, strict=True)]
        )
        back = steps.T.tocsr()

        def gathered(rows: Array) -> Array:
            return np.stack([back @ (before * rows), back @ rows])  # (2, n, m)

        def normal(x: Array) -> Array:
            return np.asarray(gathered(before * (steps @ x[0]) + steps @ x[1]) + ridge * x)

        target = gathered(change)
        target[0] += ridge * towards
        found, residual = _solved(normal, target, _inverse(back, before, ridge))
        return cls(found[0], found[1], residual, clip)

    def columns(self, curriculum: Curriculum) -> tuple[Array, Array]:
        """``(T, m)`` a_t, not clipped, and b_t."""
        return 1 + np.asarray(curriculum.steps @ self.alpha), np.asarray(curriculum.steps @ self.beta)

    def factor(self, a: Array) -> Array:
        """What a_t multiplies a loss by."""
        return np.clip(a, -1, 1) if self.clip else a

    def path(self, curriculum: Curriculum, start: Array) -> Array:
        """``(T + 1, m)`` losses from ``start`` (m,) on.

        Raises:
            NumericalError: they grow without bound.
        """
        return _finite(self.simulated(curriculum, start))

    def simulated(self, curriculum: Curriculum, start: Array) -> Array:
        """The same, whatever they grow to."""
        losses = [np.asarray(start, dtype=np.float64)]
        with np.errstate(over="ignore", invalid="ignore"):
            for a, b in zip(*self.columns(curriculum), strict=True):
                losses.append(self.factor(a) * losses[-1] + b)
        return np.stack(losses)

    def removals(self, curriculum: Curriculum, start: Array) -> Array:
        """``(n, m)`` how much larger the last loss is when the batches lack an instance; their size stays.

        Raises:
            NumericalError: losses grow without bound.
        """
        losses, (slopes, _) = self.path(curriculum, start), self.columns(curriculum)
        larger, steps = np.zeros_like(self.alpha), curriculum.steps
        with np.errstate(over="ignore", invalid="ignore"):
            for t, a in enumerate(slopes):
                seen = slice(steps.indptr[t], steps.indptr[t + 1])
                rows, w = steps.indices[seen], steps.data[seen][:, None]
                whole, was = self.factor(a), larger[rows]
                lost = whole - self.factor(a - w * self.alpha[rows])
                larger *= whole
                larger[rows] -= lost * (was + losses[t]) + w * self.beta[rows]
        return _finite(np.asarray(larger))

    def first_order(self, curriculum: Curriculum) -> Array:
        """``(n, m)`` -Σ_t w_t β over the steps that see an instance: ``removals`` as if every a_t were 1."""
        return np.asarray(-np.asarray(curriculum.steps.sum(axis=0))[:, None] * self.beta)


def _inverse(back: sparse.csr_array, before: Array, ridge: float) -> Array:
    """``(3, n, m)`` inverse of each instance's own two equations: αα, αβ, ββ."""
    squares = back.multiply(back).tocsr()
    aa = squares @ np.square(before) + ridge
    ab = squares @ before
    bb = squares @ np.ones_like(before) + ridge
    return np.asarray(np.stack([bb, -ab, aa]) / (aa * bb - ab * ab))


def _solved(normal: Callable[[Array], Array], target: Array, inverse: Array) -> tuple[Array, float]:
    """Conjugate gradients, every column (2, n, .) for itself; the largest relative residual."""
    x, r = np.zeros_like(target), target.copy()
    z = _preconditioned(inverse, r)
    p, rz = z.copy(), (r * z).sum(axis=(0, 1))
    first = rz.copy()
    for _ in range(ITERATIONS):
        going = rz > TOLERANCE**2 * first
        if not going.any():
            break
        q = normal(p)
        curved = (p * q).sum(axis=(0, 1))
        step = np.where(going, rz / np.where(going, curved, 1.0), 0.0)
        x += step * p
        r -= step * q
        z = _preconditioned(inverse, r)
        was, rz = rz, (r * z).sum(axis=(0, 1))
        p = z + np.where(going, rz / np.where(going, was, 1.0), 0.0) * p
    return x, float(np.sqrt(np.max(rz / np.where(first > 0, first, 1.0), initial=0.0)))


def _preconditioned(inverse: Array, r: Array) -> Array:
    return np.stack([inverse[0] * r[0] + inverse[1] * r[1], inverse[1] * r[0] + inverse[2] * r[1]])


def _finite(values: Array) -> Array:
    if not np.isfinite(values).all():
        raise NumericalError(
            "simulated losses grow without bound; set estimator.clip=true, raise estimator.ridge, or raise "
            "estimator.runs for more recorded steps"
        )
    return values
