"""Influence of a sample of training instances on others, summed over checkpoints, and its mean alone.

Beside the test instances stand some training instances whose mean influence says what is usual. What they do to
themselves is left out there: it is as large as an instance is odd, and nothing that a test instance has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from influx import interrupts, progress
from influx.engines import subsets
from influx.engines.directional import along, mean_gradient
from influx.engines.gradients import Gradients
from influx.problem import Checkpoint, Split

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Weighted = list[tuple[Checkpoint, float]]


def drawn(ids: Rows, samples: int | None, checkpoints: int, fresh: bool, rng: np.random.Generator) -> list[Rows]:
    """Rows of the training split for each checkpoint, in random order; None takes all, in their own order.

    ``fresh`` draws anew for every checkpoint. Draws belong to ids, wherever an instance stands.
    """
    if samples is None:
        return [np.arange(len(ids))] * checkpoints
    orders = subsets.permutations(ids, checkpoints if fresh else 1, rng)[:, :samples]
    return list(np.broadcast_to(orders, (checkpoints, samples)))


@dataclass(frozen=True)
class Samples:
    """Sums over checkpoints.

    Attributes:
        draws: ``(samples, m)`` a row is one instance from the sample of each checkpoint.
        usual: ``(samples, r)`` the same for the training instances that say what is usual, their influence on
            themselves replaced by the mean of the others' at that checkpoint.
        values: ``(n, m)`` by training instance, as if those checkpoints that drew it stood for all; NaN where none did.
            The same array as ``draws`` if everything is drawn.
        own: ``(n,)`` the same of instances on themselves.
    """

    draws: Array
    usual: Array
    values: Array
    own: Array


def collect(
    gradients: Gradients, weighted: Weighted, rows: list[Rows], usual: Rows, zeros: Callable[[], Array]
) -> Samples:
    """Products of the gradients of ``rows`` with those of test instances and of the ``usual`` training rows.

    ``zeros`` makes an (n, m) accumulator. Gradients of the sample are made once per checkpoint.
    """
    train, test, n, m = gradients.train, gradients.test, len(gradients.train), len(gradients.test)
    others, size = train.take(usual), len(rows[0])
    right = Split(**{k: np.concatenate([getattr(s, k) for s in (test, others)]) for k in ("x", "y", "ids")})
    values, own, shares = zeros(), np.zeros(n), np.zeros(n)
    draws = values if size == n and all(np.array_equal(r, np.arange(n)) for r in rows) else np.zeros((size, m))
    beside = np.zeros((size, len(usual)))
    with progress.task("influence", len(weighted) * size) as done:
        for (checkpoint, weight), sample in zip(weighted, rows, strict=True):
            place = np.full(n, -1)
            place[sample] = np.arange(size)
            place = place[usual]  # of the usual instances in the sample, -1 outside
            sums = np.zeros(len(usual))
            for part, columns, dots, squares, _ in gradients.at(checkpoint).dots(train.take(sample), right):
                found = dots.double().cpu().numpy()
                inner, outer = _shared(columns, m)
                draws[part, inner] += weight * found[:, : inner.stop - inner.start]
                if draws is not values:
                    values[sample[part], inner] += weight * found[:, : inner.stop - inner.start]
                theirs = found[:, inner.stop - inner.start :]
                at = place[outer]
                mine = np.flatnonzero((at >= part.start) & (at < part.stop))
                theirs[at[mine] - part.start, mine] = 0
                sums[outer] += theirs.sum(axis=0)
                beside[part, outer] += weight * theirs
                if columns.start == 0:
                    own[sample[part]] += weight * squares.double().cpu().numpy()
                    done(part.stop - part.start)
                interrupts.check()
            mine = np.flatnonzero(place >= 0)
            beside[place[mine], mine] += weight * sums[mine] / (size - 1)
            shares[sample] += weight
    if draws is not values:
        _rescale(values, own, shares, sum(weight for _, weight in weighted))
    return Samples(draws, beside, values, own)


def means(gradients: Gradients, weighted: Weighted, rows: list[Rows], usual: Rows) -> tuple[Array, Array]:
    """``(m,)`` and ``(r,)`` means over the sample alone, by one forward-mode pass per checkpoint.

    Those of the ``usual`` training rows are over the others, as in ``collect``.
    """
    train, test, size = gradients.train, gradients.test, len(rows[0])
    others, on_test, on_usual = train.take(usual), np.zeros(len(gradients.test)), np.zeros(len(usual))
    with progress.task("influence", len(weighted)) as done:
        for (checkpoint, weight), sample in zip(weighted, rows, strict=True):
            at = gradients.at(checkpoint)
            direction = mean_gradient(at, train.take(sample))
            on_test += weight * along(at, test, direction)
            if len(usual):
                found, mine = along(at, others, direction), np.flatnonzero(np.isin(usual, sample))
                if len(mine):
                    squares = at.squares(others.take(mine)).cpu().numpy()
                    found[mine] = (size * found[mine] - squares) / (size - 1)
                on_usual += weight * found
            done(1)
            interrupts.check()
    return on_test, on_usual


def _shared(columns: slice, m: int) -> tuple[slice, slice]:
    """Columns among the ``m`` test instances, and those after them counted from there."""
    inner = slice(min(columns.start, m), min(columns.stop, m))
    return inner, slice(max(columns.start - m, 0), max(columns.stop - m, 0))


def _rescale(values: Array, own: Array, shares: Array, total: float) -> None:
    """To the weight of all checkpoints, from that of those which drew a row; NaN for none."""
    factor = np.where(shares != 0, total / np.where(shares != 0, shares, 1), np.nan)
    values *= factor[:, None]
    own *= factor
